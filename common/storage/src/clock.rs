//! The clock of one try. It stands still while the try waits for its turn at the store, and whoever gives turns learns from it
//! that a try was given up.
//!
//! It goes with the task: between those who limit tries and those who give turns lie all the calls of a store.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

tokio::task_local! {
    static CLOCK: Clock;
}

/// Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What the try had left when the clock was last set going or stopped; `None`: any time.
    left: Option<Duration>,
    /// Since when it goes.
    since: Option<Instant>,
    /// One try may make several requests at a time.
    waiting: u32,
    running: u32,
    is_given_up: bool,
}

impl State {
    /// Stands still while all that the try does is to wait.
    fn settle(&mut self) {
        let goes = self.waiting == 0 || self.running > 0;
        match self.since {
            Some(since) if !goes => {
                self.left = self.left.map(|left| left.saturating_sub(since.elapsed()));
                self.since = None;
            }
            None if goes => self.since = Some(Instant::now()),
            _ => {}
        }
    }
}

/// Does `work`, which may take `limit` besides its waits for a turn, but not beyond the deadline. `None`: it was given up.
pub(crate) async fn within<T>(
    limit: Option<Duration>,
    deadline: Instant,
    work: impl Future<Output = T>,
) -> Option<T> {
    let state =
        State { left: limit, since: Some(Instant::now()), waiting: 0, running: 0, is_given_up: false };
    let clock = Clock(Arc::new(Mutex::new(state)));
    // Dropped within the scope too: whatever it holds then sees the clock.
    let mut work = pin!(CLOCK.scope(clock.clone(), work));
    let mut end = pin!(sleep_until(deadline));
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        // Only the work itself stops the clock and sets it going.
        let until = clock.runs_out_at().map_or(deadline, |own| own.min(deadline));
        if end.deadline() != until {
            end.as_mut().reset(until);
        }
        end.as_mut().poll(context).map(|()| {
            clock.lock().is_given_up = true;
            None
        })
    })
    .await
}

impl Clock {
    /// Of the try that this task makes; nobody may be timing it.
    pub(crate) fn current() -> Option<Clock> {
        CLOCK.try_with(Clock::clone).ok()
    }

    /// A wait for a turn begins, until the value is dropped.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut state = self.lock();
        state.waiting += 1;
        state.settle();
        Waiting(self.clone())
    }

    /// A turn begins, until the value is dropped.
    pub(crate) fn running(&self) -> Running {
        let mut state = self.lock();
        state.running += 1;
        state.settle();
        Running(self.clone())
    }

    fn runs_out_at(&self) -> Option<Instant> {
        let state = self.lock();
        // A moment beyond the clock's range does not come.
        state.since?.checked_add(state.left?)
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Waiting(Clock);

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting -= 1;
        state.settle();
    }
}

#[derive(Debug)]
pub(crate) struct Running(Clock);

impl Running {
    /// The try took longer than it may.
    pub(crate) fn is_given_up(&self) -> bool {
        self.0.lock().is_given_up
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        state.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    /// On the paused clock.
    async fn request(wait: Duration, takes: Duration) {
        let clock = Clock::current().expect("somebody times it");
        let waiting = clock.waiting();
        // No timeout stops a wait for a turn.
        sleep(wait).await;
        let _running = clock.running();
        drop(waiting);
        // The timeout is what is tested.
        sleep(takes).await;
    }

    async fn timed(work: impl Future<Output = ()>) -> (bool, Duration) {
        let begun = Instant::now();
        let done = within(Some(3 * SECOND), begun + 1000 * SECOND, work).await;
        (done.is_some(), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_turn_costs_a_try_nothing_however_long_it_is() {
        let work = async {
            request(100 * SECOND, SECOND).await;
            request(100 * SECOND, SECOND).await;
        };
        assert_eq!(timed(work).await, (true, 202 * SECOND));
        let (is_done, took) = timed(request(100 * SECOND, 4 * SECOND)).await;
        assert!(!is_done && took >= 103 * SECOND && took < 104 * SECOND, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_beside_one_that_runs_stops_no_clock() {
        let work = async { tokio::join!(request(Duration::ZERO, 9 * SECOND), request(9 * SECOND, SECOND)) };
        let (is_done, took) = timed(async {
            let ((), ()) = work.await;
        })
        .await;
        assert!(!is_done && took < 4 * SECOND, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_goes_beyond_the_deadline() {
        let begun = Instant::now();
        let work = request(5000 * SECOND, SECOND);
        assert_eq!(within(Some(3 * SECOND), begun + 10 * SECOND, work).await, None);
        assert!(begun.elapsed() < 11 * SECOND);
    }
}
