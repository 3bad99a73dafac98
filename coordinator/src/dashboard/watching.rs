//! What many who watch the same thing share: a job's units are looked at once for all of them, its page and the fleet's are made once, and
//! rates are taken from one look to the next.
//!
//! Invariants
//! 1. Nothing is looked at or made more often than every [`LOOK_INTERVAL`], by one at a time, however many watch; but for a job's change
//!    of state, which nobody is told late.
//! 2. What nobody has looked at for [`FORGET_AFTER`] is forgotten.

use crate::jobs::JobView;
use crate::lead::Lead;
use crate::unit_map::UnitMap;
use pgconvoy_core::ids::{RepoKey, WorkerName};
use pgconvoy_core::job::JobState;
use pgconvoy_core::wire::JobId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Often enough to see units move.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Over how long a rate is taken.
const RATE_WINDOW: Duration = Duration::from_secs(15);

/// A look at a job's units.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) map: UnitMap,
    /// Bytes a second that each worker read lately.
    pub(crate) worker_rates: BTreeMap<WorkerName, u64>,
    /// Bytes a second that went into each repository lately.
    pub(crate) repository_rates: BTreeMap<RepoKey, u64>,
}

/// A job as all its watchers are shown it.
#[derive(Clone)]
pub(crate) struct Seen {
    /// `None`: it has no units to be seen, or none any more.
    pub(crate) look: Option<Arc<Look>>,
    pub(crate) page: Arc<str>,
}

/// When, and how many bytes workers had read and repositories got by then.
type Bytes = (Instant, BTreeMap<WorkerName, u64>, BTreeMap<RepoKey, u64>);

#[derive(Default)]
struct Watched {
    /// When, of a job in which state, and what.
    seen: Option<(Instant, JobState, Seen)>,
    /// Looks of the window, for rates.
    past: VecDeque<Bytes>,
}

type Slot = Arc<tokio::sync::Mutex<Watched>>;

impl Look {
    /// Of a job that is over.
    pub(crate) fn of_states(states: Vec<u8>) -> Look {
        Look { map: UnitMap { states, ..UnitMap::default() }, ..Look::default() }
    }
}

/// The fleet page of a leadership, made at that time.
type FleetPage = (u64, Instant, Arc<str>);

#[derive(Default)]
pub(crate) struct Watching {
    jobs: Mutex<BTreeMap<(u64, JobId), (Instant, Slot)>>,
    fleet: tokio::sync::Mutex<Option<FleetPage>>,
}

impl Watching {
    /// The job, looked at and shown anew when that is too old.
    pub(crate) async fn job(
        &self,
        lead: &Lead,
        job: &JobView,
        make: impl FnOnce(Option<&Look>) -> String,
    ) -> Seen {
        let (id, state) = (job.record.id, job.record.state);
        let slot = self.slot(lead.leadership().epoch().0, id);
        let mut watched = slot.lock().await;
        if let Some((at, known, seen)) = &watched.seen
            && *known == state
            && at.elapsed() < LOOK_INTERVAL
        {
            return seen.clone();
        }
        let map = lead.unit_map(id).await;
        let now = Instant::now();
        let look = map.map(|map| Arc::new(watched.rated(now, map)));
        let seen = Seen { page: make(look.as_deref()).into(), look };
        watched.seen = Some((now, state, seen.clone()));
        seen
    }

    /// The fleet page, made anew when it is too old.
    pub(crate) async fn fleet(&self, lead: &Lead, make: impl FnOnce() -> String) -> Arc<str> {
        let epoch = lead.leadership().epoch().0;
        let mut known = self.fleet.lock().await;
        if let Some((of, made, page)) = known.as_ref()
            && *of == epoch
            && made.elapsed() < LOOK_INTERVAL
        {
            return page.clone();
        }
        let page: Arc<str> = make().into();
        *known = Some((epoch, Instant::now(), page.clone()));
        page
    }

    fn slot(&self, epoch: u64, job: JobId) -> Slot {
        let now = Instant::now();
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, (used, _)| now.duration_since(*used) < FORGET_AFTER);
        let (used, slot) = jobs.entry((epoch, job)).or_insert_with(|| (now, Slot::default()));
        *used = now;
        slot.clone()
    }
}

impl Watched {
    fn rated(&mut self, now: Instant, map: UnitMap) -> Look {
        let read = map.workers.iter().map(|part| (part.worker.clone(), part.bytes)).collect();
        let stored = map.repositories.iter().map(|part| (part.repository, part.stored)).collect();
        while self.past.front().is_some_and(|(at, ..)| now.duration_since(*at) > RATE_WINDOW) {
            self.past.pop_front();
        }
        self.past.push_back((now, read, stored));
        let (Some((begin, read_then, stored_then)), Some((end, read, stored))) =
            (self.past.front(), self.past.back())
        else {
            return Look { map, ..Look::default() };
        };
        let over = end.duration_since(*begin);
        Look {
            worker_rates: rates(read_then, read, over),
            repository_rates: rates(stored_then, stored, over),
            map,
        }
    }
}

/// Bytes a second; what was not there before begins at nothing.
fn rates<K: Ord + Clone>(
    then: &BTreeMap<K, u64>,
    now: &BTreeMap<K, u64>,
    over: Duration,
) -> BTreeMap<K, u64> {
    let milliseconds = over.as_millis();
    let rate = |(key, bytes): (&K, &u64)| {
        let grown = bytes.saturating_sub(then.get(key).copied().unwrap_or(0));
        let rate = (u128::from(grown) * 1000).checked_div(milliseconds).unwrap_or(0);
        (key.clone(), u64::try_from(rate).unwrap_or(u64::MAX))
    };
    now.iter().map(rate).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use crate::unit_map::WorkerPart;

    fn read(bytes: u64) -> UnitMap {
        let part = WorkerPart { worker: "w1".parse().unwrap(), units: 1, bytes };
        UnitMap { workers: vec![part], ..UnitMap::default() }
    }

    #[tokio::test]
    async fn a_rate_follows_what_a_worker_read_lately() {
        let (begin, mut watched) = (Instant::now(), Watched::default());
        let mut at = |second: u64, bytes| {
            watched.rated(begin + Duration::from_secs(second), read(bytes)).worker_rates
                [&"w1".parse().unwrap()]
        };
        assert_eq!(at(0, 1_000), 0, "one look tells no rate");
        assert_eq!(at(2, 5_000), 2_000);
        assert_eq!(at(40, 5_000), 0, "what was long ago counts no more");
        assert_eq!(at(42, 5_200), 100);
    }
}
