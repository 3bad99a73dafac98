//! Receipts of standbys count provisionally: until somebody has seen, after the last read, that the standby is what it was.

use super::{UnitBoard, UnitState};
use crate::ids::{Attempt, UnitId, WorkerName};
use crate::wire::{FromStandby, Incarnation};
use std::collections::BTreeMap;

/// Attempts that one look at a standby decides about.
pub(in crate::machine::backup) type Doubtful = Vec<(UnitId, Attempt)>;

impl UnitBoard {
    /// All is done that need not wait for all others, and for confirmations.
    pub(in crate::machine::backup) fn waits_for_the_last(&self) -> bool {
        let last = self.plan.units.iter().filter(|unit| unit.last).count();
        self.done as usize + last >= self.plan.units.len()
    }

    pub(in crate::machine::backup) fn has_provisional(&self) -> bool {
        self.provisional > 0
    }

    /// By the standby that was read, and by its start: that of the first of them, if there are several.
    pub(in crate::machine::backup) fn doubtful(&self) -> BTreeMap<WorkerName, (Incarnation, Doubtful)> {
        let mut doubtful: BTreeMap<WorkerName, (Incarnation, Doubtful)> = BTreeMap::new();
        if !self.has_provisional() {
            return doubtful;
        }
        for (unit, _, accepted) in self.accepted() {
            let Some(from) = accepted.standby.as_ref().filter(|_| !accepted.is_confirmed) else { continue };
            let entry = doubtful.entry(from.worker.clone());
            let (first, units) = entry.or_insert_with(|| (from.incarnation, Vec::new()));
            if *first == from.incarnation {
                units.push((unit, accepted.attempt));
            }
        }
        doubtful
    }

    pub(in crate::machine::backup) fn confirm(&mut self, units: &[(UnitId, Attempt)]) {
        for (unit, attempt) in units {
            if let Some(UnitState::Done(accepted)) = self.states.get_mut(unit.0 as usize)
                && accepted.attempt == *attempt
                && accepted.standby.is_some()
                && !accepted.is_confirmed
            {
                accepted.is_confirmed = true;
                self.provisional -= 1;
            }
        }
    }

    /// What that standby gave and nobody has confirmed is to be read again; tells how many units.
    pub(in crate::machine::backup) fn void(&mut self, standby: &WorkerName) -> usize {
        self.do_again(|accepted| {
            let is_of = |from: &FromStandby| from.worker == *standby;
            !accepted.is_confirmed && accepted.standby.as_ref().is_some_and(is_of)
        })
    }
}
