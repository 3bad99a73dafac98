//! What came of a unit, and where its time went.

use super::FromStandby;
use crate::failure::Failure;
use crate::format::BlockHash;
use crate::ids::{Attempt, FencingToken, RepoKey, UnitId};
use serde::{Deserialize, Serialize};

/// What came of a unit. The pack is complete in every repository listed in `stored` before this is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub unit: UnitId,
    pub attempt: Attempt,
    pub token: FencingToken,
    pub slot: u16,
    /// One per part of the order, in its order.
    pub parts: Vec<PartReceipt>,
    /// Bytes read from data files.
    pub read: u64,
    /// Bytes that no prior has: as many as are stored, before they are compressed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed: u64,
    /// Bytes that WAL summaries let it leave unread.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
    /// A block was changed though no summary says so: none of them is to be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_summary: Option<String>,
    pub stored: Vec<StoredPack>,
    pub failed: Vec<RepositoryFailure>,
    /// Nothing from workers that do not measure it.
    #[serde(default, skip_serializing_if = "Spent::is_nothing")]
    pub spent: Spent,
    /// The standby that was read, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<FromStandby>,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// Where the time of a unit went, in microseconds of the slot that did it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub read_us: u64,
    /// Checking, hashing, compressing, sealing.
    pub compute_us: u64,
    /// Waiting for the worker's own limit.
    pub bandwidth_us: u64,
    /// Waiting for each repository, as far as the next unit does not hide it.
    pub upload_us: Vec<(RepoKey, u64)>,
}

impl Spent {
    pub fn is_nothing(&self) -> bool {
        *self == Spent::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartReceipt {
    /// Gone, by the rules for what may be.
    Vanished,
    Present {
        /// Index of the range in the pack's footer; `None` if there was nothing to store.
        place: Option<u32>,
        length: u64,
        checksum: BlockHash,
        pages_checked: u64,
        bad_pages: Vec<u32>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPack {
    pub repository: RepoKey,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryFailure {
    pub repository: RepoKey,
    pub failure: Failure,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFailure {
    pub unit: UnitId,
    pub attempt: Attempt,
    pub token: FencingToken,
    pub failure: Failure,
    pub failed: Vec<RepositoryFailure>,
    /// As in a receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_summary: Option<String>,
}
