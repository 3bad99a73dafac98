//! The units of a backup and where each stands.

use super::event::{UnitLease, WorkerShare};
use crate::ids::{Attempt, FencingToken, RepoKey, UnitId, WorkerName};
use crate::plan::backup::{BackupPlan, Unit, Work};
use crate::plan::blocks::block_size;
use crate::plan::inventory::{FileIndex, Inventory};
use crate::wire::{PartReceipt, Receipt, UnitOrder, UnitPart};
use std::collections::BTreeMap;

/// A unit that failed this often will fail again.
pub const UNIT_ATTEMPTS_MAX: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitState {
    Pending,
    /// The store is being asked for the lease.
    Leasing(WorkerName),
    Leased {
        worker: WorkerName,
        token: FencingToken,
    },
    Done(Box<Accepted>),
}

/// What is kept of an accepted receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub worker: WorkerName,
    pub slot: u16,
    pub attempt: Attempt,
    pub parts: Vec<PartReceipt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    TryAgain,
    GiveUp,
}

/// Properties: a unit is given to one worker at a time; a unit given again bears a higher attempt.
#[derive(Debug, Default)]
pub struct UnitBoard {
    plan: BackupPlan,
    states: Vec<UnitState>,
    attempts: Vec<Attempt>,
    failures: Vec<u32>,
    /// Units that workers have asked for and not got.
    asked: BTreeMap<WorkerName, u16>,
    /// No pending unit lies before this one, except those in `returned`.
    cursor: usize,
    returned: Vec<usize>,
    done: u32,
    done_bytes: u64,
    read: u64,
    shares: BTreeMap<WorkerName, (u32, u64)>,
}

impl UnitBoard {
    pub fn new(plan: BackupPlan) -> Self {
        let total = plan.units.len();
        UnitBoard {
            states: vec![UnitState::Pending; total],
            attempts: vec![Attempt(0); total],
            failures: vec![0; total],
            plan,
            ..UnitBoard::default()
        }
    }

    pub fn total(&self) -> u32 {
        u32::try_from(self.plan.units.len()).expect("the planner makes far fewer units")
    }

    pub fn done(&self) -> u32 {
        self.done
    }

    /// Planned bytes of all units, and of those that are done.
    pub fn bytes(&self) -> (u64, u64) {
        (self.plan.units.iter().map(|unit| unit.bytes).sum(), self.done_bytes)
    }

    pub fn read(&self) -> u64 {
        self.read
    }

    pub fn unit_size(&self) -> u64 {
        self.plan.unit_size
    }

    pub fn retried(&self) -> u32 {
        self.attempts.iter().map(|attempt| attempt.0.saturating_sub(1)).sum()
    }

    pub fn is_complete(&self) -> bool {
        self.done == self.total()
    }

    pub fn shares(&self) -> Vec<WorkerShare> {
        let share = |(worker, (units, bytes)): (&WorkerName, &(u32, u64))| WorkerShare {
            worker: worker.clone(),
            units: *units,
            bytes: *bytes,
        };
        self.shares.iter().map(share).collect()
    }

    /// Accepted units with their plans, in order of unit.
    pub fn accepted(&self) -> impl Iterator<Item = (UnitId, &Unit, &Accepted)> {
        self.plan.units.iter().zip(&self.states).enumerate().filter_map(|(number, (unit, state))| match state
        {
            UnitState::Done(accepted) => Some((unit_id(number), unit, accepted.as_ref())),
            _ => None,
        })
    }

    pub(super) fn asked(&mut self, worker: WorkerName, units: u16) {
        let waiting = self.asked.entry(worker).or_default();
        *waiting = waiting.saturating_add(units);
    }

    /// Gives pending units to those who asked, largest first; the last ones only when all others are done.
    pub(super) fn assign(&mut self) -> Vec<(WorkerName, Vec<(UnitId, Attempt)>)> {
        let mut given = Vec::new();
        let mut asked = std::mem::take(&mut self.asked);
        for (worker, waiting) in &mut asked {
            let mut units = Vec::new();
            while *waiting > 0
                && let Some(number) = self.next_pending()
            {
                self.attempts[number].0 += 1;
                self.states[number] = UnitState::Leasing(worker.clone());
                units.push((unit_id(number), self.attempts[number]));
                *waiting -= 1;
            }
            if !units.is_empty() {
                given.push((worker.clone(), units));
            }
        }
        asked.retain(|_, waiting| *waiting > 0);
        self.asked = asked;
        given
    }

    fn next_pending(&mut self) -> Option<usize> {
        if let Some(number) = self.returned.pop() {
            return Some(number);
        }
        let unit = self.plan.units.get(self.cursor)?;
        if unit.last && (self.done as usize) < self.plan.units.iter().filter(|unit| !unit.last).count() {
            return None;
        }
        self.cursor += 1;
        Some(self.cursor - 1)
    }

    pub(super) fn leased(&mut self, worker: &WorkerName, leases: &[UnitLease]) {
        for lease in leases {
            if let Some(state) = self.states.get_mut(lease.unit.0 as usize) {
                *state = UnitState::Leased { worker: worker.clone(), token: lease.token };
            }
        }
    }

    pub(super) fn orders(
        &self,
        leases: &[UnitLease],
        inventory: &Inventory,
        repositories: &[RepoKey],
        page_size: u32,
    ) -> Vec<UnitOrder> {
        let order = |lease: &UnitLease| UnitOrder {
            unit: lease.unit,
            attempt: lease.attempt,
            token: lease.token,
            repositories: repositories.to_vec(),
            parts: parts(&self.plan.units[lease.unit.0 as usize].work, inventory, page_size),
        };
        leases.iter().map(order).collect()
    }

    /// Only the bearer of the current lease is heard.
    pub(super) fn is_current(&self, unit: UnitId, attempt: Attempt, token: FencingToken) -> bool {
        let number = unit.0 as usize;
        matches!(self.states.get(number), Some(UnitState::Leased { token: current, .. }) if *current == token)
            && self.attempts[number] == attempt
    }

    /// Whether a receipt says of every part of its unit what can be: completeness is computed from receipts, so a receipt
    /// that lies by omission would publish a backup with holes.
    pub(super) fn check(&self, receipt: &Receipt, inventory: &Inventory) -> Result<(), String> {
        let (files, range): (&[FileIndex], Option<u64>) = match &self.plan.units[receipt.unit.0 as usize].work
        {
            Work::Range { file, length, .. } => (std::slice::from_ref(file), Some(*length)),
            Work::Files(files) => (files, None),
        };
        if files.len() != receipt.parts.len() {
            return Err(format!(
                "it tells of {} parts, and the unit has {}",
                receipt.parts.len(),
                files.len()
            ));
        }
        for (index, part) in files.iter().zip(&receipt.parts) {
            let file = inventory.file(*index);
            let planned = range.unwrap_or(file.size);
            let reason = match part {
                PartReceipt::Vanished
                    if !file.class.may_vanish() && !file.class.vanishes_with_its_directory() =>
                {
                    "is gone, which it must not be"
                }
                PartReceipt::Present { place, length, .. } if place.is_some() != (*length > 0) => {
                    "has bytes without a place, or a place without bytes"
                }
                PartReceipt::Present { length, .. } if *length > planned && file.class.wal_protected() => {
                    "has more bytes than were planned"
                }
                _ => continue,
            };
            return Err(format!("{} {reason}", inventory.path(*index)));
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, worker: WorkerName, receipt: Receipt) {
        let number = receipt.unit.0 as usize;
        let bytes = self.plan.units[number].bytes;
        self.done += 1;
        self.done_bytes += bytes;
        self.read += receipt.read;
        let share = self.shares.entry(worker.clone()).or_default();
        share.0 += 1;
        share.1 += receipt.read;
        self.states[number] = UnitState::Done(Box::new(Accepted {
            worker,
            slot: receipt.slot,
            attempt: receipt.attempt,
            parts: receipt.parts,
        }));
    }

    pub(super) fn fail(&mut self, unit: UnitId) -> Verdict {
        let number = unit.0 as usize;
        self.failures[number] += 1;
        self.give_back(number);
        if self.failures[number] < UNIT_ATTEMPTS_MAX { Verdict::TryAgain } else { Verdict::GiveUp }
    }

    fn give_back(&mut self, number: usize) {
        self.states[number] = UnitState::Pending;
        self.returned.push(number);
    }

    /// A lost worker costs its share of the work: its units go back at once.
    pub(super) fn lost(&mut self, worker: &WorkerName) {
        self.asked.remove(worker);
        for number in 0..self.states.len() {
            let held = matches!(&self.states[number],
                UnitState::Leased { worker: holder, .. } | UnitState::Leasing(holder) if holder == worker);
            if held {
                self.give_back(number);
            }
        }
    }
}

fn unit_id(number: usize) -> UnitId {
    UnitId(u32::try_from(number).expect("the planner makes far fewer units"))
}

fn parts(work: &Work, inventory: &Inventory, page_size: u32) -> Vec<UnitPart> {
    let part = |index: FileIndex, offset, length| {
        let file = inventory.file(index);
        UnitPart {
            path: inventory.path(index),
            class: file.class,
            offset,
            length,
            block_size: block_size(file.size, page_size),
        }
    };
    match work {
        Work::Range { file, offset, length } => vec![part(*file, *offset, *length)],
        Work::Files(files) => files.iter().map(|file| part(*file, 0, inventory.file(*file).size)).collect(),
    }
}
