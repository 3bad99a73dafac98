//! One connection to a coordinator: orders in, reports out.
//!
//! This loop waits for nothing but the next order: whatever takes time happens in the keeper's task or in a slot.

use crate::keeper::{Keeper, KeeperHandle, SourceConfig};
use crate::slots::SlotPool;
use pgconvoy_core::ids::{Epoch, StanzaName, WorkerName};
use pgconvoy_core::wire::{JobId, Order, OrderBody, Report, ReportBody};
use pgconvoy_repository::RepositorySet;
use pgconvoy_transport::{Channel, CloseKind, CloseReason, Connection, TransportError, TypedSender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The worker's lease is five times as long: with one or two of these late or lost it does not expire.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(3);

pub struct WorkerDeps {
    pub name: WorkerName,
    /// Units computed at once.
    pub slots: u16,
    /// The stanzas whose data this worker sees.
    pub sources: BTreeMap<StanzaName, SourceConfig>,
    pub repositories: Arc<RepositorySet>,
    pub connection: Connection,
    /// The multi-thread runtime.
    pub runtime: Handle,
}

pub struct Worker;

/// Ends when the connection does.
pub struct WorkerHandle {
    task: JoinHandle<()>,
}

impl WorkerHandle {
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!("the worker's task failed: {error}");
        }
    }
}

impl Worker {
    pub fn start(deps: WorkerDeps) -> WorkerHandle {
        let runtime = deps.runtime.clone();
        WorkerHandle { task: runtime.spawn(run(deps)) }
    }
}

/// How everything in a worker reports: failures to send mean that the connection is over, which the loop notices itself.
#[derive(Clone)]
pub struct Reporter {
    worker: WorkerName,
    job: Option<JobId>,
    sender: TypedSender<Report>,
}

impl Reporter {
    pub(crate) fn new(worker: WorkerName, sender: TypedSender<Report>) -> Reporter {
        Reporter { worker, job: None, sender }
    }

    pub fn for_job(&self, job: JobId) -> Reporter {
        Reporter { job: Some(job), ..self.clone() }
    }

    pub async fn send(&self, body: ReportBody) -> Result<(), TransportError> {
        self.sender.send(&Report { worker: self.worker.clone(), job: self.job, body }).await
    }
}

async fn run(deps: WorkerDeps) {
    let Channel { sender, mut receiver, incoming: _incoming } =
        Channel::<Report, Order>::new(deps.connection);
    let reporter = Reporter::new(deps.name.clone(), sender.clone());
    let hello = ReportBody::Hello { slots: deps.slots, stanzas: deps.sources.keys().cloned().collect() };
    if reporter.send(hello).await.is_err() {
        return;
    }
    let slots = Arc::new(SlotPool::start(deps.slots, &deps.runtime));
    let mut session = Session {
        name: deps.name,
        sources: deps.sources,
        repositories: deps.repositories,
        runtime: deps.runtime,
        reporter,
        slots,
        epoch: Epoch(0),
        keepers: BTreeMap::new(),
    };
    let mut alive = tokio::time::interval(ALIVE_INTERVAL);
    loop {
        tokio::select! {
            order = receiver.recv() => match order {
                Ok(Some(order)) => session.obey(order).await,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!("the coordinator's connection ended: {error}");
                    break;
                }
            },
            _ = alive.tick() => {
                if session.reporter.send(ReportBody::Alive).await.is_err() {
                    break;
                }
            }
        }
    }
    session.end().await;
    sender.close(CloseReason::new(CloseKind::Done, "the worker stopped"));
}

struct Session {
    name: WorkerName,
    sources: BTreeMap<StanzaName, SourceConfig>,
    repositories: Arc<RepositorySet>,
    runtime: Handle,
    reporter: Reporter,
    slots: Arc<SlotPool>,
    epoch: Epoch,
    keepers: BTreeMap<JobId, KeeperHandle>,
}

impl Session {
    async fn obey(&mut self, order: Order) {
        if order.epoch < self.epoch {
            tracing::warn!("an order of epoch {} is refused: {} is known", order.epoch, self.epoch);
            return;
        }
        self.epoch = order.epoch;
        match order.body {
            OrderBody::End => {
                if let Some(keeper) = self.keepers.remove(&order.job) {
                    keeper.end().await;
                }
            }
            body => self.keeper(order.job).order(body).await,
        }
    }

    fn keeper(&mut self, job: JobId) -> &KeeperHandle {
        self.keepers.entry(job).or_insert_with(|| {
            Keeper::start(
                self.name.clone(),
                self.sources.clone(),
                self.repositories.clone(),
                self.slots.clone(),
                self.reporter.for_job(job),
                self.runtime.clone(),
            )
        })
    }

    async fn end(self) {
        for (_, keeper) in self.keepers {
            keeper.end().await;
        }
    }
}
