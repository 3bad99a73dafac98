//! The repository's own identity, and the clusters that a stanza has had.

use super::{Cipher, HashSecret, layout::ArchiveId};
use crate::config::Layout;
use crate::ids::{ClusterNumber, Identity, SystemId};
use crate::pg::{PgVersion, WalSegmentSize};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepositoryBody {
    pub identity: Identity,
    pub cipher: Cipher,
    pub created: Timestamp,
    /// How backups lie in it.
    #[serde(default, skip_serializing_if = "Layout::is_packed")]
    pub layout: Layout,
}

/// One PostgreSQL version and system identifier of a stanza. The hash secret is the stanza's: equal in all its clusters and
/// in all repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterBody {
    pub number: ClusterNumber,
    pub system_id: SystemId,
    pub version: PgVersion,
    pub control_version: u32,
    pub catalog_version: u32,
    pub page_size: u32,
    pub wal_segment_size: WalSegmentSize,
    pub hash_secret: HashSecret,
    pub created: Timestamp,
}

impl ClusterBody {
    pub fn archive_id(&self) -> ArchiveId {
        ArchiveId { version: self.version, number: self.number }
    }

    /// Same cluster, whatever its number: what two repositories must agree on.
    pub fn is_same_cluster(&self, other: &ClusterBody) -> bool {
        self.system_id == other.system_id && self.version == other.version
    }
}
