//! The bodies of objects: put in one request with their checksum, read whole or by range.
//!
//! Two ways lead there. The [`Sdk`] is Google's own data plane, and what a repository at Google uses. Its HTTP client is its own,
//! which trusts the system's authorities and nobody else; so where `ca-file` or `verify-tls = false` says whom to trust, bodies go
//! by the JSON API over the client of all stores, like everything else does anyway (the SDK's control plane speaks gRPC only).
//!
//! Invariants, of both ways
//! 1. A body is sent with its crc32c, and the store refuses what does not fit it.
//! 2. A whole body that comes back is checked against the store's crc32c; a range has exactly its length.
//! 3. Memory is taken for what the caller allowed, after the object's size is known.

mod json;
mod sdk;

use crate::api::Api;
use pgconvoy_core::config::GcsConfig;
use pgconvoy_storage::{Place, StorageError};
use sdk::Sdk;
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug)]
pub(crate) enum Bodies {
    Sdk(Box<Sdk>),
    Json,
}

/// What is put under a name.
#[derive(Debug, Clone)]
pub(crate) struct NewObject<'a> {
    pub(crate) name: &'a str,
    /// Only if there is none of that name.
    pub(crate) must_create: bool,
    pub(crate) body: &'a bytes::Bytes,
    pub(crate) crc32c: u32,
    pub(crate) metadata: &'a BTreeMap<String, String>,
    /// As a description has it.
    pub(crate) retention: Option<serde_json::Value>,
}

/// Of which object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Which<'a> {
    pub(crate) name: &'a str,
    /// `None`: the one that is live.
    pub(crate) generation: Option<i64>,
}

/// What is read.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// All of it, if it has so many bytes at most.
    Whole { size_max: u64 },
    /// Not empty.
    Part(Range<u64>),
}

impl Wanted {
    /// Bytes to come of an object of this size.
    pub(crate) fn length(&self, size: u64, at: &Place) -> Result<usize, StorageError> {
        let length = match self {
            Wanted::Whole { size_max } if size > *size_max => {
                return Err(StorageError::TooLarge { at: at.clone(), size, size_max: *size_max });
            }
            Wanted::Part(range) if range.end > size => {
                return Err(StorageError::Truncated { at: at.clone(), size, wanted: range.end });
            }
            Wanted::Whole { .. } => size,
            Wanted::Part(range) => range.end - range.start,
        };
        usize::try_from(length).map_err(|_| StorageError::NotSupported {
            at: at.clone(),
            reason: format!("{length} bytes do not fit this machine's memory"),
        })
    }
}

impl Bodies {
    pub(crate) fn new(config: &GcsConfig, api: &Api) -> Bodies {
        if config.tls.ca_file.is_some() || !config.tls.verify {
            return Bodies::Json;
        }
        Bodies::Sdk(Box::new(Sdk::new(api, config.user_project.clone())))
    }

    /// Stores an object in one request, and says its generation.
    pub(crate) async fn put(&self, api: &Api, new: NewObject<'_>, at: &Place) -> Result<i64, StorageError> {
        match self {
            // The SDK spells modes of retention otherwise than the JSON API documents them.
            Bodies::Sdk(sdk) if new.retention.is_none() => sdk.put(api, new, at).await,
            _ => json::put(api, new, at).await,
        }
    }

    pub(crate) async fn read(
        &self,
        api: &Api,
        which: Which<'_>,
        wanted: Wanted,
        at: &Place,
    ) -> Result<bytes::Bytes, StorageError> {
        match self {
            Bodies::Sdk(sdk) => sdk.read(api, which, wanted, at).await,
            Bodies::Json => json::read(api, which, wanted, at).await,
        }
    }
}

fn damaged(at: &Place, what: &str) -> StorageError {
    StorageError::Unavailable { at: at.clone(), reason: what.to_owned() }
}

/// What came has another checksum than the store says: damage on the way is worth another try.
const WRONG_CHECKSUM: &str = "what came has another checksum (crc32c) than the object";
