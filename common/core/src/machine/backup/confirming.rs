//! Standbys are asked whether they still are what their receipts rest on.
//!
//! A standby that was promoted, or made anew, gives bytes that belong to no backup of this primary, and nothing in them says so. So
//! each of its receipts is provisional until a look that began after it shows: still in recovery, the same start of the same
//! postmaster, the same timeline.
//!
//! Invariants
//! 1. A look decides about what was accepted before it was ordered, and about nothing else.
//! 2. What comes last (pg_control) is read when nothing is provisional any more; so nothing is when the session ends.
//! 3. A standby that was lost, or found to be another one, costs what nobody had confirmed, and takes no further part.

use super::joining::Reader;
use super::units::Doubtful;
use super::{BackupMachine, Effect};
use crate::failure::Failure;
use crate::ids::WorkerName;
use crate::units::Timestamp;
use crate::wire::{ConfirmOrder, OrderBody, Standing, UnitFailure};
use std::collections::BTreeMap;

/// What a standby can cost at most when it is lost, in time.
const INTERVAL_MS: i64 = 30_000;

#[derive(Debug, Default)]
pub(super) struct Confirming {
    /// Looks under way, by the standby's worker.
    asked: BTreeMap<WorkerName, (u32, Doubtful)>,
    rounds: u32,
    /// When all of them were asked.
    last: Option<Timestamp>,
}

impl BackupMachine {
    /// Now and then, and at once when only confirmations are waited for.
    pub(super) fn confirm_standbys(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if !self.is_copying() || !self.board.has_provisional() {
            return;
        }
        let last = *self.confirming.last.get_or_insert(now);
        let is_time = now.0 - last.0 >= INTERVAL_MS;
        if !is_time && !self.board.waits_for_the_last() {
            return;
        }
        let Some(terms) = self.reading().standbys else { return };
        for (worker, (incarnation, units)) in self.board.doubtful() {
            let is_here = matches!(self.readers.get(&worker), Some(Reader::Fit(_) | Reader::Here));
            if !is_here && is_time {
                // An earlier leader accepted it from somebody who is not here any more.
                self.forsake_standby(now, &worker, effects);
            } else if is_here && !self.confirming.asked.contains_key(&worker) {
                self.confirming.rounds += 1;
                let round = self.confirming.rounds;
                self.confirming.asked.insert(worker.clone(), (round, units));
                let order = OrderBody::Confirm(ConfirmOrder { round, incarnation, terms });
                effects.push(self.order_to(&worker, order));
            }
        }
        if is_time {
            self.confirming.last = Some(now);
        }
    }

    /// The order may have been lost with the connection.
    pub(super) fn ask_standby_again(&mut self, worker: &WorkerName) {
        self.confirming.asked.remove(worker);
    }

    pub(super) fn on_confirmed(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        round: u32,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let Some((_, units)) = self.confirming.asked.get(worker).filter(|(asked, _)| *asked == round) else {
            return Ok(());
        };
        match result {
            Ok(()) => {
                self.board.confirm(&units.clone());
                self.confirming.asked.remove(worker);
            }
            Err(failure) => self.dismiss_standby(now, worker, &failure, effects),
        }
        self.confirm_standbys(now, effects);
        self.lease_units(now, effects);
        self.stop_when_done(effects)
    }

    /// What it gave and nobody has confirmed is read again, and what it serves goes elsewhere.
    pub(super) fn forsake_standby(&mut self, now: Timestamp, worker: &WorkerName, effects: &mut Vec<Effect>) {
        self.confirming.asked.remove(worker);
        self.move_what_it_serves(worker, effects);
        let again = self.board.void(worker);
        if again > 0 {
            self.warn(
                [format!("{again} units that the standby of worker {worker} gave are read again")],
                effects,
            );
        }
        self.set_fares(now);
    }

    /// The standby whose files could not be read, if that is why the attempt failed. One that is stopped, or whose directory is
    /// made anew, fails in any way; the primary has all that it had.
    pub(super) fn standby_behind(&self, worker: &WorkerName, report: &UnitFailure) -> Option<WorkerName> {
        let hold = self.board.holds(report.unit).iter().find(|hold| hold.attempt == report.attempt);
        let source = hold.and_then(|hold| hold.source.as_ref()).unwrap_or(worker);
        let is_standby = matches!(self.readers.get(source), Some(Reader::Fit(Standing::Standby { .. })));
        (is_standby && report.failed.is_empty()).then(|| source.clone())
    }

    pub(super) fn dismiss_standby(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        failure: &Failure,
        effects: &mut Vec<Effect>,
    ) {
        self.warn([format!("worker {worker} takes no further part: {failure}")], effects);
        self.readers.insert(worker.clone(), Reader::Useless);
        self.give_up_attempts_of(worker, effects);
        self.forsake_standby(now, worker, effects);
    }

    fn give_up_attempts_of(&mut self, worker: &WorkerName, effects: &mut Vec<Effect>) {
        let leased = self.board.leased_to(worker);
        let units = leased.iter().map(|(unit, ..)| *unit).collect();
        for (unit, attempt, _) in leased {
            effects.push(Effect::ReleaseLease { unit, attempt });
        }
        self.board.lost(worker);
        effects.push(self.order_to(worker, OrderBody::GiveBack { units }));
    }
}
