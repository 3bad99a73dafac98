//! An upload whose every step has a deadline. Steps are not repeated: what a store took of a chunk is not known.

use crate::{Place, StorageError, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use std::future::Future;
use std::time::Duration;

pub(super) struct TimedUpload {
    pub inner: Box<dyn Upload>,
    pub at: Place,
    pub limit: Duration,
}

pub(super) async fn within<T>(
    limit: Duration,
    at: &Place,
    step: impl Future<Output = Result<T, StorageError>>,
) -> Result<T, StorageError> {
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| {
        let reason = format!("it took nothing for {} s", limit.as_secs());
        Err(StorageError::Timeout { at: at.clone(), reason })
    })
}

#[async_trait]
impl Upload for TimedUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        within(self.limit, &self.at, self.inner.write(chunk)).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        within(self.limit, &self.at, self.inner.finish()).await
    }

    async fn abort(self: Box<Self>) {
        // Cleaning up may stall as well, and nobody learns anything from it.
        let _ = tokio::time::timeout(self.limit, self.inner.abort()).await;
    }
}
