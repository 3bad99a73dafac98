//! The end of a backup: nothing is left to give, and some workers are still busy while others are not.
//!
//! Both measures cost something only when they are needed: what merely waits for a busy worker is given back without loss, and
//! only what takes far longer than units usually do is read a second time.

use super::{Fare, UnitBoard, UnitState, unit_id};
use crate::ids::{Attempt, UnitId, WorkerName};
use crate::units::Timestamp;
use std::collections::BTreeMap;

/// Who may do one unit at a time: its worker, and one more if that one is slow.
const HOLDS_MAX: usize = 2;
/// A unit is slow when it takes this many times as long as units took so far, and a moment more.
const SLOW_FACTOR: i64 = 3;
const SLOW_MOMENT_MS: i64 = 2000;
/// Of so many units one may be begun twice, and one in any case: if more are slow, reading is what is slow.
const UNITS_PER_DOUBLED: u32 = 20;

impl UnitBoard {
    /// For workers that have nothing left to do: a second go at units that take too long elsewhere.
    pub(in crate::machine::backup) fn assign_stragglers(
        &mut self,
        now: Timestamp,
    ) -> Vec<(WorkerName, Vec<(UnitId, Attempt)>)> {
        if self.timed == 0 {
            return Vec::new();
        }
        let doubled_max = (self.total() / UNITS_PER_DOUBLED).max(1);
        let slow_after = self.taken_ms / self.timed * SLOW_FACTOR + SLOW_MOMENT_MS;
        let mut given = Vec::new();
        for worker in self.idle() {
            let fare = self.fare(&worker);
            let is_slow = |(number, state): (usize, &UnitState)| match state {
                UnitState::Held(holds) => {
                    holds.len() < HOLDS_MAX
                        && fare.has(self.plan.units[number].source)
                        && holds.iter().all(|hold| hold.worker != worker && now.0 - hold.since.0 > slow_after)
                }
                _ => false,
            };
            let Some(number) = self.states.iter().enumerate().position(is_slow) else { continue };
            if self.doubled >= doubled_max {
                break;
            }
            self.doubled += 1;
            let unit = self.give(number, &worker, now);
            self.asked.entry(worker.clone()).and_modify(|waiting| *waiting -= 1);
            given.push((worker, vec![unit]));
        }
        self.asked.retain(|_, waiting| *waiting > 0);
        given
    }

    /// Who wants more and has all that it can be given.
    fn idle(&self) -> Vec<WorkerName> {
        let is_idle = |worker: &&WorkerName| {
            let fare = self.fare(worker);
            fare != Fare::Nothing && !self.has_more_to_give(fare)
        };
        self.asked.keys().filter(is_idle).cloned().collect()
    }

    /// Units that a busy worker may still have in its queue, while another one has nothing to do: half of what the busiest
    /// holds beyond the idle one's share, the ones it was given last.
    pub(in crate::machine::backup) fn surplus(&self) -> Option<(WorkerName, Vec<UnitId>)> {
        let idle: Vec<Fare> = self.idle().iter().map(|worker| self.fare(worker)).collect();
        if idle.is_empty() {
            return None;
        }
        let mut held: BTreeMap<&WorkerName, Vec<UnitId>> = BTreeMap::new();
        for (number, state) in self.states.iter().enumerate() {
            if let UnitState::Held(holds) = state
                && let [hold] = holds.as_slice()
                && hold.token.is_some()
                && idle.iter().any(|fare| fare.has(self.plan.units[number].source))
            {
                held.entry(&hold.worker).or_default().push(unit_id(number));
            }
        }
        held.retain(|worker, _| !self.asked.contains_key(worker));
        let (worker, units) = held.into_iter().max_by_key(|(_, units)| units.len())?;
        let many = units.len() / 2;
        (many > 0).then(|| (worker.clone(), units[units.len() - many..].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::ids::FencingToken;
    use crate::machine::backup::event::UnitLease;
    use crate::plan::backup::{BackupPlan, Source, Unit, Work};
    use crate::plan::homes::Homes;
    use crate::plan::inventory::FileIndex;
    use crate::wire::Receipt;

    const BEGIN: Timestamp = Timestamp(1_000_000);

    fn after(milliseconds: i64) -> Timestamp {
        Timestamp(BEGIN.0 + milliseconds)
    }

    fn worker(name: &str) -> WorkerName {
        name.parse().unwrap()
    }

    /// So many units, and pg_control behind them.
    fn board(units: u32) -> UnitBoard {
        let unit = |number: u32| Unit {
            work: Work::Files(vec![FileIndex(number)]),
            bytes: 1,
            source: Source::Any,
            last: number == units,
        };
        UnitBoard::new(
            BackupPlan { unit_size: 1, units: (0..=units).map(unit).collect() },
            Homes::default(),
            0,
        )
    }

    fn token(unit: UnitId, attempt: Attempt) -> FencingToken {
        FencingToken(u64::from(unit.0) * 10 + u64::from(attempt.0))
    }

    /// Gives that many units to the worker, with their leases.
    fn give(board: &mut UnitBoard, to: &str, units: u16) -> Vec<UnitId> {
        board.asked(worker(to), units);
        let given: Vec<_> = board.assign(BEGIN).into_iter().flat_map(|(_, units)| units).collect();
        let lease = |(unit, attempt): &(UnitId, Attempt)| UnitLease {
            unit: *unit,
            attempt: *attempt,
            token: token(*unit, *attempt),
        };
        board.leased(&worker(to), &given.iter().map(lease).collect::<Vec<_>>());
        given.into_iter().map(|(unit, _)| unit).collect()
    }

    fn accept(board: &mut UnitBoard, now: Timestamp, by: &str, unit: UnitId) {
        let attempt = Attempt(1);
        let receipt = Receipt {
            unit,
            attempt,
            token: token(unit, attempt),
            slot: 0,
            parts: Vec::new(),
            read: 1,
            changed: 1,
            skipped: 0,
            wrong_summary: None,
            stored: Vec::new(),
            failed: Vec::new(),
            spent: Default::default(),
            standby: None,
        };
        board.accept(now, worker(by), receipt, false);
    }

    #[test]
    fn what_waits_for_a_busy_worker_goes_to_an_idle_one_though_pg_control_is_still_to_come() {
        let mut board = board(4);
        let given = give(&mut board, "busy", 4);
        assert_eq!(board.surplus(), None, "nobody is idle");
        assert_eq!(give(&mut board, "idle", 2), []);
        assert_eq!(board.surplus(), Some((worker("busy"), given[2..].to_vec())), "half of it, the last ones");
        for unit in &given[1..] {
            accept(&mut board, after(10), "busy", *unit);
        }
        assert_eq!(board.surplus(), None, "one unit is not shared");
    }

    #[test]
    fn nothing_is_taken_from_anybody_while_there_is_more_to_give() {
        let mut board = board(4);
        give(&mut board, "busy", 3);
        board.asked(worker("idle"), 1);
        assert_eq!(board.surplus(), None);
        assert_eq!(board.assign_stragglers(after(1_000_000)), []);
    }

    #[test]
    fn a_unit_that_takes_far_longer_than_others_is_begun_a_second_time_and_no_third_time() {
        let mut board = board(3);
        let given = give(&mut board, "slow", 3);
        accept(&mut board, after(1_000), "slow", given[0]);
        accept(&mut board, after(1_000), "slow", given[1]);
        give(&mut board, "slow", 1);
        assert_eq!(board.assign_stragglers(after(1_000_000)), [], "not to its own worker");
        give(&mut board, "idle", 1);
        assert_eq!(board.assign_stragglers(after(4_000)), [], "three times as long as others, and a moment");
        let second = vec![(worker("idle"), vec![(given[2], Attempt(2))])];
        assert_eq!(board.assign_stragglers(after(6_000)), second);
        give(&mut board, "third", 1);
        assert_eq!(board.assign_stragglers(after(1_000_000)), []);
    }

    #[test]
    fn no_more_than_one_unit_in_twenty_is_begun_twice() {
        let mut board = board(59);
        let given = give(&mut board, "slow", 59);
        given[9..].iter().for_each(|unit| accept(&mut board, after(1_000), "slow", *unit));
        give(&mut board, "idle", 40);
        let late = after(1_000_000);
        let again: usize = (0..40).map(|_| board.assign_stragglers(late).len()).sum();
        assert_eq!(again, 3, "of sixty");
    }

    #[test]
    fn pg_control_is_given_once_all_others_are_done() {
        let mut board = board(1);
        let given = give(&mut board, "one", 2);
        assert_eq!(given, [UnitId(0)]);
        accept(&mut board, after(10), "one", given[0]);
        assert_eq!(give(&mut board, "two", 1), [UnitId(1)]);
        assert_eq!(board.holds(UnitId(1))[0].worker, worker("one"), "who asked first");
    }
}
