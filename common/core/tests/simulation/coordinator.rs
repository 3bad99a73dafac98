//! One of several coordinators: campaigns, leads while its own clock says that it may, and knows its workers.
//!
//! Mirrors `fleet.rs`, `leader.rs`, `registry.rs` and `actors/worker_link.rs` of `pgconvoy-coordinator`.

use crate::effects::Answer;
use crate::leading::Live;
use crate::lease_store::{Acquire, Key, LeaseId, Refused, Value};
use crate::network::{ConnectionId, End, Message};
use crate::scenario::{LEADER_TTL, WORKER_TTL};
use crate::world::{Action, World};
use crate::{Millis, span};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::fence::Fence;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::{Epoch, FencingToken, Identity, RepoKey, StanzaName, WorkerName};
use pgconvoy_core::machine::backup::{Event, Fate};
use pgconvoy_core::machine::queue::JobQueue;
use pgconvoy_core::wire::{Hello, Instruction, JobId, Report, ReportBody, Welcome};
use std::collections::{BTreeMap, BTreeSet};

const CAMPAIGN_INTERVAL: Millis = 500;
/// How often the machine is told that time has passed.
pub(crate) const TICK: Millis = 200;

/// What is done beside: it goes on whoever leads, until the process ends.
#[derive(Debug, Clone)]
pub(crate) enum CoordinatorAct {
    Received(ConnectionId, Message),
    Campaign,
    KeepAlive(FencingToken),
    KeptAlive {
        epoch: FencingToken,
        sent: Millis,
    },
    TakeOver(FencingToken),
    Serve(FencingToken),
    Expire {
        epoch: FencingToken,
        worker: WorkerName,
        since: Millis,
    },
    Tick {
        epoch: FencingToken,
        job: JobId,
    },
    Happened {
        epoch: FencingToken,
        job: JobId,
        event: Box<Event>,
    },
    Apply {
        epoch: FencingToken,
        job: JobId,
    },
    Answered {
        epoch: FencingToken,
        job: JobId,
        answer: Box<Answer>,
    },
    Prepare {
        epoch: FencingToken,
        job: JobId,
        seen: Option<BTreeMap<(RepoKey, BackupLabel), u64>>,
    },
    Clear(Box<crate::beside::Clearing>),
    ReadPrior(Box<crate::beside::ReadingPrior>),
    AwaitWal(Box<crate::beside::WalWait>),
    WritePlan {
        epoch: FencingToken,
        job: JobId,
        repository: RepoKey,
        label: BackupLabel,
    },
    Beat {
        epoch: FencingToken,
        job: JobId,
        repository: RepoKey,
        label: BackupLabel,
    },
    Recall {
        epoch: FencingToken,
        job: JobId,
        label: BackupLabel,
        units: Vec<pgconvoy_core::machine::backup::event::AcceptedUnit>,
    },
    RecallSession {
        epoch: FencingToken,
        job: JobId,
        label: BackupLabel,
    },
    FindStop {
        epoch: FencingToken,
        job: JobId,
        label: BackupLabel,
    },
    GiveUp {
        epoch: FencingToken,
        job: JobId,
        label: BackupLabel,
        left: Vec<RepoKey>,
        fates: Vec<(RepoKey, Result<Fate, Failure>)>,
    },
    Publish(Box<crate::beside::Publishing>),
}

pub(crate) struct Entry {
    incarnation: Identity,
    pub(crate) lease: LeaseId,
    pub(crate) link: Option<ConnectionId>,
    heard: Millis,
    is_lost: bool,
    stanzas: Vec<StanzaName>,
}

impl Entry {
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }
}

/// A leadership.
pub(crate) struct Leading {
    pub(crate) epoch: FencingToken,
    pub(crate) lease: LeaseId,
    pub(crate) fence: Fence,
    pub(crate) has_taken_over: bool,
    pub(crate) workers: BTreeMap<WorkerName, Entry>,
    pub(crate) links: BTreeMap<ConnectionId, WorkerName>,
    /// Jobs that hear of workers, with the stanza whose data these must see.
    pub(crate) routes: BTreeMap<JobId, StanzaName>,
    pub(crate) queue: JobQueue,
    pub(crate) jobs: BTreeMap<JobId, Live>,
}

#[derive(Default)]
pub(crate) struct Coordinator {
    pub(crate) is_up: bool,
    pub(crate) boot: u32,
    pub(crate) frozen_since: Option<Millis>,
    pub(crate) deferred: Vec<CoordinatorAct>,
    pub(crate) cut_off_until: Millis,
    pub(crate) leading: Option<Leading>,
    known_leader: Option<usize>,
}

impl World {
    pub(crate) fn start_coordinator(&mut self, id: usize) {
        let coordinator = &mut self.coordinators[id];
        if coordinator.is_up {
            return;
        }
        (coordinator.is_up, coordinator.boot) = (true, coordinator.boot + 1);
        (coordinator.leading, coordinator.frozen_since) = (None, None);
        coordinator.deferred.clear();
        let after = self.rng.range(1, CAMPAIGN_INTERVAL);
        self.coordinator_later(id, after, CoordinatorAct::Campaign);
    }

    pub(crate) fn coordinator_later(&mut self, id: usize, after: Millis, act: CoordinatorAct) {
        let boot = self.coordinators[id].boot;
        self.at(self.now + after, Action::Coordinator { id, boot, act });
    }

    /// The leadership of that epoch, if this coordinator may still act for it.
    pub(crate) fn leading(&mut self, id: usize, epoch: FencingToken) -> Option<&mut Leading> {
        let now = self.now;
        let leading = self.coordinators[id].leading.as_mut().filter(|leading| leading.epoch == epoch)?;
        (!leading.fence.remaining(span(now)).is_zero()).then_some(leading)
    }

    pub(crate) fn coordinator_act(&mut self, id: usize, act: CoordinatorAct) {
        self.notice_loss(id);
        match act {
            CoordinatorAct::Received(connection, message) => self.coordinator_hears(id, connection, message),
            CoordinatorAct::Campaign => self.campaign(id),
            CoordinatorAct::KeepAlive(epoch) => self.keep_leading(id, epoch),
            CoordinatorAct::KeptAlive { epoch, sent } => {
                let now = self.now;
                if let Some(leading) = self.leading(id, epoch) {
                    leading.fence.confirm(span(sent), span(LEADER_TTL), span(now));
                }
            }
            CoordinatorAct::TakeOver(epoch) => self.take_over(id, epoch),
            CoordinatorAct::Serve(epoch) => self.serve(id, epoch),
            CoordinatorAct::Expire { epoch, worker, since } => self.expire_worker(id, epoch, worker, since),
            other => self.job_act(id, other),
        }
    }

    /// A leadership that is over by the clock takes connections and work with it.
    fn notice_loss(&mut self, id: usize) {
        let now = self.now;
        let is_over = |leading: &mut Leading| leading.fence.remaining(span(now)).is_zero();
        if self.coordinators[id].leading.as_mut().is_some_and(is_over) {
            self.step_down(id);
        }
    }

    pub(crate) fn step_down(&mut self, id: usize) {
        let Some(leading) = self.coordinators[id].leading.take() else { return };
        self.note(format_args!("coordinator {id} leads no more, epoch {}", leading.epoch));
        for link in leading.links.into_keys() {
            self.close(link, End::Coordinator, None, false);
        }
        // Resigns: the store may be out of reach, and then the lease expires by itself.
        if self.store_answers(id) {
            self.store.revoke(leading.lease);
        }
    }

    fn campaign(&mut self, id: usize) {
        self.coordinator_later(id, CAMPAIGN_INTERVAL, CoordinatorAct::Campaign);
        if self.coordinators[id].leading.is_some() || !self.store_answers(id) {
            return;
        }
        if let Some(entry) = self.store.entries.get(&Key::Leader) {
            if let Value::Coordinator(leader) = entry.value {
                self.coordinators[id].known_leader = Some(leader);
            }
            return;
        }
        let now = self.now;
        let lease = self.store.grant(LEADER_TTL, now);
        let acquired = self.store.acquire(Key::Leader, Value::Coordinator(id), lease, None);
        let Ok(Acquire::Granted(epoch)) = acquired else { return };
        self.note(format_args!("coordinator {id} leads, epoch {epoch}"));
        self.coordinators[id].leading = Some(Leading {
            epoch,
            lease,
            fence: Fence::new(span(now), span(LEADER_TTL)),
            has_taken_over: false,
            workers: BTreeMap::new(),
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
            queue: JobQueue::default(),
            jobs: BTreeMap::new(),
        });
        self.coordinator_later(id, LEADER_TTL / 3, CoordinatorAct::KeepAlive(epoch));
        let after = self.rng.range(5, 300);
        self.coordinator_later(id, after, CoordinatorAct::TakeOver(epoch));
    }

    fn keep_leading(&mut self, id: usize, epoch: FencingToken) {
        let (now, answers) = (self.now, self.store_answers(id));
        let Some(lease) = self.leading(id, epoch).map(|leading| leading.lease) else { return };
        self.coordinator_later(id, LEADER_TTL / 3, CoordinatorAct::KeepAlive(epoch));
        if !answers {
            return;
        }
        match self.store.keep_alive(lease, now) {
            Ok(_) => {
                let after = self.rng.range(1, 60);
                self.coordinator_later(id, after, CoordinatorAct::KeptAlive { epoch, sent: now });
            }
            Err(_) => self.step_down(id),
        }
    }

    fn coordinator_hears(&mut self, id: usize, connection: ConnectionId, message: Message) {
        match message {
            Message::Down(_) => {}
            Message::Closed { is_goodbye, .. } => {
                self.is_closed(connection, End::Coordinator);
                self.disconnected(id, connection, is_goodbye);
            }
            Message::Up(report) => self.reported(id, connection, *report),
        }
    }

    fn reported(&mut self, id: usize, connection: ConnectionId, report: Report) {
        let Report { job, body } = report;
        if let ReportBody::Hello(hello) = body {
            return self.admit(id, connection, *hello);
        }
        let now = self.now;
        let Some(leading) = self.coordinators[id].leading.as_ref() else { return };
        let (epoch, worker) = (leading.epoch, leading.links.get(&connection).cloned());
        let Some(worker) = worker else { return };
        if let ReportBody::Alive { sequence } = body {
            if !self.store_answers(id) {
                return;
            }
            let leading = self.leading(id, epoch).expect("its loss was just looked for");
            let known = leading.workers.get(&worker).filter(|entry| !entry.is_lost);
            let Some(lease) = known.map(|entry| entry.lease) else {
                leading.links.remove(&connection);
                return self.close(connection, End::Coordinator, None, false);
            };
            match self.store.keep_alive(lease, now) {
                Ok(ttl_ms) => {
                    let leading = self.leading(id, epoch).expect("it was just here");
                    if let Some(entry) =
                        leading.workers.get_mut(&worker).filter(|e| e.link == Some(connection))
                    {
                        entry.heard = now;
                    }
                    let confirmed = Instruction::Confirmed { sequence, ttl_ms, revoked: Vec::new() };
                    self.send(connection, End::Coordinator, Message::Down(Box::new(confirmed)));
                }
                Err(Refused::LeaseOver | Refused::Fenced) => self.lose(id, epoch, &worker),
            }
        } else if let Some(job) = job.filter(|job| leading.routes.contains_key(job)) {
            self.tell_job(id, epoch, job, Event::Reported { worker, report: body });
        }
    }

    pub(crate) fn tell_job(&mut self, id: usize, epoch: FencingToken, job: JobId, event: Event) {
        let event = Box::new(event);
        self.coordinator_later(id, 0, CoordinatorAct::Happened { epoch, job, event });
    }

    fn turn_away(&mut self, id: usize, connection: ConnectionId) {
        let leader = self.coordinators[id].known_leader.filter(|leader| *leader != id);
        self.close(connection, End::Coordinator, leader, false);
    }

    fn admit(&mut self, id: usize, connection: ConnectionId, hello: Hello) {
        let (now, answers) = (self.now, self.store_answers(id));
        let Some(leading) = self.coordinators[id].leading.as_ref().filter(|leading| leading.has_taken_over)
        else {
            return self.turn_away(id, connection);
        };
        let epoch = leading.epoch;
        let known = leading.workers.get(&hello.worker).filter(|entry| !entry.is_lost);
        let known = known.map(|entry| (entry.incarnation, entry.lease, entry.link.is_some()));
        let same_lease = match known {
            Some((incarnation, lease, _)) if incarnation == hello.incarnation => {
                answers && self.store.keep_alive(lease, now).is_ok()
            }
            Some((_, _, true)) => return self.turn_away(id, connection),
            _ => false,
        };
        if !same_lease {
            self.lose(id, epoch, &hello.worker);
            if !answers || !self.register(id, epoch, &hello) {
                return self.turn_away(id, connection);
            }
        }
        let Some(leading) = self.leading(id, epoch) else { return };
        let welcome = Welcome {
            epoch: Epoch(epoch.0),
            ttl_ms: WORKER_TTL,
            jobs: leading.routes.keys().copied().collect(),
            same_lease,
        };
        let entry = leading.workers.get_mut(&hello.worker).expect("it was just registered");
        let superseded = entry.link.replace(connection);
        entry.heard = now;
        entry.stanzas = hello.sources.iter().map(|source| source.stanza.clone()).collect();
        let stanzas: BTreeSet<StanzaName> = entry.stanzas.iter().cloned().collect();
        leading.links.insert(connection, hello.worker.clone());
        let routes = leading.routes.clone();
        if let Some(old) = superseded {
            leading.links.remove(&old);
            self.close(old, End::Coordinator, None, false);
        }
        let welcome = Instruction::Welcome(welcome);
        self.send(connection, End::Coordinator, Message::Down(Box::new(welcome)));
        for (job, _) in routes.into_iter().filter(|(_, stanza)| stanzas.contains(stanza)) {
            let held = hello.held.iter().find(|held| held.job == job).cloned();
            self.tell_job(id, epoch, job, Event::WorkerJoined { worker: hello.worker.clone(), held });
        }
    }

    fn register(&mut self, id: usize, epoch: FencingToken, hello: &Hello) -> bool {
        let now = self.now;
        let key = Key::Worker(hello.worker.clone());
        let lease = self.store.grant(WORKER_TTL, now);
        let value = Value::Incarnation(hello.incarnation);
        let acquired = match self.store.acquire(key.clone(), value.clone(), lease, Some(epoch)) {
            Ok(Acquire::Held(entry)) => {
                if let Some(old) = entry.lease {
                    self.store.revoke(old);
                }
                self.store.acquire(key, value, lease, Some(epoch))
            }
            acquired => acquired,
        };
        if !matches!(acquired, Ok(Acquire::Granted(_))) {
            return false;
        }
        self.know(id, epoch, hello.worker.clone(), hello.incarnation, lease);
        true
    }

    pub(crate) fn know(
        &mut self,
        id: usize,
        epoch: FencingToken,
        worker: WorkerName,
        incarnation: Identity,
        lease: LeaseId,
    ) {
        let heard = self.now;
        if let Some(leading) = self.leading(id, epoch) {
            let entry = Entry { incarnation, lease, link: None, heard, is_lost: false, stanzas: Vec::new() };
            leading.workers.insert(worker, entry);
        }
    }

    fn disconnected(&mut self, id: usize, connection: ConnectionId, is_goodbye: bool) {
        let now = self.now;
        let Some(leading) = self.coordinators[id].leading.as_mut() else { return };
        let Some(worker) = leading.links.remove(&connection) else { return };
        let Some(entry) = leading.workers.get_mut(&worker).filter(|entry| entry.link == Some(connection))
        else {
            return;
        };
        entry.link = None;
        let epoch = leading.epoch;
        let remaining = if is_goodbye { 0 } else { (entry.heard + WORKER_TTL).saturating_sub(now) };
        self.expire_later(id, epoch, worker, remaining);
    }

    pub(crate) fn expire_later(&mut self, id: usize, epoch: FencingToken, worker: WorkerName, after: Millis) {
        let since = self.now;
        self.coordinator_later(id, after, CoordinatorAct::Expire { epoch, worker, since });
    }

    fn expire_worker(&mut self, id: usize, epoch: FencingToken, worker: WorkerName, since: Millis) {
        let Some(leading) = self.leading(id, epoch) else { return };
        let is_over =
            leading.workers.get(&worker).is_some_and(|entry| entry.link.is_none() && entry.heard <= since);
        if is_over {
            self.lose(id, epoch, &worker);
        }
    }

    /// What it held is free from now on, and its jobs hear of it.
    pub(crate) fn lose(&mut self, id: usize, epoch: FencingToken, worker: &WorkerName) {
        let answers = self.store_answers(id);
        let Some(leading) = self.leading(id, epoch) else { return };
        let Some(entry) = leading.workers.get_mut(worker).filter(|entry| !entry.is_lost) else { return };
        (entry.is_lost, entry.link) = (true, None);
        let (lease, jobs) = (entry.lease, leading.routes.keys().copied().collect::<Vec<_>>());
        self.note(format_args!("worker {worker} is gone"));
        if answers {
            self.store.revoke(lease);
        }
        for job in jobs {
            self.tell_job(id, epoch, job, Event::WorkerLost { worker: worker.clone() });
        }
    }

    /// Says something to a worker. One that is not here will ask when it comes.
    pub(crate) fn instruct(
        &mut self,
        id: usize,
        epoch: FencingToken,
        worker: &WorkerName,
        instruction: Instruction,
    ) {
        let Some(leading) = self.leading(id, epoch) else { return };
        if let Some(link) = leading.workers.get(worker).and_then(|entry| entry.link) {
            self.send(link, End::Coordinator, Message::Down(Box::new(instruction)));
        }
    }
}

/// Workers that can take part in a job of the stanza.
pub(crate) fn sources_of(workers: &BTreeMap<WorkerName, Entry>, stanza: &StanzaName) -> Vec<WorkerName> {
    let serves = |entry: &Entry| !entry.is_lost && entry.link.is_some() && entry.stanzas.contains(stanza);
    workers.iter().filter(|(_, entry)| serves(entry)).map(|(name, _)| name.clone()).collect()
}
