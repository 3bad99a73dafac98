//! What a backup hears and what it wants done.

use super::contents::BackupContents;
use super::contest::Begun;
use crate::config::{BackupStandby, Offload, PageErrors};
use crate::failure::Failure;
use crate::format::catalogue::BackupRecord;
use crate::format::cluster::ClusterBody;
use crate::format::layout::ArchiveId;
use crate::format::manifest::{FileRecord, ManifestHead, RangeRecord};
use crate::format::pack::PackBody;
use crate::format::plan::Writer;
use crate::format::wal::StopBody;
use crate::format::{BackupKind, BackupLabel};
use crate::ids::{Attempt, FencingToken, Identity, PlanNumber, RepoKey, StanzaName, UnitId, WorkerName};
use crate::pg::{RelativePath, WalSegmentName};
use crate::plan::inventory::Inventory;
use crate::units::Timestamp;
use crate::wire::{
    Compress, FromStandby, Held, JobId, Order, PreflightFacts, ReportBody, RepositoryFailure, SessionFacts,
    SourceOptions, StoredPack,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What was asked for. A value: the same spec can be run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSpec {
    pub job: JobId,
    pub epoch: crate::ids::Epoch,
    pub backup: Identity,
    /// What was asked for: without a prior it becomes a full one.
    #[serde(default = "full")]
    pub kind: BackupKind,
    /// Compare all files with the prior by their blocks, not by size and time.
    #[serde(default)]
    pub delta: bool,
    /// Go on with what an attempt left that did not end.
    #[serde(default)]
    pub resume: bool,
    pub stanza: StanzaName,
    pub repositories: Vec<RepoKey>,
    /// Those without which the backup is not what was asked for.
    pub required: Vec<RepoKey>,
    pub source: SourceOptions,
    /// Whether standbys are read as well, or instead.
    #[serde(default)]
    pub standby: BackupStandby,
    /// Whether others than its sources compute it.
    #[serde(default)]
    pub offload: Offload,
    pub compress: Compress,
    /// Of repositories that have it otherwise.
    #[serde(default)]
    pub own_compress: BTreeMap<RepoKey, Compress>,
    pub file_sha1: bool,
    /// What pages that do not match their checksums do to the backup.
    #[serde(default)]
    pub page_errors: PageErrors,
    /// WAL from start to stop is stored with the backup too.
    #[serde(default)]
    pub archive_copy: bool,
    pub unit_size: u64,
    /// No file is split: a repository keeps files as such.
    #[serde(default)]
    pub whole_files: bool,
    pub stall_timeout_ms: u64,
    /// How long the job waits for the worker that keeps its session, once that is lost.
    pub source_patience_ms: u64,
    pub annotations: BTreeMap<String, String>,
    pub writer: Writer,
    pub program: String,
}

const fn full() -> BackupKind {
    BackupKind::Full
}

/// What a repository told when it was opened for this backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryFacts {
    pub identity: Identity,
    /// The stanza's newest cluster there.
    pub cluster: ClusterBody,
    /// Every label there: published, void, unfinished.
    pub labels: Vec<BackupLabel>,
    /// This very backup is in its catalogue: an earlier leader came that far.
    pub has_this: bool,
    /// Backups there that others have left unfinished and whose writers are dead.
    pub unfinished: Vec<Begun>,
    /// The backup that a new one rests on there: the newest that may be its prior, or the one that the job is bound to.
    pub prior: Option<Box<BackupRecord>>,
}

/// A lease that the store granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitLease {
    pub unit: UnitId,
    pub attempt: Attempt,
    pub token: FencingToken,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    RepositoriesOpened {
        results: Vec<(RepoKey, Result<RepositoryFacts, Failure>)>,
        /// Labels in repositories that take no part: a new label is later than those as well.
        other_labels: Vec<BackupLabel>,
        /// None of those was left out because it did not answer.
        are_others_asked: bool,
    },
    /// Everything unfinished that was to be given up there is void.
    UnfinishedGivenUp {
        repository: RepoKey,
        result: Result<(), Failure>,
    },
    /// The segments asked for that are still missing after the archive timeout (none: all were found).
    WalFound {
        repository: RepoKey,
        result: Result<Vec<WalSegmentName>, Failure>,
    },
    /// A prior's manifest is there; its files follow.
    PriorOpened {
        round: u32,
        prior: u32,
        head: Box<ManifestHead>,
    },
    /// In the order of the manifest.
    PriorListed {
        round: u32,
        prior: u32,
        files: Vec<FileRecord>,
    },
    /// All of its files have come, or it cannot be read in any of its repositories.
    PriorRead {
        round: u32,
        prior: u32,
        result: Result<(), Failure>,
    },
    /// Ranges in packs that an earlier attempt left in all repositories that have it.
    LeftoverListed {
        round: u32,
        ranges: Vec<(RelativePath, RangeRecord)>,
    },
    /// All have come; those of packs that cannot be read have not.
    LeftoverRead {
        round: u32,
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
    /// What became of the label where it was to be given up.
    GivenUp {
        fates: Vec<(RepoKey, Result<Fate, Failure>)>,
    },
    /// What ending the session returned, if a repository has the record of it; the others were given it, but for these.
    StopFound {
        stop: Option<StopBody>,
        failed: Vec<RepositoryFailure>,
    },
    /// What the source has kept of its session, if a repository has it.
    SessionRecalled {
        session: Option<Box<RecalledSession>>,
    },
    Reported {
        worker: WorkerName,
        report: ReportBody,
    },
    /// A worker that sees the stanza's data has connected, for the first time or again, with what it holds of the job.
    WorkerJoined {
        worker: WorkerName,
        held: Option<Held>,
    },
    /// Its lease is over: what it had is nobody's.
    WorkerLost {
        worker: WorkerName,
    },
    /// It is to take nothing new, or may again.
    WorkerDrained {
        worker: WorkerName,
        is_draining: bool,
    },
    /// The worker that keeps the session has not come back since it was lost for that time.
    SourceOverdue {
        absence: u32,
    },
    /// Footers of accepted packs, where they could be read.
    ReceiptsRecalled {
        packs: Vec<RecalledPack>,
    },
    /// A moment has passed.
    Ticked,
    Paused,
    Resumed,
    /// The job ends here. What it stored stays for who goes on from it.
    Cancelled(Failure),
    /// The job ends here, and nobody may publish it.
    Abandoned(Failure),
}

/// What an earlier leader left of the job in the lease store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    pub announced: Option<Announced>,
    pub accepted: Vec<AcceptedUnit>,
    pub leases: Vec<(WorkerName, UnitLease)>,
    pub stop_ordered: bool,
    pub paused: bool,
}

/// What a job is bound to from its plan on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    pub label: BackupLabel,
    /// When the session began, by the database's clock: a session that began at another time is another session.
    pub session: Timestamp,
    /// How many leaders have led the job from its plan on before this one.
    #[serde(default)]
    pub term: u32,
    /// The prior in each repository that has one.
    #[serde(default)]
    pub priors: Vec<(RepoKey, BackupLabel)>,
    /// No file is taken over unread.
    #[serde(default)]
    pub reads_all: bool,
    /// How many attempts at this label there were, this one included.
    #[serde(default = "first")]
    pub plan: PlanNumber,
    /// Repositories in which earlier attempts have left something.
    #[serde(default)]
    pub leftover_in: Vec<RepoKey>,
    /// WAL summaries turned out to be wrong: no unit counts that left anything unread.
    #[serde(default)]
    pub distrusts_summaries: bool,
}

const fn first() -> PlanNumber {
    PlanNumber(1)
}

impl Announced {
    pub fn prior_in(&self, repository: RepoKey) -> Option<BackupLabel> {
        self.priors.iter().find(|(key, _)| *key == repository).map(|(_, label)| *label)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedUnit {
    pub unit: UnitId,
    pub attempt: Attempt,
    pub repositories: Vec<RepoKey>,
    /// The standby that was read, if it was one: whether the unit counts is for its next confirmation to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<FromStandby>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RecalledPack {
    pub body: PackBody,
    /// Of the pack, in each repository that has it.
    pub stored: Vec<StoredPack>,
}

/// All that a source said before units, kept by it in the repositories.
#[derive(Debug, Clone, PartialEq)]
pub struct RecalledSession {
    pub preflight: PreflightFacts,
    pub session: SessionFacts,
    pub inventory: Inventory,
}

/// The one key of a label in one repository, once somebody has tried to give it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Void,
    /// By an earlier leader of the same job.
    Published,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    OpenRepositories {
        repositories: Vec<RepoKey>,
        /// What the job is bound to already: its label is nobody's remains, its priors are what it rests on.
        own: Option<Announced>,
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
    /// Make void what nobody goes on with, then remove it. It ends the job if somebody has taken it up meanwhile.
    GiveUpUnfinished {
        repository: RepoKey,
        unfinished: Vec<Begun>,
    },
    /// List the files of one backup that each of these repositories has, by what its own catalogue says.
    ReadPrior {
        round: u32,
        prior: u32,
        records: Vec<(RepoKey, Box<BackupRecord>)>,
    },
    /// List what packs of an unfinished backup hold, those that all of these repositories have.
    ReadLeftover {
        round: u32,
        label: BackupLabel,
        plans: PlanNumber,
        repositories: Vec<RepoKey>,
    },
    /// Create-only, before the first pack; then settle with whoever else has begun there (`contest`).
    WritePlan {
        repository: RepoKey,
        label: BackupLabel,
        number: PlanNumber,
        /// Every label that packs of this plan may refer to there.
        references: Vec<BackupLabel>,
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
        attempt: Attempt,
    },
    /// Which attempt, in which repositories; then the lease is released, and the worker may forget the unit.
    PersistAccepted {
        worker: WorkerName,
        accepted: AcceptedUnit,
    },
    /// The worker may forget the unit.
    Settle {
        worker: WorkerName,
        unit: UnitId,
        attempt: Attempt,
    },
    /// Before anything is written under the label.
    PersistAnnounced(Announced),
    PersistStopOrder,
    /// Read the footers of these packs.
    RecallReceipts {
        label: BackupLabel,
        plan: PlanNumber,
        units: Vec<AcceptedUnit>,
    },
    /// Tell if the source is still away after the time that it is waited for.
    WaitForSource {
        absence: u32,
        patience_ms: u64,
    },
    /// Look for the record that the session's keeper wrote when it closed the session, and write it where it is missing: it may
    /// have died over that.
    FindStop {
        repositories: Vec<RepoKey>,
        label: BackupLabel,
        plan: PlanNumber,
    },
    /// Look for what the source has kept with that record: all that it said before units.
    RecallSession {
        repositories: Vec<RepoKey>,
        label: BackupLabel,
        plan: PlanNumber,
    },
    /// Make it impossible for anybody to publish this label, and tell where somebody already has. Always answered.
    GiveUpLabel {
        repositories: Vec<RepoKey>,
        label: BackupLabel,
        reason: String,
    },
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

impl Effect {
    /// Whether it is to be done though something before it failed: it rests on nothing, and the job's end waits for it.
    pub const fn is_of_the_end(&self) -> bool {
        matches!(self, Effect::GiveUpLabel { .. } | Effect::Finish(_))
    }
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
    pub bytes_changed: u64,
    /// What WAL summaries let it leave unread.
    pub bytes_skipped: u64,
    pub units_total: u32,
    pub units_retried: u32,
    /// Units of which an earlier attempt had stored everything.
    pub units_resumed: u32,
    pub pages_checked: u64,
    /// `(file, block)`.
    pub bad_pages: Vec<(String, u32)>,
    pub workers: Vec<WorkerShare>,
    pub warnings: Vec<String>,
}
