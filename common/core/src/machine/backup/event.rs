//! What a backup hears and what it wants done.

use super::contents::BackupContents;
use crate::failure::Failure;
use crate::format::BackupLabel;
use crate::format::catalogue::BackupRecord;
use crate::format::cluster::ClusterBody;
use crate::format::layout::ArchiveId;
use crate::format::plan::Writer;
use crate::ids::{Attempt, FencingToken, Identity, RepoKey, StanzaName, UnitId, WorkerName};
use crate::pg::WalSegmentName;
use crate::wire::{Compress, JobId, Order, ReportBody, SourceOptions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was asked for. A value: the same spec can be run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSpec {
    pub job: JobId,
    pub epoch: crate::ids::Epoch,
    pub backup: Identity,
    pub stanza: StanzaName,
    pub repositories: Vec<RepoKey>,
    /// Those without which the backup is not what was asked for.
    pub required: Vec<RepoKey>,
    pub source: SourceOptions,
    pub compress: Compress,
    pub file_sha1: bool,
    pub unit_size: u64,
    pub stall_timeout_ms: u64,
    pub annotations: BTreeMap<String, String>,
    pub writer: Writer,
    pub program: String,
}

/// What a repository told when it was opened for this backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryFacts {
    pub identity: Identity,
    /// The stanza's newest cluster there.
    pub cluster: ClusterBody,
    /// Every label there: published, void, unfinished.
    pub labels: Vec<BackupLabel>,
}

/// A lease that the store granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitLease {
    pub unit: UnitId,
    pub attempt: Attempt,
    pub token: FencingToken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    RepositoriesOpened {
        results: Vec<(RepoKey, Result<RepositoryFacts, Failure>)>,
        /// Labels in repositories that take no part: a new label is later than those as well.
        other_labels: Vec<BackupLabel>,
    },
    /// The segments asked for that are still missing after the archive timeout (none: all were found).
    WalFound {
        repository: RepoKey,
        result: Result<Vec<WalSegmentName>, Failure>,
    },
    PlanWritten {
        repository: RepoKey,
        result: Result<(), Failure>,
    },
    UnitsLeased {
        worker: WorkerName,
        leases: Vec<UnitLease>,
    },
    Published {
        repository: RepoKey,
        result: Result<(), Failure>,
    },
    Reported {
        worker: WorkerName,
        report: ReportBody,
    },
    WorkerLost {
        worker: WorkerName,
    },
    Cancelled(Failure),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    OpenRepositories {
        repositories: Vec<RepoKey>,
    },
    Send {
        worker: WorkerName,
        order: Order,
    },
    /// Find the segments in that repository, waiting up to the archive timeout.
    AwaitWal {
        repository: RepoKey,
        archive: ArchiveId,
        segments: Vec<WalSegmentName>,
    },
    /// Create-only, before the first pack; then settle with whoever else has begun there (`contest`).
    WritePlan {
        repository: RepoKey,
        label: BackupLabel,
        unit_size: u64,
        units: u32,
        files: u64,
        bytes: u64,
    },
    LeaseUnits {
        worker: WorkerName,
        units: Vec<(UnitId, Attempt)>,
    },
    ReleaseLease {
        unit: UnitId,
        token: FencingToken,
    },
    /// Which attempt, in which repositories; then the lease is released.
    PersistAccepted {
        unit: UnitId,
        attempt: Attempt,
        token: FencingToken,
        repositories: Vec<RepoKey>,
    },
    PersistStopOrder,
    /// Manifest, then catalogue entry, both create-only.
    Publish {
        repository: RepoKey,
        contents: Arc<BackupContents>,
        record: Box<BackupRecord>,
    },
    /// A repository left the job; its unfinished label there stays for the next backup to void.
    Dropped {
        repository: RepoKey,
        failure: Failure,
    },
    Warn(String),
    Finish(Box<Outcome>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Every repository has it.
    Ok,
    /// At least one has it and one has not.
    Partial,
    Error,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Partial => "partial",
            Status::Error => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct RepositoryResult {
    pub repository: RepoKey,
    pub required: bool,
    pub stored: u64,
    /// `None`: the repository has the backup.
    pub failure: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerShare {
    pub worker: WorkerName,
    pub units: u32,
    pub bytes: u64,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub status: Status,
    pub label: Option<BackupLabel>,
    /// What stopped the job, if something did.
    pub failure: Option<Failure>,
    pub repositories: Vec<RepositoryResult>,
    pub contents: Option<Arc<BackupContents>>,
    pub bytes_database: u64,
    pub bytes_read: u64,
    pub units_total: u32,
    pub units_retried: u32,
    pub pages_checked: u64,
    /// `(file, block)`.
    pub bad_pages: Vec<(String, u32)>,
    pub workers: Vec<WorkerShare>,
    pub warnings: Vec<String>,
}
