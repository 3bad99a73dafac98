//! The workers of a leadership: who is here, by which lease, over which connection, and which jobs want to hear of them.
//!
//! A worker is known by its name, and by the incarnation of its process. A connection may be lost and made again while the
//! lease lives; the lease, not the connection, decides whether what a worker was given is still its own.
//!
//! Invariants
//! 1. One connection of a worker counts, the newest. What an older one still says or ends is ignored.
//! 2. A worker is lost when its lease is over, when another incarnation takes its name, or when it says goodbye; never merely
//!    because its connection broke.
//! 3. A worker found in the lease store by a new leader is given one whole TTL to come.

mod hands;

use crate::actors::worker_link::{FromWorker, Instruct, Retire, WorkerLink};
use crate::leader::Leadership;
use actix::{Addr, Recipient};
use bytes::Bytes;
pub(crate) use hands::Hands;
use pgconvoy_core::config::Compute;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{decode, encode_named};
use pgconvoy_core::ids::{Identity, StanzaName, WorkerName};
use pgconvoy_core::wire::{Hello, Instruction, JobId, RepositorySeen, SourceSeen, Welcome};
use pgconvoy_lease::Acquire;
use pgconvoy_lease::store::{Expected, LeaseId, Write};
use pgconvoy_transport::pki::Revoked;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// What stands at a worker's key in the lease store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Registered {
    incarnation: Identity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    Up,
    Draining,
    Lost,
}

impl WorkerState {
    pub const fn name(self) -> &'static str {
        match self {
            WorkerState::Up => "up",
            WorkerState::Draining => "draining",
            WorkerState::Lost => "lost",
        }
    }
}

/// Which connection of a worker: they are numbered as they come.
pub type Connected = u64;

struct Entry {
    incarnation: Identity,
    lease: LeaseId,
    link: Option<(Connected, Addr<WorkerLink>)>,
    /// When it was last known to live.
    heard: Instant,
    state: WorkerState,
    slots: u16,
    sources: Vec<SourceSeen>,
    repositories: Vec<RepositorySeen>,
    host: String,
    computes: Compute,
}

impl Entry {
    /// Not connected yet.
    fn new(incarnation: Identity, lease: LeaseId) -> Entry {
        Entry {
            incarnation,
            lease,
            link: None,
            heard: Instant::now(),
            state: WorkerState::Up,
            slots: 0,
            sources: Vec::new(),
            repositories: Vec::new(),
            host: String::new(),
            computes: Compute::Nobody,
        }
    }

    fn is_here(&self) -> bool {
        self.link.is_some() && self.state == WorkerState::Up
    }
}

/// A worker as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    pub name: WorkerName,
    pub state: WorkerState,
    pub slots: u16,
    pub sources: Vec<SourceSeen>,
    /// Those that it could open when it connected.
    pub repositories: Vec<RepositorySeen>,
}

#[derive(Clone)]
struct Route {
    /// Whom it wants; `None`: it hears of workers that hold something of it.
    hands: Option<Hands>,
    job: Recipient<FromWorker>,
}

#[derive(Default)]
struct State {
    workers: BTreeMap<WorkerName, Entry>,
    /// An operator wants them to take nothing new, whoever leads and whether they are here or not.
    drained: BTreeSet<WorkerName>,
    routes: BTreeMap<JobId, Route>,
    connections: Connected,
}

impl State {
    /// Workers that may be given something.
    fn free(&self) -> impl Iterator<Item = (&WorkerName, &Entry)> {
        self.workers.iter().filter(|(name, entry)| entry.is_here() && !self.drained.contains(*name))
    }

    fn view(&self, name: &WorkerName, entry: &Entry) -> WorkerView {
        let state = match entry.state {
            WorkerState::Up if self.drained.contains(name) => WorkerState::Draining,
            state => state,
        };
        let (sources, repositories) = (entry.sources.clone(), entry.repositories.clone());
        WorkerView { name: name.clone(), state, slots: entry.slots, sources, repositories }
    }

    fn tell_drained(&self, worker: &WorkerName, is_draining: bool) {
        for route in self.routes.values() {
            route.job.do_send(FromWorker::Drained(worker.clone(), is_draining));
        }
    }
}

/// Whether a worker may be what it says it is.
pub type Admission = Arc<dyn Fn(&Hello) -> Result<(), Failure> + Send + Sync>;

pub struct Registry {
    leadership: Arc<Leadership>,
    runtime: Handle,
    ttl: Duration,
    admission: Admission,
    /// Workers hear of these with their keep-alives.
    revoked: Revoked,
    state: Mutex<State>,
}

impl Registry {
    pub fn new(
        leadership: Arc<Leadership>,
        runtime: Handle,
        ttl: Duration,
        admission: Admission,
        revoked: Revoked,
    ) -> Arc<Registry> {
        Arc::new(Registry { leadership, runtime, ttl, admission, revoked, state: Mutex::default() })
    }

    pub(crate) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    pub(crate) fn leadership(&self) -> &Arc<Leadership> {
        &self.leadership
    }

    /// Takes over the workers that an earlier leader had, with their leases.
    pub async fn adopt(self: &Arc<Self>) -> Result<(), Failure> {
        let leases = &self.leadership.leases;
        let drained = self.leadership.list(&self.leadership.keys.all_drained()).await?;
        let names = drained.entries.iter().filter_map(|entry| entry.key.last_part().parse().ok());
        self.lock().drained = names.collect();
        for entry in self.leadership.list(&self.leadership.keys.workers()).await?.entries {
            let (Ok(name), Some(lease)) = (entry.key.last_part().parse::<WorkerName>(), entry.lease) else {
                continue;
            };
            let Ok(registered) = decode::<Registered>("registered worker", &entry.value) else { continue };
            // On its behalf: it cannot do so before it has found us.
            if let Err(error) = leases.keep_alive(lease).await {
                tracing::debug!("worker {name} was over before this leadership began: {error}");
                continue;
            }
            let adopted = Entry::new(registered.incarnation, lease);
            self.lock().workers.insert(name.clone(), adopted);
            self.expire_later(name, self.ttl);
        }
        Ok(())
    }

    /// Registers a worker that said hello, or finds it registered; what to answer, and the number of its connection.
    pub(crate) async fn admit(self: &Arc<Self>, hello: &Hello) -> Result<(Welcome, Connected), Failure> {
        (self.admission)(hello)?;
        let name = &hello.worker;
        let known = self.known(name);
        let same_lease = match known {
            Some((incarnation, lease, _)) if incarnation == hello.incarnation => {
                self.leadership.leases.keep_alive(lease).await.is_ok()
            }
            Some((_, _, true)) => {
                let message = format!("another process is connected as worker {name}");
                return Err(
                    Failure::new(ErrorCode::LockAcquire, message).hint("give each worker a name of its own")
                );
            }
            _ => false,
        };
        if !same_lease {
            self.lose(name).await;
            let lease = self.register(hello).await?;
            let entry = Entry::new(hello.incarnation, lease);
            self.lock().workers.insert(name.clone(), entry);
        }
        let mut state = self.lock();
        state.connections += 1;
        let number = state.connections;
        let welcome = Welcome {
            epoch: self.leadership.epoch(),
            ttl_ms: u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX),
            jobs: state.routes.keys().copied().collect(),
            same_lease,
        };
        Ok((welcome, number))
    }

    /// Incarnation, lease, and whether it is connected.
    fn known(&self, name: &WorkerName) -> Option<(Identity, LeaseId, bool)> {
        let state = self.lock();
        let entry = state.workers.get(name).filter(|entry| entry.state != WorkerState::Lost)?;
        Some((entry.incarnation, entry.lease, entry.link.is_some()))
    }

    async fn register(&self, hello: &Hello) -> Result<LeaseId, Failure> {
        let leases = &self.leadership.leases;
        let key = self.leadership.keys.worker(&hello.worker);
        let value = Bytes::from(encode_named(&Registered { incarnation: hello.incarnation }));
        let lease = leases.grant(self.ttl).await?;
        let guard = Some(self.leadership.guard());
        // Whoever holds the name by another lease is an earlier incarnation that nobody adopted.
        if let Acquire::Held(entry) = leases.acquire(key.clone(), value.clone(), lease, guard).await? {
            if let Some(old) = entry.lease {
                leases.revoke(old).await?;
            }
            if let Acquire::Held(_) = leases.acquire(key, value, lease, guard).await? {
                let message = format!("worker name {} is taken again and again", hello.worker);
                return Err(Failure::new(ErrorCode::LockAcquire, message));
            }
        }
        Ok(lease)
    }

    /// The connection is ready for instructions: jobs hear that the worker is here, with what it holds of them.
    pub(crate) fn connected(&self, hello: Hello, number: Connected, link: Addr<WorkerLink>) {
        let mut superseded = None;
        let (routes, is_draining) = {
            let mut state = self.lock();
            let is_draining = hello.draining || state.drained.contains(&hello.worker);
            let Some(entry) = state.workers.get_mut(&hello.worker) else { return };
            if let Some((_, old)) = entry.link.replace((number, link)) {
                superseded = Some(old);
            }
            entry.heard = Instant::now();
            entry.slots = hello.slots;
            entry.sources = hello.sources.clone();
            entry.repositories = hello.repositories.clone();
            entry.host = hello.host.clone();
            entry.computes = hello.computes.clone();
            entry.state = if hello.draining { WorkerState::Draining } else { WorkerState::Up };
            (state.routes.clone(), is_draining)
        };
        if let Some(old) = superseded {
            old.do_send(Retire);
        }
        for (job, route) in routes {
            let held = hello.held.iter().find(|held| held.job == job).cloned();
            let is_wanted =
                route.hands.as_ref().is_none_or(|hands| hands.want(&hello.sources, &hello.computes));
            // A worker that drains goes on with what it has.
            if held.is_some() || (is_wanted && !is_draining) {
                route.job.do_send(FromWorker::Joined(hello.worker.clone(), held));
                if is_draining {
                    route.job.do_send(FromWorker::Drained(hello.worker.clone(), true));
                }
            }
        }
    }

    pub(crate) fn heard(&self, worker: &WorkerName, number: Connected) {
        if let Some(entry) = self.lock().workers.get_mut(worker)
            && entry.link.as_ref().is_some_and(|(current, _)| *current == number)
        {
            entry.heard = Instant::now();
        }
    }

    pub(crate) fn lease(&self, worker: &WorkerName) -> Option<LeaseId> {
        self.known(worker).map(|(_, lease, _)| lease)
    }

    /// A connection is over. `is_goodbye`: the worker said that it ends.
    pub(crate) fn disconnected(self: &Arc<Self>, worker: &WorkerName, number: Connected, is_goodbye: bool) {
        let remaining = {
            let mut state = self.lock();
            let Some(entry) = state.workers.get_mut(worker) else { return };
            if entry.link.as_ref().is_none_or(|(current, _)| *current != number) {
                return;
            }
            entry.link = None;
            self.ttl.saturating_sub(entry.heard.elapsed())
        };
        self.expire_later(worker.clone(), if is_goodbye { Duration::ZERO } else { remaining });
    }

    /// Loses the worker after that time, unless it is heard of before.
    fn expire_later(self: &Arc<Self>, worker: WorkerName, after: Duration) {
        let registry = Arc::clone(self);
        let since = Instant::now();
        self.runtime.spawn(async move {
            tokio::time::sleep(after).await;
            let is_over = {
                let state = registry.lock();
                state.workers.get(&worker).is_some_and(|entry| entry.link.is_none() && entry.heard <= since)
            };
            if is_over {
                registry.lose(&worker).await;
            }
        });
    }

    /// What it held is free from now on, and its jobs hear of it.
    pub(crate) async fn lose(&self, worker: &WorkerName) {
        let (lease, routes) = {
            let mut state = self.lock();
            let Some(entry) = state.workers.get_mut(worker) else { return };
            if entry.state == WorkerState::Lost {
                return;
            }
            entry.state = WorkerState::Lost;
            entry.link = None;
            (entry.lease, state.routes.clone())
        };
        tracing::info!("worker {worker} is gone");
        if let Err(error) = self.leadership.leases.revoke(lease).await {
            tracing::debug!("a worker's lease was not revoked, and expires by itself: {error}");
        }
        for route in routes.into_values() {
            route.job.do_send(FromWorker::Lost(worker.clone()));
        }
    }

    /// A worker that will end takes nothing new.
    pub(crate) fn draining(&self, worker: &WorkerName) {
        let mut state = self.lock();
        if let Some(entry) = state.workers.get_mut(worker) {
            entry.state = WorkerState::Draining;
        }
        state.tell_drained(worker, true);
    }

    /// An operator's wish, which holds until it is taken back. `false`: there is no such worker.
    pub async fn drain(&self, worker: &WorkerName, is_wanted: bool) -> Result<bool, Failure> {
        let is_known = {
            let state = self.lock();
            let is_here = state.workers.get(worker).is_some_and(|entry| entry.state != WorkerState::Lost);
            is_here || state.drained.contains(worker)
        };
        if !is_known {
            return Ok(false);
        }
        let key = self.leadership.keys.drained(worker);
        let write = match is_wanted {
            true => Write::Put { key, value: Bytes::new(), expected: Expected::Anything },
            false => Write::Delete { key },
        };
        self.leadership.commit(vec![write]).await?;
        let mut state = self.lock();
        if is_wanted {
            state.drained.insert(worker.clone());
        } else {
            state.drained.remove(worker);
        }
        state.tell_drained(worker, is_wanted);
        Ok(true)
    }

    /// Says something to a worker. One that is not here will ask when it comes.
    pub(crate) fn instruct(&self, worker: &WorkerName, instruction: Instruction) {
        if let Some((_, link)) = self.lock().workers.get(worker).and_then(|entry| entry.link.as_ref()) {
            link.do_send(Instruct(instruction));
        }
    }

    pub(crate) fn route(&self, job: JobId) -> Option<Recipient<FromWorker>> {
        self.lock().routes.get(&job).map(|route| route.job.clone())
    }

    /// The job's actor hears of workers from now on.
    pub(crate) fn bind(&self, job: JobId, hands: Option<Hands>, actor: Recipient<FromWorker>) {
        self.lock().routes.insert(job, Route { hands, job: actor });
    }

    pub(crate) fn unbind(&self, job: JobId) {
        self.lock().routes.remove(&job);
    }

    /// Workers that see the stanza's data.
    pub fn sources_of(&self, stanza: &StanzaName) -> Vec<WorkerView> {
        let serves = |entry: &Entry| entry.sources.iter().any(|source| source.stanza == *stanza);
        let state = self.lock();
        let free = state.free().filter(|(_, entry)| serves(entry));
        free.map(|(name, entry)| state.view(name, entry)).collect()
    }

    /// Workers that can take part in a backup.
    pub(crate) fn hands(&self, wanted: &Hands) -> Vec<WorkerName> {
        let state = self.lock();
        let wants = |entry: &Entry| wanted.want(&entry.sources, &entry.computes);
        state.free().filter(|(_, entry)| wants(entry)).map(|(name, _)| name.clone()).collect()
    }

    /// On which machine a worker is; by its own name, if it has not said so.
    pub(crate) fn host(&self, worker: &WorkerName) -> String {
        let state = self.lock();
        let host = state.workers.get(worker).map(|entry| entry.host.clone());
        host.filter(|host| !host.is_empty()).unwrap_or_else(|| worker.to_string())
    }

    /// Those that are connected and may be given something.
    pub(crate) fn here(&self) -> BTreeSet<WorkerName> {
        self.lock().free().map(|(name, _)| name.clone()).collect()
    }

    pub fn workers(&self) -> Vec<WorkerView> {
        let state = self.lock();
        state.workers.iter().map(|(name, entry)| state.view(name, entry)).collect()
    }

    /// The leadership is over: connections end, and workers look for another coordinator. Their leases live on.
    pub fn dismiss(&self) {
        let mut state = self.lock();
        for entry in state.workers.values_mut() {
            if let Some((_, link)) = entry.link.take() {
                link.do_send(Retire);
            }
        }
        state.routes.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
