//! What is still to be given, in the order of the plan: apart for what only the primary has, since not everybody may read it.

use super::{Hold, UnitBoard, UnitState, unit_id};
use crate::ids::{Attempt, UnitId, WorkerName};
use crate::plan::backup::{Source, Unit};
use crate::plan::homes::Homes;
use crate::units::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// What a worker may be given, or what a source has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::machine::backup) enum Fare {
    Nothing,
    /// What standbys have.
    Any,
    /// What only the primary has.
    Primary,
    #[default]
    All,
    /// All, and first of it what nobody else can read.
    PrimaryFirst,
}

impl Fare {
    pub(in crate::machine::backup) fn has(self, source: Source) -> bool {
        match self {
            Fare::Nothing => false,
            Fare::Any => source == Source::Any,
            Fare::Primary => source == Source::Primary,
            Fare::All | Fare::PrimaryFirst => true,
        }
    }
}

/// Units of one kind, by number; no pending one lies before the cursor, except those that were returned.
#[derive(Debug, Clone, Default)]
struct Queue {
    numbers: Vec<usize>,
    cursor: usize,
}

impl Queue {
    fn front(&self) -> Option<usize> {
        self.numbers.get(self.cursor).copied()
    }

    fn rest(&self) -> &[usize] {
        &self.numbers[self.cursor..]
    }
}

/// Queues of units: one of those that only the primary has; of the others, one for each home, and one for those without.
#[derive(Debug, Default)]
pub(super) struct Pending {
    homes: Homes,
    queues: Vec<Queue>,
    returned: Vec<usize>,
}

const OF_PRIMARY: usize = 0;
const HOMELESS: usize = 1;
const FIRST_HOME: usize = 2;

impl Pending {
    pub(super) fn of(units: &[Unit], homes: Homes) -> Pending {
        let queues = vec![Queue::default(); FIRST_HOME + homes.count()];
        let mut pending = Pending { homes, queues, returned: Vec::new() };
        pending.extend(units, 0);
        pending
    }

    /// All before them are done.
    pub(super) fn extend(&mut self, units: &[Unit], first: usize) {
        // Of a board without a plan.
        self.queues.resize(FIRST_HOME + self.homes.count(), Queue::default());
        self.queues.iter_mut().for_each(|queue| queue.cursor = queue.numbers.len());
        for (number, unit) in (first..).zip(units) {
            let at = self.queue_of(number, unit.source);
            self.queues[at].numbers.push(number);
        }
    }

    fn queue_of(&self, number: usize, source: Source) -> usize {
        match (source, self.homes.of(number)) {
            (Source::Primary, _) => OF_PRIMARY,
            (Source::Any, None) => HOMELESS,
            (Source::Any, Some(home)) => FIRST_HOME + usize::from(home),
        }
    }

    fn queue_of_home(&self, worker: &WorkerName) -> Option<usize> {
        self.homes.number(worker).map(|home| FIRST_HOME + usize::from(home))
    }

    /// A unit is pending again.
    pub(super) fn give_back(&mut self, number: usize, source: Source) {
        // One that the cursor has not passed is found there.
        let at = self.queue_of(number, source);
        if self.queues[at].front().is_none_or(|front| number < front) {
            self.returned.push(number);
        }
    }

    fn all(&self) -> impl Iterator<Item = usize> {
        self.queues.iter().map(Queue::rest).chain([&self.returned[..]]).flatten().copied()
    }
}

impl UnitBoard {
    pub(in crate::machine::backup) fn fare(&self, worker: &WorkerName) -> Fare {
        let gets_nothing = self.is_draining(worker) || self.suspended.contains(worker);
        if gets_nothing { Fare::Nothing } else { self.usual_fare(worker) }
    }

    /// Draining and suspended or not.
    pub(in crate::machine::backup) fn usual_fare(&self, worker: &WorkerName) -> Fare {
        self.fares.get(worker).copied().unwrap_or_default()
    }

    /// Nobody but these gets nothing until it is decided what to do with them. Their wishes are kept.
    pub(in crate::machine::backup) fn suspend(&mut self, workers: BTreeSet<WorkerName>) {
        self.suspended = workers;
    }

    /// What others than these may be given is everything.
    pub(in crate::machine::backup) fn set_fares(
        &mut self,
        fares: impl IntoIterator<Item = (WorkerName, Fare)>,
    ) {
        self.fares = fares.into_iter().collect();
        self.lift_what_nobody_else_reads();
    }

    /// Gives pending units to those who asked, largest first, one each in turn; the last ones only when all others are done.
    pub(in crate::machine::backup) fn assign(
        &mut self,
        now: Timestamp,
    ) -> Vec<(WorkerName, Vec<(UnitId, Attempt)>)> {
        let mut given: BTreeMap<WorkerName, Vec<(UnitId, Attempt)>> = BTreeMap::new();
        let mut asking = std::mem::take(&mut self.asked);
        while !asking.is_empty() {
            asking.retain(|worker, waiting| {
                if *waiting == 0 {
                    return false;
                }
                let fare = self.fare(worker);
                let Some(number) = self.next_pending(worker, fare) else {
                    self.asked.insert(worker.clone(), *waiting);
                    return false;
                };
                let unit = self.give(number, worker, now);
                given.entry(worker.clone()).or_default().push(unit);
                *waiting -= 1;
                *waiting > 0
            });
        }
        given.into_iter().collect()
    }

    pub(super) fn give(&mut self, number: usize, worker: &WorkerName, now: Timestamp) -> (UnitId, Attempt) {
        self.retried += u32::from(self.attempts[number].0 > self.first);
        self.attempts[number].0 += 1;
        let attempt = self.attempts[number];
        let source = self.server_for(number, worker);
        self.hold(number, Hold { worker: worker.clone(), attempt, token: None, source, since: now });
        (unit_id(number), attempt)
    }

    /// Whether there is anything that could be given at once to somebody with that fare.
    pub(super) fn has_more_to_give(&self, fare: Fare) -> bool {
        self.pending.all().any(|number| {
            let unit = &self.plan.units[number];
            self.states[number] == UnitState::Pending && fare.has(unit.source) && self.is_due(unit_id(number))
        })
    }

    fn next_pending(&mut self, worker: &WorkerName, fare: Fare) -> Option<usize> {
        if let Some(number) = self.next_returned(worker, fare) {
            return Some(number);
        }
        let any = if fare.has(Source::Any) { self.front_of_any(worker) } else { None };
        let primary = if fare.has(Source::Primary) { self.front(OF_PRIMARY) } else { None };
        let number = match (any, primary) {
            (Some(any), Some(primary)) if fare == Fare::PrimaryFirst || primary < any => primary,
            (Some(any), _) => any,
            (None, primary) => primary?,
        };
        let at = self.pending.queue_of(number, self.plan.units[number].source);
        self.pending.queues[at].cursor += 1;
        Some(number)
    }

    fn next_returned(&mut self, worker: &WorkerName, fare: Fare) -> Option<usize> {
        let states = &self.states;
        self.pending.returned.retain(|number| states[*number] == UnitState::Pending);
        let fits = |number: &usize| {
            fare.has(self.plan.units[*number].source)
                && self.is_due(unit_id(*number))
                && !self.is_avoided_by(*number, worker)
        };
        let at = self.pending.returned.iter().rposition(fits)?;
        Some(self.pending.returned.remove(at))
    }

    /// What this worker has read before, or nobody; else the largest one of somebody else's.
    fn front_of_any(&mut self, worker: &WorkerName) -> Option<usize> {
        let own = self.pending.queue_of_home(worker);
        let first = own.and_then(|at| self.front(at)).into_iter().chain(self.front(HOMELESS)).min();
        first.or_else(|| (FIRST_HOME..self.pending.queues.len()).filter_map(|at| self.front(at)).min())
    }

    /// The next one that can be given; what comes last waits for all others.
    fn front(&mut self, at: usize) -> Option<usize> {
        while let Some(number) = self.pending.queues.get(at)?.front() {
            if self.states[number] == UnitState::Pending {
                return Some(number).filter(|number| self.is_due(unit_id(*number)));
            }
            self.pending.queues[at].cursor += 1;
        }
        None
    }
}
