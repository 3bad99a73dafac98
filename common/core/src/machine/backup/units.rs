//! The units of a backup and where each stands.

mod draining;
mod elsewhere;
mod orders;
mod pending;
mod provisional;
mod serving;
mod spread;

use super::event::{UnitLease, WorkerShare};
use super::stages::Occupation;
use crate::ids::{Attempt, FencingToken, RepoKey, UnitId, WorkerName};
use crate::plan::backup::{BackupPlan, Unit, Work};
use crate::plan::homes::Homes;
use crate::plan::inventory::FileIndex;
use crate::units::Timestamp;
use crate::wire::{FromStandby, PartReceipt, Receipt, StoredPack};
pub(super) use pending::Fare;
use pending::Pending;
pub(super) use provisional::Doubtful;
pub(super) use serving::Servers;
use std::collections::{BTreeMap, BTreeSet};

/// A unit that failed this often will fail again.
pub const UNIT_ATTEMPTS_MAX: u32 = 3;
/// Attempts of the next leader begin so much higher: it does not know of each one that was given before it led, and what
/// bears the same number would bear the same name. More than one leadership ever makes.
pub const ATTEMPTS_PER_TERM: u32 = 1_000;
/// The right of one worker to one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub worker: WorkerName,
    pub attempt: Attempt,
    /// `None`: the store is being asked for the lease.
    pub token: Option<FencingToken>,
    /// Who serves it, if its worker does not see the data itself.
    pub source: Option<WorkerName>,
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitState {
    Pending,
    Held(Vec<Hold>),
    Done(Box<Accepted>),
}

/// What is kept of an accepted receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub worker: WorkerName,
    pub slot: u16,
    pub attempt: Attempt,
    pub parts: Vec<PartReceipt>,
    /// Bytes that were not read.
    pub skipped: u64,
    changed: u64,
    /// Nothing had to be stored, thanks to an earlier attempt at the same backup.
    is_resumed: bool,
    /// The standby that was read, if it was one, and whether it was the same after that.
    standby: Option<FromStandby>,
    is_confirmed: bool,
    stored: Vec<StoredPack>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    TryAgain,
    GiveUp,
}

/// Properties: a unit is given to one worker at a time, to a second one only when the first is slow; a unit given again
/// bears a higher attempt.
#[derive(Debug, Default)]
pub struct UnitBoard {
    plan: BackupPlan,
    states: Vec<UnitState>,
    attempts: Vec<Attempt>,
    /// What attempts count from.
    first: u32,
    failures: Vec<u32>,
    /// Units that workers have asked for and not got.
    asked: BTreeMap<WorkerName, u16>,
    /// Workers that are given nothing, whatever they ask for.
    draining: BTreeSet<WorkerName>,
    suspended: BTreeSet<WorkerName>,
    /// What workers may be given; those that are not in it, everything.
    fares: BTreeMap<WorkerName, Fare>,
    /// Workers that see no data themselves: who serves each of them, with what.
    served: BTreeMap<WorkerName, Servers>,
    pending: Pending,
    /// Units that one source is not to read again.
    avoided: BTreeMap<usize, WorkerName>,
    held: u32,
    /// Attempts under way, by worker, and by the source that serves one.
    busy: BTreeMap<WorkerName, u32>,
    serving: BTreeMap<WorkerName, u32>,
    retried: u32,
    doubled: u32,
    done: u32,
    bytes: u64,
    done_bytes: u64,
    read: u64,
    changed: u64,
    skipped: u64,
    /// Milliseconds from lease to receipt, summed over `timed` units.
    taken_ms: i64,
    timed: i64,
    shares: BTreeMap<WorkerName, (u32, u64)>,
    /// Units that are done and not confirmed.
    provisional: u32,
}

impl UnitBoard {
    pub fn new(plan: BackupPlan, homes: Homes, term: u32) -> Self {
        let total = plan.units.len();
        let first = term.saturating_mul(ATTEMPTS_PER_TERM);
        UnitBoard {
            states: vec![UnitState::Pending; total],
            attempts: vec![Attempt(first); total],
            first,
            failures: vec![0; total],
            bytes: plan.units.iter().map(|unit| unit.bytes).sum(),
            pending: Pending::of(&plan.units, homes),
            plan,
            ..UnitBoard::default()
        }
    }

    /// Units that come once all others are done, numbered behind them.
    pub(super) fn extend(&mut self, units: Vec<Unit>) {
        debug_assert!(self.is_complete(), "what is read last would not be last");
        self.pending.extend(&units, self.plan.units.len());
        self.states.extend(units.iter().map(|_| UnitState::Pending));
        self.attempts.extend(units.iter().map(|_| Attempt(self.first)));
        self.failures.extend(units.iter().map(|_| 0));
        self.bytes += units.iter().map(|unit| unit.bytes).sum::<u64>();
        self.plan.units.extend(units);
    }

    pub fn total(&self) -> u32 {
        u32::try_from(self.plan.units.len()).expect("the planner makes far fewer units")
    }

    pub fn done(&self) -> u32 {
        self.done
    }

    /// Planned bytes of all units, and of those that are done.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.done_bytes)
    }

    /// Planned bytes of one unit.
    pub fn bytes_of(&self, unit: UnitId) -> u64 {
        self.unit(unit).map_or(0, |unit| unit.bytes)
    }

    pub fn read(&self) -> u64 {
        self.read
    }

    pub fn changed(&self) -> u64 {
        self.changed
    }

    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    pub fn unit_size(&self) -> u64 {
        self.plan.unit_size
    }

    pub fn retried(&self) -> u32 {
        self.retried
    }

    /// Begun a second time while their first worker was still at them.
    pub fn doubled(&self) -> u32 {
        self.doubled
    }

    /// Units of which nothing had to be stored, thanks to an earlier attempt.
    pub fn resumed(&self) -> u32 {
        let resumed = self.accepted().filter(|(_, _, accepted)| accepted.is_resumed).count();
        u32::try_from(resumed).expect("the planner makes far fewer units")
    }

    /// Bytes of packs in that repository.
    pub(super) fn stored(&self, repository: RepoKey) -> u64 {
        let packs = self.accepted().flat_map(|(_, _, accepted)| &accepted.stored);
        packs.filter(|pack| pack.repository == repository).map(|pack| pack.bytes).sum()
    }

    pub(super) fn files(&self, unit: UnitId) -> &[FileIndex] {
        match self.unit(unit).map(|unit| &unit.work) {
            Some(Work::Range { file, .. }) => std::slice::from_ref(file),
            Some(Work::Files(files)) => files,
            None => &[],
        }
    }

    pub fn is_complete(&self) -> bool {
        self.done == self.total() && self.provisional == 0
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

    pub(super) fn unit(&self, unit: UnitId) -> Option<&Unit> {
        self.plan.units.get(unit.0 as usize)
    }

    /// Every unit and where it stands, in order.
    pub fn units(&self) -> impl Iterator<Item = (UnitId, &Unit, &UnitState)> {
        let both = self.plan.units.iter().zip(&self.states).enumerate();
        both.map(|(number, (unit, state))| (unit_id(number), unit, state))
    }

    pub fn states(&self) -> &[UnitState] {
        &self.states
    }

    /// Units that somebody works on.
    pub fn held(&self) -> u32 {
        self.held
    }

    pub(super) fn asked(&mut self, worker: WorkerName, units: u16) {
        let waiting = self.asked.entry(worker).or_default();
        *waiting = waiting.saturating_add(units);
    }

    /// What it had asked for counts no more: it will ask again.
    pub(super) fn forget_wishes(&mut self, worker: &WorkerName) {
        self.asked.remove(worker);
    }

    pub fn occupation(&self) -> Occupation {
        let asked = self.asked.iter().filter(|(worker, _)| self.fare(worker) != Fare::Nothing);
        Occupation { held: self.held, idle: asked.map(|(_, units)| u32::from(*units)).sum() }
    }

    pub fn busy(&self) -> &BTreeMap<WorkerName, u32> {
        &self.busy
    }

    fn unbusy(&mut self, hold: &Hold) {
        one_less(&mut self.busy, &hold.worker);
        if let Some(source) = &hold.source {
            one_less(&mut self.serving, source);
        }
    }

    fn hold(&mut self, number: usize, hold: Hold) {
        *self.busy.entry(hold.worker.clone()).or_default() += 1;
        if let Some(source) = &hold.source {
            *self.serving.entry(source.clone()).or_default() += 1;
        }
        match &mut self.states[number] {
            UnitState::Held(holds) => holds.push(hold),
            state => {
                *state = UnitState::Held(vec![hold]);
                self.held += 1;
            }
        }
    }

    /// Takes note of granted leases; answers with those that are still wanted.
    pub(super) fn leased(&mut self, worker: &WorkerName, leases: &[UnitLease]) -> Vec<UnitLease> {
        let mut wanted = Vec::new();
        for lease in leases {
            let state = self.states.get_mut(lease.unit.0 as usize);
            let Some(UnitState::Held(holds)) = state else { continue };
            let ours = |hold: &&mut Hold| hold.worker == *worker && hold.attempt == lease.attempt;
            if let Some(hold) = holds.iter_mut().find(ours) {
                hold.token = Some(lease.token);
                wanted.push(*lease);
            }
        }
        wanted
    }

    /// Only the bearer of a current lease is heard.
    pub(super) fn is_current(&self, unit: UnitId, attempt: Attempt, token: FencingToken) -> bool {
        self.holds(unit).iter().any(|hold| hold.attempt == attempt && hold.token == Some(token))
    }

    pub(super) fn holds(&self, unit: UnitId) -> &[Hold] {
        match self.states.get(unit.0 as usize) {
            Some(UnitState::Held(holds)) => holds,
            _ => &[],
        }
    }

    /// Every attempt whose lease a worker has.
    pub(super) fn leased_to(&self, worker: &WorkerName) -> Vec<(UnitId, Attempt, FencingToken)> {
        let numbered = self.states.iter().enumerate();
        let held = numbered.filter_map(|(number, state)| match state {
            UnitState::Held(holds) => Some(holds.iter().map(move |hold| (unit_id(number), hold))),
            _ => None,
        });
        let theirs = held.flatten().filter(|(_, hold)| hold.worker == *worker);
        theirs.filter_map(|(unit, hold)| Some((unit, hold.attempt, hold.token?))).collect()
    }

    /// Answers with the other attempts at the unit, which came too late.
    pub(super) fn accept(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        receipt: Receipt,
        is_resumed: bool,
    ) -> Vec<Hold> {
        let mut others = self.holds(receipt.unit).to_vec();
        if let Some(at) = others.iter().position(|hold| hold.attempt == receipt.attempt) {
            self.taken_ms += (now.0 - others.swap_remove(at).since.0).max(0);
            self.timed += 1;
        }
        self.settle(worker, receipt, is_resumed);
        others
    }

    /// Of an earlier leader: accepted then, and accepted now.
    pub(super) fn restore(&mut self, worker: WorkerName, receipt: Receipt, is_resumed: bool) {
        let number = receipt.unit.0 as usize;
        self.attempts[number] = self.attempts[number].max(receipt.attempt);
        self.settle(worker, receipt, is_resumed);
    }

    fn settle(&mut self, worker: WorkerName, receipt: Receipt, is_resumed: bool) {
        let number = receipt.unit.0 as usize;
        for hold in self.holds(receipt.unit).to_vec() {
            self.unbusy(&hold);
        }
        self.held -= u32::from(matches!(self.states[number], UnitState::Held(_)));
        self.done += 1;
        self.provisional += u32::from(receipt.standby.is_some());
        self.done_bytes += self.plan.units[number].bytes;
        self.read += receipt.read;
        self.changed += receipt.changed;
        self.skipped += receipt.skipped;
        let share = self.shares.entry(worker.clone()).or_default();
        share.0 += 1;
        share.1 += receipt.read;
        self.states[number] = UnitState::Done(Box::new(Accepted {
            worker,
            slot: receipt.slot,
            attempt: receipt.attempt,
            parts: receipt.parts,
            skipped: receipt.skipped,
            changed: receipt.changed,
            is_resumed,
            standby: receipt.standby,
            is_confirmed: false,
            stored: receipt.stored,
        }));
    }

    pub(super) fn has_skipped(&self) -> bool {
        self.accepted().any(|(_, _, accepted)| accepted.skipped > 0)
    }

    /// Units that left something unread are pending again; tells how many.
    pub(super) fn do_again_what_skipped(&mut self) -> usize {
        self.do_again(|accepted| accepted.skipped > 0)
    }

    fn do_again(&mut self, is_worthless: impl Fn(&Accepted) -> bool) -> usize {
        let mut again = 0;
        for number in 0..self.states.len() {
            let UnitState::Done(accepted) = &self.states[number] else { continue };
            if !is_worthless(accepted) {
                continue;
            }
            let unit = &self.plan.units[number];
            self.done -= 1;
            self.done_bytes -= unit.bytes;
            self.changed -= accepted.changed;
            self.skipped -= accepted.skipped;
            self.provisional -= u32::from(accepted.standby.is_some() && !accepted.is_confirmed);
            self.states[number] = UnitState::Pending;
            self.pending.give_back(number, unit.source);
            again += 1;
        }
        again
    }

    /// Whether the unit may be read before all others are done, or all others are.
    pub(super) fn is_due(&self, unit: UnitId) -> bool {
        let others = self.plan.units.iter().filter(|unit| !unit.last).count();
        let is_over = self.done as usize >= others && self.provisional == 0;
        self.unit(unit).is_some_and(|unit| !unit.last || is_over)
    }

    /// A lease that an earlier leader granted. Its worker will tell whether it knows of it. `false`: the unit needs none.
    pub(super) fn adopt(&mut self, now: Timestamp, worker: WorkerName, lease: UnitLease) -> bool {
        let number = lease.unit.0 as usize;
        if !self.is_due(lease.unit) || matches!(self.states[number], UnitState::Done(_)) {
            self.was_tried(lease.unit, lease.attempt);
            return false;
        }
        self.attempts[number] = self.attempts[number].max(lease.attempt);
        // Who served it, its worker knows.
        let (attempt, token) = (lease.attempt, Some(lease.token));
        self.hold(number, Hold { worker, attempt, token, source: None, since: now });
        true
    }

    /// An attempt that was tried before, and of which nothing is left: the next one bears a higher number.
    pub(super) fn was_tried(&mut self, unit: UnitId, attempt: Attempt) {
        if let Some(known) = self.attempts.get_mut(unit.0 as usize) {
            *known = (*known).max(attempt);
        }
    }

    pub(super) fn fail(&mut self, unit: UnitId, attempt: Attempt) -> Verdict {
        let number = unit.0 as usize;
        self.failures[number] += 1;
        self.give_back(unit, attempt);
        if self.failures[number] < UNIT_ATTEMPTS_MAX { Verdict::TryAgain } else { Verdict::GiveUp }
    }

    /// That attempt is over without anybody's fault.
    pub(super) fn give_back(&mut self, unit: UnitId, attempt: Attempt) {
        let number = unit.0 as usize;
        let Some(UnitState::Held(holds)) = self.states.get_mut(number) else { return };
        let Some(at) = holds.iter().position(|hold| hold.attempt == attempt) else { return };
        let over = holds.remove(at);
        let is_free = holds.is_empty();
        self.unbusy(&over);
        if is_free {
            self.states[number] = UnitState::Pending;
            self.held -= 1;
            self.pending.give_back(number, self.plan.units[number].source);
        }
    }

    /// A lost worker costs its share of the work: its units go back at once.
    pub(super) fn lost(&mut self, worker: &WorkerName) {
        self.asked.remove(worker);
        self.draining.remove(worker);
        self.fares.remove(worker);
        let numbers = (0..self.total()).map(UnitId);
        let held = numbers.flat_map(|unit| self.holds(unit).iter().map(move |hold| (unit, hold)));
        let theirs: Vec<(UnitId, Attempt)> = held
            .filter(|(_, hold)| hold.worker == *worker)
            .map(|(unit, hold)| (unit, hold.attempt))
            .collect();
        for (unit, attempt) in theirs {
            self.give_back(unit, attempt);
        }
    }
}

fn one_less(counts: &mut BTreeMap<WorkerName, u32>, of: &WorkerName) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

fn unit_id(number: usize) -> UnitId {
    UnitId(u32::try_from(number).expect("the planner makes far fewer units"))
}
