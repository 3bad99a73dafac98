//! Copies what one repository has and another lacks: clusters, backups, WAL. PostgreSQL is not asked for anything.
//!
//! ```text
//! listings of both --> plan (core) --> clusters --> what was begun is judged --> histories --> per backup: its WAL, then
//!     copy record --> plans --> packs, plan by plan --> stop records --> manifest --> look at all of it --> catalogue entry
//! --> the rest of the WAL
//! ```
//!
//! Frames stay compressed as they are; each is opened with the source's key, proved, and sealed with the target's. Between repositories
//! without encryption in one store that store copies what stays as it is ([`object`]). `FORMAT.md` section 6a says what is equal in a copy and what is not.
//!
//! Invariants
//! 1. The catalogue entry comes last: after every pack and block map of the backup was proved, is in place, and fits the manifest
//!    that is stored, after its WAL, and while all that it refers to is published there as the same backups.
//! 2. Every put is create-only. What is there already is compared, not copied again; what differs is an error and stays.
//! 3. A block is proved by its hash, a WAL file by its SHA-1, before the object that holds it is complete.
//!    That holds as well where the target's store copies an object by itself: it copies what was proved here, or nothing.
//! 4. What others have begun in the target is left alone, unless it is this very backup and its writer is known to be dead.
//! 5. Others may help ([`Crew`], [`SyncMate`]): they copy packs and WAL files, after the record that the backup is being copied, and publish
//!    nothing. What they say they copied is compared like all else that is there.
//! 6. Opening, hashing and sealing happen on [`SyncOptions::process_max`] threads of their own. Memory: some 16 MiB a thread, and of
//!    one backup at a time what its manifest says of ranges (24 bytes each).
//!
//! Failure story: whoever dies leaves a label with a copy record and no entry. Nobody sweeps it or goes on with it but the next copy,
//! which finds complete objects complete. Damage costs the backup that needs it, and those that refer to that one. An upload that
//! breaks off is begun anew, three times in all. A store that is full, away or read-only ends it all.

mod backup;
mod crew;
mod look;
mod mate;
mod object;
mod pack;
mod paper;
mod report;
mod taking;
mod trouble;
mod wal;

pub use crew::{Crew, Hands, Said, Settled};
pub use mate::{Ready, SyncMate};
pub use report::{ArchiveSync, BackupSync, Counted, SyncReport, SyncStatus, json_to_text};
pub use taking::{BackupLock, Watch};

use crate::error::RepositoryError;
use crate::open::Repository;
use crate::verify::{Job, OnProgress, VerifyOptions};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::format::{BackupLabel, HashSecret};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::plan::sync::{Step, SyncPlan, SyncRefusal};
use pgconvoy_core::units::Timestamp;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use taking::{Taken, Takeover};
use tokio_util::sync::CancellationToken;
use trouble::Trouble;

#[derive(Debug, Clone)]
pub struct SyncOptions {
    /// This backup, what it refers to, the WAL that these need, and nothing else.
    pub set: Option<BackupLabel>,
    /// Objects that are copied at once; at least one.
    pub process_max: usize,
    /// Who copies, for the record of it.
    pub writer: Writer,
    pub now: Timestamp,
    pub watch: Watch,
    pub cancel: CancellationToken,
    /// `None`: nobody helps.
    pub crew: Option<Arc<dyn Crew>>,
}

/// The outer error is that nothing was begun, as the two do not belong together, or that somebody wants no more of it. What was copied by then stays, and
/// need not be copied again.
pub async fn sync(
    source: Arc<Repository>,
    target: Arc<Repository>,
    stanza: &StanzaName,
    options: &SyncOptions,
    progress: OnProgress,
) -> Result<SyncReport, Failure> {
    refuse_pair(&source, &target)?;
    let mut has = look::holdings(&source, stanza, false).await?;
    let own = look::holdings(&target, stanza, true).await?;
    for label in own.undecided.keys().filter(|label| has.entries.contains_key(label)) {
        has.plans.insert(*label, look::plans(&source, stanza, *label).await?);
    }
    let plan =
        SyncPlan::new(&has, &own, options.set).map_err(|refusal| refused(&refusal, &source, &target))?;
    tracing::debug!("from {} to {}:\n{plan}", source.describe(), target.describe());
    for cluster in has.clusters.iter().filter(|cluster| plan.clusters.contains(&cluster.number)) {
        match target.create_cluster(stanza, cluster).await {
            Err(RepositoryError::Storage(error)) if error.is_already_exists() => {
                return Err(Failure::new(
                    ErrorCode::LockAcquire,
                    "somebody else makes the stanza in the target",
                )
                .hint("try again"));
            }
            made => made?,
        }
    }
    let Some(secret) = has.clusters.first().map(|cluster| cluster.hash_secret.clone()) else {
        return Err(refused(&SyncRefusal::NoStanza, &source, &target));
    };
    let takeover = Takeover { source: &source, target: &target, stanza, options, own: &own };
    let taken = takeover.run(&plan, &has).await?;
    let cancel = options.cancel.child_token();
    // Who drops this future wants no more of it, and threads cannot be dropped.
    let _guard = cancel.clone().drop_guard();
    let job = |repository: Arc<Repository>| {
        let options = VerifyOptions { set: None, process_max: options.process_max, cancel: cancel.clone() };
        Job::new(repository, stanza, options, progress.clone())
    };
    let sync = Sync {
        source: job(source),
        target: job(target),
        clusters: has.clusters.clone(),
        secret,
        taken,
        options: SyncOptions { cancel: cancel.clone(), ..options.clone() },
        fatal: Mutex::new(None),
        copies_fail: AtomicBool::new(false),
    };
    tokio::task::spawn_blocking(move || sync.run(&plan)).await.unwrap_or_else(|_| {
        Err(Failure::new(ErrorCode::Assert, "a thread of repo-sync ended without a result"))
    })
}

fn refuse_pair(source: &Repository, target: &Repository) -> Result<(), Failure> {
    if source.identity() == target.identity() {
        let message = format!("{} and {} are the same repository", source.describe(), target.describe());
        return Err(Failure::new(ErrorCode::OptionInvalidValue, message));
    }
    if target.plain().is_some() {
        let message = format!(
            "{} has layout plain, and copying into such a repository is not part of this build",
            target.describe()
        );
        return Err(Failure::new(ErrorCode::NotSupported, message).hint(
            "the next full backup fills it; a repository of layout packed can be filled from a plain one",
        ));
    }
    Ok(())
}

fn refused(refusal: &SyncRefusal, source: &Repository, target: &Repository) -> Failure {
    let message = format!("{refusal} (from {} to {})", source.describe(), target.describe());
    match refusal {
        SyncRefusal::NoStanza => Failure::new(ErrorCode::FileMissing, message)
            .hint("--from names the repository that has the backups"),
        SyncRefusal::NoSuchSet(_) => {
            Failure::new(ErrorCode::BackupSetInvalid, message).hint("pgconvoy info lists the backups")
        }
        SyncRefusal::OtherCluster(..) => Failure::new(ErrorCode::RepoInvalid, message).hint(
            "blocks of one cannot be found in the other: fill a repository that does not have the stanza yet",
        ),
    }
}

/// One synchronisation, as its threads see it.
struct Sync {
    source: Job,
    target: Job,
    clusters: Vec<pgconvoy_core::format::cluster::ClusterBody>,
    secret: HashSecret,
    taken: Taken,
    options: SyncOptions,
    /// Why nothing more can be done.
    fatal: Mutex<Option<Failure>>,
    /// The target's store was asked for a copy of its own and could not.
    copies_fail: AtomicBool,
}

impl Sync {
    fn run(&self, plan: &SyncPlan) -> Result<SyncReport, Failure> {
        let mut report = SyncReport::new(
            self.source.repository.number(),
            self.target.repository.number(),
            &self.source.stanza,
        );
        report.ended_by = match self.work(plan, &mut report) {
            Ok(()) => None,
            Err(trouble @ Trouble::Interrupted) => {
                let fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take();
                Some(fatal.unwrap_or_else(|| trouble.told()))
            }
            Err(trouble) => Some(trouble.told()),
        };
        Ok(report)
    }

    fn work(&self, plan: &SyncPlan, report: &mut SyncReport) -> Result<(), Trouble> {
        let mut archives = wal::Archives::new(self, plan);
        let worked = self.all(plan, &mut archives, report);
        report.archives.extend(archives.told());
        worked
    }

    fn all(
        &self,
        plan: &SyncPlan,
        archives: &mut wal::Archives<'_>,
        report: &mut SyncReport,
    ) -> Result<(), Trouble> {
        archives.histories(report)?;
        for (label, step) in &plan.backups {
            self.source.go_on()?;
            let told = match step {
                Step::Copy => self.one(plan, *label, report, archives)?,
                Step::TakeOver => match self.taken.refused.get(label) {
                    Some(failure) => not_taken_over(*label, failure, report),
                    None if self.taken.published.contains(label) => {
                        BackupSync::of(*label, SyncStatus::Present, None)
                    }
                    None => self.one(plan, *label, report, archives)?,
                },
                Step::Present => BackupSync::of(*label, SyncStatus::Present, None),
                other => self.not_copied(*label, other, report),
            };
            report.backups.push(told);
        }
        archives.rest(report)
    }

    fn one(
        &self,
        plan: &SyncPlan,
        label: BackupLabel,
        report: &mut SyncReport,
        archives: &mut wal::Archives<'_>,
    ) -> Result<BackupSync, Trouble> {
        let relying = plan.relying.get(&label).map(Vec::as_slice).unwrap_or_default();
        let copied = backup::copy(self, label, relying, report, archives);
        match copied {
            Ok(copied) => Ok(copied),
            Err(Trouble::Failed(failure) | Trouble::Differs(failure)) => {
                let told = BackupSync::of(label, SyncStatus::Error, Some(failure.message.clone()));
                report.add_error(failure.context(format!("backup {label}")));
                Ok(told)
            }
            Err(other) => Err(other),
        }
    }

    /// Whoever runs this wants the repository to be filled, and it is not.
    fn not_copied(&self, label: BackupLabel, step: &Step, report: &mut SyncReport) -> BackupSync {
        let (status, code) = match step {
            Step::Conflict(_) => (SyncStatus::Conflict, ErrorCode::BackupMismatch),
            Step::Unreadable(_) => (SyncStatus::Error, ErrorCode::Checksum),
            Step::Void => (SyncStatus::Void, ErrorCode::Command),
            Step::LeftOut(_) | Step::Copy | Step::TakeOver | Step::Present => {
                (SyncStatus::LeftOut, ErrorCode::Command)
            }
        };
        let is_asked_for = self.options.set == Some(label) && code == ErrorCode::Command;
        let code = if is_asked_for { ErrorCode::BackupSetInvalid } else { code };
        let reason = step.reason().unwrap_or_default().to_owned();
        report.add_error(Failure::new(code, format!("backup {label} is not copied: {reason}")));
        BackupSync::of(label, status, Some(reason))
    }

    /// Waits for what is done there.
    fn in_target<T, E: Into<RepositoryError>>(
        &self,
        doing: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Trouble> {
        self.target.wait(doing).map_err(Trouble::of_target)
    }

    /// For threads: what one failure costs is decided by whoever gathers, a fatal one ends all.
    fn gathered<T>(&self, result: Result<T, Trouble>) -> crate::verify::Checked<Option<Result<T, Trouble>>> {
        match result {
            Ok(value) => Ok(Some(Ok(value))),
            Err(trouble @ (Trouble::Failed(_) | Trouble::Differs(_))) => Ok(Some(Err(trouble))),
            Err(Trouble::Fatal(failure) | Trouble::Passing(failure)) => {
                self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                self.options.cancel.cancel();
                Err(crate::verify::Interrupted)
            }
            Err(Trouble::Interrupted) => Err(crate::verify::Interrupted),
        }
    }
}

/// Somebody works at it, or what lies there is another backup's.
fn not_taken_over(label: BackupLabel, failure: &Failure, report: &mut SyncReport) -> BackupSync {
    let status = if failure.code == ErrorCode::LockAcquire { SyncStatus::Busy } else { SyncStatus::Error };
    report.add_error(failure.clone().context(format!("backup {label}")));
    BackupSync::of(label, status, Some(failure.message.clone()))
}
