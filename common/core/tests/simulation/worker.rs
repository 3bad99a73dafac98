//! A worker as it behaves for real: holdings that outlive a connection, a fence of its own, keepers tied to the process.
//!
//! Mirrors `pgconvoy-worker`: `worker.rs`, `outbox.rs`, `holdings.rs`, `lease.rs` and `slots.rs` there.

use crate::keeper::{Keeper, KeeperAct};
use crate::network::{ConnectionId, End, Message};
use crate::storage::Pack;
use crate::world::{Action, World};
use crate::{Millis, identity, span};
use pgconvoy_core::fence::Fence;
use pgconvoy_core::ids::{Attempt, Epoch, FencingToken, Identity, RepoKey, UnitId, WorkerName};
use pgconvoy_core::wire::{
    Held, HeldUnit, Hello, Instruction, JobId, Order, OrderBody, Report, ReportBody, ServerSeen, SourceSeen,
    StoredPack, UnitOrder, Welcome,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const ALIVE_INTERVAL: Millis = 3_000;
const UNCONFIRMED_MAX: Millis = 7_000;
const WELCOME_TIMEOUT: Millis = 15_000;
/// Units that a slot asks for.
const UNITS_PER_SLOT: u16 = 2;

#[derive(Debug, Clone)]
pub(crate) enum WorkerAct {
    Received(ConnectionId, Message),
    Dial,
    WelcomeOverdue(ConnectionId),
    Alive(ConnectionId),
    Keeper { job: JobId, keeper: u64, act: KeeperAct },
    UnitRead(Box<Running>),
    UnitStored(Box<Running>),
}

#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Waiting,
    Running,
    Finished(Box<ReportBody>),
}

/// A unit under way.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) job: JobId,
    pub(crate) keeper: u64,
    pub(crate) order: Arc<UnitOrder>,
    pub(crate) pack: Pack,
    pub(crate) left: Vec<RepoKey>,
    pub(crate) stored: Vec<StoredPack>,
    pub(crate) failed: Vec<pgconvoy_core::wire::RepositoryFailure>,
    pub(crate) standby: Option<pgconvoy_core::wire::Incarnation>,
}

pub(crate) type Holder = (JobId, UnitId, Attempt);

pub(crate) struct Worker {
    pub(crate) name: WorkerName,
    pub(crate) stanza: usize,
    pub(crate) is_up: bool,
    pub(crate) boot: u32,
    pub(crate) frozen_since: Option<Millis>,
    pub(crate) deferred: Vec<WorkerAct>,
    pub(crate) slots: u16,
    pub(crate) busy_slots: u16,
    pub(crate) incarnation: Identity,
    pub(crate) epoch: Epoch,
    fence: Option<Fence>,
    sequence: u64,
    unanswered: BTreeMap<u64, Millis>,
    confirmed: Millis,
    pub(crate) connection: Option<ConnectionId>,
    is_welcome: bool,
    hello_sent: Millis,
    next: usize,
    pub(crate) holdings: BTreeMap<Holder, (FencingToken, Stage)>,
    pub(crate) waiting: VecDeque<(JobId, u64, Arc<UnitOrder>)>,
    pub(crate) keepers: BTreeMap<JobId, Keeper>,
    pub(crate) keepers_made: u64,
}

impl Worker {
    pub(crate) fn new(name: WorkerName, stanza: usize, slots: u16) -> Worker {
        Worker {
            name,
            stanza,
            is_up: false,
            boot: 0,
            frozen_since: None,
            deferred: Vec::new(),
            slots,
            busy_slots: 0,
            incarnation: Identity::default(),
            epoch: Epoch(0),
            fence: None,
            sequence: 0,
            unanswered: BTreeMap::new(),
            confirmed: 0,
            connection: None,
            is_welcome: false,
            hello_sent: 0,
            next: 0,
            holdings: BTreeMap::new(),
            waiting: VecDeque::new(),
            keepers: BTreeMap::new(),
            keepers_made: 0,
        }
    }

    pub(crate) fn capacity(&self) -> u16 {
        self.slots * UNITS_PER_SLOT
    }

    pub(crate) fn has_right(&mut self, now: Millis) -> bool {
        self.fence.as_mut().is_some_and(|fence| !fence.remaining(span(now)).is_zero())
    }

    fn is_held(&self, job: JobId) -> Vec<HeldUnit> {
        let of_job = self.holdings.iter().filter(|((of, _, _), _)| *of == job);
        of_job.map(|((_, unit, attempt), (token, _))| held(*unit, *attempt, *token)).collect()
    }

    pub(crate) fn held_count(&self, job: JobId) -> u16 {
        u16::try_from(self.is_held(job).len()).unwrap_or(u16::MAX)
    }
}

pub(crate) fn held(unit: UnitId, attempt: Attempt, token: FencingToken) -> HeldUnit {
    HeldUnit { unit, attempt, token }
}

impl World {
    pub(crate) fn start_worker(&mut self, id: usize) {
        let incarnation = identity(self.rng.next());
        let old = &self.workers[id];
        let mut worker = Worker::new(old.name.clone(), old.stanza, old.slots);
        (worker.boot, worker.is_up, worker.incarnation) = (old.boot + 1, true, incarnation);
        self.workers[id] = worker;
        self.note(format_args!("worker {id} starts"));
        self.worker_later(id, 10, WorkerAct::Dial);
    }

    pub(crate) fn worker_later(&mut self, id: usize, after: Millis, act: WorkerAct) {
        let boot = self.workers[id].boot;
        self.at(self.now + after, Action::Worker { id, boot, act });
    }

    pub(crate) fn worker_act(&mut self, id: usize, act: WorkerAct) {
        match act {
            WorkerAct::Dial => self.dial(id),
            WorkerAct::Received(connection, message) => {
                if self.workers[id].connection == Some(connection) {
                    self.worker_hears(id, connection, message);
                }
            }
            WorkerAct::WelcomeOverdue(connection) => {
                if self.workers[id].connection == Some(connection) && !self.workers[id].is_welcome {
                    self.close(connection, End::Worker, None, false);
                    self.hang_up(id);
                }
            }
            WorkerAct::Alive(connection) => self.keep_alive(id, connection),
            WorkerAct::Keeper { job, keeper, act } => {
                if self.workers[id].keepers.get(&job).is_some_and(|known| known.number == keeper) {
                    self.keeper_act(id, job, act);
                }
            }
            WorkerAct::UnitRead(running) => self.unit_read(id, running),
            WorkerAct::UnitStored(running) => self.unit_stored(id, *running),
        }
    }

    fn dial(&mut self, id: usize) {
        if self.workers[id].connection.is_some() {
            return;
        }
        let coordinator = self.workers[id].next % self.coordinators.len();
        let Some(connection) = self.connect(id, coordinator) else {
            self.workers[id].next += 1;
            return self.worker_later(id, 700, WorkerAct::Dial);
        };
        let now = self.now;
        let worker = &mut self.workers[id];
        (worker.connection, worker.is_welcome, worker.hello_sent) = (Some(connection), false, now);
        // What it had may be somebody else's: it comes with nothing, and may be given the same lease again.
        if !worker.has_right(now) {
            worker.fence = None;
            worker.holdings.clear();
        }
        let held = worker.keepers.iter().map(|(job, keeper)| Held {
            job: *job,
            session: keeper.has_session,
            prepared: keeper.is_prepared,
            standing: keeper.is_prepared.then(|| keeper.standing()),
            units: worker.is_held(*job),
        });
        let hello = Hello {
            worker: worker.name.clone(),
            incarnation: worker.incarnation,
            program: String::new(),
            slots: worker.slots,
            sources: vec![SourceSeen {
                stanza: crate::scenario::stanza(worker.stanza),
                directory: String::new(),
                server: ServerSeen::Unknown,
            }],
            held: held.collect(),
            draining: false,
            repositories: Vec::new(),
            host: String::new(),
            computes: Default::default(),
        };
        let report = Report { job: None, body: ReportBody::Hello(Box::new(hello)) };
        self.send(connection, End::Worker, Message::Up(Box::new(report)));
        self.worker_later(id, WELCOME_TIMEOUT, WorkerAct::WelcomeOverdue(connection));
    }

    fn hang_up(&mut self, id: usize) {
        self.workers[id].connection = None;
        let pause = self.rng.range(200, 1_500);
        self.worker_later(id, pause, WorkerAct::Dial);
    }

    fn worker_hears(&mut self, id: usize, connection: ConnectionId, message: Message) {
        match message {
            Message::Up(_) => {}
            Message::Closed { leader, .. } => {
                self.is_closed(connection, End::Worker);
                let worker = &mut self.workers[id];
                worker.next = leader.unwrap_or(worker.next + 1);
                self.hang_up(id);
            }
            Message::Down(instruction) => match *instruction {
                Instruction::Welcome(welcome) => self.is_welcomed(id, connection, welcome),
                Instruction::Confirmed { sequence, ttl_ms, .. } => {
                    let now = self.now;
                    let worker = &mut self.workers[id];
                    worker.confirmed = now;
                    let Some(sent) = worker.unanswered.remove(&sequence) else { return };
                    worker.unanswered.retain(|earlier, _| *earlier > sequence);
                    if let Some(fence) = &mut worker.fence {
                        fence.confirm(span(sent), span(ttl_ms), span(now));
                    }
                }
                Instruction::Settled { job, units } => {
                    for (unit, attempt) in units {
                        self.workers[id].holdings.remove(&(job, unit, attempt));
                    }
                }
                Instruction::Order(order) => self.obey(id, order),
            },
        }
    }

    fn is_welcomed(&mut self, id: usize, connection: ConnectionId, welcome: Welcome) {
        let now = self.now;
        let worker = &mut self.workers[id];
        if welcome.epoch < worker.epoch {
            worker.next += 1;
            self.close(connection, End::Worker, None, false);
            return self.hang_up(id);
        }
        worker.epoch = welcome.epoch;
        worker.is_welcome = true;
        worker.confirmed = now;
        let (sent, ttl) = (span(worker.hello_sent), span(welcome.ttl_ms));
        match &mut worker.fence {
            Some(fence) if welcome.same_lease => fence.confirm(sent, ttl, span(now)),
            fence => *fence = Some(Fence::new(sent, ttl)),
        }
        if !worker.has_right(now) {
            self.close(connection, End::Worker, None, false);
            return self.hang_up(id);
        }
        let worker = &mut self.workers[id];
        worker.unanswered.clear();
        if !welcome.same_lease {
            worker.holdings.clear();
        }
        let known: BTreeSet<JobId> = welcome.jobs.into_iter().collect();
        let over: Vec<JobId> = worker.keepers.keys().filter(|job| !known.contains(job)).copied().collect();
        for job in over {
            self.end_job(id, job);
        }
        self.say_what_is_kept(id);
        self.worker_later(id, 0, WorkerAct::Alive(connection));
    }

    fn say_what_is_kept(&mut self, id: usize) {
        let worker = &self.workers[id];
        let finished = worker.holdings.iter().filter_map(|((job, _, _), (_, stage))| match stage {
            Stage::Finished(report) => Some((*job, report.as_ref().clone())),
            _ => None,
        });
        let unfinished = |job: JobId| {
            let open = |((of, _, _), (_, stage)): &(&Holder, &(FencingToken, Stage))| {
                *of == job && !matches!(stage, Stage::Finished(_))
            };
            u16::try_from(worker.holdings.iter().filter(open).count()).unwrap_or(u16::MAX)
        };
        let prepared = worker.keepers.iter().filter(|(_, keeper)| keeper.is_prepared);
        let ready = prepared.map(|(job, _)| {
            let units = worker.capacity().saturating_sub(unfinished(*job));
            (*job, ReportBody::Ready { units })
        });
        let reports: Vec<(JobId, ReportBody)> = finished.chain(ready).collect();
        for (job, body) in reports {
            self.report_plainly(id, job, body);
        }
    }

    fn keep_alive(&mut self, id: usize, connection: ConnectionId) {
        let now = self.now;
        let worker = &mut self.workers[id];
        if worker.connection != Some(connection) || !worker.is_welcome {
            return;
        }
        if now > worker.confirmed + UNCONFIRMED_MAX || !worker.has_right(now) {
            worker.next += 1;
            self.close(connection, End::Worker, None, false);
            return self.hang_up(id);
        }
        worker.sequence += 1;
        let sequence = worker.sequence;
        worker.unanswered.insert(sequence, now);
        let report = Report { job: None, body: ReportBody::Alive { sequence } };
        self.send(connection, End::Worker, Message::Up(Box::new(report)));
        self.worker_later(id, ALIVE_INTERVAL, WorkerAct::Alive(connection));
    }

    fn obey(&mut self, id: usize, order: Order) {
        if order.epoch < self.workers[id].epoch {
            return self.note(format_args!("worker {id} refuses epoch {}", order.epoch));
        }
        self.ledger.obeyed(id, self.workers[id].boot, order.epoch);
        self.workers[id].epoch = order.epoch;
        match order.body {
            OrderBody::End => self.end_job(id, order.job),
            body => {
                let worker = &mut self.workers[id];
                if !worker.keepers.contains_key(&order.job) {
                    worker.keepers_made += 1;
                    worker.keepers.insert(order.job, Keeper::new(worker.keepers_made));
                }
                self.keeper_order(id, order.job, body);
            }
        }
    }

    pub(crate) fn end_job(&mut self, id: usize, job: JobId) {
        let worker = &mut self.workers[id];
        worker.holdings.retain(|(of, _, _), _| *of != job);
        worker.keepers.remove(&job);
    }

    /// Says it if there is somebody to say it to.
    fn report_plainly(&mut self, id: usize, job: JobId, body: ReportBody) {
        if let Some(connection) = self.workers[id].connection.filter(|_| self.workers[id].is_welcome) {
            let report = Report { job: Some(job), body };
            self.send(connection, End::Worker, Message::Up(Box::new(report)));
        }
    }

    /// What came of a unit is kept until it is settled; it is said only by whoever holds it, and only while the lease lives.
    pub(crate) fn report(&mut self, id: usize, job: JobId, body: ReportBody) {
        let of_unit = match &body {
            ReportBody::UnitDone(receipt) => Some((receipt.unit, receipt.attempt)),
            ReportBody::UnitFailed(failure) => Some((failure.unit, failure.attempt)),
            _ => None,
        };
        if let Some((unit, attempt)) = of_unit {
            let now = self.now;
            let worker = &mut self.workers[id];
            if !worker.has_right(now) {
                return;
            }
            let Some((_, stage)) = worker.holdings.get_mut(&(job, unit, attempt)) else { return };
            *stage = Stage::Finished(Box::new(body.clone()));
        }
        self.report_plainly(id, job, body);
    }
}
