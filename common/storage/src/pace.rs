//! How many requests a store gets at a time: fewer when it says that it has too much to do, slowly more when it copes.
//!
//! Additive increase, multiplicative decrease: each answer adds a fraction so that the limit grows by one for each round of
//! requests; being throttled halves it, once for all requests that were under way together. A request that was given up without
//! an answer says the same of a line that is too narrow: then half of what was under way is what may be under way.

use crate::StorageError;
use crate::clock::{Clock, Running};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The fewest requests at a time: a store that takes none is no store.
const LIMIT_MIN: f64 = 1.0;

#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    freed: Notify,
    limit_max: f64,
}

#[derive(Debug)]
struct State {
    limit: f64,
    running: u32,
    /// Counts reductions, so that requests begun before the last one do not cause another.
    generation: u64,
}

/// The right to one request.
struct Turn<'a> {
    pace: &'a Pace,
    generation: u64,
    /// Of the try that it is for.
    clock: Option<Running>,
    is_answered: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let is_given_up = !self.is_answered && self.clock.as_ref().is_some_and(Running::is_given_up);
        let mut state = self.pace.lock();
        if is_given_up {
            let under_way = f64::from(state.running);
            state.reduce(self.generation, under_way);
        }
        state.running -= 1;
        drop(state);
        self.pace.freed.notify_one();
    }
}

impl State {
    /// To half of `from`, or of the limit if that is less.
    fn reduce(&mut self, generation: u64, from: f64) {
        if self.generation == generation {
            self.generation += 1;
            self.limit = (self.limit.min(from) / 2.0).max(LIMIT_MIN);
        }
    }
}

impl Pace {
    pub fn new(limit_max: u32) -> Pace {
        let limit_max = f64::from(limit_max).max(LIMIT_MIN);
        Pace {
            state: Mutex::new(State { limit: limit_max, running: 0, generation: 0 }),
            freed: Notify::new(),
            limit_max,
        }
    }

    /// Requests that may run at a time at the moment.
    pub fn limit(&self) -> f64 {
        self.lock().limit
    }

    /// Waits for a turn, makes the request, and learns from how it ended.
    pub async fn run<T>(
        &self,
        request: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let mut turn = self.turn().await;
        let answer = request.await;
        turn.is_answered = true;
        match &answer {
            Err(StorageError::Throttled { .. }) => self.lock().reduce(turn.generation, f64::INFINITY),
            Err(StorageError::Unavailable { .. } | StorageError::Timeout { .. }) => {}
            _ => self.speed_up(),
        }
        answer
    }

    async fn turn(&self) -> Turn<'_> {
        let clock = Clock::current();
        let _waiting = clock.as_ref().map(Clock::waiting);
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before looking: of two turns that are given back meanwhile each wakes somebody.
            freed.as_mut().enable();
            if let Some(generation) = self.try_turn() {
                let clock = clock.as_ref().map(Clock::running);
                return Turn { pace: self, generation, clock, is_answered: false };
            }
            freed.await;
        }
    }

    fn try_turn(&self) -> Option<u64> {
        let mut state = self.lock();
        if f64::from(state.running + 1) > state.limit {
            return None;
        }
        state.running += 1;
        Some(state.generation)
    }

    fn speed_up(&self) {
        let mut state = self.lock();
        state.limit = (state.limit + 1.0 / state.limit).min(self.limit_max);
        drop(state);
        // The limit may have grown by a whole request.
        self.freed.notify_one();
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Place;
    use crate::decorate::retry::{RetryPolicy, Tries};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    async fn throttled(pace: &Pace) {
        let at = Place::new("test", None);
        let answer: Result<(), _> = pace
            .run(async { Err(StorageError::Throttled { at, reason: String::new(), retry_after: None }) })
            .await;
        assert!(answer.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn never_more_requests_run_than_the_limit_allows() {
        let pace = Arc::new(Pace::new(3));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (pace, running, most) = (Arc::clone(&pace), Arc::clone(&running), Arc::clone(&most));
            tasks.spawn(async move {
                let request = async {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // The request's own duration, on the paused clock.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                pace.run(request).await
            });
        }
        let answers = tokio::time::timeout(Duration::from_secs(60), tasks.join_all()).await;
        assert!(answers.expect("all get their turn").into_iter().all(|answer| answer.is_ok()));
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn being_throttled_halves_the_limit_and_answers_bring_it_back() {
        let pace = Pace::new(16);
        throttled(&pace).await;
        assert!((pace.limit() - 8.0).abs() < f64::EPSILON);
        for _ in 0..1000 {
            throttled(&pace).await;
        }
        assert!((pace.limit() - 1.0).abs() < f64::EPSILON, "somebody always has a turn");
        for _ in 0..1000 {
            assert_eq!(pace.run(async { Ok(()) }).await, Ok(()));
        }
        assert!((pace.limit() - 16.0).abs() < f64::EPSILON);
    }

    #[tokio::test]
    async fn requests_that_were_under_way_together_halve_it_once() {
        let pace = Pace::new(16);
        tokio::join!(throttled(&pace), throttled(&pace), throttled(&pace));
        let alone = Pace::new(16);
        let gate = Notify::new();
        let wait_then_fail = async {
            let at = Place::new("test", None);
            let request = async {
                gate.notified().await;
                Err::<(), _>(StorageError::Throttled { at, reason: String::new(), retry_after: None })
            };
            alone.run(request).await
        };
        let open = async {
            gate.notify_waiters();
            gate.notify_one();
        };
        let (first, second, ()) = tokio::join!(wait_then_fail, throttled(&alone), open);
        assert!(first.is_err());
        let () = second;
        assert!((alone.limit() - 8.0).abs() < f64::EPSILON, "{}", alone.limit());
    }

    fn tries(attempt: Duration) -> Tries {
        let policy = RetryPolicy { attempt_timeout: Some(attempt), ..RetryPolicy::default() };
        Tries::new(policy, Place::new("test", None))
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_given_up_together_leave_half_of_what_was_under_way() {
        let pace = Pace::new(64);
        let never = async || {
            let request = pace.run(std::future::pending::<Result<(), StorageError>>());
            tries(Duration::from_secs(5)).once(request).await
        };
        let ended = tokio::join!(never(), never(), never(), never(), never(), never());
        assert!(matches!(ended.0, Err(StorageError::Timeout { .. })), "{ended:?}");
        assert!((pace.limit() - 3.0).abs() < f64::EPSILON, "{}", pace.limit());
        // One that nobody wants any more, as a second request for the same is, says nothing of the store.
        let unwanted = pace.run(std::future::pending::<Result<(), StorageError>>());
        assert!(tokio::time::timeout(Duration::from_secs(5), unwanted).await.is_err());
        assert!((pace.limit() - 3.0).abs() < f64::EPSILON, "{}", pace.limit());
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_gives_its_turn_back() {
        let pace = Pace::new(1);
        let never = pace.run(std::future::pending::<Result<(), StorageError>>());
        assert!(tokio::time::timeout(Duration::from_millis(10), never).await.is_err());
        let next = tokio::time::timeout(Duration::from_secs(5), pace.run(async { Ok(()) })).await;
        assert_eq!(next.expect("its turn came"), Ok(()));
    }
}
