//! Copies that the service makes: the blocks of an upload, each of which it reads by itself from the other blob.
//!
//! A commit makes them an object as it does any other blocks, so a copy is create-only and bears tags, policy and nonce like an upload. Which
//! source is meant says its ETag, with every block. By what right the service reads it is the [`door`](crate::door)'s business.
//!
//! Invariant: where the service does not find its source, or may not read it, the source is looked at again: only what is gone or another one
//! is told as such. Else it does not copy, whatever its reason.

use crate::AzureStorage;
use crate::blocks::{PARTS_MAX, Ticket};
use crate::trouble::code_of;
use azure_core::error::ErrorKind;
use azure_core::http::{Etag, Url};
use azure_storage_blob::models::{BlockBlobClientStageBlockFromUrlOptions, HttpRange};
use pgconvoy_core::config::{AzureConfig, UriStyle};
use pgconvoy_storage::decorate::retry::Tries;
use pgconvoy_storage::{IoAction, ObjectInfo, ObjectKey, PutMode, Storage as _, StorageError, not_an_origin};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of one block. The largest that every version of the service reads from elsewhere; newer ones take 4000 MiB, and then a long time.
const BLOCK_BYTES: u64 = 100 << 20;
/// Of an object.
pub(crate) const BYTES_MAX: u64 = BLOCK_BYTES * PARTS_MAX as u64;

/// What two stores have in common if one service lets the same one into both: all that is not about a single repository.
pub(crate) fn account(config: &AzureConfig, address: &Url) -> AzureConfig {
    AzureConfig {
        container: String::new(),
        endpoint: address.to_string(),
        uri_style: UriStyle::Path,
        tags: BTreeMap::new(),
        ..config.clone()
    }
}

impl AzureStorage {
    pub(crate) async fn copy_once(
        &self,
        origin: &AzureStorage,
        object: &ObjectInfo,
        key: &ObjectKey,
    ) -> Result<(), StorageError> {
        let from = || origin.place(Some(&object.key));
        object.known_etag(from)?;
        let blocks =
            u32::try_from(object.size.div_ceil(BLOCK_BYTES)).ok().filter(|blocks| *blocks <= PARTS_MAX);
        let blocks = blocks.ok_or_else(|| not_an_origin(self.place(Some(key))))?;
        if blocks == 0 {
            // Nothing is read of it that its ETag could go with.
            Tries::new(self.0.limits.retry, from()).repeat(|| origin.look_again(object)).await?;
        }
        let (store, origin, source) = (self.clone(), origin.clone(), object.clone());
        let find = move |ticket: Arc<Ticket>, number| {
            let (store, origin, source) = (store.clone(), origin.clone(), source.clone());
            async move { store.stage_from(&ticket, number, &origin, &source).await }
        };
        self.upload(key, PutMode::Create).finish_with(object.size, blocks, find).await
    }

    async fn stage_from(
        &self,
        ticket: &Ticket,
        number: u32,
        origin: &AzureStorage,
        object: &ObjectInfo,
    ) -> Result<Vec<u8>, StorageError> {
        let etag = object.known_etag(|| origin.place(Some(&object.key)))?;
        let start = u64::from(number) * BLOCK_BYTES;
        let options = BlockBlobClientStageBlockFromUrlOptions {
            source_if_match: Some(Etag::from(etag)),
            source_range: Some(HttpRange::new(start, BLOCK_BYTES.min(object.size - start))),
            ..BlockBlobClientStageBlockFromUrlOptions::default()
        };
        // The door makes an address of it.
        let from = format!("{}/{}", origin.0.config.container, origin.blob_name(&object.key));
        let blob = self.blob(ticket.key()).block_blob_client();
        let id = ticket.block_id(number);
        let stage = Box::pin(blob.stage_block_from_url(&id, 0, from, Some(options)));
        let request = async {
            let Err(error) = stage.await else { return Ok(None) };
            match refusal(&error) {
                Some(reason) => Ok(Some(reason)),
                None => Err(self.asked(Some(ticket.key()), IoAction::Write).trouble(&error)),
            }
        };
        let Some(reason) = self.0.pace.run(request).await? else { return Ok(id) };
        origin.look_again(object).await?;
        Err(StorageError::NotSupported { at: self.place(Some(ticket.key())), reason })
    }

    /// Whether an object is still what was looked at.
    async fn look_again(&self, object: &ObjectInfo) -> Result<(), StorageError> {
        let at = self.place(Some(&object.key));
        match self.stat(&object.key).await? {
            None => Err(StorageError::NotFound { at }),
            Some(now) if now.etag != object.etag => Err(StorageError::Changed { at }),
            Some(_) => Ok(()),
        }
    }
}

/// Why the service does not read its source, or has no such call; `None`: something else is wrong, perhaps for a while.
fn refusal(error: &azure_core::Error) -> Option<String> {
    const SOURCE: [&str; 4] =
        ["SourceConditionNotMet", "ConditionNotMet", "CannotVerifyCopySource", "BlobNotFound"];
    let ErrorKind::HttpResponse { status, .. } = error.kind() else { return None };
    let status = u16::from(*status);
    match code_of(error) {
        Some(code) if SOURCE.contains(&code) => {
            Some(format!("it does not find, or may not read, what it is to copy ({status} {code})"))
        }
        _ if status == 501 => Some("it has no call that copies".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
