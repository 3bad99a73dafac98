//! Tries again what a passing fault broke, for as long as its policy allows.
//!
//! Only errors whose [`Classify::retry`] is `MayHelp` are tried again. Of an upload only its begin is: its chunks are
//! gone once written, so whoever produces them must start over.
//!
//! Invariants
//! 1. A put with `Create` whose answer was lost is found again as "already exists": what is there is compared, and the
//!    same bytes are success. Without an earlier fault in the same call "already exists" is a conflict, unread.
//! 2. No call lasts longer than the deadline, whatever the store does.
//! 3. The error of the last try is what the caller sees, not "out of tries".

mod upload;

use crate::{
    Features, ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey, Place, PutMode, Space, Storage,
    StorageError, Upload, random,
};
use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_core::failure::{Classify, Retry};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
use upload::TimedUpload;

/// A policy of more than a day is taken for a day: moments beyond the clock's range do not exist.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long and how often to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    pub attempts_max: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// From the start of a call to its end, waits included.
    pub deadline: Duration,
    /// One try may take this long, so that a stalled connection leaves time for another; `None`: up to the deadline.
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
    /// The wait after so many failures, at least half of the nominal one: a fleet must not come back in step.
    fn backoff(&self, failures: u32, random: u8) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let nominal = self.backoff_first.saturating_mul(1 << doublings).min(self.backoff_max);
        nominal / 2 + nominal / 2 * u32::from(random) / u32::from(u8::MAX)
    }
}

#[derive(Debug)]
pub struct RetryStorage {
    inner: Arc<dyn Storage>,
    policy: RetryPolicy,
}

/// The tries of one call.
struct Tries<'a> {
    storage: &'a RetryStorage,
    key: Option<&'a ObjectKey>,
    deadline: Instant,
    failures: u32,
}

impl Tries<'_> {
    /// One try, ended by its timeout if need be.
    async fn once<T>(
        &self,
        attempt: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let policy = &self.storage.policy;
        let own = policy.attempt_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let until = own.map_or(self.deadline, |own| own.min(self.deadline));
        timeout_at(until, attempt).await.unwrap_or_else(|_| {
            let at = Place::new(self.storage.inner.describe(), self.key);
            Err(StorageError::Timeout { at, reason: "the call was given up".to_owned() })
        })
    }

    /// Waits before the next try, or gives the error back when there is to be none.
    async fn judge(&mut self, error: StorageError) -> Result<(), StorageError> {
        self.failures += 1;
        let policy = &self.storage.policy;
        let next = Instant::now() + policy.backoff(self.failures, random::byte()).min(DEADLINE_MAX);
        if error.retry() == Retry::IsFutile || self.failures >= policy.attempts_max || next >= self.deadline {
            return Err(error);
        }
        tracing::warn!(attempt = self.failures, %error, "storage call failed, trying again");
        sleep_until(next).await;
        Ok(())
    }
}

impl RetryStorage {
    pub fn new(inner: Arc<dyn Storage>, policy: RetryPolicy) -> Self {
        RetryStorage { inner, policy }
    }

    fn tries<'a>(&'a self, key: Option<&'a ObjectKey>) -> Tries<'a> {
        let deadline = Instant::now() + self.policy.deadline.min(DEADLINE_MAX);
        Tries { storage: self, key, deadline, failures: 0 }
    }

    async fn repeat<T, F: Future<Output = Result<T, StorageError>> + Send>(
        &self,
        key: Option<&ObjectKey>,
        mut attempt: impl FnMut() -> F + Send,
    ) -> Result<T, StorageError> {
        let mut tries = self.tries(key);
        loop {
            match tries.once(attempt()).await {
                Ok(value) => return Ok(value),
                Err(error) => tries.judge(error).await?,
            }
        }
    }

    /// Whether the object is what an earlier try of this put would have written.
    async fn is_ours(
        &self,
        tries: &mut Tries<'_>,
        key: &ObjectKey,
        body: &Bytes,
    ) -> Result<bool, StorageError> {
        let length = u64::try_from(body.len()).expect("a length in memory fits 64 bits");
        loop {
            match tries.once(self.inner.get(key, length)).await {
                Ok(present) => return Ok(present == *body),
                Err(StorageError::TooLarge { .. } | StorageError::NotFound { .. }) => return Ok(false),
                Err(error) => tries.judge(error).await?,
            }
        }
    }
}

#[async_trait]
impl Storage for RetryStorage {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn directory(&self) -> Option<&std::path::Path> {
        self.inner.directory()
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let mut tries = self.tries(Some(key));
        loop {
            match tries.once(self.inner.put(key, mode, body.clone())).await {
                Ok(()) => return Ok(()),
                Err(conflict @ StorageError::AlreadyExists { .. }) if tries.failures > 0 => {
                    let ours = self.is_ours(&mut tries, key, &body).await?;
                    return if ours { Ok(()) } else { Err(conflict) };
                }
                Err(error) => tries.judge(error).await?,
            }
        }
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.repeat(Some(key), || self.inner.begin(key, mode)).await?;
        let at = Place::new(self.inner.describe(), Some(key));
        Ok(Box::new(TimedUpload { inner, at, limit: self.policy.deadline.min(DEADLINE_MAX) }))
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.repeat(Some(key), || self.inner.get(key, size_max)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.repeat(Some(key), || self.inner.get_range(key, range.clone())).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.repeat(Some(key), || self.inner.stat(key)).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.repeat(prefix, || self.inner.list(prefix, depth, after, limit)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.repeat(Some(key), || self.inner.delete(key)).await
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        // Its length depends on what there is to sweep, and half a sweep is as good as none: no deadline, no second try.
        self.inner.sweep_temporary(prefix, older_than).await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space().await
    }
}

#[cfg(test)]
mod tests;
