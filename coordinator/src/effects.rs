//! The one place where an effect of a backup becomes I/O.
//!
//! Effects are taken in order. Those that only wait (for a store, for WAL) run beside, and their end is an event; those on
//! whose order something rests (records in the lease store, orders to workers) are awaited here.

use crate::actors::backup::{BackupActor, Happened, now};
use crate::actors::worker_link::{Joined, Obey};
use crate::announce::announce;
use crate::leader::Leadership;
use crate::prepare::{labels_elsewhere, prepare};
use actix::Addr;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::format::plan::PlanBody;
use pgconvoy_core::format::{BackupKind, BackupLabel, encode_named};
use pgconvoy_core::ids::{Attempt, FencingToken, PlanNumber, RepoKey, UnitId};
use pgconvoy_core::machine::backup::event::UnitLease;
use pgconvoy_core::machine::backup::{BackupSpec, Effect, Event, Outcome};
use pgconvoy_core::pg::WalSegmentName;
use pgconvoy_lease::keys::JobKeys;
use pgconvoy_lease::store::{Acquire, BATCH_KEYS_MAX, Claim, Expected};
use pgconvoy_lease::{LeaseError, LockKind};
use pgconvoy_repository::RepositorySet;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How soon WAL is looked for again, at first and at most.
const WAL_POLL_FIRST: Duration = Duration::from_millis(50);
const WAL_POLL_MAX: Duration = Duration::from_secs(1);
/// The record of an accepted unit's place among a job's durable keys; the order to stop has its own.
const STOP_RECORD: u32 = u32::MAX;

pub(crate) struct Effects {
    pub spec: BackupSpec,
    pub worker: Joined,
    pub actor: Addr<BackupActor>,
    pub leadership: Arc<Leadership>,
    pub repositories: Arc<RepositorySet>,
    pub archive_timeout: Duration,
    pub locks: Vec<(RepoKey, FencingToken)>,
    pub heartbeats: BTreeMap<RepoKey, CancellationToken>,
}

impl Effects {
    pub(crate) async fn run(
        mut self,
        mut queue: mpsc::UnboundedReceiver<Vec<Effect>>,
        finished: oneshot::Sender<Outcome>,
    ) {
        while let Some(batch) = queue.recv().await {
            let mut failed = false;
            for effect in batch {
                if let Effect::Finish(outcome) = effect {
                    self.end().await;
                    // Nobody waits any more if the process is ending.
                    let _ = finished.send(*outcome);
                    return;
                }
                // What follows in the batch may rest on what could not be done: only the end still counts.
                if failed {
                    continue;
                }
                if let Err(failure) = self.apply(effect).await {
                    self.actor.do_send(Happened(Event::Cancelled(failure)));
                    failed = true;
                }
            }
        }
    }

    async fn apply(&mut self, effect: Effect) -> Result<(), Failure> {
        match effect {
            Effect::OpenRepositories { repositories } => {
                let (set, spec) = (self.repositories.clone(), self.spec.clone());
                self.beside(async move {
                    let results = prepare(set.clone(), &spec, repositories.clone()).await;
                    let other_labels = labels_elsewhere(&set, &spec.stanza, &repositories).await;
                    Event::RepositoriesOpened { results, other_labels }
                });
            }
            // One worker so far: the one that every order is meant for.
            Effect::Send { order, .. } => self.worker.link.do_send(Obey(order)),
            Effect::AwaitWal { repository, archive, segments } => {
                let (set, stanza, timeout) =
                    (self.repositories.clone(), self.spec.stanza.clone(), self.archive_timeout);
                self.beside(async move {
                    let wait = WalWait { set, stanza, repository, archive, timeout };
                    Event::WalFound { repository, result: wait.run(segments).await }
                });
            }
            Effect::WritePlan { repository, label, unit_size, units, files, bytes } => {
                let plan = self.plan(label, unit_size, units, files, bytes);
                self.write_plan(repository, plan);
            }
            Effect::LeaseUnits { units, .. } => self.lease(units).await?,
            Effect::ReleaseLease { unit, token } => {
                self.leadership.leases.release(self.job_keys().lease(unit), token).await?;
            }
            Effect::PersistAccepted { unit, attempt, token, repositories } => {
                self.accept(unit, attempt, token, &repositories).await?;
            }
            Effect::PersistStopOrder => self.record(STOP_RECORD, Bytes::new()).await?,
            Effect::Publish { repository, contents, record } => {
                let (set, stanza) = (self.repositories.clone(), self.spec.stanza.clone());
                // Until its entry is in place, somebody else may still wonder whether its writer lives.
                let heartbeat = self.heartbeats.remove(&repository);
                // Too late to cancel: only this repository is lost with it.
                let lost = move |failure| Event::Published { repository, result: Err(failure) };
                self.beside_or(lost, async move {
                    let result = async {
                        let opened = set.open(repository).await?;
                        let label = record.label;
                        let published = opened.publish(&stanza, contents, *record).await;
                        if let Some(stop) = heartbeat {
                            stop.cancel();
                        }
                        published?;
                        if let Err(error) = opened.tidy_published(&stanza, label).await {
                            tracing::debug!("heartbeats of {label} stay: {error}");
                        }
                        Ok::<_, Failure>(())
                    };
                    Event::Published { repository, result: result.await }
                });
            }
            Effect::Dropped { repository, failure } => {
                self.stop_heartbeat(repository);
                tracing::warn!("repo {repository} is left out of this backup: [{}] {failure}", failure.code);
            }
            Effect::Warn(warning) => tracing::warn!("{warning}"),
            Effect::Finish(_) => {}
        }
        Ok(())
    }

    fn beside(&self, work: impl Future<Output = Event> + Send + 'static) {
        self.beside_or(Event::Cancelled, work);
    }

    /// The job would wait for ever for an event that never comes: a panic is an event as well.
    fn beside_or(
        &self,
        lost: impl FnOnce(Failure) -> Event + Send + 'static,
        work: impl Future<Output = Event> + Send + 'static,
    ) {
        let actor = self.actor.clone();
        let working = tokio::spawn(work);
        tokio::spawn(async move {
            let event = working.await.unwrap_or_else(|error| {
                lost(Failure::new(ErrorCode::Assert, format!("work for the backup failed: {error}")))
            });
            actor.do_send(Happened(event));
        });
    }

    fn job_keys(&self) -> JobKeys {
        self.leadership.keys.job(&self.spec.job.to_string()).expect("a UUID is a valid part of a key")
    }

    async fn lease(&self, units: Vec<(UnitId, Attempt)>) -> Result<(), Failure> {
        for some in units.chunks(BATCH_KEYS_MAX) {
            match self.lease_some(some).await {
                Ok(leases) => {
                    let worker = self.worker.name.clone();
                    self.actor.do_send(Happened(Event::UnitsLeased { worker, leases }));
                }
                Err(LeaseError::Lost { .. }) => {
                    let worker = self.worker.name.clone();
                    self.actor.do_send(Happened(Event::WorkerLost { worker }));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn lease_some(&self, units: &[(UnitId, Attempt)]) -> Result<Vec<UnitLease>, LeaseError> {
        let keys = self.job_keys();
        let claims =
            units.iter().map(|(unit, _)| Claim { key: keys.lease(*unit), value: Bytes::new() }).collect();
        let guard = Some(self.leadership.guard());
        let answers = self.leadership.leases.acquire_each(claims, self.worker.lease, guard).await?;
        units
            .iter()
            .zip(answers)
            .map(|((unit, attempt), answer)| match answer {
                Acquire::Granted(token) => Ok(UnitLease { unit: *unit, attempt: *attempt, token }),
                Acquire::Held(entry) => {
                    let holder = String::from_utf8_lossy(&entry.value).into_owned();
                    Err(LeaseError::Held { key: entry.key, holder })
                }
            })
            .collect()
    }

    /// The record first: a unit whose lease is gone and whose record is missing is done again.
    async fn accept(
        &self,
        unit: UnitId,
        attempt: Attempt,
        token: FencingToken,
        repositories: &[RepoKey],
    ) -> Result<(), Failure> {
        self.record(unit.0, Bytes::from(encode_named(&(attempt, repositories)))).await?;
        self.leadership.leases.release(self.job_keys().lease(unit), token).await?;
        Ok(())
    }

    async fn record(&self, part: u32, value: Bytes) -> Result<(), Failure> {
        let key = self.job_keys().done(part);
        self.leadership.leases.put(key, value, Expected::Anything, Some(self.leadership.guard())).await?;
        Ok(())
    }

    fn plan(&self, label: BackupLabel, unit_size: u64, units: u32, files: u64, bytes: u64) -> PlanBody {
        PlanBody {
            label,
            backup: self.spec.backup,
            kind: BackupKind::Full,
            number: PlanNumber(1),
            writer: self.spec.writer.clone(),
            written: now(),
            references: Vec::new(),
            unit_size,
            units,
            files,
            bytes,
        }
    }

    fn write_plan(&mut self, repository: RepoKey, plan: PlanBody) {
        let stop = CancellationToken::new();
        self.heartbeats.insert(repository, stop.clone());
        let (set, stanza) = (self.repositories.clone(), self.spec.stanza.clone());
        self.beside(async move {
            let result = announce(&set, repository, &stanza, plan, stop).await;
            Event::PlanWritten { repository, result }
        });
    }

    fn stop_heartbeat(&mut self, repository: RepoKey) {
        if let Some(stop) = self.heartbeats.remove(&repository) {
            stop.cancel();
        }
    }

    async fn end(&mut self) {
        for (_, stop) in std::mem::take(&mut self.heartbeats) {
            stop.cancel();
        }
        for (repository, token) in std::mem::take(&mut self.locks) {
            self.leadership.unlock(&self.spec.stanza, repository, LockKind::Backup, token).await;
        }
    }
}

/// Looks for WAL in one repository until it is there or no more of it has come for the archive timeout.
struct WalWait {
    set: Arc<RepositorySet>,
    stanza: pgconvoy_core::ids::StanzaName,
    repository: RepoKey,
    archive: ArchiveId,
    timeout: Duration,
}

impl WalWait {
    /// What is still missing at the end.
    async fn run(&self, mut missing: Vec<WalSegmentName>) -> Result<Vec<WalSegmentName>, Failure> {
        let opened = self.set.open(self.repository).await?;
        let (mut progressed, mut pause) = (Instant::now(), WAL_POLL_FIRST);
        loop {
            let still = opened.missing_wal(&self.stanza, self.archive, &missing).await;
            let still = still?;
            if still.is_empty() {
                return Ok(still);
            }
            if still.len() < missing.len() {
                (progressed, pause) = (Instant::now(), WAL_POLL_FIRST);
            } else if progressed.elapsed() >= self.timeout {
                return Ok(still);
            }
            missing = still;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(WAL_POLL_MAX);
        }
    }
}
