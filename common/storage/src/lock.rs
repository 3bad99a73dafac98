//! Locks on objects: a retention that the store enforces (Object Lock, version-level immutability, object retention).
//!
//! The store is told with each put until when the object stays. What lasts and what is removed in ordinary running only the layer
//! above knows, so it brings a function of the key; no store decides that. A lock is counted from when the object is
//! written, and nobody here ever extends or shortens one.

use crate::ObjectKey;
pub use pgconvoy_core::config::LockMode;
use std::time::{Duration, SystemTime};

/// What a store is to do with new objects.
#[derive(Debug, Clone, Copy)]
pub struct Lock {
    pub mode: LockMode,
    pub period: Duration,
    /// Which objects last.
    pub covers: fn(&ObjectKey) -> bool,
}

impl Lock {
    /// Until when an object that is written now stays; `None`: it may go at any time. In whole seconds, which all stores
    /// understand, and never less than the period.
    pub fn until(&self, key: &ObjectKey, now: SystemTime) -> Option<SystemTime> {
        if !(self.covers)(key) {
            return None;
        }
        let end = now.checked_add(self.period)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let seconds = end.as_secs() + u64::from(end.subsec_nanos() > 0);
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// `governance for 30d`, for people.
    pub fn words(&self) -> String {
        format!("{} for {}", self.mode, pgconvoy_core::units::Span(self.period))
    }
}

/// What is known of a store's locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockProof {
    /// Nobody wants any.
    NotAsked,
    /// The store says that it keeps them; which ones are asked for.
    Kept(String),
    /// It does not tell, and why.
    Untold(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    #[test]
    fn what_lasts_stays_for_the_period_in_whole_seconds_and_nothing_else_does() {
        let lock = Lock {
            mode: LockMode::Governance,
            period: Duration::from_secs(DAY),
            covers: |key| !key.as_str().ends_with("brief"),
        };
        let lasting: ObjectKey = "a/lasting".parse().expect("a valid key");
        assert_eq!(lock.until(&lasting, at(100, 0)), Some(at(DAY + 100, 0)));
        assert_eq!(lock.until(&lasting, at(100, 1)), Some(at(DAY + 101, 0)));
        assert_eq!(lock.until(&"a/brief".parse().expect("a valid key"), at(100, 0)), None);
        assert_eq!(lock.words(), "governance for 1d");
    }
}
