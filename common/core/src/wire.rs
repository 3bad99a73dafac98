//! What coordinator and worker say to each other. Bulk bytes are never in here.
//!
//! A worker connects, says [`Hello`], is answered by [`Welcome`], obeys orders and reports what came of each. Every order
//! bears the leader's epoch; a worker refuses one of an older epoch than the newest it has seen.
//!
//! A connection may end at any moment, and the next one may lead to another coordinator. What is lost with it is made up for:
//! - The worker tells in its hello what it holds of each job, and reports finished units until they are settled.
//! - A coordinator repeats the orders whose answers it lacks. Orders are idempotent: one that was obeyed already is
//!   answered from memory.

mod copying;
mod errand;
mod reading;
mod receipt;
mod restore;

use crate::config::Compute;
use crate::failure::Failure;
use crate::format::BackupLabel;
use crate::format::layout::ArchiveId;
use crate::format::manifest::{Database, Tablespace};
use crate::format::wal::StopBody;
use crate::ids::{
    Attempt, ClusterNumber, Epoch, FencingToken, Identity, PlanNumber, RepoKey, StanzaName, SystemId, UnitId,
    WorkerName,
};
use crate::pg::{FileClass, Lsn, PgVersion, RelativePath, TimelineId, WalSegmentName, WalSegmentSize};
use crate::plan::inventory::ScannedEntry;
use crate::plan::summaries::{ClusterShape, Window};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use copying::{CopyObjects, CopyOrder, CopyPart, Copying};
pub use errand::{ErrandEnd, ErrandOrder, reportable};
pub use reading::{
    ClusterTerms, ConfirmOrder, FromStandby, Incarnation, Reading, RemoteSource, Serving, StandbyTerms,
    Standing,
};
pub use receipt::{PartReceipt, Receipt, RepositoryFailure, Spent, StoredPack, UnitFailure};
pub use restore::{AssistOrder, Leading, ShareOrder, ShareReport, StagedShare};

/// A job's identity in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Identity);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a coordinator says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instruction {
    /// The answer to a hello, and the first thing on a connection.
    Welcome(Welcome),
    /// The keep-alive of that number prolonged the worker's lease.
    Confirmed {
        sequence: u64,
        ttl_ms: u64,
        /// Serial numbers of certificates that are not welcome any more; nothing if they were told on this connection.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        revoked: Vec<String>,
    },
    /// Nobody needs to hear of these attempts again.
    Settled {
        job: JobId,
        units: Vec<(UnitId, Attempt)>,
    },
    Order(Order),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub epoch: Epoch,
    /// Of the worker's lease, counted from the sending of its hello.
    pub ttl_ms: u64,
    /// Jobs that go on. What the worker holds of any other is over.
    pub jobs: Vec<JobId>,
    /// Whether the lease is the one that the worker had before: if not, the units that it held are somebody else's.
    pub same_lease: bool,
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
    /// Units follow. A worker that does not hold the session proves its directory first.
    Prepare(Box<UnitContext>),
    RunUnit(Box<UnitOrder>),
    /// Of a standby: what it gave so far counts only if it is still the same.
    Confirm(ConfirmOrder),
    /// Give back those of these units that wait for a slot: another worker is free for them.
    GiveBack {
        units: Vec<UnitId>,
    },
    /// No unit is in flight when this is sent. What the server returns goes to these repositories before anybody hears of it.
    CloseSession {
        repositories: Vec<RepoKey>,
    },
    /// Take these segments from pg_wal and put them where they are missing.
    SupplyWal(SupplyOrder),
    /// Do all of a job that needs one worker.
    Errand(Box<ErrandOrder>),
    /// Of a restore, alone or with others.
    Restore(ShareOrder),
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(default = "usual_segment_blocks", skip_serializing_if = "is_usual")]
    pub relation_segment_blocks: u32,
    pub timeline: TimelineId,
    pub warnings: Vec<String>,
}

/// 1 GiB of pages of 8 KiB.
const fn usual_segment_blocks() -> u32 {
    131_072
}

const fn is_usual(segment_blocks: &u32) -> bool {
    *segment_blocks == usual_segment_blocks()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// CRC of pg_control where no server runs: another directory of the same cluster has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_control: Option<u32>,
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
    /// The record of the checkpoint that the start made, or of a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Lsn>,
}

/// What all units of a job have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitContext {
    pub stanza: StanzaName,
    pub options: SourceOptions,
    /// Where the backup starts: no directory that is behind it is read. Absent in an offline backup.
    pub start: Option<Lsn>,
    pub cluster: ClusterNumber,
    pub archive: ArchiveId,
    pub label: BackupLabel,
    pub backup: Identity,
    pub plan: PlanNumber,
    pub repositories: Vec<RepoKey>,
    /// Which ones these are: each host has a configuration of its own, and a pack in another one would be in none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<RepositorySeen>,
    pub compress: Compress,
    /// Of repositories that have it otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own_compress: BTreeMap<RepoKey, Compress>,
    pub file_sha1: bool,
    /// How long a repository may keep a unit waiting before it is dropped.
    pub stall_timeout_ms: u64,
    /// What the backup rests on; nothing for a full one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priors: Vec<PriorBackup>,
    /// Since when WAL summaries may tell what changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summaries: Option<SummaryBasis>,
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
}

impl UnitContext {
    pub fn compress_of(&self, repository: RepoKey) -> Compress {
        self.own_compress.get(&repository).copied().unwrap_or(self.compress)
    }
}

/// The one backup that all repositories rest on, for what PostgreSQL's WAL summaries say of the time since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryBasis {
    pub window: Window,
    pub prior: ClusterShape,
}

/// An earlier backup, whose blocks are referred to where they are still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorBackup {
    pub label: BackupLabel,
    /// Every label whose packs hold something of it, its own included.
    pub references: Vec<BackupLabel>,
    /// Those that have it and follow it.
    pub repositories: Vec<RepoKey>,
}

/// A part of a file as an earlier backup has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorRange {
    /// Index into the priors of the job.
    pub prior: u8,
    /// Index into the references of that prior.
    pub label: u32,
    pub plan: PlanNumber,
    pub unit: UnitId,
    pub attempt: Attempt,
    /// Index of the range in its pack's footer.
    pub place: u32,
    pub offset: u64,
    pub length: u64,
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
    /// Whatever WAL summaries say, everything is read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads_all: bool,
    /// `None`: the worker's own data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RemoteSource>,
}

/// One range of one file. For whole files the offset is 0 and the length the planned size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitPart {
    pub path: RelativePath,
    pub class: FileClass,
    pub offset: u64,
    pub length: u64,
    /// Of a file that has no prior, or none that can be read.
    pub block_size: u32,
    /// Size of the file in the first prior, if that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_size: Option<u64>,
    /// Of each prior, those ranges that have bytes of this part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prior: Vec<PriorRange>,
}

/// Who reports is known from the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub job: Option<JobId>,
    pub body: ReportBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub worker: WorkerName,
    /// Random, new with each start of the process: what an earlier one held died with it.
    pub incarnation: Identity,
    pub program: String,
    pub slots: u16,
    pub sources: Vec<SourceSeen>,
    pub held: Vec<Held>,
    /// It takes no new work.
    pub draining: bool,
    /// Those that it can open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<RepositorySeen>,
    /// The name of its machine, which others may be on as well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Whose units it computes without seeing their data.
    #[serde(default, skip_serializing_if = "Compute::is_nobody")]
    pub computes: Compute,
}

/// A repository by what it says of itself: a number is each configuration's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositorySeen {
    pub repository: RepoKey,
    pub identity: Identity,
}

/// A data directory that a worker sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSeen {
    pub stanza: StanzaName,
    pub directory: String,
    pub server: ServerSeen,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerSeen {
    /// Nobody looked yet.
    Unknown,
    Primary(SystemId),
    Standby(SystemId),
    /// It does not answer: with the reason.
    Down(String),
}

/// What a worker has of a job when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub job: JobId,
    /// It keeps the backup's session with the server.
    pub session: bool,
    /// It can take units, and says itself how many.
    pub prepared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// Units under way, or finished and not settled.
    pub units: Vec<HeldUnit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUnit {
    pub unit: UnitId,
    pub attempt: Attempt,
    pub token: FencingToken,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportBody {
    Hello(Box<Hello>),
    /// Keeps the worker's lease; the numbers grow.
    Alive {
        sequence: u64,
    },
    /// It ends when what it has is done, and takes nothing new.
    Draining,
    Preflighted(Result<PreflightFacts, Failure>),
    SessionOpened(Result<SessionFacts, Failure>),
    /// The session died, or the server is no longer what it was.
    SessionLost(Failure),
    Scanned(Vec<ScannedEntry>),
    ScanEnded(Result<ScanEnd, Failure>),
    /// Units can come. Repositories that this worker cannot open are named with the reason.
    Prepared(Result<Vec<RepositoryFailure>, Failure>),
    /// Before the first wish for units.
    Standing(Standing),
    /// The answer to an order to confirm.
    Confirmed {
        round: u32,
        result: Result<(), Failure>,
    },
    /// Asks for as many units.
    Ready {
        units: u16,
    },
    UnitDone(Receipt),
    UnitFailed(UnitFailure),
    /// Never begun, on request.
    UnitReturned(HeldUnit),
    SessionClosed(Result<SessionEnd, Failure>),
    ErrandEnded(Result<ErrandEnd, Failure>),
    Restore(ShareReport),
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
