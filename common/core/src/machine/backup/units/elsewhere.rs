//! Units that are to be read from another source than one that has tried: pages that fail there may be intact elsewhere.
//!
//! Invariant: no unit waits for a source that nobody reads.

use super::UnitBoard;
use crate::ids::{UnitId, WorkerName};
use crate::plan::backup::Source;

impl UnitBoard {
    /// Who reads the attempt: its worker itself, or the source that serves it.
    pub(in crate::machine::backup) fn source_of(
        &self,
        unit: UnitId,
        attempt: crate::ids::Attempt,
    ) -> Option<WorkerName> {
        let hold = self.holds(unit).iter().find(|hold| hold.attempt == attempt)?;
        Some(hold.source.as_ref().unwrap_or(&hold.worker).clone())
    }

    /// To be called before the attempt is given back. `false`: nobody reads it from anywhere else.
    pub(in crate::machine::backup) fn look_elsewhere(&mut self, unit: UnitId, than: WorkerName) -> bool {
        let number = unit.0 as usize;
        let can = self.is_read_elsewhere(number, &than);
        if can {
            self.avoided.insert(number, than);
        }
        can
    }

    pub(super) fn is_avoided_by(&self, number: usize, worker: &WorkerName) -> bool {
        !self.served.contains_key(worker) && self.avoided.get(&number) == Some(worker)
    }

    /// After every change in who may be given what.
    pub(super) fn lift_what_nobody_else_reads(&mut self) {
        let avoided = std::mem::take(&mut self.avoided);
        self.avoided =
            avoided.into_iter().filter(|(number, than)| self.is_read_elsewhere(*number, than)).collect();
    }

    fn is_read_elsewhere(&self, number: usize, than: &WorkerName) -> bool {
        let source = self.plan.units[number].source;
        let reads = |worker: &WorkerName| match self.served.get(worker) {
            Some(servers) => servers.iter().any(|(server, fare)| server != than && fare.has(source)),
            None => worker != than,
        };
        source == Source::Any
            && self.fares.keys().any(|worker| self.fare(worker).has(source) && reads(worker))
    }
}
