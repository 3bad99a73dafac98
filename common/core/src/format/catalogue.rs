//! Catalogue entries: a published backup, or the record that a label was given up. Either way the first writer of the
//! key decides, for ever.

use super::{BackupKind, BackupLabel, plan::Writer};
use crate::ids::{ClusterNumber, Identity, RepoKey, SystemId};
use crate::pg::{Lsn, PgVersion, TimelineId, WalSegmentName};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatalogueBody {
    Published(Box<BackupRecord>),
    Void(VoidRecord),
}

/// All that `info` tells of a backup without opening its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupRecord {
    pub label: BackupLabel,
    pub backup: Identity,
    pub kind: BackupKind,
    pub prior: Option<BackupLabel>,
    /// Every label that any block map of this backup refers to.
    pub references: Vec<BackupLabel>,
    pub cluster: ClusterNumber,
    pub system_id: SystemId,
    pub version: PgVersion,
    pub online: bool,
    pub started: Timestamp,
    pub stopped: Timestamp,
    pub timeline: TimelineId,
    pub lsn_start: Option<Lsn>,
    pub lsn_stop: Option<Lsn>,
    pub wal_start: Option<WalSegmentName>,
    pub wal_stop: Option<WalSegmentName>,
    pub sizes: BackupSizes,
    pub pages: PageCounts,
    pub manifest: ManifestReference,
    pub annotations: BTreeMap<String, String>,
    /// The repositories that the backup was for, and which of them were to get it when this was written.
    pub repositories: Vec<RepositoryOutcome>,
    pub writer: Writer,
    /// pgconvoy's version.
    pub program: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupSizes {
    /// Bytes of all files of the cluster.
    pub database: u64,
    /// Bytes of files that this backup itself holds.
    pub changed: u64,
    /// Bytes that its packs take in this repository.
    pub stored: u64,
    /// The same for all packs that a restore of it needs.
    pub stored_set: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PageCounts {
    pub checked: u64,
    pub errors: u64,
}

/// The manifest that the entry was written for: a swapped or rewritten one is found before it is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ManifestReference {
    pub size: u64,
    #[serde(with = "serde_bytes")]
    pub sha1: [u8; 20],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepositoryOutcome {
    pub key: RepoKey,
    pub identity: Option<Identity>,
    pub expected: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VoidRecord {
    pub label: BackupLabel,
    pub reason: String,
    pub voided: Timestamp,
    pub writer: Writer,
}
