//! `global/pg_control`: what a cluster is and where its recovery begins.
//!
//! Not here: reading the file again when the server was writing it; see [`ControlError::Checksum`].
//!
//! Invariants
//! 1. Nothing is believed before the CRC-32C over all bytes before it holds.
//! 2. The version is the one whose control *and* catalog version match; a neighbour's layout is never tried.
//! 3. A poisoned file has a right CRC: PostgreSQL refuses it for its checkpoint, not for its sum.
//!
//! Source: `catalog/pg_control.h`. The file has 8192 bytes, the struct less than 512, so that a disk writes it in one piece.

use crate::failure::{Classify, ErrorCode, Retry};
use crate::ids::SystemId;
use crate::pg::bytes::{u32_at, u64_at};
use crate::pg::version::{ControlLayout, supported_versions_hint};
use crate::pg::{Lsn, PageSize, PgVersion, TimelineId, WalSegmentSize};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The size PostgreSQL gives the file, zeros behind the struct.
pub const CONTROL_FILE_SIZE: usize = 8192;
/// All that is ever looked at: PostgreSQL keeps the struct within one sector.
pub const CONTROL_DATA_SIZE: usize = 512;

const SYSTEM_ID_AT: usize = 0;
const CONTROL_VERSION_AT: usize = 8;
const CATALOG_VERSION_AT: usize = 12;
const STATE_AT: usize = 16;
const CHECKPOINT_AT: usize = 32;
/// Within the copy of the checkpoint record: redo position, then timeline.
const TIMELINE_IN_CHECKPOINT: usize = 8;
/// Distances from the minimum recovery point.
const MINIMUM_RECOVERY_TIMELINE: usize = 8;
const BACKUP_START: usize = 16;
const BACKUP_END: usize = 24;
const BACKUP_END_REQUIRED: usize = 32;
/// Distances from the page size.
const SEGMENT_BLOCKS: usize = 4;
const WAL_PAGE_SIZE: usize = 8;
const WAL_SEGMENT_SIZE: usize = 12;

/// What a poisoned file has for a checkpoint. The value must pass as a position on a WAL page, because PostgreSQL looks at
/// it even where a `backup_label` overrides it, and must never be the position of a record: its segment does not exist, and
/// it is not aligned as records are. pgBackRest uses the same value, so each tool knows the other's restores.
pub const POISONED_CHECKPOINT: Lsn = Lsn(0xDEAD_BEEF_DEAD_BEEF);

/// What the server was doing when it last wrote the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => ClusterState::StartingUp,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            _ => return None,
        })
    }

    /// Whether the files are consistent as they are, without recovery: the condition of an offline backup.
    pub fn is_shut_down(self) -> bool {
        matches!(self, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
    }
}

/// As `pg_controldata` says it.
impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        })
    }
}

/// The fields of `pg_control` that backups and restores ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    pub version: PgVersion,
    pub control_version: u32,
    pub catalog_version: u32,
    pub system_id: SystemId,
    pub state: ClusterState,
    /// The position of the last checkpoint record.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// The version of the page checksums; 0 without.
    pub page_checksums: u32,
    /// BLCKSZ.
    pub page_size: PageSize,
    /// RELSEG_SIZE: so many pages fill one file of a relation.
    pub relation_segment_blocks: u32,
    /// XLOG_BLCKSZ, in bytes.
    pub wal_page_size: u32,
    pub wal_segment_size: WalSegmentSize,
    /// A standby must replay to here before it is consistent; zero outside recovery.
    pub minimum_recovery_point: Lsn,
    pub minimum_recovery_timeline: TimelineId,
    /// Set while recovering from a backup.
    pub backup_start: Lsn,
    pub backup_end: Lsn,
    pub backup_end_required: bool,
}

/// Why a `pg_control` is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("pg_control has {bytes} bytes, fewer than {CONTROL_DATA_SIZE}")]
    TooShort { bytes: usize },
    #[error("pg_control was written with another byte order")]
    ByteOrder,
    #[error(
        "pg_control has control version {control_version} and catalog version {catalog_version}, which belong to no supported PostgreSQL"
    )]
    UnknownVersion { control_version: u32, catalog_version: u32 },
    /// Also what a read sees that met the server's write: read again before giving up.
    #[error("pg_control has checksum {stored:08x}, but its bytes give {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("pg_control has {value} for {field}, which PostgreSQL never writes")]
    Field { field: &'static str, value: u64 },
}

impl Classify for ControlError {
    fn code(&self) -> ErrorCode {
        match self {
            ControlError::TooShort { .. } | ControlError::Field { .. } => ErrorCode::FileInvalid,
            ControlError::ByteOrder => ErrorCode::NotSupported,
            ControlError::UnknownVersion { .. } => ErrorCode::VersionNotSupported,
            ControlError::Checksum { .. } => ErrorCode::Checksum,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            ControlError::Checksum { .. } => Retry::MayHelp,
            _ => Retry::IsFutile,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            ControlError::ByteOrder => vec!["back the cluster up on a machine of its own kind".to_owned()],
            ControlError::UnknownVersion { .. } => {
                vec![
                    supported_versions_hint(),
                    "beta versions and forks have catalog versions of their own".to_owned(),
                ]
            }
            ControlError::TooShort { .. } | ControlError::Checksum { .. } | ControlError::Field { .. } => {
                vec!["is this global/pg_control of a PostgreSQL data directory? pg_controldata says what PostgreSQL makes of it".to_owned()]
            }
        }
    }
}

impl ControlFile {
    /// Reads the file; its first [`CONTROL_DATA_SIZE`] bytes suffice.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let (version, layout) = recognise(bytes)?;
        let (stored, computed) = checksums(bytes, layout);
        if stored != computed {
            return Err(ControlError::Checksum { stored, computed });
        }
        let u32_at = |offset| u32_at(bytes, offset);
        let u64_at = |offset| u64_at(bytes, offset);
        let state = u32_at(STATE_AT);
        let page_size = u32_at(layout.page_size);
        let wal_segment_size = u64::from(u32_at(layout.page_size + WAL_SEGMENT_SIZE));
        let wal_page_size = u32_at(layout.page_size + WAL_PAGE_SIZE);
        let relation_segment_blocks = u32_at(layout.page_size + SEGMENT_BLOCKS);
        let field = |field, value| ControlError::Field { field, value };
        if !wal_page_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&wal_page_size) {
            return Err(field("the WAL page size", wal_page_size.into()));
        }
        if relation_segment_blocks == 0 {
            return Err(field("the size of a relation segment", 0));
        }
        Ok(ControlFile {
            version,
            control_version: u32_at(CONTROL_VERSION_AT),
            catalog_version: u32_at(CATALOG_VERSION_AT),
            system_id: SystemId(u64_at(SYSTEM_ID_AT)),
            state: ClusterState::from_number(state)
                .ok_or_else(|| field("the cluster state", state.into()))?,
            checkpoint: Lsn(u64_at(CHECKPOINT_AT)),
            redo: Lsn(u64_at(layout.checkpoint_copy)),
            timeline: TimelineId(u32_at(layout.checkpoint_copy + TIMELINE_IN_CHECKPOINT)),
            page_checksums: u32_at(layout.page_checksums),
            page_size: PageSize::new(page_size).map_err(|_| field("the page size", page_size.into()))?,
            relation_segment_blocks,
            wal_page_size,
            wal_segment_size: WalSegmentSize::new(wal_segment_size)
                .map_err(|_| field("the WAL segment size", wal_segment_size))?,
            minimum_recovery_point: Lsn(u64_at(layout.minimum_recovery)),
            minimum_recovery_timeline: TimelineId(u32_at(
                layout.minimum_recovery + MINIMUM_RECOVERY_TIMELINE,
            )),
            backup_start: Lsn(u64_at(layout.minimum_recovery + BACKUP_START)),
            backup_end: Lsn(u64_at(layout.minimum_recovery + BACKUP_END)),
            backup_end_required: bytes[layout.minimum_recovery + BACKUP_END_REQUIRED] != 0,
        })
    }

    pub fn has_page_checksums(&self) -> bool {
        self.page_checksums != 0
    }

    /// Whether the file is a restore's whose recovery has not begun: without its backup_label PostgreSQL will not start.
    pub fn is_poisoned(&self) -> bool {
        self.checkpoint == POISONED_CHECKPOINT
    }

    /// The size at which a relation's file is full and the next one begins, in bytes.
    pub fn relation_segment_size(&self) -> u64 {
        u64::from(self.relation_segment_blocks) * u64::from(self.page_size.bytes())
    }
}

/// Makes PostgreSQL refuse to start from this file alone: with the backup's `backup_label` it starts as if nothing had
/// happened, without it (somebody deleted it) it would otherwise start into silent corruption. Before 11 the previous
/// checkpoint is poisoned as well: a server of 10 was seen to fall back to it and start.
pub fn poison_checkpoint(bytes: &mut [u8]) -> Result<(), ControlError> {
    let control = ControlFile::parse(bytes)?;
    let layout = control.version.control_layout();
    for at in [CHECKPOINT_AT].into_iter().chain(layout.previous_checkpoint) {
        bytes[at..at + 8].copy_from_slice(&POISONED_CHECKPOINT.0.to_le_bytes());
    }
    let (_, computed) = checksums(bytes, layout);
    bytes[layout.crc..layout.crc + 4].copy_from_slice(&computed.to_le_bytes());
    Ok(())
}

/// The version and its layout, and that there are enough bytes for it.
fn recognise(bytes: &[u8]) -> Result<(PgVersion, ControlLayout), ControlError> {
    if bytes.len() < CONTROL_DATA_SIZE {
        return Err(ControlError::TooShort { bytes: bytes.len() });
    }
    let control_version = u32_at(bytes, CONTROL_VERSION_AT);
    let catalog_version = u32_at(bytes, CATALOG_VERSION_AT);
    match PgVersion::from_control(control_version, catalog_version) {
        Ok(version) => Ok((version, version.control_layout())),
        Err(_)
            if PgVersion::from_control(control_version.swap_bytes(), catalog_version.swap_bytes())
                .is_ok() =>
        {
            Err(ControlError::ByteOrder)
        }
        Err(_) => Err(ControlError::UnknownVersion { control_version, catalog_version }),
    }
}

/// The stored and the computed CRC.
fn checksums(bytes: &[u8], layout: ControlLayout) -> (u32, u32) {
    (u32_at(bytes, layout.crc), crc32c::crc32c(&bytes[..layout.crc]))
}

#[cfg(test)]
mod tests;
