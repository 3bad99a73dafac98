//! One process as a whole fleet: a coordinator and one worker, leases and transport in memory.
//!
//! The same `start` calls as in a distributed fleet; what differs is what they are given.

use crate::host::{random_identity, writer};
use crate::runtime::terminated;
use pgconvoy_coordinator::{Coordinator, Deps, Progress, Ttls};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{Epoch, StanzaName, WorkerName};
use pgconvoy_core::machine::backup::{BackupSpec, Outcome};
use pgconvoy_lease::{EmbeddedStore, FleetKeys};
use pgconvoy_repository::RepositorySet;
use pgconvoy_transport::memory::{Faults, pair};
use pgconvoy_transport::{PeerIdentity, Role};
use pgconvoy_worker::keeper::SourceConfig;
use pgconvoy_worker::{Dial, Worker, WorkerDeps, WorkerHandle};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

const FLEET: &str = "embedded";
const WORKER: &str = "local";
const WORKER_STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Embedded {
    pub stanza: StanzaName,
    pub source: SourceConfig,
    pub repositories: Arc<RepositorySet>,
    pub slots: u16,
    pub archive_timeout: Duration,
}

impl Embedded {
    /// Runs a backup to its end. `watch` sees it while it runs; SIGTERM and SIGINT cancel it.
    pub async fn backup<W: Future<Output = ()>>(
        self,
        spec: impl FnOnce(Epoch) -> BackupSpec,
        watch: impl FnOnce(watch::Receiver<Progress>) -> W,
    ) -> Result<Outcome, Failure> {
        let coordinator = self.coordinator().await?;
        let mut worker = self.join_worker(&coordinator).await?;
        let mut run = coordinator.backup(spec(coordinator.epoch())).await?;
        let mut watching = std::pin::pin!(watch(run.progress.clone()));
        let mut stopping = std::pin::pin!(terminated());
        let (mut is_watched, mut is_stopping) = (true, false);
        let outcome = loop {
            tokio::select! {
                outcome = run.outcome() => break outcome,
                () = &mut watching, if is_watched => is_watched = false,
                failure = &mut stopping => {
                    let failure = failure.hint("the next backup removes what this one left");
                    if is_stopping {
                        return Err(failure);
                    }
                    is_stopping = true;
                    tracing::warn!("ending; a second signal ends at once");
                    run.control.cancel(failure);
                    stopping.set(terminated());
                }
            }
        };
        coordinator.stop();
        // PostgreSQL ends the backup when its session closes: wait for that, but not for a server that hangs.
        let _ = tokio::time::timeout(WORKER_STOP_TIMEOUT, worker.stopped()).await;
        outcome
    }

    async fn coordinator(&self) -> Result<Coordinator, Failure> {
        let fleet = FleetKeys::new(FLEET).expect("the constant is a valid fleet name");
        Coordinator::start(Deps {
            name: format!("process {}", std::process::id()),
            fleet,
            leases: Arc::new(EmbeddedStore::start()),
            repositories: self.repositories.clone(),
            runtime: Handle::current(),
            archive_timeout: self.archive_timeout,
            ttls: Ttls::ONE_PROCESS,
        })
        .await
    }

    async fn join_worker(&self, coordinator: &Coordinator) -> Result<WorkerHandle, Failure> {
        let name: WorkerName = WORKER.parse().expect("the constant is a valid worker name");
        let peer = |role| PeerIdentity { name: name.clone().into(), role };
        let (near, far) = pair(peer(Role::Coordinator), peer(Role::Worker), &Faults::default());
        let worker = Worker::start(WorkerDeps {
            name: name.clone(),
            host: writer().host,
            incarnation: random_identity()?,
            slots: self.slots,
            bandwidth: None,
            sources: BTreeMap::from([(self.stanza.clone(), self.source.clone())]),
            computes: Default::default(),
            serving: None,
            reach: None,
            repositories: self.repositories.clone(),
            errands: None,
            dial: Dial::Once(far),
            spool: None,
            revoked: Default::default(),
            orphan_timeout: Duration::ZERO,
            runtime: Handle::current(),
        });
        coordinator.accept(near).await?;
        Ok(worker)
    }
}
