//! One backup, from preflight to catalogue.
//!
//! ```text
//! Opening --> Starting --> Scanning --> (Clearing) --> Announcing --> Copying --> Stopping --> Awaiting --> (CopyingWal) --> Publishing --> (GivingUp) --> Over
//!    repositories,   session    inventory,  plan in each    units       stop        WAL in      manifest,     void where
//!    preflight                  WAL before  repository                              each        catalogue     undecided
//! ```
//!
//! Invariants
//! 1. A unit is done when a receipt with the token of its current lease was accepted; never otherwise, and once.
//! 2. Stopping begins when every unit is done, which means that receipts cover every range of the plan. After it no receipt
//!    is accepted, but for those of WAL that is copied (`archive-copy`).
//! 3. A repository that failed once takes no further part. The job goes on while one is left.
//! 4. Publishing is ordered only for repositories that hold every accepted attempt and all WAL from start to stop.
//! 5. The first repository has the plan before any other is given it: of two backups that begin at once, that one decides.
//!    A repository where somebody else backs up the same stanza ends the whole job, it is not merely left out.
//!
//! 6. One session from start to stop, whoever leads: a session that began at another time than the one that the job's plan was
//!    announced with ends the job.
//!
//! A leader that takes over starts the machine anew with what was persisted ([`Recovered`]). Repositories, worker and store
//! answer the same orders as they did before, and what was accepted is not done again.
//!
//! Code map: `session` is what the source says before units, `foundation` what the backup rests on, `resuming` what becomes of backups
//! that were left unfinished, [`units`] the board of units, `copying` what happens to them,
//! `joining` who does them, `standing` what each of these may do and `confirming` what becomes of what standbys gave, `recovery` what an earlier leader left, `stopping` the end of the session, `ending` that of the
//! job, `summaries` what is believed of PostgreSQL's own records of change, `wal`, [`contest`] and [`contents`] what their names say.
//!
//! Failure: any error that leaves no way forward ends in [`Effect::Finish`] with nothing published by this job, unless an
//! earlier leader has published: then the outcome says so.

mod announcing;
pub mod batching;
mod blaming;
mod confirming;
pub mod contents;
pub mod contest;
mod copying;
mod ending;
pub mod event;
mod foundation;
mod joining;
mod pages;
mod recovery;
mod resuming;
mod session;
pub mod stages;
mod standing;
mod state;
mod stopping;
mod summaries;
pub mod units;
mod wal;
mod wal_copy;

use crate::failure::Failure;
use crate::format::BackupLabel;
use crate::format::cluster::ClusterBody;
use crate::ids::{PlanNumber, RepoKey, UnitId, WorkerName};
use crate::plan::inventory::Inventory;
use crate::units::Timestamp;
use crate::wire::{OrderBody, PreflightFacts, PreflightOrder, ReportBody, SessionFacts, SupplyOrder};
use blaming::Suspects;
use confirming::Confirming;
use contents::{BackupContents, RepositoryState};
pub use event::{
    Announced, BackupSpec, Effect, Event, Fate, Outcome, RecalledSession, Recovered, RepositoryFacts, Status,
};
use foundation::Foundation;
use joining::Reader;
use recovery::Early;
use stages::{Stage, Stages};
use standing::Reach;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use units::UnitBoard;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Opening,
    Starting,
    Scanning,
    /// What others have left unfinished is given up.
    Clearing,
    Announcing,
    /// Receipts that an earlier leader had accepted are read back.
    Recalling,
    Copying,
    Stopping,
    Awaiting,
    /// WAL goes into the backup itself, where that was asked for.
    CopyingWal,
    Publishing,
    /// The label is made void where nobody has published it.
    GivingUp,
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
    supplying: BTreeMap<RepoKey, SupplyOrder>,
    /// Workers that see the data, the source among them, as far as they are here.
    readers: BTreeMap<WorkerName, Reader>,
    /// The source will not come back in time.
    source_is_lost: bool,
    /// What it had said by then, read back, until the repositories have answered.
    kept: Option<Box<RecalledSession>>,
    /// It has been told what units are done under, and has said so.
    source_is_prepared: bool,
    /// The source is not here now.
    source_is_away: bool,
    /// Counts how often the source went away.
    absence: u32,
    is_paused: bool,
    /// Nobody may publish what there is.
    is_abandoned: bool,
    recovered: Recovered,
    early: Early,
    facts: Option<PreflightFacts>,
    cluster: Option<ClusterBody>,
    session: Option<SessionFacts>,
    /// In repositories of this job.
    labels: BTreeSet<BackupLabel>,
    /// In all others, as far as they could be asked.
    elsewhere: Vec<BackupLabel>,
    are_others_asked: bool,
    label: Option<BackupLabel>,
    /// What the job is bound to, as it was persisted last.
    announced: Option<Announced>,
    /// How many attempts at the label there were, this one included.
    plan: PlanNumber,
    inventory: Inventory,
    foundation: Foundation,
    is_scanned: bool,
    /// The database's clock after the scan.
    copy_start: Timestamp,
    /// One repository has the plan, and nobody else's beside it.
    is_announced: bool,
    board: UnitBoard,
    confirming: Confirming,
    reach: Reach,
    suspects: Suspects,
    /// Units that had bad pages, and whose server had them.
    damaged: BTreeMap<UnitId, WorkerName>,
    stages: Stages,
    contents: Option<Arc<BackupContents>>,
    /// The first unit of those that copy WAL, once there are any.
    copied_from: Option<UnitId>,
    /// Packs with WAL that an earlier leader accepted.
    copied_before: Vec<event::RecalledPack>,
    /// Why the job ends, unless something is found that saves it.
    cause: Option<Failure>,
    warnings: Vec<String>,
}

impl BackupMachine {
    /// `readers` are the workers that are here and see the data. `recovered` is what an earlier leader left of the job; nothing,
    /// if it is new.
    pub fn start(
        spec: BackupSpec,
        source: WorkerName,
        readers: Vec<WorkerName>,
        recovered: Recovered,
    ) -> (Self, Vec<Effect>) {
        let repositories: BTreeMap<_, _> =
            spec.repositories.iter().map(|key| (*key, RepositoryState::default())).collect();
        let machine = BackupMachine {
            awaited: repositories.keys().copied().collect(),
            awaited_before: BTreeSet::new(),
            archiver_works: false,
            supplying: BTreeMap::new(),
            source_is_lost: false,
            kept: None,
            source_is_prepared: false,
            source_is_away: !readers.contains(&source),
            readers: readers.into_iter().map(|worker| (worker, Reader::Here)).collect(),
            absence: 0,
            is_paused: recovered.paused,
            is_abandoned: false,
            phase: Phase::Opening,
            source,
            repositories,
            facts: None,
            cluster: None,
            session: None,
            labels: BTreeSet::new(),
            elsewhere: Vec::new(),
            are_others_asked: false,
            label: None,
            announced: None,
            plan: recovered.announced.as_ref().map_or(PlanNumber(1), |announced| announced.plan),
            inventory: Inventory::default(),
            foundation: Foundation::default(),
            is_scanned: false,
            copy_start: Timestamp(i64::MAX),
            is_announced: false,
            board: UnitBoard::default(),
            confirming: Confirming::default(),
            reach: Reach::default(),
            suspects: Suspects::default(),
            damaged: BTreeMap::new(),
            stages: Stages::default(),
            contents: None,
            copied_from: None,
            copied_before: Vec::new(),
            cause: None,
            warnings: Vec::new(),
            recovered,
            early: Early::default(),
            spec,
        };
        let own = machine.recovered.announced.clone();
        let mut effects = vec![Effect::OpenRepositories { repositories: machine.alive(), own }];
        if machine.source_is_away {
            let patience_ms = machine.spec.source_patience_ms;
            effects.push(Effect::WaitForSource { absence: 0, patience_ms });
        } else {
            effects.push(machine.order(machine.preflight()));
        }
        (machine, effects)
    }

    fn preflight(&self) -> OrderBody {
        let (stanza, options) = (self.spec.stanza.clone(), self.spec.source.clone());
        OrderBody::Preflight(PreflightOrder { stanza, options })
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The job's units, bytes and states, for whoever shows progress.
    pub fn board(&self) -> &UnitBoard {
        &self.board
    }

    /// What keeps units from going faster, while units are done.
    pub fn limiting_stage(&self) -> Option<Stage> {
        let is_copying = self.is_copying() && !self.is_paused;
        is_copying.then(|| self.stages.limiting(self.board.occupation())).flatten()
    }

    /// Whether units are done.
    pub(super) fn is_copying(&self) -> bool {
        matches!(self.phase, Phase::Copying | Phase::CopyingWal)
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub fn label(&self) -> Option<BackupLabel> {
        self.label
    }

    pub fn on_event(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.phase >= Phase::GivingUp {
            self.hear_at_the_end(event, &mut effects);
        } else if let Err(failure) = self.step(now, event, &mut effects) {
            self.give_up(failure, &mut effects);
        }
        effects
    }

    fn step(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        match event {
            Event::RepositoriesOpened { results, other_labels, are_others_asked } => {
                (self.elsewhere, self.are_others_asked) = (other_labels, are_others_asked);
                self.on_repositories(now, results, effects)
            }
            Event::WalFound { repository, result } => self.on_wal(now, repository, result, effects),
            event @ (Event::UnfinishedGivenUp { .. }
            | Event::PriorOpened { .. }
            | Event::PriorListed { .. }
            | Event::PriorRead { .. }
            | Event::LeftoverListed { .. }
            | Event::LeftoverRead { .. }) => self.hear_of_earlier(now, event, effects),
            Event::PlanWritten { repository, result } => self.on_plan(now, repository, result, effects),
            Event::UnitsLeased { worker, leases } => {
                self.on_leased(&worker, &leases, effects);
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
            Event::WorkerJoined { worker, held } => self.on_worker_joined(now, worker, held, effects),
            Event::WorkerLost { worker } => self.on_worker_lost(now, &worker, effects),
            Event::WorkerDrained { worker, is_draining } => {
                self.on_worker_drained(now, &worker, is_draining, effects)
            }
            Event::SourceOverdue { absence } => self.on_source_overdue(absence, effects),
            Event::ReceiptsRecalled { packs } => self.on_recalled(now, packs, effects),
            Event::StopFound { stop, failed } => self.on_stop_found(now, stop, failed, effects),
            Event::SessionRecalled { session } => self.on_session_recalled(now, session, effects),
            Event::GivenUp { .. } => Ok(()),
            Event::Ticked => self.on_tick(now, effects),
            Event::Paused => {
                self.is_paused = true;
                Ok(())
            }
            Event::Resumed => {
                self.is_paused = false;
                self.lease_units(now, effects);
                Ok(())
            }
            // Entries may already be in place: what was ordered is finished, so that the outcome tells the truth.
            Event::Cancelled(_) | Event::Abandoned(_) if self.phase == Phase::Publishing => Ok(()),
            Event::Cancelled(failure) => Err(failure),
            Event::Abandoned(failure) => {
                self.is_abandoned = true;
                Err(failure)
            }
            Event::Reported { worker, report } => self.on_report(now, worker, report, effects),
        }
    }

    /// Of backups that were made before, or begun.
    fn hear_of_earlier(
        &mut self,
        now: Timestamp,
        event: Event,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match event {
            Event::UnfinishedGivenUp { repository, result } => self.on_cleared(repository, result, effects),
            Event::PriorOpened { round, prior, head } => {
                self.on_prior_opened(round, prior, head);
                Ok(())
            }
            Event::PriorListed { round, prior, files } => {
                self.on_prior_listed(round, prior, &files);
                Ok(())
            }
            Event::PriorRead { round, prior, result } => {
                self.on_prior_read(now, round, prior, result, effects)
            }
            Event::LeftoverListed { round, ranges } => {
                self.on_leftover_listed(round, &ranges);
                Ok(())
            }
            Event::LeftoverRead { round } => self.on_leftover_read(now, round, effects),
            _ => Ok(()),
        }
    }

    pub(super) fn on_report(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        report: ReportBody,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match report {
            ReportBody::Hello(_)
            | ReportBody::Alive { .. }
            | ReportBody::Draining
            | ReportBody::ErrandEnded(_)
            | ReportBody::Restore(_) => Ok(()),
            ReportBody::Preflighted(_)
            | ReportBody::SessionOpened(_)
            | ReportBody::Scanned(_)
            | ReportBody::ScanEnded(_) => self.on_source_report(now, report, effects),
            ReportBody::SessionLost(failure) if worker == self.source => {
                self.on_session_lost(failure, effects)
            }
            ReportBody::SessionLost(failure) => {
                self.warn([format!("worker {worker} takes no further part: {failure}")], effects);
                self.on_worker_lost(now, &worker, effects)?;
                // It is here, and goes on asking.
                self.readers.insert(worker, Reader::Useless);
                self.set_fares(now);
                Ok(())
            }
            ReportBody::Prepared(result) => self.on_prepared(now, &worker, result, effects),
            ReportBody::Standing(standing) => {
                self.on_standing(now, &worker, standing, effects);
                Ok(())
            }
            ReportBody::Confirmed { round, result } => {
                self.on_confirmed(now, &worker, round, result, effects)
            }
            ReportBody::Ready { units } => self.on_ready(now, worker, units, effects),
            ReportBody::UnitDone(receipt) => self.on_receipt(now, worker, receipt, effects),
            ReportBody::UnitFailed(failure) => self.on_unit_failure(now, worker, failure, effects),
            ReportBody::UnitReturned(returned) => {
                self.on_unit_returned(now, worker, returned, effects);
                Ok(())
            }
            ReportBody::SessionClosed(Ok(end)) => self.on_stop(now, end, effects),
            ReportBody::SessionClosed(Err(failure)) => self.on_session_lost(failure, effects),
            ReportBody::WalSupplied { repository, archiver_works, result } => {
                self.archiver_works |= archiver_works;
                // Asked for by an earlier leader, or said twice: it says nothing of the segments that are awaited.
                if self.supplying.remove(&repository).is_none() {
                    return Ok(());
                }
                self.settle(repository, result, effects)?;
                self.wal_settled(now, repository, effects)
            }
        }
    }

    fn on_repositories(
        &mut self,
        now: Timestamp,
        results: Vec<(RepoKey, Result<RepositoryFacts, Failure>)>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        for (key, result) in results {
            self.awaited.remove(&key);
            match result {
                Ok(facts) => {
                    self.labels.extend(facts.labels.iter().copied());
                    if let Some(state) = self.repositories.get_mut(&key) {
                        state.published = facts.has_this;
                        state.facts = Some(facts);
                    }
                }
                Err(failure) => self.settle_or_yield(key, Err(failure), effects)?,
            }
        }
        if self.alive().iter().all(|key| self.repositories[key].published) {
            // An earlier leader published it and did not live to write that down. There may be no session any more.
            self.finish(effects);
            return Ok(());
        }
        self.begin_session(now, effects)
    }

    fn publish_when_ready(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let is_ready = self.phase == Phase::Awaiting && self.awaited.is_empty();
        if !is_ready || self.copy_wal(effects)? {
            return Ok(());
        }
        let Some(contents) = self.contents.clone() else { return Ok(()) };
        self.phase = Phase::Publishing;
        self.awaited = self.alive().into_iter().collect();
        let outcomes = self.repository_outcomes();
        for repository in self.alive() {
            let stored = self.board.stored(repository);
            let record = contents.record(&outcomes, stored, self.foundation.prior_in(repository));
            effects.push(Effect::Publish {
                repository,
                contents: contents.clone(),
                record: Box::new(record),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
