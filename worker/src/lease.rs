//! A worker's right to work: its lease as far as it has been confirmed, by a clock that goes on while the host sleeps.

use pgconvoy_core::fence::Fence;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Keep-alives without an answer that are remembered. More than fit into a TTL: what is older confirms nothing any more.
const UNANSWERED_MAX: usize = 64;

#[derive(Default)]
struct State {
    fence: Option<Fence>,
    sequence: u64,
    unanswered: BTreeMap<u64, Duration>,
}

/// Without a lease there is none.
#[derive(Default)]
pub(crate) struct Right(Mutex<State>);

impl Right {
    /// Takes note of a lease that was granted, or of one that goes on, upon something that was sent then. Whoever calls this
    /// holds nothing by a right that was lost before.
    pub(crate) fn grant(&self, sent: Duration, ttl: Duration) {
        let mut state = self.lock();
        state.fence = Some(Fence::new(sent, ttl));
        state.unanswered.clear();
    }

    /// The number of the keep-alive that is sent now.
    pub(crate) fn keep_alive(&self) -> u64 {
        let mut state = self.lock();
        state.sequence += 1;
        let sequence = state.sequence;
        state.unanswered.insert(sequence, boot_time());
        while state.unanswered.len() > UNANSWERED_MAX {
            state.unanswered.pop_first();
        }
        sequence
    }

    pub(crate) fn confirmed(&self, sequence: u64, ttl: Duration) {
        let mut state = self.lock();
        let Some(sent) = state.unanswered.remove(&sequence) else { return };
        state.unanswered.retain(|earlier, _| *earlier > sequence);
        if let Some(fence) = &mut state.fence {
            fence.confirm(sent, ttl, boot_time());
        }
    }

    /// Ask right before acting.
    pub(crate) fn is_alive(&self) -> bool {
        let mut state = self.lock();
        state.fence.as_mut().is_some_and(|fence| !fence.remaining(boot_time()).is_zero())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    #[test]
    fn there_is_no_right_before_a_lease_and_none_after_it() {
        let right = Right::default();
        assert!(!right.is_alive());
        right.grant(boot_time(), TTL);
        assert!(right.is_alive());
        right.grant(boot_time(), Duration::ZERO);
        assert!(!right.is_alive());
        right.grant(boot_time(), TTL);
        assert!(right.is_alive(), "a new hello begins anew");
    }

    #[test]
    fn a_confirmation_of_what_was_never_sent_counts_for_nothing() {
        let right = Right::default();
        right.grant(boot_time(), Duration::from_millis(1));
        right.confirmed(7, TTL);
        while right.is_alive() {
            std::thread::yield_now();
        }
        let sequence = right.keep_alive();
        right.confirmed(sequence, TTL);
        assert!(!right.is_alive());
    }
}
