//! A `repo-sync` that workers share: the main worker's team, and a mate's part.
//!
//! Invariants
//! 1. Only the main worker publishes, and it looks at each object that a mate says it copied: `pgconvoy_repository::sync` does both.
//! 2. An object is settled once: the main worker's books decide, whatever a coordinator thinks.
//! 3. Numbers of objects go up from part to part, so that what is said late of an earlier one means nothing.
//!
//! Failure story: a mate that fails, is lost or lies costs what it had in hand, which the main worker or others copy. A main worker
//! that is lost is followed by another, which finds what is there.

mod mate;
mod tasks;

pub use mate::help;

use crate::desk::Desk;
use crate::random;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Identity, ShareId, WorkerName};
use pgconvoy_core::wire::{CopyPart, Copying, ShareOrder, ShareReport, StagedShare};
use pgconvoy_repository::sync::{Crew, Hands, Said};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tasks::Tasks;

/// What one worker did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// That were not there before.
    pub objects: u64,
    pub bytes: u64,
}

/// Everybody who copies, as the main worker knows them.
#[derive(Debug)]
pub struct Team {
    desk: Arc<Desk>,
    slots: usize,
    roll: Mutex<Roll>,
}

#[derive(Debug, Default)]
struct Roll {
    /// The next part's first number.
    next: u32,
    mates: BTreeMap<WorkerName, Identity>,
    left_out: Vec<(WorkerName, Failure)>,
    shares: BTreeMap<WorkerName, Share>,
}

impl Team {
    /// `slots`: objects that this worker copies at once.
    pub fn new(desk: Arc<Desk>, slots: usize) -> Team {
        Team { desk, slots: slots.max(1), roll: Mutex::default() }
    }

    /// By worker, of the parts that were shared.
    pub fn shares(&self) -> BTreeMap<WorkerName, Share> {
        self.roll().shares.clone()
    }

    /// Who could not help, and why.
    pub fn left_out(&self) -> Vec<(WorkerName, Failure)> {
        self.roll().left_out.clone()
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew for Team {
    fn copy(&self, part: &CopyPart, hands: &dyn Hands) -> Result<(), Failure> {
        let count = u32::try_from(part.objects.count()).unwrap_or(u32::MAX);
        let first = {
            let mut roll = self.roll();
            let first = roll.next;
            roll.next = first
                .checked_add(count)
                .ok_or_else(|| Failure::new(ErrorCode::Assert, "more objects than can be numbered"))?;
            first
        };
        let (run, books, tasks) =
            (Identity::from_random_bytes(random::bytes()?), Mutex::default(), Tasks::default());
        let shift = Shift { team: self, part, hands, run, first, count, books, tasks };
        std::thread::scope(|scope| {
            for _ in 0..self.slots.min(count as usize) {
                scope.spawn(|| shift.work());
            }
            shift.serve();
        });
        Ok(())
    }
}

/// An object that the main worker is to copy, or to look at.
struct Task {
    share: ShareId,
    /// The mate that says it has copied it.
    of: Option<(WorkerName, Identity, StagedShare)>,
}

#[derive(Default)]
struct Books {
    done: BTreeMap<ShareId, WorkerName>,
    /// Waiting for a thread, or on one.
    in_hand: BTreeSet<ShareId>,
}

/// One part.
struct Shift<'a> {
    team: &'a Team,
    part: &'a CopyPart,
    hands: &'a dyn Hands,
    run: Identity,
    first: u32,
    count: u32,
    books: Mutex<Books>,
    tasks: Tasks<Task>,
}

impl Shift<'_> {
    fn serve(&self) {
        self.say_how_far();
        while !self.is_over() {
            if let Some(order) = self.team.desk.next_unless(|| self.is_over()) {
                self.obey(order);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.hands.are_bound() || self.books().done.len() == self.count as usize
    }

    fn say_how_far(&self) {
        let (roll, books) = (self.team.roll(), self.books());
        let mut done: BTreeMap<WorkerName, Vec<ShareId>> = BTreeMap::new();
        for (share, by) in &books.done {
            done.entry(by.clone()).or_default().push(*share);
        }
        self.team.desk.say(ShareReport::Copying(Box::new(Copying {
            run: self.run,
            slots: u16::try_from(self.team.slots).unwrap_or(u16::MAX),
            first: ShareId(self.first),
            part: self.part.clone(),
            done: done.into_iter().collect(),
            taken: books.in_hand.iter().copied().collect(),
            mates: roll.mates.clone().into_iter().collect(),
            left_out: roll.left_out.iter().map(|(mate, _)| mate.clone()).collect(),
        })));
    }

    fn obey(&self, order: ShareOrder) {
        match order {
            ShareOrder::Lead(_) => self.say_how_far(),
            ShareOrder::Take { within, shares } if within == self.run => {
                shares.into_iter().for_each(|share| self.take(Task { share, of: None }));
            }
            ShareOrder::Admit { mate } => match self.admit(&mate) {
                Ok(staging) => self.team.desk.say(ShareReport::Admitted { mate, staging }),
                Err(failure) => tracing::warn!("worker {mate} cannot help: {failure}"),
            },
            ShareOrder::Dismiss { mate, because } => {
                let mut roll = self.team.roll();
                roll.mates.remove(&mate);
                if let Some(failure) = because {
                    tracing::warn!("worker {mate} is left out of the repo-sync: {failure}");
                    roll.left_out.push((mate, failure));
                }
            }
            ShareOrder::Adopt { mate, staging, staged } => {
                self.take(Task { share: staged.share, of: Some((mate, staging, staged)) });
            }
            // Of an earlier part, or of another job's kind.
            ShareOrder::Take { .. } | ShareOrder::Assist(_) | ShareOrder::Copy(_) => {}
        }
    }

    fn admit(&self, mate: &WorkerName) -> Result<Identity, Failure> {
        let mut roll = self.team.roll();
        if let Some(known) = roll.mates.get(mate) {
            return Ok(*known);
        }
        let staging = Identity::from_random_bytes(random::bytes()?);
        tracing::info!("worker {mate} helps with the repo-sync");
        roll.mates.insert(mate.clone(), staging);
        Ok(staging)
    }

    fn take(&self, task: Task) {
        let is_of_this_part = task.share.0.checked_sub(self.first).is_some_and(|at| at < self.count);
        if !is_of_this_part {
            return;
        }
        let mut books = self.books();
        if books.done.contains_key(&task.share) {
            drop(books);
            self.say_done(&task);
        } else if books.in_hand.insert(task.share) {
            drop(books);
            // What others have done takes little time, and they wait for it.
            if task.of.is_some() { self.tasks.push_first(task) } else { self.tasks.push(task) }
        }
    }

    fn work(&self) {
        while !self.is_over() {
            if let Some(task) = self.tasks.next_unless(|| self.is_over()) {
                self.settle(&task);
            }
        }
    }

    fn settle(&self, task: &Task) {
        let said = match &task.of {
            None => Said::Nothing,
            Some((_, _, staged)) if staged.was_there => Said::Present,
            Some(_) => Said::Copied,
        };
        let Some(settled) = self.hands.settle((task.share.0 - self.first) as usize, said) else { return };
        let by = match &task.of {
            Some((mate, ..)) if settled.is_theirs => mate,
            _ => self.team.desk.worker(),
        };
        if let Some(bytes) = settled.bytes {
            let mut roll = self.team.roll();
            let share = roll.shares.entry(by.clone()).or_default();
            share.objects += 1;
            share.bytes += bytes;
        }
        let mut books = self.books();
        books.in_hand.remove(&task.share);
        books.done.insert(task.share, by.clone());
        drop(books);
        self.say_done(task);
        if self.is_over() {
            self.tasks.wake();
            self.team.desk.wake();
        }
    }

    fn say_done(&self, task: &Task) {
        let share = task.share;
        self.team.desk.say(match &task.of {
            None => ShareReport::Written { run: self.run, share },
            Some((mate, staging, _)) => {
                ShareReport::Adopted { mate: mate.clone(), staging: *staging, share, result: Ok(()) }
            }
        });
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
