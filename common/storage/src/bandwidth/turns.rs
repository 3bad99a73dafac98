//! Tells time that was spent waiting for one's turn from time that a store took: only the latter says that it stalls.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

tokio::task_local! {
    static WATCHED: Turns;
}

/// The waits for a turn of one piece of work. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    over: Duration,
    /// Work may wait for several turns at once.
    waiting: u32,
    since: Option<Instant>,
}

impl Turns {
    /// Does `work`, which may take `limit` besides its waits; `None`: it took longer.
    pub async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let begin = Instant::now();
        let work = WATCHED.scope(self.clone(), work);
        tokio::pin!(work);
        loop {
            let allowed = limit.saturating_add(self.waited());
            // A limit beyond the clock's range is none.
            let Some(deadline) = begin.checked_add(allowed) else { return Some(work.await) };
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = sleep_until(deadline) => {
                    if begin.elapsed() >= limit.saturating_add(self.waited()) {
                        return None;
                    }
                }
            }
        }
    }

    /// How long turns were waited for, up to now.
    pub fn waited(&self) -> Duration {
        let state = self.lock();
        state.over + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait for a turn, which is over when the value is dropped.
pub(super) struct Waiting(Option<Turns>);

/// Nobody may be watching.
pub(super) fn waiting() -> Waiting {
    let watched = WATCHED.try_with(Turns::clone).ok();
    if let Some(turns) = &watched {
        let mut state = turns.lock();
        state.waiting += 1;
        state.since.get_or_insert_with(Instant::now);
    }
    Waiting(watched)
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(turns) = &self.0 else { return };
        let mut state = turns.lock();
        state.waiting -= 1;
        if state.waiting == 0
            && let Some(since) = state.since.take()
        {
            state.over += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    async fn wait_for_turn(time: Duration) {
        let _waiting = waiting();
        // On the paused clock, as all that follows: no timeout is needed beside the one that is tested.
        sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_turn_is_no_stall_however_long() {
        let turns = Turns::default();
        let work = async {
            wait_for_turn(1000 * SECOND).await;
            // Within the timeout, which is tested.
            sleep(2 * SECOND).await;
            wait_for_turn(1000 * SECOND).await;
            7
        };
        assert_eq!(turns.within(3 * SECOND, work).await, Some(7));
        assert_eq!(turns.waited(), 2000 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_longer_than_allowed_besides_its_waits_is_ended() {
        let turns = Turns::default();
        let begin = Instant::now();
        let work = async {
            wait_for_turn(10 * SECOND).await;
            // Beyond the timeout, which is tested.
            sleep(4 * SECOND).await;
        };
        assert_eq!(turns.within(3 * SECOND, work).await, None);
        assert_eq!(begin.elapsed(), 13 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_at_the_same_time_count_once() {
        let turns = Turns::default();
        let work = async { tokio::join!(wait_for_turn(5 * SECOND), wait_for_turn(8 * SECOND)) };
        assert!(turns.within(SECOND, work).await.is_some());
        assert_eq!(turns.waited(), 8 * SECOND);
    }
}
