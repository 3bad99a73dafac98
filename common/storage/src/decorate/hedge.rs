//! Asks a second time when a read takes far longer than reads of its size usually do; the first answer counts.
//!
//! For stores behind a network, where one slow connection or one slow server of many would hold up a restore. What is usual is
//! learned for each magnitude of size: mean and mean deviation, as TCP learns its retransmission time.
//!
//! Invariants
//! 1. Only reads of whole objects and ranges are repeated: a second put would be a second writer.
//! 2. Second requests are at most a tenth of all, however slow the store is: one that is slow altogether gets no more load.
//! 3. An answer "does not exist", or any other that trying again cannot change, counts at once.

mod usual;

use crate::{
    Features, ListAfter, ListDepth, ListPage, LockProof, ObjectInfo, ObjectKey, Origin, PutMode, Space,
    Storage, StorageError, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_core::failure::{Classify, Retry};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use usual::Usual;

#[derive(Debug)]
pub struct HedgeStorage {
    inner: Arc<dyn Storage>,
    usual: Mutex<Usual>,
}

impl HedgeStorage {
    pub fn new(inner: Arc<dyn Storage>) -> HedgeStorage {
        HedgeStorage { inner, usual: Mutex::new(Usual::default()) }
    }

    /// The answer of `ask`, or of a second one. `bytes` is what is expected.
    async fn read<F: Future<Output = Result<Bytes, StorageError>> + Send>(
        &self,
        bytes: u64,
        ask: impl Fn() -> F + Send,
    ) -> Result<Bytes, StorageError> {
        let begin = Instant::now();
        let patience = self.usual().patience(bytes);
        let first = ask();
        tokio::pin!(first);
        let answer = match tokio::time::timeout(patience, &mut first).await {
            Ok(answer) => answer,
            Err(_) if self.usual().may_hedge() => {
                tracing::debug!(store = self.inner.describe(), "a read is slow and is asked for again");
                either(first, ask()).await
            }
            Err(_) => first.await,
        };
        if answer.is_ok() {
            self.usual().learn(bytes, begin.elapsed());
        }
        answer
    }

    /// Every change is whole before the lock is given back.
    fn usual(&self) -> MutexGuard<'_, Usual> {
        self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first answer of two that counts; a passing fault counts only if both have one.
async fn either<T>(
    mut first: impl Future<Output = Result<T, StorageError>> + Unpin,
    second: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    tokio::pin!(second);
    let passes = |answer: &Result<T, StorageError>| {
        answer.as_ref().is_err_and(|error| error.retry() == Retry::MayHelp)
    };
    tokio::select! {
        answer = &mut first => if passes(&answer) { second.await } else { answer },
        answer = &mut second => if passes(&answer) { first.await } else { answer },
    }
}

#[async_trait]
impl Storage for HedgeStorage {
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
        self.inner.put(key, mode, body).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        self.inner.begin(key, mode).await
    }

    fn origin(&self) -> Option<&Origin> {
        self.inner.origin()
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        self.inner.copies_from(origin)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.copy(origin, object, key).await
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.read(size_max, || self.inner.get(key, size_max)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        let bytes = range.end.saturating_sub(range.start);
        self.read(bytes, || self.inner.get_range(key, range.clone())).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.inner.stat(key).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.inner.list(prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        self.inner.delete_many(keys).await
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        self.inner.sweep_temporary(prefix, older_than).await
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.inner.prove_lock().await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space().await
    }
}

#[cfg(test)]
mod tests;
