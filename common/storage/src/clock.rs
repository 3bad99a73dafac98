//! A clock for work that takes turns at a store: it stands still while the work waits for its turn, so that only what the store takes
//! counts as slowness, and whoever gives turns learns from it that the work was given up.
//!
//! It goes with the task: between those who limit work and those who give turns lie all the calls of a store. Work within work has a
//! clock of its own, and stops those around it as well.

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
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Of the work that this work is part of.
    around: Option<Clock>,
}

#[derive(Debug)]
struct State {
    /// What the work may take; `None`: any time.
    limit: Option<Duration>,
    /// Until the clock was last set going.
    spent: Duration,
    /// Since when it goes.
    since: Option<Instant>,
    /// Work may make several requests at a time.
    waiting: u32,
    running: u32,
    is_given_up: bool,
}

impl State {
    /// Stands still while all that the work does is to wait.
    fn settle(&mut self) {
        let goes = self.waiting == 0 || self.running > 0;
        match self.since {
            Some(since) if !goes => {
                self.spent += since.elapsed();
                self.since = None;
            }
            None if goes => self.since = Some(Instant::now()),
            _ => {}
        }
    }
}

/// Does `work`, which may take `limit` besides its waits for a turn, but not beyond the deadline. `None`: it was given up.
pub async fn within<T>(
    limit: Option<Duration>,
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Option<T> {
    Clock::new(limit).time(deadline, work).await
}

impl Clock {
    /// For work that this task does.
    pub fn new(limit: Option<Duration>) -> Clock {
        let state = Mutex::new(State {
            limit,
            spent: Duration::ZERO,
            since: Some(Instant::now()),
            waiting: 0,
            running: 0,
            is_given_up: false,
        });
        Clock(Arc::new(Inner { state, around: Clock::current() }))
    }

    /// See [`within`].
    pub async fn time<T>(&self, deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
        // Dropped within the scope too: whatever it holds then sees the clock.
        let mut work = pin!(CLOCK.scope(self.clone(), work));
        let mut end = pin!(sleep_until(Instant::now()));
        std::future::poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            // Only the work itself stops the clock and sets it going.
            let Some(until) = [self.runs_out_at(), deadline].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            if end.deadline() != until {
                end.as_mut().reset(until);
            }
            end.as_mut().poll(context).map(|()| {
                self.lock().is_given_up = true;
                None
            })
        })
        .await
    }

    /// What the work took up to now, its waits for a turn not counted.
    pub fn spent(&self) -> Duration {
        let state = self.lock();
        state.spent + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Of the work that this task does; nobody may be timing it.
    pub(crate) fn current() -> Option<Clock> {
        CLOCK.try_with(Clock::clone).ok()
    }

    /// A wait for a turn begins, until the value is dropped.
    pub(crate) fn waiting(&self) -> Waiting {
        self.change(|state| state.waiting += 1);
        Waiting(self.clone())
    }

    /// A turn begins, until the value is dropped.
    pub(crate) fn running(&self) -> Running {
        self.change(|state| state.running += 1);
        Running(self.clone())
    }

    /// Here and in the clocks around.
    fn change(&self, change: impl Fn(&mut State)) {
        let mut next = Some(self);
        while let Some(clock) = next {
            let mut state = clock.lock();
            change(&mut state);
            state.settle();
            next = clock.0.around.as_ref();
        }
    }

    fn runs_out_at(&self) -> Option<Instant> {
        let state = self.lock();
        // A moment beyond the clock's range does not come.
        state.since?.checked_add(state.limit?.saturating_sub(state.spent))
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Waiting(Clock);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.change(|state| state.waiting -= 1);
    }
}

#[derive(Debug)]
pub(crate) struct Running(Clock);

impl Running {
    /// The work took longer than it may.
    pub(crate) fn is_given_up(&self) -> bool {
        self.0.lock().is_given_up
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|state| state.running -= 1);
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
        let done = within(Some(3 * SECOND), Some(begun + 1000 * SECOND), work).await;
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
        assert_eq!(within(Some(3 * SECOND), Some(begun + 10 * SECOND), work).await, None);
        assert!(begun.elapsed() < 11 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_within_work_stops_the_clocks_around_it_too() {
        let clock = Clock::new(Some(3 * SECOND));
        let inner = async || within(Some(2 * SECOND), None, request(1000 * SECOND, SECOND)).await;
        let work = async { (inner().await, inner().await) };
        assert_eq!(clock.time(None, work).await, Some((Some(()), Some(()))));
        assert_eq!(clock.spent(), 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_at_the_same_time_count_once() {
        let clock = Clock::new(Some(SECOND));
        let wait = async |time: Duration| {
            let _waiting = Clock::current().expect("somebody times it").waiting();
            // No timeout stops a wait for a turn.
            sleep(time).await;
        };
        let work = async { tokio::join!(wait(5 * SECOND), wait(8 * SECOND)) };
        assert!(clock.time(None, work).await.is_some());
        assert_eq!(clock.spent(), Duration::ZERO);
    }
}
