//! Workers that see no data, and the sources that serve them.

use super::{Fare, Hold, UnitBoard, UnitState, unit_id};
use crate::ids::{UnitId, WorkerName};
use std::collections::BTreeMap;

/// Sources that a worker reaches, and what each has.
pub(in crate::machine::backup) type Servers = BTreeMap<WorkerName, Fare>;

impl UnitBoard {
    /// Who is served, and by whom. What they may be given is told with their fares.
    pub(in crate::machine::backup) fn set_served(&mut self, served: BTreeMap<WorkerName, Servers>) {
        self.served = served;
        self.lift_what_nobody_else_reads();
    }

    /// Who sees no data is served by the source that serves least just now, of those that have the unit.
    pub(super) fn server_for(&self, number: usize, worker: &WorkerName) -> Option<WorkerName> {
        let (source, avoided) = (self.plan.units[number].source, self.avoided.get(&number));
        let has = |(server, fare): &(&WorkerName, &Fare)| fare.has(source) && Some(*server) != avoided;
        let load = |server: &WorkerName| self.serving.get(server).copied().unwrap_or_default();
        let able = self.served.get(worker)?.iter().filter(has).map(|(server, _)| server);
        able.min_by_key(|server| load(server)).cloned()
    }

    /// Attempts that others make at what this source serves them.
    pub(in crate::machine::backup) fn served_by(&self, source: &WorkerName) -> Vec<(UnitId, Hold)> {
        let numbered = self.states.iter().enumerate();
        let held = numbered.filter_map(|(number, state)| match state {
            UnitState::Held(holds) => Some(holds.iter().map(move |hold| (unit_id(number), hold.clone()))),
            _ => None,
        });
        held.flatten().filter(|(_, hold)| hold.source.as_ref() == Some(source)).collect()
    }
}
