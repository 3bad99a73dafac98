//! Uploads in blocks.
//!
//! All writers of one blob share its uncommitted blocks, and a commit by any of them discards those that it does not name.
//! So:
//! 1. Block ids carry a random nonce of the upload: two writers never replace each other's blocks, and a block that is sent
//!    again replaces itself.
//! 2. Ids have one length, because Azure demands it of all blocks of a blob.
//! 3. A commit names all blocks of its own upload. Whoever finds its blocks discarded was overtaken: a writer that must
//!    create then learns that the blob exists, and no commit can make an object of fewer blocks.
//! 4. A commit writes the nonce into the blob's metadata, by which a lost answer is told from somebody else's blob.

use crate::{AzureStorage, condition, trouble::code_of};
use async_trait::async_trait;
use azure_core::http::Body;
use azure_core::http::headers::HeaderName;
use azure_storage_blob::models::{BlockBlobClientCommitBlockListOptions, BlockLookupList};
use bytes::Bytes;
use pgconvoy_storage::parts::PartStore;
use pgconvoy_storage::{IoAction, ObjectKey, PutMode, StorageError, random};
use std::collections::HashMap;

/// The figure that `PartSlots` reckons with.
pub(crate) const PART_BYTES: usize = 5 << 20;
pub(crate) const PARTS_IN_FLIGHT_MAX: usize = 4;
/// Committed blocks of a blob, by Azure's documentation.
pub(crate) const PARTS_MAX: u32 = 50_000;

/// In a blob's metadata; Azure wants names that C# would take.
const UPLOAD: &str = "pgconvoyupload";
const UPLOAD_HEADER: HeaderName = HeaderName::from_static("x-ms-meta-pgconvoyupload");

#[derive(Debug)]
pub struct Ticket {
    key: ObjectKey,
    mode: PutMode,
    nonce: String,
}

impl Ticket {
    pub(crate) fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub(crate) fn block_id(&self, number: u32) -> Vec<u8> {
        [self.nonce.as_bytes(), &number.to_be_bytes()].concat()
    }
}

#[async_trait]
impl PartStore for AzureStorage {
    type Ticket = Ticket;
    /// A block's id.
    type Part = Vec<u8>;

    /// Azure knows no uploads, only blocks: nothing is asked.
    async fn begin_parts(&self, key: &ObjectKey, mode: PutMode) -> Result<Ticket, StorageError> {
        let nonce = random::hex(|| self.place(Some(key)))?;
        Ok(Ticket { key: key.clone(), mode, nonce })
    }

    async fn put_part(&self, ticket: &Ticket, number: u32, body: Bytes) -> Result<Vec<u8>, StorageError> {
        let blob = self.blob(&ticket.key).block_blob_client();
        let id = ticket.block_id(number);
        let length = u64::try_from(body.len()).expect("a length in memory fits 64 bits");
        let stage = Box::pin(blob.stage_block(&id, length, Body::from(body).into(), None));
        self.ask(Some(&ticket.key), IoAction::Write, stage).await?;
        Ok(id)
    }

    async fn join_parts(&self, ticket: &Ticket, parts: &[Vec<u8>]) -> Result<(), StorageError> {
        let key = Some(&ticket.key);
        let blob = self.blob(&ticket.key).block_blob_client();
        let blocks = BlockLookupList { latest: Some(parts.to_vec()), ..BlockLookupList::default() };
        let blocks = blocks.try_into().map_err(|error| self.asked(key, IoAction::Publish).trouble(&error))?;
        let (immutability_policy_expiry, immutability_policy_mode) = self.policy(&ticket.key);
        let options = BlockBlobClientCommitBlockListOptions {
            if_none_match: condition(ticket.mode),
            immutability_policy_expiry,
            immutability_policy_mode,
            blob_tags_string: self.0.tags.clone(),
            metadata: Some(HashMap::from([(UPLOAD.to_owned(), ticket.nonce.clone())])),
            ..BlockBlobClientCommitBlockListOptions::default()
        };
        let commit = Box::pin(blob.commit_block_list(blocks, Some(options)));
        let request = async {
            let Err(error) = commit.await else { return Ok(()) };
            match code_of(&error) {
                // Blocks are gone: an earlier try committed them, or somebody else's commit discarded them.
                Some("InvalidBlockList") => Err(StorageError::NotFound { at: self.place(key) }),
                _ => Err(self.asked(key, IoAction::Publish).trouble(&error)),
            }
        };
        self.0.pace.run(request).await
    }

    async fn is_joined(&self, ticket: &Ticket) -> Result<bool, StorageError> {
        let head = self.head(&ticket.key).await?;
        Ok(head.is_some_and(|head| head.get_optional_str(&UPLOAD_HEADER) == Some(ticket.nonce.as_str())))
    }

    /// Nothing can remove uncommitted blocks without showing an object for a moment. Azure does so after a week.
    async fn discard_parts(&self, _: &Ticket) {}
}
