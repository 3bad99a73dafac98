//! Which worker a backup begins on.

use crate::registry::{WorkerState, WorkerView};
use pgconvoy_core::ids::{StanzaName, WorkerName};
use pgconvoy_core::wire::ServerSeen;
use std::collections::BTreeMap;

/// By what the stanza's server is there, then by how many units a worker has in hand.
pub(super) fn best_first(
    stanza: &StanzaName,
    workers: &[WorkerView],
    load: &BTreeMap<WorkerName, u32>,
) -> Vec<WorkerName> {
    let is_up = |worker: &&WorkerView| worker.state == WorkerState::Up;
    let rank = |worker: &WorkerView| {
        let sources = worker.sources.iter().filter(|source| source.stanza == *stanza);
        let best = sources.map(|source| match source.server {
            ServerSeen::Primary(_) => 0,
            ServerSeen::Unknown => 1,
            ServerSeen::Down(_) => 2,
            ServerSeen::Standby(_) => 3,
        });
        best.min().unwrap_or(4)
    };
    let mut workers: Vec<&WorkerView> = workers.iter().filter(is_up).collect();
    let load = |worker: &WorkerView| load.get(&worker.name).copied().unwrap_or_default();
    workers.sort_by_key(|worker| (rank(worker), load(worker), worker.name.clone()));
    workers.into_iter().map(|worker| worker.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use pgconvoy_core::ids::SystemId;
    use pgconvoy_core::wire::SourceSeen;

    fn worker(name: &str, sources: &[(&str, ServerSeen)]) -> WorkerView {
        let source = |(stanza, server): &(&str, ServerSeen)| SourceSeen {
            stanza: stanza.parse().unwrap(),
            directory: String::new(),
            server: server.clone(),
        };
        WorkerView {
            name: name.parse().unwrap(),
            state: WorkerState::Up,
            slots: 1,
            sources: sources.iter().map(source).collect(),
            repositories: Vec::new(),
        }
    }

    #[test]
    fn a_source_is_chosen_by_what_it_is_of_that_stanza_and_then_by_its_load() {
        let (primary, standby) = (ServerSeen::Primary(SystemId(1)), ServerSeen::Standby(SystemId(1)));
        let workers = [
            worker("elsewhere", &[("main", standby), ("other", primary.clone())]),
            worker("busy", &[("main", primary.clone())]),
            worker("free", &[("main", primary)]),
        ];
        let load = BTreeMap::from([("busy".parse().unwrap(), 3)]);
        let order = best_first(&"main".parse().unwrap(), &workers, &load);
        assert_eq!(order.iter().map(WorkerName::as_str).collect::<Vec<_>>(), ["free", "busy", "elsewhere"]);
    }
}
