//! The units that a worker was ordered to do and that nobody has settled yet.
//!
//! Invariants
//! 1. A unit is in here from its order until its attempt is settled, given back, or forgotten with its job or lease.
//! 2. Only what is in here is begun or reported: what was forgotten ends without a word, whatever it had become.
//! 3. An order that is repeated changes nothing.

use pgconvoy_core::ids::{Attempt, FencingToken, UnitId};
use pgconvoy_core::wire::{HeldUnit, JobId, ReportBody};
use std::collections::BTreeMap;

#[derive(Debug)]
enum Stage {
    /// For a slot.
    Waiting,
    Running,
    /// Reported, perhaps to nobody; reported again after each new connection.
    Finished(Box<ReportBody>),
}

#[derive(Debug)]
struct Holding {
    token: FencingToken,
    stage: Stage,
}

/// One attempt at one unit of one job.
pub(crate) type Holder = (JobId, UnitId, Attempt);

#[derive(Debug, Default)]
pub(crate) struct Holdings(BTreeMap<Holder, Holding>);

impl Holdings {
    /// `false`: it is here already.
    pub(crate) fn add(&mut self, holder: Holder, token: FencingToken) -> bool {
        let is_new = !self.0.contains_key(&holder);
        self.0.entry(holder).or_insert(Holding { token, stage: Stage::Waiting });
        is_new
    }

    /// Whether a slot may begin it.
    pub(crate) fn start(&mut self, holder: Holder) -> bool {
        match self.0.get_mut(&holder) {
            Some(holding @ Holding { stage: Stage::Waiting, .. }) => {
                holding.stage = Stage::Running;
                true
            }
            _ => false,
        }
    }

    /// Keeps what came of it; `false` if nobody wants to know.
    pub(crate) fn finish(&mut self, holder: Holder, report: &ReportBody) -> bool {
        match self.0.get_mut(&holder) {
            Some(holding) => {
                holding.stage = Stage::Finished(Box::new(report.clone()));
                true
            }
            None => false,
        }
    }

    pub(crate) fn settle(&mut self, job: JobId, units: &[(UnitId, Attempt)]) {
        for (unit, attempt) in units {
            self.0.remove(&(job, *unit, *attempt));
        }
    }

    /// Takes those of these units out that no slot has begun.
    pub(crate) fn give_back(&mut self, job: JobId, units: &[UnitId]) -> Vec<HeldUnit> {
        let waits = |(holder, holding): (&Holder, &Holding)| {
            let wanted = holder.0 == job && units.contains(&holder.1);
            (wanted && matches!(holding.stage, Stage::Waiting)).then_some(*holder)
        };
        let waiting: Vec<Holder> = self.0.iter().filter_map(waits).collect();
        waiting
            .into_iter()
            .filter_map(|holder| Some(held_unit(holder, self.0.remove(&holder)?.token)))
            .collect()
    }

    pub(crate) fn forget_job(&mut self, job: JobId) {
        self.0.retain(|holder, _| holder.0 != job);
    }

    pub(crate) fn forget_all(&mut self) {
        self.0.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn of_job(&self, job: JobId) -> Vec<HeldUnit> {
        let held = self.0.iter().filter(|(holder, _)| holder.0 == job);
        held.map(|(holder, holding)| held_unit(*holder, holding.token)).collect()
    }

    /// Units of the job that need a slot now or later.
    pub(crate) fn unfinished(&self, job: JobId) -> usize {
        let unfinished = |(holder, holding): &(&Holder, &Holding)| {
            holder.0 == job && !matches!(holding.stage, Stage::Finished(_))
        };
        self.0.iter().filter(unfinished).count()
    }

    pub(crate) fn finished(&self) -> Vec<(JobId, ReportBody)> {
        let report = |(holder, holding): (&Holder, &Holding)| match &holding.stage {
            Stage::Finished(report) => Some((holder.0, report.as_ref().clone())),
            _ => None,
        };
        self.0.iter().filter_map(report).collect()
    }
}

fn held_unit((_, unit, attempt): Holder, token: FencingToken) -> HeldUnit {
    HeldUnit { unit, attempt, token }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::ids::Identity;

    const ONE: UnitId = UnitId(1);
    const TWO: UnitId = UnitId(2);
    const FIRST: Attempt = Attempt(1);

    fn job(number: u8) -> JobId {
        JobId(Identity::from_random_bytes([number; 16]))
    }

    fn holding(units: &[UnitId]) -> Holdings {
        let mut holdings = Holdings::default();
        for unit in units {
            assert!(holdings.add((job(1), *unit, FIRST), FencingToken(7)));
        }
        holdings
    }

    #[test]
    fn a_repeated_order_is_no_second_one() {
        let mut holdings = holding(&[ONE]);
        assert!(!holdings.add((job(1), ONE, FIRST), FencingToken(7)));
        assert!(holdings.start((job(1), ONE, FIRST)));
        assert!(!holdings.start((job(1), ONE, FIRST)), "one slot is enough");
    }

    #[test]
    fn what_is_finished_is_told_until_it_is_settled() {
        let mut holdings = holding(&[ONE]);
        let report = ReportBody::Ready { units: 1 };
        assert!(holdings.finish((job(1), ONE, FIRST), &report));
        assert_eq!(holdings.finished(), [(job(1), report)]);
        assert_eq!(holdings.unfinished(job(1)), 0);
        holdings.settle(job(2), &[(ONE, FIRST)]);
        assert_eq!(holdings.of_job(job(1)).len(), 1);
        holdings.settle(job(1), &[(ONE, FIRST)]);
        assert!(holdings.is_empty());
    }

    #[test]
    fn only_what_no_slot_has_begun_is_given_back() {
        let mut holdings = holding(&[ONE, TWO]);
        holdings.start((job(1), ONE, FIRST));
        let back = holdings.give_back(job(1), &[ONE, TWO]);
        assert_eq!(back, [HeldUnit { unit: TWO, attempt: FIRST, token: FencingToken(7) }]);
        assert!(!holdings.start((job(1), TWO, FIRST)));
    }

    #[test]
    fn what_was_forgotten_is_neither_begun_nor_reported() {
        let mut holdings = holding(&[ONE]);
        holdings.forget_job(job(1));
        assert!(!holdings.start((job(1), ONE, FIRST)));
        assert!(!holdings.finish((job(1), ONE, FIRST), &ReportBody::Ready { units: 1 }));
    }
}
