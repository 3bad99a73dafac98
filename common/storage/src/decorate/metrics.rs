//! Counts calls and bytes. Counters only grow; a reader takes differences.

use crate::{
    Features, ListAfter, ListDepth, ListPage, LockProof, ObjectInfo, ObjectKey, Origin, PutMode, Space,
    Storage, StorageError, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shared between a store and whoever reads the figures.
#[derive(Debug, Default)]
pub struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    stats: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    copies: AtomicU64,
    failures: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
    bytes_copied: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Whole puts and finished uploads, well or not.
    pub puts: u64,
    /// Whole reads and ranges, well or not.
    pub gets: u64,
    pub stats: u64,
    pub lists: u64,
    pub deletes: u64,
    /// By the store itself, well or not.
    pub copies: u64,
    /// Calls of any kind that ended in an error.
    pub failures: u64,
    /// What the store took, whether or not it was published in the end.
    pub bytes_written: u64,
    /// What the store gave.
    pub bytes_read: u64,
    /// What it copied by itself.
    pub bytes_copied: u64,
}

impl Counters {
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            puts: read(&self.puts),
            gets: read(&self.gets),
            stats: read(&self.stats),
            lists: read(&self.lists),
            deletes: read(&self.deletes),
            copies: read(&self.copies),
            failures: read(&self.failures),
            bytes_written: read(&self.bytes_written),
            bytes_read: read(&self.bytes_read),
            bytes_copied: read(&self.bytes_copied),
        }
    }

    fn note<T>(&self, calls: &AtomicU64, result: Result<T, StorageError>) -> Result<T, StorageError> {
        calls.fetch_add(1, Ordering::Relaxed);
        self.note_failure(result)
    }

    fn note_failure<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if result.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).expect("a length in memory fits 64 bits"), Ordering::Relaxed);
}

#[derive(Debug)]
pub struct MetricsStorage {
    inner: Arc<dyn Storage>,
    counters: Arc<Counters>,
}

impl MetricsStorage {
    pub fn new(inner: Arc<dyn Storage>) -> (Self, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        (MetricsStorage { inner, counters: Arc::clone(&counters) }, counters)
    }
}

#[async_trait]
impl Storage for MetricsStorage {
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
        let length = body.len();
        let result = self.inner.put(key, mode, body).await;
        if result.is_ok() {
            add(&self.counters.bytes_written, length);
        }
        self.counters.note(&self.counters.puts, result)
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.counters.note_failure(self.inner.begin(key, mode).await)?;
        Ok(Box::new(MetricsUpload { inner, counters: Arc::clone(&self.counters) }))
    }

    fn origin(&self) -> Option<&Origin> {
        self.inner.origin()
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        self.inner.copies_from(origin)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        let result = self.inner.copy(origin, object, key).await;
        if result.is_ok() {
            self.counters.bytes_copied.fetch_add(object.size, Ordering::Relaxed);
        }
        self.counters.note(&self.counters.copies, result)
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        let result = self.inner.get(key, size_max).await;
        let result = result.inspect(|body| add(&self.counters.bytes_read, body.len()));
        self.counters.note(&self.counters.gets, result)
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        let result = self.inner.get_range(key, range).await;
        let result = result.inspect(|body| add(&self.counters.bytes_read, body.len()));
        self.counters.note(&self.counters.gets, result)
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.counters.note(&self.counters.stats, self.inner.stat(key).await)
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let result = self.inner.list(prefix, depth, after, limit).await;
        self.counters.note(&self.counters.lists, result)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.counters.note(&self.counters.deletes, self.inner.delete(key).await)
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        self.counters.note(&self.counters.deletes, self.inner.delete_many(keys).await)
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        self.counters.note_failure(self.inner.sweep_temporary(prefix, older_than).await)
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.counters.note_failure(self.inner.prove_lock().await)
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.counters.note_failure(self.inner.space().await)
    }
}

struct MetricsUpload {
    inner: Box<dyn Upload>,
    counters: Arc<Counters>,
}

#[async_trait]
impl Upload for MetricsUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        let length = chunk.len();
        let result = self.inner.write(chunk).await;
        if result.is_ok() {
            add(&self.counters.bytes_written, length);
        }
        self.counters.note_failure(result)
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        self.counters.note(&self.counters.puts, self.inner.finish().await)
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    #[tokio::test]
    async fn calls_bytes_and_failures_are_counted() {
        let (storage, counters) = MetricsStorage::new(Arc::new(MemoryStorage::new()));
        let key = "a/b".parse().expect("a valid key");
        storage.put(&key, PutMode::Create, Bytes::from_static(b"12345")).await.expect("put");
        let again = storage.put(&key, PutMode::Create, Bytes::from_static(b"12345")).await;
        assert!(again.is_err());
        storage.get_range(&key, 1..3).await.expect("range");
        let mut upload = storage.begin(&key, PutMode::Overwrite).await.expect("begin");
        upload.write(Bytes::from_static(b"123")).await.expect("write");
        upload.finish().await.expect("finish");
        let expected = Snapshot {
            puts: 3,
            gets: 1,
            failures: 1,
            bytes_written: 8,
            bytes_read: 2,
            ..Snapshot::default()
        };
        assert_eq!(counters.snapshot(), expected);
    }
}
