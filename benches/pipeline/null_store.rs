//! A store that takes packs and keeps nothing of them, so that only the way to it is measured.
//!
//! What makes a repository (its identity, its keys) is kept in memory, or it could not be opened.

use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_storage::{
    Features, ListAfter, ListDepth, ListPage, MemoryStorage, ObjectInfo, ObjectKey, PutMode, Storage,
    StorageError, Upload,
};
use std::ops::Range;

#[derive(Debug, Default)]
pub(crate) struct NullStore {
    small: MemoryStorage,
}

#[async_trait]
impl Storage for NullStore {
    fn describe(&self) -> String {
        "null".to_owned()
    }

    fn features(&self) -> Features {
        self.small.features()
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        self.small.put(key, mode, body).await
    }

    async fn begin(&self, _: &ObjectKey, _: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(NullUpload))
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.small.get(key, size_max).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.small.get_range(key, range).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.small.stat(key).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.small.list(prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.small.delete(key).await
    }
}

struct NullUpload;

#[async_trait]
impl Upload for NullUpload {
    async fn write(&mut self, _: Bytes) -> Result<(), StorageError> {
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }

    async fn abort(self: Box<Self>) {}
}
