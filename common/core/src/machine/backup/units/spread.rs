//! The end of a backup: nothing is left to give, and some workers are still busy while others are not.
//!
//! Both measures cost something only when they are needed: what merely waits for a busy worker is given back without loss, and
//! only what takes far longer than units usually do is read a second time.

use super::{UnitBoard, UnitState, unit_id};
use crate::ids::{Attempt, UnitId, WorkerName};
use crate::units::Timestamp;
use std::collections::BTreeMap;

/// Who may do one unit at a time: its worker, and one more if that one is slow.
const HOLDS_MAX: usize = 2;
/// A unit is slow when it takes this many times as long as units took so far, and a moment more.
const SLOW_FACTOR: i64 = 3;
const SLOW_MOMENT_MS: i64 = 2000;

impl UnitBoard {
    fn has_more_to_give(&self) -> bool {
        self.cursor < self.plan.units.len() || !self.returned.is_empty()
    }

    /// For workers that have nothing left to do: a second go at units that take too long elsewhere.
    pub(in crate::machine::backup) fn assign_stragglers(
        &mut self,
        now: Timestamp,
    ) -> Vec<(WorkerName, Vec<(UnitId, Attempt)>)> {
        if self.has_more_to_give() || self.timed == 0 {
            return Vec::new();
        }
        let slow_after = self.taken_ms / self.timed * SLOW_FACTOR + SLOW_MOMENT_MS;
        let mut given = Vec::new();
        for worker in self.idle() {
            let is_slow = |state: &UnitState| match state {
                UnitState::Held(holds) => {
                    holds.len() < HOLDS_MAX
                        && holds.iter().all(|hold| hold.worker != worker && now.0 - hold.since.0 > slow_after)
                }
                _ => false,
            };
            let Some(number) = self.states.iter().position(is_slow) else { continue };
            let unit = self.give(number, &worker, now);
            self.asked.entry(worker.clone()).and_modify(|waiting| *waiting -= 1);
            given.push((worker, vec![unit]));
        }
        self.asked.retain(|_, waiting| *waiting > 0);
        given
    }

    fn idle(&self) -> Vec<WorkerName> {
        self.asked.keys().cloned().collect()
    }

    /// Units that a busy worker may still have in its queue, while another one has nothing to do: half of what the busiest
    /// holds beyond the idle one's share, the ones it was given last.
    pub(in crate::machine::backup) fn surplus(&self) -> Option<(WorkerName, Vec<UnitId>)> {
        if self.asked.is_empty() || self.has_more_to_give() {
            return None;
        }
        let mut held: BTreeMap<&WorkerName, Vec<UnitId>> = BTreeMap::new();
        for (number, state) in self.states.iter().enumerate() {
            if let UnitState::Held(holds) = state
                && let [hold] = holds.as_slice()
                && hold.token.is_some()
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
