//! Accepted units that are written down together, in one transaction: a fleet finishes hundreds of units a second.
//!
//! Invariant: all other effects keep their order. An acceptance may come before a lease, a release or an order that was wanted
//! earlier, since none of them rests on it or undoes it; it never comes later than it would have, and passes nothing else.

use super::event::{AcceptedUnit, Effect};
use crate::ids::WorkerName;
use std::collections::VecDeque;

/// A unit that was accepted, and who may forget it once that is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    pub worker: WorkerName,
    pub accepted: AcceptedUnit,
}

/// What waits to be carried out, in the batches in which it was wanted.
pub type Waiting = VecDeque<VecDeque<Effect>>;

/// Takes out acceptances while there is room for the next.
pub fn take_accepted(
    waiting: &mut Waiting,
    mut has_room: impl FnMut(&AcceptedUnit) -> bool,
) -> Vec<Acceptance> {
    let mut taken = Vec::new();
    for batch in waiting {
        let mut at = 0;
        while let Some(effect) = batch.get(at) {
            match acceptance(effect) {
                Some(acceptance) if has_room(&acceptance.accepted) => {
                    taken.push(acceptance);
                    batch.remove(at);
                }
                None if may_be_passed(effect) => at += 1,
                _ => return taken,
            }
        }
    }
    taken
}

fn acceptance(effect: &Effect) -> Option<Acceptance> {
    match effect {
        Effect::PersistAccepted { worker, accepted } => {
            Some(Acceptance { worker: worker.clone(), accepted: accepted.clone() })
        }
        _ => None,
    }
}

const fn may_be_passed(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::LeaseUnits { .. }
            | Effect::ReleaseLease { .. }
            | Effect::Send { .. }
            | Effect::Settle { .. }
            | Effect::Dropped { .. }
            | Effect::Warn(_)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use crate::ids::{Attempt, RepoKey, UnitId};

    fn worker() -> WorkerName {
        "db1".parse().unwrap()
    }

    fn accept(unit: u32) -> Effect {
        let repositories = vec![RepoKey(1)];
        Effect::PersistAccepted {
            worker: worker(),
            accepted: AcceptedUnit { unit: UnitId(unit), attempt: Attempt(1), repositories, standby: None },
        }
    }

    fn lease(unit: u32) -> Effect {
        Effect::LeaseUnits { worker: worker(), units: vec![(UnitId(unit), Attempt(1))] }
    }

    fn waiting(batches: &[&[Effect]]) -> Waiting {
        batches.iter().map(|batch| batch.iter().cloned().collect()).collect()
    }

    fn units(taken: &[Acceptance]) -> Vec<u32> {
        taken.iter().map(|one| one.accepted.unit.0).collect()
    }

    #[test]
    fn what_is_accepted_in_later_batches_is_taken_and_all_else_keeps_its_order() {
        let mut queue = waiting(&[&[accept(1), lease(7)], &[], &[accept(2), lease(8), accept(3)]]);
        assert_eq!(units(&take_accepted(&mut queue, |_| true)), [1, 2, 3]);
        assert_eq!(queue, waiting(&[&[lease(7)], &[], &[lease(8)]]));
    }

    #[test]
    fn nothing_is_taken_from_behind_the_order_to_stop() {
        let mut queue = waiting(&[&[accept(1)], &[Effect::PersistStopOrder, accept(2)]]);
        assert_eq!(units(&take_accepted(&mut queue, |_| true)), [1]);
        assert_eq!(queue, waiting(&[&[], &[Effect::PersistStopOrder, accept(2)]]));
    }

    #[test]
    fn what_has_no_room_waits_with_all_that_comes_after_it() {
        let mut queue = waiting(&[&[accept(1), accept(2)], &[accept(3)]]);
        let mut left = 1;
        let taken = take_accepted(&mut queue, |_| std::mem::replace(&mut left, 0) > 0);
        assert_eq!(units(&taken), [1]);
        assert_eq!(queue, waiting(&[&[accept(2)], &[accept(3)]]));
    }
}
