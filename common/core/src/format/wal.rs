//! The footer of a stored WAL file, the record of one that will never come, and that of a backup session's end.

use crate::pg::{Lsn, TimelineId};
use crate::units::Timestamp;
use crate::wire::{PreflightFacts, SessionFacts};
use serde::{Deserialize, Serialize};

/// Two files of one name are identical when size and SHA-1 are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalBody {
    pub name: String,
    pub size: u64,
    #[serde(with = "serde_bytes")]
    pub sha1: [u8; 20],
}

/// A file that was told to be archived though it is not: so much waited that the server's disk was worth more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DroppedBody {
    pub name: String,
    pub dropped: Timestamp,
    /// What was allowed to wait.
    pub queue_bytes_max: u64,
    pub host: String,
}

/// What ending the session returned; written create-only before the session's keeper answers, so that a repeated order
/// gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StopBody {
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub timeline: TimelineId,
    /// By the database's clock.
    pub stopped: Timestamp,
    pub backup_label: String,
    pub tablespace_map: String,
    /// Only where it is stored, and only by a fleet: one process has nobody who could go on from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Box<KeptSession>>,
}

impl StopBody {
    /// Whatever was kept beside it.
    pub fn is_same_stop(&self, other: &StopBody) -> bool {
        let bare = |stop: &StopBody| StopBody { kept: None, ..stop.clone() };
        bare(self) == bare(other)
    }
}

/// What a leader needs to finish a backup whose source is gone. The frames of the same object hold the scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeptSession {
    pub preflight: PreflightFacts,
    pub session: SessionFacts,
}
