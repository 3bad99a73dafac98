//! Begins one backup, or goes on with one: an actor around core's machine, and the task that carries out its effects.

use crate::actors::backup::{BackupActor, Happened};
use crate::effects::{Effects, by_record};
use crate::progress::{Progress, Unwritten};
use crate::records::JobKeeper;
use crate::registry::{Hands, Registry};
use crate::unit_map::{LookAtUnits, UnitMap};
use crate::units::{ListUnits, UnitView};
use actix::{Actor, Addr};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::machine::backup::{BackupSpec, Event, Outcome, Recovered};
use pgconvoy_lease::LockKind;
use pgconvoy_repository::RepositorySet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

/// A backup under way.
pub struct BackupRun {
    pub progress: watch::Receiver<Progress>,
    pub control: BackupControl,
    outcome: oneshot::Receiver<Outcome>,
}

/// What others may do to a backup under way.
#[derive(Clone)]
pub struct BackupControl(Addr<BackupActor>);

impl BackupControl {
    /// Asks for an early end; the outcome tells what became of it.
    pub fn cancel(&self, reason: Failure) {
        self.0.do_send(Happened(Event::Cancelled(reason)));
    }

    /// As `cancel`, and nobody may publish what there is.
    pub fn abandon(&self, reason: Failure) {
        self.0.do_send(Happened(Event::Abandoned(reason)));
    }

    pub fn pause(&self) {
        self.0.do_send(Happened(Event::Paused));
    }

    pub fn resume(&self) {
        self.0.do_send(Happened(Event::Resumed));
    }

    /// Where units stand; none of a backup that is over.
    pub async fn units(&self, page: ListUnits) -> Vec<UnitView> {
        self.0.send(page).await.unwrap_or_default()
    }

    /// All units at a glance; none of a backup that is over.
    pub async fn unit_map(&self) -> Option<UnitMap> {
        self.0.send(LookAtUnits).await.ok().flatten()
    }
}

impl BackupRun {
    /// An error means that there is none: another coordinator leads, and the job is its own.
    pub async fn outcome(&mut self) -> Result<Outcome, Failure> {
        (&mut self.outcome).await.map_err(|_| Failure::new(ErrorCode::Assert, "the backup's actor is gone"))
    }
}

/// On what backups run.
#[derive(Clone)]
pub struct Stage {
    pub registry: Arc<Registry>,
    pub repositories: Arc<RepositorySet>,
    /// The multi-thread runtime; actors live on the arbiter that this is used on.
    pub runtime: Handle,
    /// How long WAL may take to reach a repository.
    pub archive_timeout: Duration,
}

/// What to run.
pub struct Task {
    pub spec: BackupSpec,
    pub source: WorkerName,
    pub recovered: Recovered,
    pub record: Option<Arc<JobKeeper>>,
}

impl Stage {
    /// Locks the stanza in every repository, then begins. A repository that is locked by somebody else fails the whole: two
    /// backups of one stanza at once would each be half of what was asked for.
    pub async fn backup(&self, task: Task) -> Result<BackupRun, Failure> {
        let Task { spec, source, recovered, record } = task;
        let locks = self.lock(&spec).await?;
        let (effects, queue) = mpsc::unbounded_channel();
        let hands = Hands::of(&spec);
        let mut readers = self.registry.hands(&hands);
        // Whatever it was when it said hello, it is the one that keeps the session.
        if self.registry.here().contains(&source) && !readers.contains(&source) {
            readers.push(source.clone());
        }
        let accepted = by_record(&recovered.accepted);
        let unwritten = Unwritten::default();
        let (actor, progress) =
            BackupActor::new(spec.clone(), source, readers, recovered, effects, unwritten.clone());
        let actor = actor.start();
        self.registry.bind(spec.job, Some(hands), actor.clone().recipient());
        let (finished, outcome) = oneshot::channel();
        let effects = Effects {
            spec,
            registry: self.registry.clone(),
            actor: actor.clone(),
            repositories: self.repositories.clone(),
            archive_timeout: self.archive_timeout,
            locks,
            heartbeats: Default::default(),
            accepted,
            unwritten,
            record,
        };
        self.runtime.spawn(effects.run(queue, finished));
        Ok(BackupRun { progress, control: BackupControl(actor), outcome })
    }

    async fn lock(
        &self,
        spec: &BackupSpec,
    ) -> Result<Vec<(pgconvoy_core::ids::RepoKey, pgconvoy_core::ids::FencingToken)>, Failure> {
        let leadership = self.registry.leadership();
        let mut locks = Vec::new();
        for repository in &spec.repositories {
            let holder = format!("backup job {}", spec.job);
            match leadership.lock(&spec.stanza, *repository, LockKind::Backup, &holder).await {
                Ok(token) => locks.push((*repository, token)),
                Err(failure) => {
                    for (repository, token) in locks {
                        leadership.unlock(&spec.stanza, repository, LockKind::Backup, token).await;
                    }
                    return Err(failure);
                }
            }
        }
        Ok(locks)
    }
}
