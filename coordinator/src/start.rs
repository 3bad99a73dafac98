//! A coordinator that is part of a command's own process: it leads from the start, and has the workers it is given.

use crate::actors::worker_link::WorkerLink;
use crate::leader::{Leadership, Ttls};
use crate::registry::Registry;
use crate::running::{BackupRun, Stage, Task};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::Epoch;
use pgconvoy_core::machine::backup::{BackupSpec, Recovered};
use pgconvoy_lease::{FleetKeys, LeaseStore};
use pgconvoy_repository::RepositorySet;
use pgconvoy_transport::Connection;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

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
    stage: Stage,
}

impl Coordinator {
    pub async fn start(deps: Deps) -> Result<Coordinator, Failure> {
        let leadership = Leadership::acquire(deps.leases, deps.fleet, &deps.name, deps.ttls.leader).await?;
        let leadership = Arc::new(leadership);
        let stage = Stage {
            registry: Registry::new(
                leadership.clone(),
                deps.runtime.clone(),
                deps.ttls.worker,
                // The worker is this very process.
                Arc::new(|_| Ok(())),
                Default::default(),
            ),
            repositories: deps.repositories,
            runtime: deps.runtime,
            archive_timeout: deps.archive_timeout,
        };
        Ok(Coordinator { leadership, stage })
    }

    /// Orders of this leadership bear it.
    pub fn epoch(&self) -> Epoch {
        self.leadership.epoch()
    }

    /// Takes a worker's connection.
    pub async fn accept(&self, connection: Connection) -> Result<(), Failure> {
        let (registry, runtime) = (self.stage.registry.clone(), self.stage.runtime.clone());
        WorkerLink::join(connection, registry, runtime).await.map(|_| ())
    }

    /// Parts with the workers: they have no more orders to expect.
    pub fn stop(self) {
        self.stage.registry.dismiss();
    }

    /// Runs a backup with the first worker that sees the stanza's data as its source.
    pub async fn backup(&self, spec: BackupSpec) -> Result<BackupRun, Failure> {
        let workers = self.stage.registry.sources_of(&spec.stanza);
        let source = workers.into_iter().next().map(|worker| worker.name);
        let source = source.ok_or_else(|| Failure::new(ErrorCode::HostConnect, "no worker is connected"))?;
        self.stage.backup(Task { spec, source, recovered: Recovered::default(), record: None }).await
    }
}
