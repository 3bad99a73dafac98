//! From which of several givers something is taken: from the preferred one, until waiting for it is most of the work; then
//! from the one that will have given it first.
//!
//! Invariants
//! 1. Nobody else is asked while the preferred giver keeps its takers busy: another one may cost money, and what is wrong
//!    with the preferred one must not stay unseen without need.
//! 2. A giver whose speed is unknown counts as quick as the quickest known one, so each is tried early and once.
//! 3. Among equals the first one is taken: callers list them by preference.

use std::time::Duration;

/// Less waiting than this is no reason to ask somebody else.
const WAITED_MIN: Duration = Duration::from_secs(1);
/// About the time by which a balance forgets.
const MEMORY: Duration = Duration::from_secs(30);

/// How those who take from a giver spend their time, lately.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Balance {
    waited: Duration,
    worked: Duration,
}

impl Balance {
    pub fn add(&mut self, waited: Duration, worked: Duration) {
        self.waited += waited;
        self.worked += worked;
        if self.waited + self.worked > MEMORY {
            self.waited /= 2;
            self.worked /= 2;
        }
    }

    /// Whether the giver is what holds its takers up.
    pub fn is_mostly_waiting(&self) -> bool {
        self.waited >= WAITED_MIN && self.waited > self.worked
    }
}

/// Somebody who can give bytes, and how busy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Giver {
    /// Bytes a second, lately; `None`: nothing was taken from there yet.
    pub rate: Option<f64>,
    /// Bytes that it is giving now.
    pub under_way: u64,
}

/// Index of the giver that will have given so many bytes first, if they are asked for at once.
pub fn quickest(givers: &[Giver], bytes: u64) -> Option<usize> {
    let known = givers.iter().filter_map(|giver| giver.rate).fold(0.0, f64::max);
    let presumed = if known > 0.0 { known } else { 1.0 };
    let seconds = |giver: &Giver| {
        let rate = giver.rate.filter(|rate| *rate > 0.0).unwrap_or(presumed);
        as_float(giver.under_way.saturating_add(bytes)) / rate
    };
    let costs = givers.iter().map(seconds).enumerate();
    // `min_by` keeps the first of equals.
    costs.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

/// The newest rate of a giver, given what it was before and what was seen: lately counts a quarter.
pub fn learned_rate(before: Option<f64>, bytes: u64, seconds: f64) -> f64 {
    const WEIGHT: f64 = 0.25;
    // A clock may show no time at all for a short answer.
    let seen = as_float(bytes) / seconds.max(1e-6);
    before.map_or(seen, |before| before + WEIGHT * (seen - before))
}

#[allow(clippy::cast_precision_loss, reason = "a speed is an estimate")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn balance(waited_ms: u64, worked_ms: u64) -> Balance {
        let mut balance = Balance::default();
        balance.add(Duration::from_millis(waited_ms), Duration::from_millis(worked_ms));
        balance
    }

    #[test]
    fn a_giver_holds_its_takers_up_when_they_wait_longer_than_they_work() {
        assert!(!Balance::default().is_mostly_waiting());
        assert!(!balance(900, 0).is_mostly_waiting(), "too little to tell");
        assert!(!balance(2000, 3000).is_mostly_waiting());
        assert!(balance(2000, 1500).is_mostly_waiting());
    }

    #[test]
    fn a_giver_that_becomes_slow_is_found_out_whatever_it_was_before() {
        let mut balance = balance(0, 3_600_000);
        let rounds = (1..).find(|_| {
            balance.add(Duration::from_secs(1), Duration::ZERO);
            balance.is_mostly_waiting()
        });
        assert!(rounds.is_some_and(|rounds| rounds < 300), "{rounds:?}");
    }

    const MIB: u64 = 1 << 20;

    fn giver(rate: Option<f64>, under_way: u64) -> Giver {
        Giver { rate, under_way }
    }

    #[test]
    fn the_first_is_taken_while_nothing_is_known_and_then_the_other_is_tried() {
        assert_eq!(quickest(&[giver(None, 0), giver(None, 0)], MIB), Some(0));
        assert_eq!(quickest(&[giver(None, MIB), giver(None, 0)], MIB), Some(1));
        assert_eq!(quickest(&[giver(Some(10.0), MIB), giver(None, 0)], MIB), Some(1));
        assert_eq!(quickest(&[], MIB), None);
    }

    #[test]
    fn a_slow_one_gets_what_the_quick_one_would_not_have_given_earlier() {
        let slow = |under_way| giver(Some(1.0), under_way);
        let quick = |under_way| giver(Some(10.0), under_way);
        assert_eq!(quickest(&[slow(0), quick(0)], MIB), Some(1));
        assert_eq!(quickest(&[slow(0), quick(5 * MIB)], MIB), Some(1));
        assert_eq!(quickest(&[slow(0), quick(10 * MIB)], MIB), Some(0));
    }

    #[test]
    fn a_rate_follows_what_was_seen_lately() {
        let first = learned_rate(None, 100, 1.0);
        assert!((first - 100.0).abs() < f64::EPSILON);
        let slowed = (0..20).fold(first, |rate, _| learned_rate(Some(rate), 100, 10.0));
        assert!((slowed - 10.0).abs() < 1.0, "{slowed}");
        assert!(learned_rate(None, 100, 0.0).is_finite());
    }

    proptest! {
        #[test]
        fn over_time_each_gives_as_much_as_it_is_quick(rates in prop::collection::vec(1.0f64..100.0, 1..5)) {
            let mut givers: Vec<Giver> = rates.iter().map(|rate| giver(Some(*rate), 0)).collect();
            for _ in 0..1000 {
                let chosen = quickest(&givers, MIB).expect("there are some");
                givers[chosen].under_way += MIB;
            }
            let times: Vec<f64> = givers.iter().map(|one| as_float(one.under_way) / one.rate.unwrap_or(1.0)).collect();
            let (least, most) = (times.iter().copied().fold(f64::INFINITY, f64::min), times.iter().copied().fold(0.0, f64::max));
            let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
            prop_assert!(most - least <= as_float(MIB) / slowest + 1.0, "{times:?}");
        }
    }
}
