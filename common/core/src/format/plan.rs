//! What stays of a plan: enough to know whose packs these are, and what they rest on.

use super::{BackupKind, BackupLabel};
use crate::ids::{Identity, PlanNumber};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// Which process on which host writes a backup. On the same host a lock file tells whether it lives; elsewhere its
/// heartbeats do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Writer {
    pub host: String,
    /// Tells hosts of the same name apart, and a host from itself before a restart.
    pub boot: String,
    pub process: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanBody {
    pub label: BackupLabel,
    pub backup: Identity,
    pub kind: BackupKind,
    pub number: PlanNumber,
    pub writer: Writer,
    pub written: Timestamp,
    /// Every label that any block map of this plan's packs may refer to.
    pub references: Vec<BackupLabel>,
    pub unit_size: u64,
    pub units: u32,
    pub files: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HeartbeatBody {
    pub writer: Writer,
    pub sequence: u64,
}
