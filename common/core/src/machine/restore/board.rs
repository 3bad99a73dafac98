//! Where the shares of a job stand.

use super::told::Told;
use crate::ids::{Identity, ShareId, WorkerName};
use crate::wire::StagedShare;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Free,
    Held(WorkerName),
    /// By a mate, from that staging place; the main worker is to adopt it.
    Staged(WorkerName, Identity, StagedShare),
    Done,
}

#[derive(Debug, Default)]
pub struct Board {
    /// The number of the first share.
    first: u32,
    states: Vec<State>,
    bytes: Vec<u64>,
    free: BTreeSet<ShareId>,
    held: BTreeMap<WorkerName, BTreeSet<ShareId>>,
    done: u32,
    bytes_done: u64,
}

impl Board {
    pub(super) fn new(first: ShareId, bytes: Vec<u64>) -> Board {
        let states = vec![State::Free; bytes.len()];
        let free = (first.0..).map(ShareId).take(bytes.len()).collect();
        Board { first: first.0, states, bytes, free, ..Board::default() }
    }

    /// How many were settled before these.
    pub fn before(&self) -> u32 {
        self.first
    }

    pub fn total(&self) -> u32 {
        u32::try_from(self.states.len()).unwrap_or(u32::MAX)
    }

    pub fn done(&self) -> u32 {
        self.done
    }

    /// That somebody works on, or that wait to be adopted.
    pub fn held(&self) -> u32 {
        self.total() - self.done - u32::try_from(self.free.len()).unwrap_or(u32::MAX)
    }

    /// Total and done.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes.iter().sum(), self.bytes_done)
    }

    /// How many shares each worker has in hand.
    pub fn busy(&self) -> BTreeMap<WorkerName, u32> {
        let count = |held: &BTreeSet<ShareId>| u32::try_from(held.len()).unwrap_or(u32::MAX);
        self.held.iter().map(|(worker, held)| (worker.clone(), count(held))).collect()
    }

    pub(super) fn held_by(&self, worker: &WorkerName) -> Vec<ShareId> {
        self.held.get(worker).map_or_else(Vec::new, |held| held.iter().copied().collect())
    }

    /// The main worker's own books outrank everything that was thought here.
    pub(super) fn believe(&mut self, main: &WorkerName, told: &Told) {
        told.done().iter().flat_map(|(_, shares)| shares).for_each(|share| self.finish(*share));
        self.take_for(main, told.taken());
    }

    /// The worker says that it has these. What is another's already stays so.
    pub(super) fn take_for(&mut self, worker: &WorkerName, shares: &[ShareId]) {
        for share in shares.iter().filter(|share| self.is_free(**share)).copied().collect::<Vec<_>>() {
            self.put(share, State::Held(worker.clone()));
        }
    }

    /// Gives a worker as many free shares as it may have beside those that it has, largest first.
    pub(super) fn give(&mut self, worker: &WorkerName, limit: usize) -> Vec<ShareId> {
        let in_hand = self.held.get(worker).map_or(0, BTreeSet::len);
        let given: Vec<ShareId> = self.free.iter().take(limit.saturating_sub(in_hand)).copied().collect();
        given.iter().for_each(|share| self.put(*share, State::Held(worker.clone())));
        given
    }

    /// A mate says that it has staged a share. `false`: that is not its business, or known.
    pub(super) fn stage(&mut self, mate: &WorkerName, staging: Identity, staged: StagedShare) -> bool {
        let is_its = match self.state(staged.share) {
            Some(State::Free) => true,
            Some(State::Held(holder)) => holder == mate,
            _ => false,
        };
        if is_its {
            self.put(staged.share, State::Staged(mate.clone(), staging, staged));
        }
        is_its
    }

    pub(super) fn staged(&self) -> impl Iterator<Item = (&WorkerName, Identity, &StagedShare)> {
        self.states.iter().filter_map(|state| match state {
            State::Staged(mate, staging, staged) => Some((mate, *staging, staged)),
            _ => None,
        })
    }

    pub(super) fn finish(&mut self, share: ShareId) {
        self.put(share, State::Done);
    }

    /// The main worker could not adopt it. `false`: it was not to.
    pub(super) fn take_back(&mut self, share: ShareId, mate: &WorkerName, staging: Identity) -> bool {
        let state = self.state(share);
        let is_its = matches!(state, Some(State::Staged(by, from, _)) if by == mate && *from == staging);
        if is_its {
            self.put(share, State::Free);
        }
        is_its
    }

    /// What a worker had in hand is free again; what it has staged is not: that is on disk.
    pub(super) fn free_those_of(&mut self, worker: &WorkerName) {
        self.held_by(worker).into_iter().for_each(|share| self.put(share, State::Free));
    }

    /// `None`: it is none of these, but of an earlier part.
    fn at(&self, share: ShareId) -> Option<usize> {
        share.0.checked_sub(self.first).map(|at| at as usize)
    }

    fn state(&self, share: ShareId) -> Option<&State> {
        self.states.get(self.at(share)?)
    }

    fn is_free(&self, share: ShareId) -> bool {
        self.state(share) == Some(&State::Free)
    }

    /// What is done stays done, and a number that no share has is nobody's.
    fn put(&mut self, share: ShareId, next: State) {
        let Some(at) = self.at(share) else { return };
        let Some(state) = self.states.get_mut(at).filter(|state| **state != State::Done) else { return };
        let old = std::mem::replace(state, next);
        match old {
            State::Free => {
                self.free.remove(&share);
            }
            State::Held(worker) => {
                let held = self.held.get_mut(&worker);
                if held.is_some_and(|held| held.remove(&share) && held.is_empty()) {
                    self.held.remove(&worker);
                }
            }
            State::Staged(..) | State::Done => {}
        }
        match &self.states[at] {
            State::Free => {
                self.free.insert(share);
            }
            State::Held(worker) => {
                self.held.entry(worker.clone()).or_default().insert(share);
            }
            State::Staged(..) => {}
            State::Done => {
                self.done += 1;
                self.bytes_done += self.bytes[at];
            }
        }
    }
}
