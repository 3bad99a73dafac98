//! What is said about a `repo-sync` that workers share, beside what every shared job says ([`super::restore`]).

use super::ErrandOrder;
use crate::format::BackupLabel;
use crate::format::layout::{ArchiveId, PackName};
use crate::ids::{Identity, ShareId, WorkerName};
use crate::pg::WalFileName;
use serde::{Deserialize, Serialize};

/// Objects that can be copied side by side, between these very repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyPart {
    pub source: Identity,
    pub target: Identity,
    pub objects: CopyObjects,
}

/// Each is a share of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyObjects {
    /// Of one backup, which bears the record of a copy in the target.
    Packs {
        label: BackupLabel,
        backup: Identity,
        packs: Vec<PackName>,
    },
    Wal {
        archive: ArchiveId,
        files: Vec<WalFileName>,
    },
}

impl CopyObjects {
    pub fn count(&self) -> usize {
        match self {
            CopyObjects::Packs { packs, .. } => packs.len(),
            CopyObjects::Wal { files, .. } => files.len(),
        }
    }

    pub fn label(&self) -> Option<BackupLabel> {
        match self {
            CopyObjects::Packs { label, .. } => Some(*label),
            CopyObjects::Wal { .. } => None,
        }
    }
}

/// What a mate has to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOrder {
    pub errand: ErrandOrder,
    /// The name that the main worker has given to what the mate does. Nothing lies under it.
    pub staging: Identity,
    /// The number of the part's first object.
    pub first: ShareId,
    pub part: CopyPart,
}

/// How far the main worker is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// Random, new with each part.
    pub run: Identity,
    pub slots: u16,
    /// The number of the part's first object. Those below it are settled: no number comes twice from one process.
    pub first: ShareId,
    pub part: CopyPart,
    /// Of this part, with who did it.
    pub done: Vec<(WorkerName, Vec<ShareId>)>,
    /// The main worker has begun or will begin them.
    pub taken: Vec<ShareId>,
    /// Mates that were admitted, perhaps to an earlier part.
    pub mates: Vec<(WorkerName, Identity)>,
    /// Nobody asks them again.
    pub left_out: Vec<WorkerName>,
}
