//! What coordinator and worker say to each other. Bulk bytes are never in here.
//!
//! A worker connects, says [`Report::Hello`], obeys orders and reports what came of each. Every order bears the leader's
//! epoch; a worker refuses one of an older epoch than the newest it has seen.

use crate::failure::Failure;
use crate::format::layout::ArchiveId;
use crate::format::manifest::{Database, Tablespace};
use crate::format::wal::StopBody;
use crate::format::{BackupLabel, BlockHash};
use crate::ids::{
    Attempt, ClusterNumber, Epoch, FencingToken, Identity, PlanNumber, RepoKey, StanzaName, SystemId, UnitId,
    WorkerName,
};
use crate::pg::{FileClass, Lsn, PgVersion, RelativePath, TimelineId, WalSegmentName, WalSegmentSize};
use crate::plan::inventory::ScannedEntry;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// A job's identity in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Identity);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub epoch: Epoch,
    pub job: JobId,
    pub body: OrderBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderBody {
    Preflight(PreflightOrder),
    OpenSession {
        label: String,
    },
    Scan,
    Prepare(Box<UnitContext>),
    RunUnit(Box<UnitOrder>),
    /// No unit is in flight when this is sent. What the server returns goes to these repositories before anybody hears of it.
    CloseSession {
        repositories: Vec<RepoKey>,
    },
    /// Take these segments from pg_wal and put them where they are missing.
    SupplyWal(SupplyOrder),
    /// The job is over: drop the session if there is one, forget the units.
    End,
}

/// Segments that a repository lacks, though its siblings or the server have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupplyOrder {
    pub repository: RepoKey,
    pub archive: ArchiveId,
    pub segments: Vec<WalSegmentName>,
    pub compress: Compress,
    pub stall_timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightOrder {
    pub stanza: StanzaName,
    pub options: SourceOptions,
}

/// What the source needs to know of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceOptions {
    pub online: bool,
    /// Offline only: back up although a postmaster seems to run.
    pub force: bool,
    pub start_fast: bool,
    pub archive_check: bool,
    pub archive_mode_check: bool,
    /// `None`: as the cluster has them.
    pub checksum_page: Option<bool>,
    pub exclude: Vec<String>,
    pub db_timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightFacts {
    pub system_id: SystemId,
    pub version: PgVersion,
    pub control_version: u32,
    pub catalog_version: u32,
    pub page_size: u32,
    pub checksums: bool,
    pub wal_segment_size: WalSegmentSize,
    pub timeline: TimelineId,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// By the database's clock.
    pub started: Timestamp,
    pub timeline: TimelineId,
    /// Absent in an offline backup.
    pub start: Option<SessionStart>,
    pub databases: Vec<Database>,
    pub tablespaces: Vec<Tablespace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStart {
    pub lsn: Lsn,
    pub segment: WalSegmentName,
    /// Must be in the archive before reading begins: if it does not arrive, neither will the rest.
    pub segment_before: WalSegmentName,
}

/// What all units of a job have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitContext {
    pub stanza: StanzaName,
    pub cluster: ClusterNumber,
    pub archive: ArchiveId,
    pub label: BackupLabel,
    pub backup: Identity,
    pub plan: PlanNumber,
    pub repositories: Vec<RepoKey>,
    pub compress: Compress,
    pub file_sha1: bool,
    /// How long a repository may keep a unit waiting before it is dropped.
    pub stall_timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compress {
    pub codec: u8,
    pub level: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitOrder {
    pub unit: UnitId,
    pub attempt: Attempt,
    pub token: FencingToken,
    /// Repositories still in the job.
    pub repositories: Vec<RepoKey>,
    pub parts: Vec<UnitPart>,
}

/// One range of one file. For whole files the offset is 0 and the length the planned size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitPart {
    pub path: RelativePath,
    pub class: FileClass,
    pub offset: u64,
    pub length: u64,
    pub block_size: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub worker: WorkerName,
    pub job: Option<JobId>,
    pub body: ReportBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportBody {
    Hello {
        slots: u16,
        stanzas: Vec<StanzaName>,
    },
    /// Keeps the worker's lease.
    Alive,
    Preflighted(Result<PreflightFacts, Failure>),
    SessionOpened(Result<SessionFacts, Failure>),
    /// The session died, or the server is no longer what it was.
    SessionLost(Failure),
    Scanned(Vec<ScannedEntry>),
    ScanEnded(Result<ScanEnd, Failure>),
    /// Units can come. Repositories that this worker cannot open are named with the reason.
    Prepared(Result<Vec<RepositoryFailure>, Failure>),
    /// Asks for as many units.
    Ready {
        units: u16,
    },
    UnitDone(Receipt),
    UnitFailed(UnitFailure),
    SessionClosed(Result<SessionEnd, Failure>),
    WalSupplied {
        repository: RepoKey,
        /// The server archived something not long ago: it is behind, not broken.
        archiver_works: bool,
        result: Result<(), Failure>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// Absent in an offline backup.
    pub stop: Option<StopBody>,
    /// Repositories that could not be given the record of it.
    pub failed: Vec<RepositoryFailure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanEnd {
    pub warnings: Vec<String>,
    /// The database's clock after the scan, at a full second later than any time seen by it.
    pub copy_start: Timestamp,
}

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
    pub stored: Vec<StoredPack>,
    pub failed: Vec<RepositoryFailure>,
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
}
