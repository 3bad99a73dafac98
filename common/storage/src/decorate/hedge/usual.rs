//! How long reads usually take, by the magnitude of their size, and how many second requests are left.

use std::time::Duration;

/// Until this many were seen, nothing is usual.
const SAMPLES_MIN: u32 = 8;
/// How long a read may take before anything is known.
const PATIENCE_UNKNOWN: Duration = Duration::from_secs(5);
/// Below this a second request costs more than it saves.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
/// Deviations beyond the mean: what lies further out is no ordinary read.
const DEVIATIONS: f64 = 6.0;
/// Weights of a new sample, as TCP has them (RFC 6298).
const MEAN_WEIGHT: f64 = 1.0 / 8.0;
const DEVIATION_WEIGHT: f64 = 1.0 / 4.0;
/// Of all requests, the part that may be asked a second time; and how many may be saved up for a bad moment.
const SHARE: f64 = 0.1;
const SAVED_MAX: f64 = 10.0;

#[derive(Debug, Clone, Copy, Default)]
struct Estimate {
    samples: u32,
    /// In seconds, as the mean.
    deviation: f64,
    mean: f64,
}

impl Estimate {
    fn add(&mut self, sample: f64) {
        if self.samples == 0 {
            (self.mean, self.deviation) = (sample, sample / 2.0);
        } else {
            self.deviation += DEVIATION_WEIGHT * ((sample - self.mean).abs() - self.deviation);
            self.mean += MEAN_WEIGHT * (sample - self.mean);
        }
        self.samples = self.samples.saturating_add(1);
    }

    fn patience(&self) -> Duration {
        if self.samples < SAMPLES_MIN {
            return PATIENCE_UNKNOWN;
        }
        Duration::from_secs_f64(self.mean + DEVIATIONS * self.deviation).max(PATIENCE_MIN)
    }
}

#[derive(Debug)]
pub(super) struct Usual {
    /// By the number of bits of the size.
    by_magnitude: [Estimate; 65],
    saved: f64,
}

impl Default for Usual {
    fn default() -> Usual {
        Usual { by_magnitude: [Estimate::default(); 65], saved: SAVED_MAX }
    }
}

impl Usual {
    pub(super) fn learn(&mut self, bytes: u64, took: Duration) {
        self.saved = (self.saved + SHARE).min(SAVED_MAX);
        self.by_magnitude[magnitude(bytes)].add(took.as_secs_f64());
    }

    /// After which time a read of this size is slow.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        self.by_magnitude[magnitude(bytes)].patience()
    }

    /// Takes the right to one second request, if there is one.
    pub(super) fn may_hedge(&mut self) -> bool {
        let may = self.saved >= 1.0;
        if may {
            self.saved -= 1.0;
        }
        may
    }
}

fn magnitude(bytes: u64) -> usize {
    usize::try_from(u64::BITS - bytes.leading_zeros()).expect("at most 64")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(milliseconds: impl IntoIterator<Item = u64>) -> Usual {
        let mut usual = Usual::default();
        milliseconds.into_iter().for_each(|took| usual.learn(1000, Duration::from_millis(took)));
        usual
    }

    #[test]
    fn patience_follows_what_reads_of_that_size_took() {
        let usual = learned([200; 50]);
        let patience = usual.patience(1000);
        assert!(
            patience > Duration::from_millis(200) && patience < Duration::from_millis(300),
            "{patience:?}"
        );
        assert_eq!(usual.patience(1_000_000), PATIENCE_UNKNOWN, "another size says nothing");
        assert_eq!(learned([1; 50]).patience(1000), PATIENCE_MIN);
    }

    #[test]
    fn reads_that_vary_get_more_patience() {
        let patience = learned((0..100).map(|n| if n % 2 == 0 { 100 } else { 500 })).patience(1000);
        assert!(patience > Duration::from_millis(1000), "{patience:?}");
    }

    #[test]
    fn nothing_is_usual_before_some_were_seen() {
        assert_eq!(learned([1; 7]).patience(1000), PATIENCE_UNKNOWN);
    }

    #[test]
    fn a_tenth_of_all_requests_may_be_asked_again() {
        let mut usual = Usual::default();
        let granted = (0..1000).filter(|_| {
            usual.learn(1000, Duration::from_millis(1));
            usual.may_hedge()
        });
        assert!((100..=111).contains(&granted.count()));
    }
}
