//! Moves no more bytes a second than it may, to and from a store together.

use crate::bandwidth::Bandwidth;
use crate::{
    Features, ListAfter, ListDepth, ListPage, LockProof, ObjectInfo, ObjectKey, Origin, PutMode, Space,
    Storage, StorageError, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of an object that is written without a wait.
const SMALL_BYTES: u64 = 64 << 10;

/// Belongs outside of a retry: a wait for one's turn is no reason to give a call up.
#[derive(Debug)]
pub struct LimitStorage {
    inner: Arc<dyn Storage>,
    bandwidth: Arc<Bandwidth>,
}

impl LimitStorage {
    pub fn new(inner: Arc<dyn Storage>, bandwidth: Arc<Bandwidth>) -> LimitStorage {
        LimitStorage { inner, bandwidth }
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("a length in memory fits 64 bits")
}

#[async_trait]
impl Storage for LimitStorage {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn directory(&self) -> Option<&std::path::Path> {
        self.inner.directory()
    }

    fn unguarded(&self) -> Option<&dyn Storage> {
        self.inner.unguarded()
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        match length(&body) {
            // Among these are signs of life, which must not wait behind data.
            small if small <= SMALL_BYTES => self.bandwidth.let_pass(small),
            large => self.bandwidth.pass(large).await,
        }
        self.inner.put(key, mode, body).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.inner.begin(key, mode).await?;
        Ok(Box::new(LimitedUpload { inner, bandwidth: self.bandwidth.clone() }))
    }

    fn origin(&self) -> Option<&Origin> {
        self.inner.origin()
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        self.inner.copies_from(origin)
    }

    /// None of its bytes come by here.
    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.copy(origin, object, key).await
    }

    /// How much it is shows only afterwards: what comes next waits for it.
    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        let body = self.inner.get(key, size_max).await?;
        self.bandwidth.pass(length(&body)).await;
        Ok(body)
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.bandwidth.pass(range.end.saturating_sub(range.start)).await;
        self.inner.get_range(key, range).await
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

struct LimitedUpload {
    inner: Box<dyn Upload>,
    bandwidth: Arc<Bandwidth>,
}

#[async_trait]
impl Upload for LimitedUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        self.bandwidth.pass(length(&chunk)).await;
        self.inner.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        self.inner.finish().await
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use crate::MemoryStorage;
    use std::time::Instant;

    const RATE: u64 = 1 << 20;

    fn limited() -> LimitStorage {
        LimitStorage::new(Arc::new(MemoryStorage::new()), Arc::new(Bandwidth::new(RATE)))
    }

    fn key(name: &str) -> ObjectKey {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn a_limited_store_is_a_store() {
        let make = async || {
            let unlimited = Arc::new(Bandwidth::of(None));
            Arc::new(LimitStorage::new(Arc::new(MemoryStorage::new()), unlimited)) as Arc<dyn Storage>
        };
        crate::conformance::suite(make).await;
    }

    #[tokio::test]
    async fn what_goes_and_what_comes_share_one_limit() {
        let storage = limited();
        let half = Bytes::from(vec![1; 1 << 19]);
        let begin = Instant::now();
        storage.put(&key("a"), PutMode::Create, half.clone()).await.unwrap();
        let mut upload = storage.begin(&key("b"), PutMode::Create).await.unwrap();
        upload.write(half.clone()).await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(storage.get_range(&key("a"), 0..1 << 19).await.unwrap(), half);
        assert_eq!(storage.get(&key("b"), 1 << 20).await.unwrap(), half);
        // Two megabytes at one a second; the last half is moved when its turn begins, and a tenth is a burst.
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1350), "{took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
    }

    #[tokio::test]
    async fn small_objects_go_at_once_and_what_follows_pays_for_them() {
        let storage = limited();
        let begin = Instant::now();
        for number in 0..32 {
            let small = Bytes::from(vec![1; 1 << 16]);
            storage.put(&key(&format!("sign-of-life-{number}")), PutMode::Create, small).await.unwrap();
        }
        let gone = begin.elapsed();
        storage.put(&key("large"), PutMode::Create, Bytes::from(vec![1; 1 << 17])).await.unwrap();
        let took = begin.elapsed();
        assert!(gone < Duration::from_millis(1500), "{gone:?}");
        // Two megabytes went before it, and a tenth of a second is a burst.
        assert!(took >= Duration::from_millis(1850), "{took:?}");
    }
}
