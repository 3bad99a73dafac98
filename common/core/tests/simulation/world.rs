//! The clock, the queue of what will happen, and everything that there is.
//!
//! Invariant: the next thing to happen is the earliest, and among equals the one that was planned first; nothing else decides.
//! What happens to a process that is frozen happens when it wakes; what happens to one that died does not happen.

use crate::Millis;
use crate::coordinator::{Coordinator, CoordinatorAct};
use crate::invariants::Ledger;
use crate::lease_store::LeaseStore;
use crate::network::{ConnectionId, End, Message, Network};
use crate::rng::Rng;
use crate::scenario::{Fault, Scenario};
use crate::standby::Standby;
use crate::storage::Repository;
use crate::worker::{Worker, WorkerAct};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::JobId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write;

/// Lines of the trace that a failure shows.
const TAIL_LINES: usize = 120;

#[derive(Debug, Clone)]
pub(crate) enum Action {
    Coordinator { id: usize, boot: u32, act: CoordinatorAct },
    Worker { id: usize, boot: u32, act: WorkerAct },
    Deliver { connection: ConnectionId, from: End, message: Message },
    Break { connection: ConnectionId, end: End },
    IdleCheck { connection: ConnectionId },
    Fault(Fault),
}

/// What has happened: a hash of all of it, and in words the last of it.
pub(crate) struct Trace {
    pub(crate) hash: u64,
    pub(crate) is_kept: bool,
    pub(crate) tail: VecDeque<String>,
}

impl Trace {
    fn note(&mut self, now: Millis, words: &str) {
        for byte in now.to_le_bytes().into_iter().chain(words.bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.is_kept {
            self.tail.push_back(format!("{:>8}.{:03} {words}", now / 1000, now % 1000));
            if self.tail.len() > TAIL_LINES {
                self.tail.pop_front();
            }
        }
    }
}

pub(crate) struct World {
    pub(crate) now: Millis,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    actions: BTreeMap<u64, Action>,
    pub(crate) rng: Rng,
    pub(crate) scenario: Scenario,
    pub(crate) network: Network,
    pub(crate) store: LeaseStore,
    pub(crate) store_down_until: Millis,
    /// Each stanza's part of each.
    pub(crate) repositories: BTreeMap<(usize, RepoKey), Repository>,
    pub(crate) coordinators: Vec<Coordinator>,
    pub(crate) workers: Vec<Worker>,
    /// The servers beside workers that see a standby.
    pub(crate) standbys: BTreeMap<usize, Standby>,
    pub(crate) ledger: Ledger,
    pub(crate) trace: Trace,
    words: String,
}

impl World {
    pub(crate) fn new(seed: u64, is_kept: bool, with_standbys: bool) -> World {
        let mut rng = Rng::new(seed);
        let scenario = Scenario { with_standbys, ..Scenario::draw(&mut rng) };
        let mut world = World {
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            actions: BTreeMap::new(),
            rng,
            network: Network::default(),
            store: LeaseStore::default(),
            store_down_until: 0,
            repositories: BTreeMap::new(),
            coordinators: Vec::new(),
            workers: Vec::new(),
            standbys: BTreeMap::new(),
            ledger: Ledger::default(),
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, is_kept, tail: VecDeque::new() },
            words: String::new(),
            scenario,
        };
        world.set_up();
        world
    }

    pub(crate) fn at(&mut self, at: Millis, action: Action) {
        self.sequence += 1;
        self.queue.push(Reverse((at.max(self.now), self.sequence)));
        self.actions.insert(self.sequence, action);
    }

    pub(crate) fn note(&mut self, words: std::fmt::Arguments<'_>) {
        self.words.clear();
        // Writing into a string does not fail.
        let _ = self.words.write_fmt(words);
        self.trace.note(self.now, &self.words);
    }

    /// Runs until every job is over, or for too long, or until an invariant is broken.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse((at, sequence))) = self.queue.pop() {
            self.now = at;
            let action = self.actions.remove(&sequence).expect("what is queued is kept");
            self.store.expire(self.now);
            self.happen(action);
            self.check_step()?;
            if self.is_over() {
                return self.check_end();
            }
            if self.now > self.scenario.faults_until + crate::scenario::PATIENCE {
                return Err(self.tell_hang());
            }
        }
        Err("nothing is left to happen".into())
    }

    fn happen(&mut self, action: Action) {
        match action {
            Action::Coordinator { id, boot, act } => {
                let coordinator = &mut self.coordinators[id];
                if !coordinator.is_up || coordinator.boot != boot {
                    return;
                }
                if coordinator.frozen_since.is_some() {
                    return coordinator.deferred.push(act);
                }
                self.coordinator_act(id, act);
            }
            Action::Worker { id, boot, act } => {
                let worker = &mut self.workers[id];
                if !worker.is_up || worker.boot != boot {
                    return;
                }
                if worker.frozen_since.is_some() {
                    return worker.deferred.push(act);
                }
                self.worker_act(id, act);
            }
            Action::Deliver { connection, from, message } => self.deliver(connection, from, message),
            Action::Break { connection, end } => self.break_off(connection, end),
            Action::IdleCheck { connection } => self.idle_check(connection),
            Action::Fault(fault) => self.strike(fault),
        }
    }

    pub(crate) fn place(&self, job: JobId, key: RepoKey) -> (usize, RepoKey) {
        (self.scenario.stanza_of(job), key)
    }

    pub(crate) fn repository(&mut self, job: JobId, key: RepoKey) -> &mut Repository {
        let place = self.place(job, key);
        self.repositories.get_mut(&place).expect("jobs name repositories that there are")
    }

    /// Whether a coordinator reaches the lease store now.
    pub(crate) fn store_answers(&self, coordinator: usize) -> bool {
        self.now >= self.store_down_until && self.now >= self.coordinators[coordinator].cut_off_until
    }

    pub(crate) fn tail(&self) -> String {
        self.trace.tail.iter().cloned().collect::<Vec<_>>().join("\n")
    }
}
