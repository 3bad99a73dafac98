//! One worker: connects to a coordinator, again and again where that makes sense, obeys orders and reports.
//!
//! Keepers and slots belong to the worker, not to a connection: a backup's session and the units under way survive the loss
//! of a connection and a change of leader.
//!
//! Invariants
//! 1. The loop waits for nothing but the next instruction: whatever takes time happens in a keeper's task or in a slot.
//! 2. An epoch older than the newest one seen is not obeyed, whoever speaks it.
//! 3. What belongs to a job that its coordinator does not know any more is ended.
//!
//! Failure story: without a coordinator a keeper's session is kept for the orphan time-out and then ended.

use crate::errand::Errands;
use crate::keeper::{Ground, Keeper, KeeperHandle};
use crate::lease::{Right, boot_time};
use crate::outbox::{Outbox, Reporter};
use crate::serving::Hub;
use crate::slots::SlotPool;
use crate::sources::{self, SourceConfigs, Sources};
use pgconvoy_core::config::Compute;
use pgconvoy_core::ids::{Epoch, Identity, WorkerName};
use pgconvoy_core::wire::{
    Held, Hello, Instruction, JobId, Order, OrderBody, Report, ReportBody, SourceSeen, Welcome,
};
use pgconvoy_repository::RepositorySet;
use pgconvoy_storage::bandwidth::Bandwidth;
use pgconvoy_transport::pki::Revoked;
use pgconvoy_transport::reconnect::Reconnect;
use pgconvoy_transport::{
    Channel, CloseKind, CloseReason, Connection, TransportError, TypedReceiver, TypedSender,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The worker's lease is five times as long: with one or two of these late or lost it does not expire.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// A coordinator that accepts a connection and does not answer the hello is none.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// A coordinator that does not confirm for so long is dead, or cannot reach its lease store: perhaps another one leads. Well
/// before the lease ends, so that there is time to find it.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(7);
/// How often a worker that drains looks whether it has anything left.
const DRAIN_POLL: Duration = Duration::from_millis(200);
/// What a worker that is to end at once waits for whatever it is just about to say or hear.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

pub struct WorkerDeps {
    pub name: WorkerName,
    /// The name of this machine.
    pub host: String,
    /// Random, new with each start.
    pub incarnation: Identity,
    /// Units computed at once.
    pub slots: u16,
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// The stanzas whose data this worker sees.
    pub sources: SourceConfigs,
    /// Whose units it computes without seeing their data.
    pub computes: Compute,
    /// Where it serves those who do; `None`: it serves nobody.
    pub serving: Option<Arc<Hub>>,
    /// How it reaches sources that serve it; `None`: it does not.
    pub reach: Option<Arc<dyn pgconvoy_transport::Dial>>,
    pub repositories: Arc<RepositorySet>,
    /// Whole jobs that it can do; `None`: none.
    pub errands: Option<Arc<dyn Errands>>,
    pub dial: Dial,
    /// Where scans are kept for a coordinator that asks again; `None`: nobody will.
    pub spool: Option<PathBuf>,
    /// Certificates that are not welcome any more, as far as coordinators have told.
    pub revoked: Revoked,
    /// How long a session is kept without any coordinator.
    pub orphan_timeout: Duration,
    /// The multi-thread runtime.
    pub runtime: Handle,
}

/// How the worker comes by its connections.
pub enum Dial {
    /// This one, and it ends with it.
    Once(Connection),
    Again(Arc<dyn Reconnect>),
}

pub struct Worker;

/// Of a worker that runs.
pub struct WorkerHandle {
    task: JoinHandle<()>,
    sources: Arc<Sources>,
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl WorkerHandle {
    /// No new work; ends when what there is is done.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Sees the data of other stanzas from now on, and tells the coordinator so by a new hello.
    pub fn see(&self, sources: SourceConfigs) {
        self.sources.replace(sources);
    }

    /// Ends at once.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    pub async fn stopped(&mut self) {
        if let Err(error) = (&mut self.task).await {
            tracing::error!("the worker's task failed: {error}");
        }
    }
}

impl Worker {
    pub fn start(deps: WorkerDeps) -> WorkerHandle {
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let runtime = deps.runtime.clone();
        let sources = Arc::new(Sources::new(deps.sources.clone()));
        let running = run(deps, sources.clone(), draining.clone(), stopping.clone());
        WorkerHandle { task: runtime.spawn(running), sources, draining, stopping }
    }
}

async fn run(
    deps: WorkerDeps,
    configured: Arc<Sources>,
    draining: CancellationToken,
    stopping: CancellationToken,
) {
    let sources = configured.watch();
    let right = Arc::new(Right::default());
    let outbox = Outbox::new(right.clone());
    let slots = Arc::new(SlotPool::start(deps.slots, &deps.runtime));
    let looks = matches!(deps.dial, Dial::Again(_));
    let is_over = stopping.clone();
    let mut state = State {
        ground: Arc::new(Ground {
            worker: deps.name.clone(),
            sources: configured,
            repositories: deps.repositories,
            slots,
            bandwidth: deps.bandwidth,
            computes: deps.computes,
            serving: deps.serving,
            reach: deps.reach,
            errands: deps.errands,
            spool: deps.spool,
            runtime: deps.runtime,
        }),
        host: deps.host,
        incarnation: deps.incarnation,
        slots: deps.slots,
        looks,
        right,
        outbox,
        epoch: Epoch(0),
        keepers: BTreeMap::new(),
        draining,
        stopping,
        revoked: deps.revoked,
        sources,
    };
    let patience = async {
        is_over.cancelled().await;
        // It may be waiting for somebody who does not answer.
        tokio::time::sleep(GOODBYE_PATIENCE).await;
    };
    tokio::select! {
        () = state.live(deps.dial, deps.orphan_timeout) => {}
        () = patience => {}
    }
    state.end_all().await;
}

struct State {
    ground: Arc<Ground>,
    host: String,
    incarnation: Identity,
    slots: u16,
    /// Whether servers are looked at before each hello.
    looks: bool,
    right: Arc<Right>,
    outbox: Arc<Outbox>,
    epoch: Epoch,
    keepers: BTreeMap<JobId, KeeperHandle>,
    draining: CancellationToken,
    /// What is held is nobody's from then on, and coordinators are told so.
    stopping: CancellationToken,
    revoked: Revoked,
    /// Tells when they are others.
    sources: watch::Receiver<Arc<SourceConfigs>>,
}

impl State {
    async fn live(&mut self, dial: Dial, orphan_timeout: Duration) {
        let connector = match dial {
            Dial::Once(connection) => return drop(self.serve(connection).await),
            Dial::Again(connector) => connector,
        };
        let mut alone_since = Instant::now();
        while !self.is_drained() && !self.stopping.is_cancelled() {
            let attempt = tokio::select! {
                attempt = connector.connect() => attempt,
                () = self.stopping.cancelled() => return,
                () = self.draining.cancelled(), if self.keepers.is_empty() => return,
            };
            match attempt {
                Ok(connection) => {
                    let end = self.serve(connection).await;
                    if end.kind() != CloseKind::Refused && end.kind() != CloseKind::NotLeader {
                        alone_since = Instant::now();
                    }
                    tracing::info!("the connection to the coordinator is over: {end}");
                    connector.ended(&end);
                }
                Err(error) => tracing::warn!("no coordinator: {error}"),
            }
            if alone_since.elapsed() >= orphan_timeout && !self.keepers.is_empty() {
                tracing::warn!("no coordinator for {} s: sessions are ended", orphan_timeout.as_secs());
                self.end_all().await;
            }
        }
    }

    /// Speaks with one coordinator until the connection is over; answers with why.
    async fn serve(&mut self, connection: Connection) -> CloseReason {
        let Channel { sender, mut receiver, incoming: _incoming } =
            Channel::<Report, Instruction>::new(connection);
        // What was held by a right that is lost is somebody else's, or will be: the hello must not claim it.
        let had_right = self.right.is_alive();
        if !had_right {
            self.outbox.forget_units();
        }
        let sent = boot_time();
        let hello = self.hello().await;
        let said = hello.sources.clone();
        let hello = ReportBody::Hello(Box::new(hello));
        let welcomed = match sender.send(&Report { job: None, body: hello }).await {
            Ok(()) => welcome(&mut receiver).await,
            Err(error) => Err(error),
        };
        let welcome = match welcomed {
            Ok(welcome) if welcome.epoch >= self.epoch => welcome,
            Ok(welcome) => {
                let reason = format!("epoch {} is over: {} is known", welcome.epoch, self.epoch);
                let reason = CloseReason::new(CloseKind::Refused, reason);
                sender.close(reason.clone());
                return reason;
            }
            Err(error) => {
                let reason = over(&error);
                sender.close(reason.clone());
                return reason;
            }
        };
        if had_right && !self.right.is_alive() {
            // The hello claimed more than is true by now.
            let reason = CloseReason::new(CloseKind::Lost, "the lease ended before the welcome");
            sender.close(reason.clone());
            return reason;
        }
        self.begin(&sender, welcome, sent).await;
        let end = self.obey_until_the_end(&sender, &mut receiver, said).await;
        self.outbox.disconnect();
        sender.close(end.clone());
        end
    }

    async fn hello(&mut self) -> Hello {
        let configured = self.sources.borrow_and_update().clone();
        let (sources, repositories) = match self.looks {
            // At once: what does not answer must not take so long that the lease ends meanwhile.
            true => tokio::join!(sources::look(&configured), sources::look_at(&self.ground.repositories)),
            false => (sources::unseen(&configured), Vec::new()),
        };
        let held = self.keepers.iter().map(|(job, keeper)| Held {
            job: *job,
            session: keeper.has_session(),
            prepared: keeper.is_prepared(),
            standing: keeper.standing(),
            units: self.outbox.held(*job),
        });
        Hello {
            worker: self.ground.worker.clone(),
            incarnation: self.incarnation,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            slots: self.slots,
            sources,
            repositories,
            host: self.host.clone(),
            computes: self.ground.computes.clone(),
            held: held.collect(),
            draining: self.draining.is_cancelled(),
        }
    }

    async fn begin(&mut self, sender: &TypedSender<Report>, welcome: Welcome, sent: Duration) {
        self.epoch = welcome.epoch;
        self.right.grant(sent, Duration::from_millis(welcome.ttl_ms));
        if !welcome.same_lease {
            self.outbox.forget_units();
        }
        let known: BTreeSet<JobId> = welcome.jobs.into_iter().collect();
        let over: Vec<JobId> = self.keepers.keys().filter(|job| !known.contains(job)).copied().collect();
        for job in over {
            self.end(job).await;
        }
        let prepared: Vec<JobId> =
            self.keepers.iter().filter(|(_, keeper)| keeper.is_prepared()).map(|(job, _)| *job).collect();
        for report in self.outbox.connect(sender.clone(), &prepared, self.ground.slots.capacity()) {
            if let Err(error) = sender.send(&report).await {
                return tracing::debug!("the coordinator's connection ended: {error}");
            }
        }
    }

    async fn obey_until_the_end(
        &mut self,
        sender: &TypedSender<Report>,
        receiver: &mut TypedReceiver<Instruction>,
        said: Vec<SourceSeen>,
    ) -> CloseReason {
        let configured = self.sources.borrow().clone();
        let changed = sources::changed(&configured, &said);
        tokio::pin!(changed);
        let looks = self.looks;
        let mut alive = tokio::time::interval(ALIVE_INTERVAL);
        let mut draining = tokio::time::interval(DRAIN_POLL);
        let (drain, stop) = (self.draining.clone(), self.stopping.clone());
        let mut has_told = drain.is_cancelled();
        let mut confirmed = Instant::now();
        loop {
            let body = tokio::select! {
                instruction = receiver.recv() => {
                    match instruction {
                        Ok(Some(instruction)) => {
                            if matches!(instruction, Instruction::Confirmed { .. }) {
                                confirmed = Instant::now();
                            }
                            self.obey(instruction).await;
                        }
                        Ok(None) => return CloseReason::new(CloseKind::Done, "the coordinator is done"),
                        Err(error) => return over(&error),
                    }
                    continue;
                }
                _ = alive.tick() => {
                    if self.looks && !self.right.is_alive() {
                        return CloseReason::new(CloseKind::Lost, "the lease is over");
                    }
                    if self.looks && confirmed.elapsed() > UNCONFIRMED_MAX {
                        tracing::warn!("the coordinator has confirmed nothing for {} s", UNCONFIRMED_MAX.as_secs());
                        return CloseReason::new(CloseKind::Lost, "nothing was confirmed");
                    }
                    ReportBody::Alive { sequence: self.right.keep_alive() }
                }
                Ok(()) = self.sources.changed() => {
                    return CloseReason::new(CloseKind::Dropped, "this worker sees other stanzas now");
                }
                () = &mut changed, if looks => {
                    return CloseReason::new(CloseKind::Dropped, "a server of this worker is something else now");
                }
                () = stop.cancelled() => return CloseReason::new(CloseKind::Done, "the worker ends"),
                () = drain.cancelled(), if !has_told => {
                    has_told = true;
                    ReportBody::Draining
                }
                _ = draining.tick(), if has_told => {
                    if self.is_drained() {
                        return CloseReason::new(CloseKind::Done, "the worker is drained");
                    }
                    continue;
                }
            };
            if let Err(error) = sender.send(&Report { job: None, body }).await {
                return over(&error);
            }
        }
    }

    fn is_drained(&self) -> bool {
        let is_needed = |keeper: &KeeperHandle| keeper.has_session() || keeper.has_errand();
        let is_needed = self.keepers.values().any(is_needed);
        self.draining.is_cancelled() && !is_needed && self.outbox.holds_nothing()
    }

    async fn obey(&mut self, instruction: Instruction) {
        match instruction {
            Instruction::Welcome(_) => tracing::debug!("a second welcome is ignored"),
            Instruction::Confirmed { sequence, ttl_ms, revoked } => {
                self.refuse(&revoked);
                self.right.confirmed(sequence, Duration::from_millis(ttl_ms));
            }
            Instruction::Settled { job, units } => self.outbox.settle(job, &units),
            Instruction::Order(order) => self.obey_order(order).await,
        }
    }

    /// What was revoked once is not welcome again while this process runs.
    fn refuse(&self, revoked: &[String]) {
        for text in revoked {
            match text.parse() {
                Ok(serial) => self.revoked.add(serial),
                Err(error) => tracing::warn!("a revoked certificate cannot be told: {error}"),
            }
        }
    }

    async fn obey_order(&mut self, order: Order) {
        if order.epoch < self.epoch {
            return tracing::warn!("an order of epoch {} is refused: {} is known", order.epoch, self.epoch);
        }
        self.epoch = order.epoch;
        match order.body {
            OrderBody::End => self.end(order.job).await,
            body => self.keeper(order.job).order(body).await,
        }
    }

    fn keeper(&mut self, job: JobId) -> &KeeperHandle {
        let (ground, outbox) = (self.ground.clone(), self.outbox.clone());
        self.keepers.entry(job).or_insert_with(move || Keeper::start(ground, Reporter::new(outbox, job)))
    }

    async fn end(&mut self, job: JobId) {
        self.outbox.forget_job(job);
        if let Some(keeper) = self.keepers.remove(&job) {
            keeper.end().await;
        }
    }

    async fn end_all(&mut self) {
        while let Some((job, keeper)) = self.keepers.pop_first() {
            self.outbox.forget_job(job);
            keeper.end().await;
        }
    }
}

async fn welcome(receiver: &mut TypedReceiver<Instruction>) -> Result<Welcome, TransportError> {
    let silence = || TransportError::Timeout { what: "a hello", after: WELCOME_TIMEOUT };
    match tokio::time::timeout(WELCOME_TIMEOUT, receiver.recv()).await.map_err(|_| silence())?? {
        Some(Instruction::Welcome(welcome)) => Ok(welcome),
        _ => Err(silence()),
    }
}

/// Why a connection is over, as far as an error tells.
fn over(error: &TransportError) -> CloseReason {
    let lost = || CloseReason::new(CloseKind::Lost, error.to_string());
    error.close_reason().cloned().unwrap_or_else(lost)
}

#[cfg(test)]
mod tests;
