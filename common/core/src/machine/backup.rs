//! One backup, from preflight to catalogue.
//!
//! ```text
//! Opening --> Starting --> Scanning --> Announcing --> Copying --> Stopping --> Awaiting --> Publishing --> Over
//!    repositories,   session    inventory,  plan in each    units       stop        WAL in      manifest,
//!    preflight                  WAL before  repository                              each        catalogue
//! ```
//!
//! Invariants
//! 1. A unit is done when a receipt with the token of its current lease was accepted; never otherwise, and once.
//! 2. Stopping begins when every unit is done, which means that receipts cover every range of the plan. After it no receipt
//!    is accepted.
//! 3. A repository that failed once takes no further part. The job goes on while one is left.
//! 4. Publishing is ordered only for repositories that hold every accepted attempt and all WAL from start to stop.
//! 5. The first repository has the plan before any other is given it: of two backups that begin at once, that one decides.
//!    A repository where somebody else backs up the same stanza ends the whole job, it is not merely left out.
//!
//! Failure: any error that leaves no way forward ends in [`Effect::Finish`] with nothing published by this job.

pub mod contents;
pub mod contest;
mod copying;
pub mod event;
mod state;
pub mod units;
mod wal;

use crate::failure::{ErrorCode, Failure};
use crate::format::cluster::ClusterBody;
use crate::format::{BackupKind, BackupLabel};
use crate::ids::{PlanNumber, RepoKey, WorkerName};
use crate::plan::backup::{SplitOptions, plan_backup};
use crate::plan::inventory::Inventory;
use crate::units::Timestamp;
use crate::wire::{
    OrderBody, PreflightFacts, PreflightOrder, ReportBody, SessionEnd, SessionFacts, UnitContext,
};
use contents::{BackupContents, RepositoryState};
pub use event::{BackupSpec, Effect, Event, Outcome, RepositoryFacts, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use units::UnitBoard;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Opening,
    Starting,
    Scanning,
    Announcing,
    Copying,
    Stopping,
    Awaiting,
    Publishing,
    Over,
}

/// See the module's header.
#[derive(Debug)]
pub struct BackupMachine {
    spec: BackupSpec,
    phase: Phase,
    source: WorkerName,
    repositories: BTreeMap<RepoKey, RepositoryState>,
    /// Repositories whose answer the current phase waits for.
    awaited: BTreeSet<RepoKey>,
    /// Repositories that must still show the WAL segment before the start.
    awaited_before: BTreeSet<RepoKey>,
    /// Some repository got that segment without our help: the archiver works.
    archiver_works: bool,
    /// Repositories that the source was told to supply with WAL.
    supplying: BTreeSet<RepoKey>,
    source_is_lost: bool,
    facts: Option<PreflightFacts>,
    cluster: Option<ClusterBody>,
    session: Option<SessionFacts>,
    labels: BTreeSet<BackupLabel>,
    label: Option<BackupLabel>,
    inventory: Inventory,
    is_scanned: bool,
    /// One repository has the plan, and nobody else's beside it.
    is_announced: bool,
    board: UnitBoard,
    contents: Option<Arc<BackupContents>>,
    warnings: Vec<String>,
}

impl BackupMachine {
    pub fn start(spec: BackupSpec, source: WorkerName) -> (Self, Vec<Effect>) {
        let repositories: BTreeMap<_, _> =
            spec.repositories.iter().map(|key| (*key, RepositoryState::default())).collect();
        let machine = BackupMachine {
            awaited: repositories.keys().copied().collect(),
            awaited_before: BTreeSet::new(),
            archiver_works: false,
            supplying: BTreeSet::new(),
            source_is_lost: false,
            phase: Phase::Opening,
            source,
            repositories,
            facts: None,
            cluster: None,
            session: None,
            labels: BTreeSet::new(),
            label: None,
            inventory: Inventory::default(),
            is_scanned: false,
            is_announced: false,
            board: UnitBoard::default(),
            contents: None,
            warnings: Vec::new(),
            spec,
        };
        let preflight =
            PreflightOrder { stanza: machine.spec.stanza.clone(), options: machine.spec.source.clone() };
        let effects = vec![
            Effect::OpenRepositories { repositories: machine.alive() },
            machine.order(OrderBody::Preflight(preflight)),
        ];
        (machine, effects)
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The job's units, bytes and states, for whoever shows progress.
    pub fn board(&self) -> &UnitBoard {
        &self.board
    }

    pub fn label(&self) -> Option<BackupLabel> {
        self.label
    }

    pub fn on_event(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        if self.phase == Phase::Over {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if let Err(failure) = self.step(now, event, &mut effects) {
            self.give_up(failure, &mut effects);
        }
        effects
    }

    fn step(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        match event {
            Event::RepositoriesOpened { results, other_labels } => {
                self.labels.extend(other_labels);
                self.on_repositories(results, effects)
            }
            Event::WalFound { repository, result } => self.on_wal(now, repository, result, effects),
            Event::PlanWritten { repository, result } => self.on_plan(repository, result, effects),
            Event::UnitsLeased { worker, leases } => {
                self.board.leased(&worker, &leases);
                let orders = self.board.orders(&leases, &self.inventory, &self.alive(), self.page_size());
                for order in orders {
                    let order = self.wrap(OrderBody::RunUnit(Box::new(order)));
                    effects.push(Effect::Send { worker: worker.clone(), order });
                }
                Ok(())
            }
            Event::Published { repository, result } => {
                if result.is_ok()
                    && let Some(state) = self.repositories.get_mut(&repository)
                {
                    state.published = true;
                }
                self.settle(repository, result, effects)?;
                self.awaited.remove(&repository);
                self.finish_when_published(effects);
                Ok(())
            }
            Event::WorkerLost { worker } => self.on_worker_lost(&worker, effects),
            // Entries may already be in place: what was ordered is finished, so that the outcome tells the truth.
            Event::Cancelled(_) if self.phase == Phase::Publishing => Ok(()),
            Event::Cancelled(failure) => Err(failure),
            Event::Reported { worker, report } => self.on_report(now, worker, report, effects),
        }
    }

    fn on_report(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        report: ReportBody,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match report {
            ReportBody::Hello { .. } | ReportBody::Alive => Ok(()),
            ReportBody::Preflighted(result) => {
                let facts = result?;
                self.warn(facts.warnings.iter().cloned(), effects);
                self.facts = Some(facts);
                self.begin_session(effects)
            }
            ReportBody::SessionOpened(result) => self.on_session(result?, effects),
            ReportBody::SessionLost(failure) => Err(failure),
            ReportBody::Scanned(entries) => {
                entries.into_iter().try_for_each(|entry| Ok(self.inventory.push(entry)?))
            }
            ReportBody::ScanEnded(result) => {
                let end = result?;
                self.warn(end.warnings.iter().cloned(), effects);
                self.is_scanned = true;
                self.announce(now, effects)
            }
            ReportBody::Prepared(result) => {
                for failed in result? {
                    self.drop_repository(failed.repository, failed.failure, effects)?;
                }
                Ok(())
            }
            ReportBody::Ready { units } => {
                self.board.asked(worker, units);
                self.lease_units(effects);
                Ok(())
            }
            ReportBody::UnitDone(receipt) => self.on_receipt(worker, receipt, effects),
            ReportBody::UnitFailed(failure) => self.on_unit_failure(failure, effects),
            ReportBody::SessionClosed(result) => self.on_stop(now, result?, effects),
            ReportBody::WalSupplied { repository, archiver_works, result } => {
                self.archiver_works |= archiver_works;
                self.supplying.remove(&repository);
                self.settle(repository, result, effects)?;
                self.wal_settled(now, repository, effects)
            }
        }
    }

    fn on_repositories(
        &mut self,
        results: Vec<(RepoKey, Result<RepositoryFacts, Failure>)>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        for (key, result) in results {
            self.awaited.remove(&key);
            match result {
                Ok(facts) => {
                    self.labels.extend(facts.labels.iter().copied());
                    if let Some(state) = self.repositories.get_mut(&key) {
                        state.facts = Some(facts);
                    }
                }
                Err(failure) if failure.code == ErrorCode::LockAcquire => return Err(failure),
                Err(failure) => self.drop_repository(key, failure, effects)?,
            }
        }
        self.begin_session(effects)
    }

    /// Once repositories and preflight have both answered: the cluster must be the one that each repository knows.
    fn begin_session(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let Some(facts) =
            self.facts.clone().filter(|_| self.phase == Phase::Opening && self.awaited.is_empty())
        else {
            return Ok(());
        };
        for key in self.alive() {
            let known = self.repositories[&key].facts.as_ref().map(|known| known.cluster.clone());
            let known =
                known.ok_or_else(|| Failure::new(ErrorCode::Assert, "an open repository told no cluster"))?;
            if let Err(failure) = self.compare_cluster(&known, &facts) {
                self.drop_repository(key, failure.context(format!("repo {key}")), effects)?;
            } else if self.cluster.is_none() {
                self.cluster = Some(known);
            }
        }
        self.phase = Phase::Starting;
        let label = format!("pgconvoy backup of {}", self.spec.stanza);
        effects.push(self.order(OrderBody::OpenSession { label }));
        Ok(())
    }

    fn compare_cluster(&self, known: &ClusterBody, facts: &PreflightFacts) -> Result<(), Failure> {
        if known.system_id != facts.system_id || known.version != facts.version {
            return Err(Failure::new(
                ErrorCode::DbMismatch,
                format!(
                    "the cluster is PostgreSQL {} with system identifier {}, but stanza {} was made for {} with {}",
                    facts.version, facts.system_id, self.spec.stanza, known.version, known.system_id
                ),
            )
            .hint("is pg path of the stanza the right data directory?")
            .hint("after an upgrade of PostgreSQL, run stanza-upgrade"));
        }
        match &self.cluster {
            Some(first) if first.hash_secret != known.hash_secret || first.number != known.number => {
                Err(Failure::new(
                    ErrorCode::RepoInvalid,
                    "its stanza was created apart from that of the other repositories",
                )
                .hint("back up to it alone with --repo, or delete its stanza and run stanza-create again"))
            }
            _ => Ok(()),
        }
    }

    fn on_session(&mut self, session: SessionFacts, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.phase = Phase::Scanning;
        if let Some(start) = session.start.filter(|_| self.spec.source.archive_check) {
            self.awaited_before = self.alive().into_iter().collect();
            for repository in self.alive() {
                let (archive, segments) = (self.archive()?, vec![start.segment_before]);
                effects.push(Effect::AwaitWal { repository, archive, segments });
            }
        }
        self.session = Some(session);
        effects.push(self.order(OrderBody::Scan));
        Ok(())
    }

    /// Writes the plan to every repository, once the scan is complete and the archive is known to work.
    fn announce(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.phase != Phase::Scanning || !self.is_scanned || !self.awaited_before.is_empty() {
            return Ok(());
        }
        self.phase = Phase::Announcing;
        let label = BackupLabel::next(BackupKind::Full, None, now, self.labels.iter().copied());
        self.label = Some(label);
        let plan = plan_backup(&self.inventory, SplitOptions::new(self.spec.unit_size, self.page_size()));
        self.board = UnitBoard::new(plan);
        self.awaited = self.alive().into_iter().collect();
        self.write_plan_to(1, label, effects);
        Ok(())
    }

    fn write_plan_to(&self, repositories: usize, label: BackupLabel, effects: &mut Vec<Effect>) {
        for repository in self.awaited.iter().take(repositories) {
            effects.push(Effect::WritePlan {
                repository: *repository,
                label,
                unit_size: self.board.unit_size(),
                units: self.board.total(),
                files: self.inventory.file_count() as u64,
                bytes: self.inventory.bytes(),
            });
        }
    }

    fn on_plan(
        &mut self,
        repository: RepoKey,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let (was_announced, is_written) = (self.is_announced, result.is_ok());
        match result {
            Err(failure) if failure.code == ErrorCode::LockAcquire => return Err(failure),
            result => self.settle(repository, result, effects)?,
        }
        self.awaited.remove(&repository);
        self.is_announced |= is_written;
        if !was_announced {
            let others = if is_written { usize::MAX } else { 1 };
            self.write_plan_to(others, self.known_label()?, effects);
        }
        self.begin_copying(effects)
    }

    fn begin_copying(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.phase != Phase::Announcing || !self.awaited.is_empty() {
            return Ok(());
        }
        self.phase = Phase::Copying;
        let context = UnitContext {
            stanza: self.spec.stanza.clone(),
            cluster: self.known_cluster()?.number,
            archive: self.archive()?,
            label: self.known_label()?,
            backup: self.spec.backup,
            plan: PlanNumber(1),
            repositories: self.alive(),
            compress: self.spec.compress,
            file_sha1: self.spec.file_sha1,
            stall_timeout_ms: self.spec.stall_timeout_ms,
        };
        effects.push(self.order(OrderBody::Prepare(Box::new(context))));
        self.lease_units(effects);
        self.stop_when_done(effects);
        Ok(())
    }

    fn on_stop(&mut self, now: Timestamp, end: SessionEnd, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.phase != Phase::Stopping {
            return Ok(());
        }
        for failed in end.failed {
            self.drop_repository(failed.repository, failed.failure, effects)?;
        }
        let contents = Arc::new(BackupContents::assemble(self, now, end.stop.as_ref())?);
        self.phase = Phase::Awaiting;
        self.awaited = self.alive().into_iter().collect();
        let check = self.spec.source.archive_check;
        let segments = if check { contents.wal_segments(self.segment_size()?) } else { Vec::new() };
        self.contents = Some(contents);
        if segments.is_empty() {
            self.awaited.clear();
            self.publish_when_ready(effects);
            return Ok(());
        }
        for repository in self.alive() {
            effects.push(Effect::AwaitWal {
                repository,
                archive: self.archive()?,
                segments: segments.clone(),
            });
        }
        Ok(())
    }

    fn publish_when_ready(&mut self, effects: &mut Vec<Effect>) {
        let Some(contents) =
            self.contents.clone().filter(|_| self.phase == Phase::Awaiting && self.awaited.is_empty())
        else {
            return;
        };
        self.phase = Phase::Publishing;
        self.awaited = self.alive().into_iter().collect();
        let outcomes = self.repository_outcomes();
        for repository in self.alive() {
            let record = contents.record(&outcomes, self.repositories[&repository].stored);
            effects.push(Effect::Publish {
                repository,
                contents: contents.clone(),
                record: Box::new(record),
            });
        }
    }

    fn finish_when_published(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Publishing && self.awaited.is_empty() {
            self.phase = Phase::Over;
            effects.push(self.order(OrderBody::End));
            effects.push(Effect::Finish(Box::new(self.outcome(None))));
        }
    }

    fn on_worker_lost(&mut self, worker: &WorkerName, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.board.lost(worker);
        if *worker != self.source {
            return Ok(());
        }
        let message = format!("worker {worker}, which held the backup session, is gone");
        let gone = Failure::new(ErrorCode::HostConnect, message).retryable();
        if self.phase <= Phase::Stopping {
            return Err(gone);
        }
        // The data are safe; only what this worker was to supply will not come.
        self.source_is_lost = true;
        for repository in std::mem::take(&mut self.supplying) {
            self.drop_repository(repository, gone.clone(), effects)?;
        }
        self.publish_when_ready(effects);
        Ok(())
    }

    fn give_up(&mut self, failure: Failure, effects: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        effects.push(self.order(OrderBody::End));
        effects.push(Effect::Finish(Box::new(self.outcome(Some(failure)))));
    }
}

#[cfg(test)]
mod tests;
