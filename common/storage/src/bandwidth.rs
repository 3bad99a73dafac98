//! Bytes a second, shared by everybody who moves some: data files that a worker reads, what a repository gets and gives.
//!
//! Whoever wants to move bytes reserves the time that they take, right behind what others have reserved, and sleeps until
//! that time begins. So the rate holds for the sum, nobody starves, and the last bytes need not be waited for twice.

use crate::clock::Clock;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be moved at once after a pause: a rate that is kept within this time is smooth enough for a disk.
const BURST: Duration = Duration::from_millis(100);
/// A sleeper looks this often whether it still needs to wait.
const NAP_MAX: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Bandwidth {
    /// 0: as much as there is.
    bytes_per_second: AtomicU64,
    /// The time up to which everything is reserved.
    reserved: Mutex<Instant>,
}

impl Bandwidth {
    pub fn new(bytes_per_second: u64) -> Bandwidth {
        Bandwidth::of(Some(bytes_per_second))
    }

    /// `None`: unlimited, until that changes.
    pub fn of(bytes_per_second: Option<u64>) -> Bandwidth {
        let rate = AtomicU64::new(rate(bytes_per_second));
        Bandwidth { bytes_per_second: rate, reserved: Mutex::new(Instant::now()) }
    }

    /// Another limit from now on; who waits by the old one waits on.
    pub fn change(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second.store(rate(bytes_per_second), Ordering::Relaxed);
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until so many bytes may be moved, which stops the [`Clock`] of the work.
    pub async fn pass(&self, bytes: u64) {
        let begin = self.reserve(bytes, Instant::now());
        let _waiting = Clock::current().map(|clock| clock.waiting());
        tokio::time::sleep_until(begin.into()).await;
    }

    /// These bytes are moved without a wait; what comes after them waits the longer.
    pub fn let_pass(&self, bytes: u64) {
        self.reserve(bytes, Instant::now());
    }

    /// Blocks until so many bytes may be moved, or `is_over` says that nobody wants them.
    pub fn take(&self, bytes: u64, is_over: impl Fn() -> bool) {
        let begin = self.reserve(bytes, Instant::now());
        loop {
            let wait = begin.saturating_duration_since(Instant::now());
            if wait.is_zero() || is_over() {
                return;
            }
            std::thread::sleep(wait.min(NAP_MAX));
        }
    }

    /// When moving may begin.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*reserved).max(now.checked_sub(BURST).unwrap_or(now));
        let Some(rate) = NonZeroU64::new(self.bytes_per_second.load(Ordering::Relaxed)) else { return now };
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        *reserved = begin + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        begin
    }
}

fn rate(bytes_per_second: Option<u64>) -> u64 {
    bytes_per_second.map_or(0, |rate| rate.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_limit_holds_for_what_is_read_from_then_on() {
        let bandwidth = Bandwidth::of(None);
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!((bandwidth.reserve(1 << 40, later), bandwidth.reserve(1, later)), (later, later));
        bandwidth.change(Some(1000));
        let first = bandwidth.reserve(500, later);
        assert_eq!(bandwidth.reserve(1, later) - first, Duration::from_millis(500));
        bandwidth.change(None);
        assert_eq!(bandwidth.reserve(1 << 40, later), later);
    }

    #[test]
    fn readers_queue_up_behind_each_other() {
        let bandwidth = Bandwidth::new(1000);
        let now = Instant::now() + Duration::from_secs(60);
        let first = bandwidth.reserve(500, now);
        let second = bandwidth.reserve(500, now);
        let third = bandwidth.reserve(1, now);
        assert_eq!(first, now - BURST);
        assert_eq!(second - first, Duration::from_millis(500));
        assert_eq!(third - second, Duration::from_millis(500));
    }

    #[test]
    fn a_pause_earns_a_burst_and_no_more() {
        let bandwidth = Bandwidth::new(1000);
        let now = Instant::now() + Duration::from_secs(60);
        bandwidth.reserve(1000, now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(bandwidth.reserve(1, later), later - BURST);
    }
}
