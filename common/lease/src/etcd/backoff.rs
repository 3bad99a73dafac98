//! Waits between tries: they double up to a bound, and a fleet that lost its store together does not come back in step.

use std::time::Duration;

/// A member that restarts is back within a second; a cluster elects a leader in about two.
const FIRST: Duration = Duration::from_millis(100);

/// Long enough to leave a broken cluster in peace, short against every TTL in use.
const LONGEST: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let mut random = [u8::MAX];
        // Without randomness the wait is the full one.
        let _ = getrandom::fill(&mut random);
        self.failures = self.failures.saturating_add(1);
        wait(self.failures, random[0])
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// At least half of the nominal wait.
fn wait(failures: u32, random: u8) -> Duration {
    let nominal = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    nominal / 2 + nominal / 2 * u32::from(random) / u32::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_jitter_down_to_half() {
        let longest: Vec<u128> = (1..8).map(|failures| wait(failures, u8::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1600, 3000, 3000]);
        assert_eq!(wait(1, 0).as_millis(), 50);
        assert_eq!(wait(u32::MAX, 0).as_millis(), 1500);
    }
}
