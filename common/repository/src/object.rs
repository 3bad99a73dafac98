//! Objects in their container: encoding while they are written, and reading any frame of one that is there.
//!
//! Encoding is pure computing and knows no store: the worker compresses a frame once and lets one encoder per repository
//! seal it. Reading trusts nothing: header, trailer, footer and each frame are checked before they are used.

mod encode;
mod read;

pub use encode::ObjectEncoder;
pub use read::{ObjectReader, decode_frame};

use crate::codec::{Codec, Compressor};
use crate::error::RepositoryError;
use crate::open::Repository;
use bytes::Bytes;
use pgconvoy_core::format::object::Kind;
use pgconvoy_storage::{ObjectKey, PutMode};
use serde::{Serialize, de::DeserializeOwned};

/// Objects without data frames are read whole; none of ours is anywhere near.
pub const SMALL_OBJECT_BYTES_MAX: u64 = 16 << 20;

pub(crate) fn object_key(name: &str) -> ObjectKey {
    name.parse().expect("the layout spells valid keys only")
}

impl Repository {
    /// Writes an object that is all footer. Create-only.
    pub async fn put_object<B: Serialize>(
        &self,
        kind: Kind,
        name: &str,
        body: &B,
    ) -> Result<(), RepositoryError> {
        let (mut encoder, header) = self.encoder(kind, name)?;
        let mut compressor = self.metadata_compressor();
        let end = encoder.finish(body, &mut compressor)?;
        let mut object = Vec::with_capacity(header.len() + end.len());
        object.extend_from_slice(&header);
        object.extend_from_slice(&end);
        self.storage().put(&object_key(name), PutMode::Create, Bytes::from(object)).await?;
        Ok(())
    }

    /// Reads an object that is all footer; `None` if it is not there.
    pub async fn get_object<B: DeserializeOwned>(
        &self,
        kind: Kind,
        name: &str,
    ) -> Result<Option<B>, RepositoryError> {
        match self.storage().get(&object_key(name), SMALL_OBJECT_BYTES_MAX).await {
            Ok(bytes) => self.parse_object(kind, name, bytes).map(Some),
            Err(pgconvoy_storage::StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn parse_object<B: DeserializeOwned>(
        &self,
        kind: Kind,
        name: &str,
        bytes: Bytes,
    ) -> Result<B, RepositoryError> {
        ObjectReader::from_bytes(self, kind, name, bytes)?.body()
    }

    pub(crate) fn metadata_compressor(&self) -> Compressor {
        let codec = Codec::Zst;
        Compressor::new(codec, codec.default_level()).expect("a codec takes its own default level")
    }
}
