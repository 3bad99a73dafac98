//! The order in which a coordinator's parts start, and how a job is run to its end.

use crate::actors::backup::{BackupActor, Happened};
use crate::actors::worker_link::{Bind, Gone, Joined, WorkerLink};
use crate::effects::Effects;
use crate::leader::{Leadership, Ttls};
use crate::progress::Progress;
use actix::{Actor, Addr};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::Epoch;
use pgconvoy_core::machine::backup::{BackupSpec, Event, Outcome};
use pgconvoy_lease::{FleetKeys, LeaseStore, LockKind};
use pgconvoy_repository::RepositorySet;
use pgconvoy_transport::Connection;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

/// Everything that differs between embedded and distributed.
pub struct Deps {
    pub name: String,
    pub fleet: FleetKeys,
    pub leases: Arc<dyn LeaseStore>,
    pub repositories: Arc<RepositorySet>,
    /// The multi-thread runtime; actors live on the arbiter that `start` is called on.
    pub runtime: Handle,
    /// How long WAL may take to reach a repository.
    pub archive_timeout: Duration,
    pub ttls: Ttls,
}

pub struct Coordinator {
    leadership: Arc<Leadership>,
    repositories: Arc<RepositorySet>,
    runtime: Handle,
    archive_timeout: Duration,
    ttls: Ttls,
    worker: Option<Joined>,
}

/// A backup under way.
pub struct BackupRun {
    pub progress: watch::Receiver<Progress>,
    actor: Addr<BackupActor>,
    outcome: oneshot::Receiver<Outcome>,
}

impl BackupRun {
    /// Asks for an early end; the outcome tells what became of it.
    pub fn cancel(&self, reason: Failure) {
        self.actor.do_send(Happened(Event::Cancelled(reason)));
    }

    pub async fn outcome(&mut self) -> Result<Outcome, Failure> {
        (&mut self.outcome).await.map_err(|_| Failure::new(ErrorCode::Assert, "the backup's actor died"))
    }
}

impl Coordinator {
    pub async fn start(deps: Deps) -> Result<Coordinator, Failure> {
        let leadership = Leadership::acquire(deps.leases, deps.fleet, &deps.name, deps.ttls.leader).await?;
        Ok(Coordinator {
            leadership: Arc::new(leadership),
            repositories: deps.repositories,
            runtime: deps.runtime,
            archive_timeout: deps.archive_timeout,
            ttls: deps.ttls,
            worker: None,
        })
    }

    /// Orders of this leadership bear it.
    pub fn epoch(&self) -> Epoch {
        self.leadership.epoch()
    }

    /// Takes a worker's connection; the newest one is the source of the next job.
    pub async fn accept(&mut self, connection: Connection) -> Result<(), Failure> {
        let leadership = &self.leadership;
        let joined = WorkerLink::join(
            connection,
            leadership.leases.clone(),
            &leadership.keys,
            self.runtime.clone(),
            self.ttls.worker,
        )
        .await?;
        self.worker = Some(joined);
        Ok(())
    }

    /// Parts with the workers: they have no more orders to expect.
    pub fn stop(self) {
        if let Some(worker) = self.worker {
            worker.link.do_send(Gone);
        }
    }

    /// Locks the stanza in every repository, then begins. A repository that is locked by somebody else fails the whole: two
    /// backups of one stanza at once would each be half of what was asked for.
    pub async fn backup(&self, spec: BackupSpec) -> Result<BackupRun, Failure> {
        let worker = self
            .worker
            .clone()
            .ok_or_else(|| Failure::new(ErrorCode::HostConnect, "no worker is connected"))?;
        let mut locks = Vec::new();
        for repository in &spec.repositories {
            let holder = format!("backup job {}", spec.job);
            match self.leadership.lock(&spec.stanza, *repository, LockKind::Backup, &holder).await {
                Ok(token) => locks.push((*repository, token)),
                Err(failure) => {
                    for (repository, token) in locks {
                        self.leadership.unlock(&spec.stanza, repository, LockKind::Backup, token).await;
                    }
                    return Err(failure);
                }
            }
        }
        let (effects, queue) = mpsc::unbounded_channel();
        let (actor, progress) = BackupActor::new(spec.clone(), worker.name.clone(), effects);
        let actor = actor.start();
        worker.link.do_send(Bind(actor.clone().recipient()));
        let (finished, outcome) = oneshot::channel();
        let effects = Effects {
            spec,
            worker,
            actor: actor.clone(),
            leadership: self.leadership.clone(),
            repositories: self.repositories.clone(),
            archive_timeout: self.archive_timeout,
            locks,
            heartbeats: Default::default(),
        };
        self.runtime.spawn(effects.run(queue, finished));
        Ok(BackupRun { progress, actor, outcome })
    }
}
