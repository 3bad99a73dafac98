//! What a main worker tells of its job, and what its mates are told of it.

use crate::format::BackupLabel;
use crate::ids::{Identity, ShareId, WorkerName};
use crate::wire::{AssistOrder, CopyOrder, Copying, ErrandOrder, Leading, ShareOrder};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Restore(Leading),
    Copy(Copying),
}

impl Told {
    pub(super) fn run(&self) -> Identity {
        match self {
            Told::Restore(told) => told.run,
            Told::Copy(told) => told.run,
        }
    }

    pub fn label(&self) -> Option<BackupLabel> {
        match self {
            Told::Restore(told) => Some(told.label),
            Told::Copy(told) => told.part.objects.label(),
        }
    }

    pub(super) fn slots(&self) -> u16 {
        match self {
            Told::Restore(told) => told.slots,
            Told::Copy(told) => told.slots,
        }
    }

    pub(super) fn first(&self) -> ShareId {
        match self {
            Told::Restore(_) => ShareId(0),
            Told::Copy(told) => told.first,
        }
    }

    /// Bytes of each share. Those of an object are known when it is there.
    pub(super) fn shares(&self) -> Vec<u64> {
        match self {
            Told::Restore(told) => told.shares.clone(),
            Told::Copy(told) => vec![0; told.part.objects.count()],
        }
    }

    pub(super) fn done(&self) -> &[(WorkerName, Vec<ShareId>)] {
        match self {
            Told::Restore(told) => &told.done,
            Told::Copy(told) => &told.done,
        }
    }

    pub(super) fn taken(&self) -> &[ShareId] {
        match self {
            Told::Restore(told) => &told.taken,
            Told::Copy(told) => &told.taken,
        }
    }

    pub(super) fn mates(&self) -> &[(WorkerName, Identity)] {
        match self {
            Told::Restore(told) => &told.mates,
            Told::Copy(told) => &told.mates,
        }
    }

    /// Of a restore nobody: whoever could not help with an earlier beginning may try again.
    pub(super) fn left_out(&self) -> &[WorkerName] {
        match self {
            Told::Restore(_) => &[],
            Told::Copy(told) => &told.left_out,
        }
    }

    /// For a mate that was admitted under that name.
    pub(super) fn order_for_mate(&self, errand: ErrandOrder, staging: Identity) -> ShareOrder {
        match self {
            Told::Restore(told) => ShareOrder::Assist(Box::new(AssistOrder {
                errand,
                label: told.label,
                backup: told.backup,
                digest: told.digest,
                share_size: told.share_size,
                staging,
            })),
            Told::Copy(told) => ShareOrder::Copy(Box::new(CopyOrder {
                errand,
                staging,
                first: told.first,
                part: told.part.clone(),
            })),
        }
    }
}
