//! Workers come and go: who reads, who keeps the session, and what is said again to one that was away.
//!
//! Invariants
//! 1. A worker that joins again is believed about what it holds: what it does not know of goes back, what it has of other
//!    attempts is settled as its reports come.
//! 2. Only the source's own word, or its failure to come back in time, makes the session lost. A lost connection does not.

use super::event::UnitLease;
use super::{BackupMachine, Effect, Phase};
use crate::failure::{ErrorCode, Failure};
use crate::ids::{UnitId, WorkerName};
use crate::units::Timestamp;
use crate::wire::{Held, HeldUnit, OrderBody, RepositoryFailure, Standing};

/// A worker that sees the data, or is served by one that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reader {
    /// It may be told to prepare.
    Here,
    /// It is prepared, and has said what it is.
    Fit(Standing),
    /// It cannot do this job's units.
    Useless,
}

impl BackupMachine {
    pub(super) fn present_readers(&self) -> Vec<WorkerName> {
        let here = self.readers.iter().filter(|(_, reader)| **reader != Reader::Useless);
        here.map(|(worker, _)| worker.clone()).collect()
    }

    pub(super) fn on_worker_joined(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        held: Option<Held>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let standing = held.as_ref().and_then(|held| held.standing.clone());
        self.readers.insert(worker.clone(), standing.map_or(Reader::Here, Reader::Fit));
        self.ask_standby_again(&worker);
        self.pardon(&worker);
        self.set_fares(now);
        self.board.forget_wishes(&worker);
        let known: &[HeldUnit] = held.as_ref().map_or(&[], |held| &held.units);
        for lease in self.forsake(|holder, lease| *holder == worker && !known.contains(&held_unit(lease))) {
            effects.push(Effect::ReleaseLease { unit: lease.unit, attempt: lease.attempt });
        }
        for (unit, attempt, token) in self.board.leased_to(&worker) {
            if !known.contains(&HeldUnit { unit, attempt, token }) {
                effects.push(Effect::ReleaseLease { unit, attempt });
                self.board.give_back(unit, attempt);
            }
        }
        let (has_session, is_prepared) =
            held.as_ref().map_or((false, false), |held| (held.session, held.prepared));
        if worker == self.source {
            self.source_is_away = false;
            let is_stopped = self.recovered.stop_ordered || self.phase == Phase::Stopping;
            if is_stopped && held.is_none() && self.phase <= Phase::Stopping {
                // Another process, which can only open another session.
                self.on_session_lost(self.session_is_gone(), effects)?;
            } else if !self.source_is_lost {
                self.say_again_to_source(has_session, effects)?;
            }
        }
        if self.is_copying() {
            // One that is prepared says by itself how many units it can take.
            if !is_prepared {
                effects.push(self.order_to(&worker, self.prepare()?));
            }
            self.confirm_standbys(now, effects);
            self.lease_units(now, effects);
        }
        Ok(())
    }

    /// The orders whose answers may have been lost with the connection.
    fn say_again_to_source(&mut self, has_session: bool, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let needs_session = self.session.is_some() && self.phase < Phase::Stopping;
        if needs_session && !has_session && !self.recovered.stop_ordered {
            return Err(self.session_is_gone());
        }
        match self.phase {
            Phase::Opening if self.facts.is_none() => effects.push(self.order(self.preflight())),
            Phase::Starting => effects.push(self.order(self.open_session())),
            // Pages of a scan under way may still come. Orders are obeyed one after another, so that the answer to this one
            // comes after all of them: until then none counts.
            Phase::Scanning if !self.is_scanned => {
                self.phase = Phase::Starting;
                effects.push(self.order(self.open_session()));
            }
            Phase::Stopping => {
                self.close_session(effects)?;
            }
            _ => {}
        }
        for order in self.supplying.values() {
            effects.push(self.order(OrderBody::SupplyWal(order.clone())));
        }
        Ok(())
    }

    pub(super) fn session_is_gone(&self) -> Failure {
        Failure::new(
            ErrorCode::HostConnect,
            format!("worker {}, which kept the backup session, has lost it", self.source),
        )
        .hint("was the worker restarted? PostgreSQL ends a backup with the session that began it")
        .hint("start the backup again")
        .retryable()
    }

    pub(super) fn on_prepared(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        result: Result<Vec<RepositoryFailure>, Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if *worker == self.source {
            self.source_is_prepared = true;
            for failed in result? {
                self.drop_repository(failed.repository, failed.failure, effects)?;
            }
            return Ok(());
        }
        // What one of several cannot do is no fault of the job.
        let useless = match result {
            Ok(failed) => {
                let missed = failed.into_iter().find(|failed| self.alive().contains(&failed.repository));
                missed.map(|failed| failed.failure.context(format!("repo {}", failed.repository)))
            }
            Err(failure) => Some(failure),
        };
        if let Some(failure) = useless {
            self.warn([format!("worker {worker} takes no part: {failure}")], effects);
            self.readers.insert(worker.clone(), Reader::Useless);
            self.board.lost(worker);
            self.set_fares(now);
            self.lease_units(now, effects);
        }
        self.expect_a_reader()
    }

    pub(super) fn on_ready(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        units: u16,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        // Before copying there is nothing to give; who is told to prepare then asks again.
        if self.is_copying() && self.readers.get(&worker) != Some(&Reader::Useless) {
            self.board.asked(worker, units);
            self.lease_units(now, effects);
        }
        Ok(())
    }

    pub(super) fn on_worker_lost(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        self.readers.remove(worker);
        self.board.lost(worker);
        self.forsake_standby(now, worker, effects);
        self.forsake(|holder, _| holder == worker);
        self.review_suspects();
        self.lease_units(now, effects);
        if *worker != self.source || self.source_is_away || self.source_is_lost {
            return self.expect_a_reader();
        }
        self.source_is_away = true;
        let is_needed =
            self.phase <= Phase::Stopping || matches!(self.phase, Phase::Awaiting | Phase::CopyingWal);
        if is_needed && self.spec.source_patience_ms > 0 {
            self.absence += 1;
            self.warn(
                [format!("worker {worker}, which keeps the backup session, is away: waiting")],
                effects,
            );
            let patience_ms = self.spec.source_patience_ms;
            effects.push(Effect::WaitForSource { absence: self.absence, patience_ms });
            if self.phase == Phase::Stopping {
                // It may have stopped and not lived to say so.
                self.look_for_stop(effects)?;
            }
            return Ok(());
        }
        self.give_up_source(effects)
    }

    /// Who is to take nothing new gives back what it has not begun. The session's worker is not spared: its session is what it
    /// has, and ends the sooner the more it helps.
    pub(super) fn on_worker_drained(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        is_draining: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if *worker == self.source && !self.source_is_lost {
            return Ok(());
        }
        self.board.drain(worker, is_draining);
        self.set_fares(now);
        let units: Vec<UnitId> = self.board.leased_to(worker).into_iter().map(|(unit, ..)| unit).collect();
        if is_draining && !units.is_empty() {
            effects.push(self.order_to(worker, OrderBody::GiveBack { units }));
        }
        self.lease_units(now, effects);
        self.expect_a_reader()
    }

    /// WAL is copied by whoever is here. Once the source will not come back, that may be nobody.
    fn expect_a_reader(&self) -> Result<(), Failure> {
        let is_left_alone = self.phase == Phase::CopyingWal && self.source_is_lost;
        let takes = |worker: &WorkerName| !self.board.is_draining(worker);
        if is_left_alone && !self.present_readers().iter().any(takes) {
            return Err(self.source_gone());
        }
        Ok(())
    }

    /// Without the session there is no backup. Once it is closed the data are safe: only what this worker was to supply will
    /// not come.
    fn give_up_source(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.on_session_lost(self.source_gone(), effects)
    }

    pub(super) fn on_source_overdue(
        &mut self,
        absence: u32,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let is_overdue = self.source_is_away && absence == self.absence;
        if is_overdue { self.give_up_source(effects) } else { Ok(()) }
    }

    pub(super) fn source_gone(&self) -> Failure {
        let message = format!("worker {}, which held the backup session, is gone", self.source);
        Failure::new(ErrorCode::HostConnect, message)
            .hint("is its host up, and can it reach a coordinator? See the worker's log")
            .retryable()
    }
}

fn held_unit(lease: &UnitLease) -> HeldUnit {
    HeldUnit { unit: lease.unit, attempt: lease.attempt, token: lease.token }
}
