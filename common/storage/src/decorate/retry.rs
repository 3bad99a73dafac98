//! Tries again what a passing fault broke, for as long as its policy allows.
//!
//! Only errors whose [`Classify::retry`] is `MayHelp` are tried again. Of an upload only its begin is: its chunks are
//! gone once written, so whoever produces them must start over. A copy that a store makes by itself is tried again there, where what
//! it made is known from what others did.
//!
//! Invariants
//! 1. A put with `Create` whose answer was lost is found again as "already exists": what is there is compared, and the
//!    same bytes are success. Without an earlier fault in the same call "already exists" is a conflict, unread.
//! 2. No call lasts longer than the deadline, whatever the store does.
//! 3. The error of the last try is what the caller sees, not "out of tries".

mod tries;
mod upload;

pub use tries::{RetryPolicy, Tries};

use crate::{
    Feature, Features, ListAfter, ListDepth, ListPage, LockProof, ObjectInfo, ObjectKey, Origin, Place,
    PutMode, Space, Storage, StorageError, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tries::{DEADLINE_MAX, DEADLINES_OF_COPY, DEADLINES_OF_PART};
use upload::{TimedUpload, within};

#[derive(Debug)]
pub struct RetryStorage {
    inner: Arc<dyn Storage>,
    policy: RetryPolicy,
}

impl RetryStorage {
    pub fn new(inner: Arc<dyn Storage>, policy: RetryPolicy) -> Self {
        RetryStorage { inner, policy }
    }

    fn tries(&self, key: Option<&ObjectKey>) -> Tries {
        Tries::new(self.policy, Place::new(self.inner.describe(), key))
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
        self.tries(Some(key)).put(self.inner.as_ref(), key, mode, body).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.tries(Some(key)).repeat(|| self.inner.begin(key, mode)).await?;
        let at = Place::new(self.inner.describe(), Some(key));
        // A step of an upload in parts waits for parts, which are tried again by themselves.
        let deadlines = self.features().joined_from().map_or(1, |_| DEADLINES_OF_PART);
        let limit = self.policy.deadline.saturating_mul(deadlines).min(DEADLINE_MAX);
        Ok(Box::new(TimedUpload { inner, at, limit }))
    }

    fn origin(&self) -> Option<&Origin> {
        self.inner.origin()
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        self.inner.copies_from(origin)
    }

    /// The store tries its requests again by itself, as those of an upload in parts.
    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        let at = Place::new(self.inner.describe(), Some(key));
        let limit = self.policy.deadline.saturating_mul(DEADLINES_OF_COPY).min(DEADLINE_MAX);
        within(limit, &at, self.inner.copy(origin, object, key)).await
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.tries(Some(key)).repeat(|| self.inner.get(key, size_max)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.tries(Some(key)).repeat(|| self.inner.get_range(key, range.clone())).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.tries(Some(key)).repeat(|| self.inner.stat(key)).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.tries(prefix).repeat(|| self.inner.list(prefix, depth, after, limit)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.tries(Some(key)).repeat(|| self.inner.delete(key)).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let mut tries = self.tries(None);
        // A store may find out by a batch that it takes none.
        while self.features().has(Feature::BatchedDeletes) {
            match tries.once(self.inner.delete_many(keys)).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.judge(error).await?,
            }
        }
        // One call each: what a deadline is for.
        let mut kept = Ok(());
        for key in keys {
            match self.delete(key).await {
                Err(error) if error.is_kept() => kept = kept.and(Err(error)),
                other => other?,
            }
        }
        kept
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        // Its length depends on what there is to sweep, and half a sweep is as good as none: no deadline, no second try.
        self.inner.sweep_temporary(prefix, older_than).await
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.tries(None).repeat(|| self.inner.prove_lock()).await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space().await
    }
}

#[cfg(test)]
mod tests;
