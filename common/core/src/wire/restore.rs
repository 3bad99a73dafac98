//! What is said about a job that workers share: a restore, or a `repo-sync` ([`super::copying`]). [`machine::restore`](crate::machine::restore) says why.

use super::{CopyOrder, Copying, ErrandEnd, ErrandOrder};
use crate::failure::Failure;
use crate::format::{BackupLabel, BlockHash};
use crate::ids::{Identity, ShareId, WorkerName};
use serde::{Deserialize, Serialize};

/// What a coordinator says to the workers of a shared job. One is the *main* worker, whose job it is; the others are its
/// *mates*: they stage shares for it. What is staged of a `repo-sync` is an object in its place in the target, which nothing refers to yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareOrder {
    /// To the main worker: do the job, or say again how far it is.
    Lead(Box<ErrandOrder>),
    /// To the main worker: make a staging place for this mate.
    Admit { mate: WorkerName },
    /// To the main worker: remove the mate's staging place; why, if it is left out for good.
    Dismiss { mate: WorkerName, because: Option<Failure> },
    /// To the main worker: the mate has staged this share, give its files their names.
    Adopt { mate: WorkerName, staging: Identity, staged: StagedShare },
    /// To a mate: stage what you are given, or say again how far you are.
    Assist(Box<AssistOrder>),
    /// The same of a `repo-sync`, and again with each part.
    Copy(Box<CopyOrder>),
    /// To any of them: these shares are its. What it has already is said again. `within` is the main worker's run or the
    /// mate's staging place.
    Take { within: Identity, shares: Vec<ShareId> },
}

/// What a mate has to know. What it computes by itself must come to the same digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssistOrder {
    pub errand: ErrandOrder,
    pub label: BackupLabel,
    pub backup: Identity,
    pub digest: BlockHash,
    pub share_size: u64,
    /// The name of the directory that the main worker made for it, wherever files go.
    pub staging: Identity,
}

/// A share whose files are whole, checked and synced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedShare {
    pub share: ShareId,
    /// CRC-32C of each of its files, if they are wanted.
    pub crcs: Vec<u32>,
    /// Nothing had to be written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_there: bool,
}

impl StagedShare {
    pub fn new(share: ShareId, crcs: Vec<u32>) -> StagedShare {
        StagedShare { share, crcs, was_there: false }
    }
}

/// What the workers of a shared job report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareReport {
    /// By the main worker: shares can come.
    Leading(Box<Leading>),
    /// The same of a `repo-sync`, and again with each part.
    Copying(Box<Copying>),
    /// By the main worker: the mate can write there.
    Admitted {
        mate: WorkerName,
        staging: Identity,
    },
    /// By the main worker: it has given a mate's files their names, or cannot.
    Adopted {
        mate: WorkerName,
        staging: Identity,
        share: ShareId,
        result: Result<(), Failure>,
    },
    /// By the main worker, of its own shares.
    Written {
        run: Identity,
        share: ShareId,
    },
    /// By the main worker: the job is over.
    Ended(Result<ErrandEnd, Failure>),
    /// By a mate: shares can come. What it has not staged yet is listed.
    Assisting {
        staging: Identity,
        slots: u16,
        taken: Vec<ShareId>,
    },
    Staged {
        staging: Identity,
        staged: StagedShare,
    },
    /// A mate cannot, and has stopped.
    AssistFailed {
        staging: Identity,
        failure: Failure,
    },
}

/// How far the main worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leading {
    /// Random, new with each beginning.
    pub run: Identity,
    pub label: BackupLabel,
    pub backup: Identity,
    pub digest: BlockHash,
    pub share_size: u64,
    pub slots: u16,
    /// Bytes of each share, by its number.
    pub shares: Vec<u64>,
    /// Written or adopted, with who did it.
    pub done: Vec<(WorkerName, Vec<ShareId>)>,
    /// The main worker has begun or will begin them.
    pub taken: Vec<ShareId>,
    /// Mates that have a staging place.
    pub mates: Vec<(WorkerName, Identity)>,
}
