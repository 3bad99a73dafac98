//! How long and how often to try, and the tries of one call.

use crate::{ObjectKey, Place, PutMode, Storage, StorageError, clock, random};
use bytes::Bytes;
use pgconvoy_core::failure::{Classify, Retry};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A policy of more than a day is taken for a day: moments beyond the clock's range do not exist.
pub(super) const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// So many times as long as another call may a part of an upload take with its repetitions.
pub(super) const DEADLINES_OF_PART: u32 = 3;

/// A copy is a beginning, a part and a join, and a look at what came of it.
pub(super) const DEADLINES_OF_COPY: u32 = 3 * DEADLINES_OF_PART;

/// How long and how often to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    pub attempts_max: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// From the start of a call to its end, waits included.
    pub deadline: Duration,
    /// One try may take this long, besides its waits for a turn at the store ([`pace`](crate::pace)), so that a stalled connection
    /// leaves time for another; `None`: up to the deadline.
    pub attempt_timeout: Option<Duration>,
}

/// For calls over a network: outlasts a restart of the server, and an operator still gets an answer in a minute.
impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts_max: 8,
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
            attempt_timeout: Some(Duration::from_secs(25)),
        }
    }
}

impl RetryPolicy {
    /// For a store that may take `timeout` for one call with its repetitions: one stalled try leaves time for another.
    pub fn within(timeout: Duration) -> RetryPolicy {
        RetryPolicy {
            deadline: timeout,
            attempt_timeout: Some(timeout.mul_f64(0.4)),
            ..RetryPolicy::default()
        }
    }

    /// The wait after so many failures, at least half of the nominal one: a fleet must not come back in step.
    pub(super) fn backoff(&self, failures: u32, random: u8) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let nominal = self.backoff_first.saturating_mul(1 << doublings).min(self.backoff_max);
        nominal / 2 + nominal / 2 * u32::from(random) / u32::from(u8::MAX)
    }
}

/// The tries of one call, from now to the policy's deadline.
#[derive(Debug)]
pub struct Tries {
    policy: RetryPolicy,
    at: Place,
    deadline: Instant,
    failures: u32,
    /// Whether each try gets twice the time of the one before.
    is_patient: bool,
}

impl Tries {
    pub fn new(policy: RetryPolicy, at: Place) -> Tries {
        let deadline = Instant::now() + policy.deadline.min(DEADLINE_MAX);
        Tries { policy, at, deadline, failures: 0, is_patient: false }
    }

    /// For a part of an upload or the join of all: megabytes over a line that may be slow, and that other parts share. The first try
    /// is no longer than of any call, so that a connection that stalls is found as soon.
    pub(crate) fn of_part(policy: RetryPolicy, at: Place) -> Tries {
        let deadline = policy.deadline.saturating_mul(DEADLINES_OF_PART);
        Tries { is_patient: true, ..Tries::new(RetryPolicy { deadline, ..policy }, at) }
    }

    fn attempt_timeout(&self) -> Option<Duration> {
        let doublings = if self.is_patient { self.failures.min(31) } else { 0 };
        self.policy.attempt_timeout.map(|timeout| timeout.saturating_mul(1 << doublings))
    }

    /// Whether an earlier try failed, so that its answer may merely have been lost.
    pub fn is_repeated(&self) -> bool {
        self.failures > 0
    }

    /// One try, ended by its timeout if need be.
    pub async fn once<T>(
        &self,
        attempt: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let ended = clock::within(self.attempt_timeout(), Some(self.deadline), attempt).await;
        ended.unwrap_or_else(|| {
            Err(StorageError::Timeout { at: self.at.clone(), reason: "the call was given up".to_owned() })
        })
    }

    /// Waits before the next try, or gives the error back when there is to be none.
    ///
    /// A store that says how long to wait is believed, within the deadline.
    pub async fn judge(&mut self, error: StorageError) -> Result<(), StorageError> {
        self.failures += 1;
        let own = self.policy.backoff(self.failures, random::byte());
        let wait = error.retry_after().map_or(own, |asked| asked.max(own));
        let next = Instant::now() + wait.min(DEADLINE_MAX);
        if error.retry() == Retry::IsFutile
            || self.failures >= self.policy.attempts_max
            || next >= self.deadline
        {
            return Err(error);
        }
        tracing::warn!(attempt = self.failures, %error, "storage call failed, trying again");
        sleep_until(next).await;
        Ok(())
    }

    /// Tries until it works or is to be given up.
    pub async fn repeat<T, F: Future<Output = Result<T, StorageError>> + Send>(
        mut self,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T, StorageError> {
        loop {
            match self.once(attempt()).await {
                Ok(value) => return Ok(value),
                Err(error) => self.judge(error).await?,
            }
        }
    }

    /// A put that finds its own object when only the answer of an earlier try was lost.
    pub async fn put(
        mut self,
        storage: &dyn Storage,
        key: &ObjectKey,
        mode: PutMode,
        body: Bytes,
    ) -> Result<(), StorageError> {
        loop {
            match self.once(storage.put(key, mode, body.clone())).await {
                Ok(()) => return Ok(()),
                Err(conflict @ StorageError::AlreadyExists { .. }) if self.is_repeated() => {
                    return if self.holds(storage, key, &body).await? { Ok(()) } else { Err(conflict) };
                }
                Err(error) => self.judge(error).await?,
            }
        }
    }

    /// Whether the object is what an earlier try would have written.
    async fn holds(
        &mut self,
        storage: &dyn Storage,
        key: &ObjectKey,
        body: &Bytes,
    ) -> Result<bool, StorageError> {
        let length = u64::try_from(body.len()).expect("a length in memory fits 64 bits");
        loop {
            match self.once(storage.get(key, length)).await {
                Ok(present) => return Ok(present == *body),
                Err(StorageError::TooLarge { .. } | StorageError::NotFound { .. }) => return Ok(false),
                Err(error) => self.judge(error).await?,
            }
        }
    }
}
