//! Random moments and places that can be had again: one seed, printed, gives the same sequence (splitmix64).

use super::{Context, Result, note};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Repeats a run that failed: the seed that it printed.
pub const SEED_VARIABLE: &str = "PGCONVOY_TEST_SEED";

pub struct Random(u64);

impl Random {
    /// A new seed each run, unless the environment names one.
    pub fn from_environment() -> Result<Random> {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().with_context(|| format!("{SEED_VARIABLE}={text}"))?,
            Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()),
        };
        note(format!("seed: {SEED_VARIABLE}={seed}"));
        Ok(Random(seed))
    }

    pub fn seeded(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn moment_within(&mut self, span: Duration) -> Duration {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.below(micros))
    }
}
