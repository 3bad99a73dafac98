//! Workers that see no data, and the sources that serve them.

use super::{Fare, Hold, UnitBoard, UnitState, unit_id};
use crate::ids::{UnitId, WorkerName};

impl UnitBoard {
    /// Who is served, and by whom with what. What they may be given is told with their fares.
    pub(in crate::machine::backup) fn set_servers(
        &mut self,
        remote: impl IntoIterator<Item = WorkerName>,
        servers: impl IntoIterator<Item = (WorkerName, Fare)>,
    ) {
        self.remote = remote.into_iter().collect();
        self.servers = servers.into_iter().collect();
    }

    /// Who sees no data is served by the source that serves least just now, of those that have the unit.
    pub(super) fn server_for(&self, number: usize, worker: &WorkerName) -> Option<WorkerName> {
        let needs_one = self.remote.contains(worker);
        let has = |(_, fare): &(&WorkerName, &Fare)| needs_one && fare.has(self.plan.units[number].source);
        let load = |source: &WorkerName| self.serving.get(source).copied().unwrap_or_default();
        let able = self.servers.iter().filter(has).map(|(source, _)| source);
        able.min_by_key(|source| load(source)).cloned()
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
