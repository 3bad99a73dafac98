//! Whose fault it is that a repository lacks a unit: the repository's, or that of the one worker which cannot store there.
//!
//! A worker that could not store is a suspect, and gets nothing more, until another one has tried with an attempt that it began
//! later: if that one stores, the suspect takes no further part; if it fails too, the repository leaves the job.
//!
//! Invariants
//! 1. A repository into which other workers can store is not lost to the backup for the sake of one.
//! 2. Nothing waits for a verdict that nobody can give: while the others may not do all that the suspect does, it is none.
//! 3. The session's worker is no suspect: what PostgreSQL returns at the end is stored by nobody else.

use super::joining::Reader;
use super::{BackupMachine, Effect};
use crate::failure::Failure;
use crate::ids::{Attempt, RepoKey, UnitId, WorkerName};
use crate::plan::backup::Source;
use crate::units::Timestamp;
use crate::wire::{OrderBody, Receipt, RepositoryFailure};
use std::collections::BTreeMap;

/// Since when, and for what.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<(RepoKey, WorkerName), (Timestamp, Failure)>);

impl BackupMachine {
    /// Whether somebody else shall try before it is decided whose fault that is.
    pub(super) fn begins_to_suspect(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        failed: &[RepositoryFailure],
    ) -> bool {
        let has_another_witness = |one: &&RepositoryFailure| {
            let mut suspects = self.suspects.0.keys();
            suspects.any(|(repository, suspect)| *repository == one.repository && suspect != worker)
        };
        let doubtful: Vec<RepositoryFailure> =
            failed.iter().filter(|one| !has_another_witness(one)).cloned().collect();
        if doubtful.is_empty() || !self.is_replaceable(worker) {
            return false;
        }
        for one in doubtful {
            self.suspects.0.entry((one.repository, worker.clone())).or_insert((now, one.failure));
        }
        self.suspend_suspects();
        true
    }

    /// To be called before the receipt is accepted. Its packs prove that those repositories are well, if nobody could store there
    /// when the attempt began.
    pub(super) fn convict(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        receipt: &Receipt,
        effects: &mut Vec<Effect>,
    ) {
        let Some(begin) = self.begin_of(receipt.unit, receipt.attempt) else { return };
        let has = |key: RepoKey| receipt.stored.iter().any(|stored| stored.repository == key);
        let is_wrong =
            |((repository, suspect), (since, _)): &(&(RepoKey, WorkerName), &(Timestamp, Failure))| {
                has(*repository) && suspect != worker && *since <= begin
            };
        let convicted = self.suspects.0.iter().filter(is_wrong);
        let convicted: Vec<_> = convicted
            .map(|((repository, suspect), (_, failure))| (*repository, suspect.clone(), failure.clone()))
            .collect();
        let is_anybody = !convicted.is_empty();
        for (repository, suspect, failure) in convicted {
            if self.takes_units(&suspect) {
                self.dismiss(&suspect, failure.context(format!("repo {repository}")), effects);
            }
        }
        if is_anybody {
            self.set_fares(now);
        }
    }

    /// After every change in who is here, what they may be given, and which repositories are left.
    pub(super) fn review_suspects(&mut self) {
        let mut suspects = std::mem::take(&mut self.suspects.0);
        let alive = self.alive();
        suspects.retain(|(repository, suspect), _| {
            alive.contains(repository) && self.takes_units(suspect) && self.is_replaceable(suspect)
        });
        self.suspects.0 = suspects;
        self.suspend_suspects();
    }

    /// It comes anew: what it could not do may be possible by now.
    pub(super) fn pardon(&mut self, worker: &WorkerName) {
        self.suspects.0.retain(|(_, suspect), _| suspect != worker);
    }

    fn suspend_suspects(&mut self) {
        let suspects = self.suspects.0.keys().map(|(_, suspect)| suspect.clone());
        self.board.suspend(suspects.collect());
    }

    /// Whether those who would be left may do all that it may.
    fn is_replaceable(&self, worker: &WorkerName) -> bool {
        let others: Vec<&WorkerName> =
            self.readers.keys().filter(|other| *other != worker && self.takes_units(other)).collect();
        let is_done_by_others = |source: Source| {
            let may = |other: &&WorkerName| self.board.fare(other).has(source);
            !self.board.usual_fare(worker).has(source) || others.iter().any(may)
        };
        *worker != self.source && [Source::Any, Source::Primary].into_iter().all(is_done_by_others)
    }

    fn takes_units(&self, worker: &WorkerName) -> bool {
        self.readers.get(worker).is_some_and(|reader| *reader != Reader::Useless)
    }

    fn begin_of(&self, unit: UnitId, attempt: Attempt) -> Option<Timestamp> {
        self.board.holds(unit).iter().find(|hold| hold.attempt == attempt).map(|hold| hold.since)
    }

    /// What it holds goes to others.
    fn dismiss(&mut self, worker: &WorkerName, failure: Failure, effects: &mut Vec<Effect>) {
        self.warn(
            [format!("worker {worker} takes no further part, as others store there: {failure}")],
            effects,
        );
        let held = self.board.leased_to(worker);
        for (unit, attempt, _) in &held {
            effects.push(Effect::ReleaseLease { unit: *unit, attempt: *attempt });
        }
        if !held.is_empty() {
            let units = held.into_iter().map(|(unit, ..)| unit).collect();
            effects.push(self.order_to(worker, OrderBody::GiveBack { units }));
        }
        self.readers.insert(worker.clone(), Reader::Useless);
        self.board.lost(worker);
    }
}
