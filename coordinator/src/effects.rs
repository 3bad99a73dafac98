//! The one place where an effect of a backup becomes I/O.
//!
//! Effects are taken in order. Those that only wait (for a store, for WAL) run beside, and their end is an event; those on
//! whose order something rests (records in the lease store, orders to workers) are awaited here.
//!
//! Failure story: a lease store that refuses because another coordinator leads ends this leadership's part in the job, which
//! goes on elsewhere: nothing is said to workers, nothing is given up.

mod wanted;

use crate::actors::backup::{BackupActor, Happened, now};
use crate::announce::announce;
use crate::ending::{self, Labelled};
use crate::leader::Leadership;
use crate::listing::Listing;
use crate::prepare::{give_up_unfinished, prepare};
use crate::progress::Unwritten;
use crate::recall::{self, Packs};
use crate::records::JobKeeper;
use crate::registry::Registry;
use crate::wal_wait::WalWait;
use actix::Addr;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::plan::PlanBody;
use pgconvoy_core::format::{BackupLabel, encode_named};
use pgconvoy_core::ids::{Attempt, FencingToken, RepoKey, UnitId, WorkerName};
use pgconvoy_core::machine::backup::batching::Acceptance;
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::machine::backup::event::{AcceptedUnit, UnitLease};
use pgconvoy_core::machine::backup::{BackupSpec, Effect, Event, Outcome};
use pgconvoy_core::wire::Instruction;
use pgconvoy_lease::keys::JobKeys;
use pgconvoy_lease::store::{Acquire, BATCH_KEYS_MAX, Claim, Entry, Expected, LeaseId, Write};
use pgconvoy_lease::{Key, LeaseError, LockKind};
use pgconvoy_repository::RepositorySet;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use wanted::Wanted;

/// Accepted units in one record of the lease store: it is rewritten as they come, so it stays small.
const UNITS_PER_RECORD: u32 = 256;

pub(crate) struct Effects {
    pub spec: BackupSpec,
    pub registry: Arc<Registry>,
    pub actor: Addr<BackupActor>,
    pub repositories: Arc<RepositorySet>,
    pub archive_timeout: Duration,
    pub locks: Vec<(RepoKey, FencingToken)>,
    pub heartbeats: BTreeMap<RepoKey, CancellationToken>,
    /// As in the lease store.
    pub accepted: BTreeMap<u32, Vec<AcceptedUnit>>,
    pub unwritten: Unwritten,
    /// Keeps what the job is bound to; absent where no other leader can come.
    pub record: Option<Arc<JobKeeper>>,
}

impl Effects {
    pub(crate) async fn run(
        mut self,
        queue: mpsc::UnboundedReceiver<Vec<Effect>>,
        finished: oneshot::Sender<Outcome>,
    ) {
        let leadership = self.registry.leadership().clone();
        let mut wanted = Wanted::new(queue);
        loop {
            let more = tokio::select! {
                more = wanted.more() => more,
                () = leadership.lost() => false,
            };
            if !more {
                return self.stop_heartbeats();
            }
            let mut failed = false;
            while let Some(effect) = wanted.next() {
                // Another one leads, or may: the job is its own by now.
                if !self.leadership().is_alive() {
                    return self.stop_heartbeats();
                }
                let done = match effect {
                    Effect::Finish(outcome) => {
                        self.end().await;
                        // Nobody waits any more if the process is ending.
                        let _ = finished.send(*outcome);
                        return;
                    }
                    // What follows in the batch may rest on what could not be done: only the end still counts.
                    effect if failed && !effect.is_of_the_end() => Ok(()),
                    effect @ Effect::PersistAccepted { .. } => {
                        self.accept(wanted.accepted(effect, has_room())).await
                    }
                    effect => self.apply(effect).await,
                };
                if let Err(failure) = done {
                    if !self.leadership().is_alive() {
                        return self.stop_heartbeats();
                    }
                    self.actor.do_send(Happened(Event::Cancelled(failure)));
                    failed = true;
                }
            }
        }
    }

    async fn apply(&mut self, effect: Effect) -> Result<(), Failure> {
        let Some(effect) = self.keep(effect).await? else { return Ok(()) };
        let Some(effect) = self.look_up(effect) else { return Ok(()) };
        match effect {
            Effect::Send { worker, order } => {
                self.registry.instruct(&worker, Instruction::Order(order));
            }
            Effect::WritePlan { repository, label, number, references, unit_size, units, files, bytes } => {
                let plan = PlanBody {
                    label,
                    backup: self.spec.backup,
                    kind: label.kind(),
                    number,
                    writer: self.spec.writer.clone(),
                    written: now(),
                    references,
                    unit_size,
                    units,
                    files,
                    bytes,
                };
                self.write_plan(repository, plan);
            }
            Effect::WaitForSource { absence, patience_ms } => self.beside(async move {
                tokio::time::sleep(Duration::from_millis(patience_ms)).await;
                Event::SourceOverdue { absence }
            }),
            Effect::GiveUpLabel { repositories, label, reason } => {
                let labelled = self.labelled(repositories, label);
                let lost = ending::unknown(&labelled.repositories);
                self.beside_or(
                    lost,
                    async move { Event::GivenUp { fates: labelled.give_up(&reason).await } },
                );
            }
            Effect::Publish { repository, contents, record } => self.publish(repository, contents, record),
            Effect::Dropped { repository, failure } => {
                self.stop_heartbeat(repository);
                tracing::warn!("repo {repository} is left out of this backup: [{}] {failure}", failure.code);
            }
            Effect::Warn(warning) => tracing::warn!("{warning}"),
            // Kept or looked up, and done with; the end is not applied.
            _ => {}
        }
        Ok(())
    }

    /// Begins to look for what repositories have, the answer being an event; hands back all other effects.
    fn look_up(&self, effect: Effect) -> Option<Effect> {
        let (set, spec) = (self.repositories.clone(), self.spec.clone());
        match effect {
            Effect::OpenRepositories { repositories, own } => {
                self.beside(async move { prepare(set, &spec, repositories, own).await })
            }
            Effect::GiveUpUnfinished { repository, unfinished } => self.beside(async move {
                let result = give_up_unfinished(set, &spec, repository, unfinished).await;
                Event::UnfinishedGivenUp { repository, result }
            }),
            Effect::AwaitWal { repository, archive, segments } => {
                let (stanza, timeout) = (spec.stanza, self.archive_timeout);
                self.beside(async move {
                    let wait = WalWait { set, stanza, repository, archive, timeout };
                    Event::WalFound { repository, result: wait.run(segments).await }
                });
            }
            Effect::ReadPrior { round, prior, records } => {
                let listing = Listing { set, stanza: spec.stanza, actor: self.actor.clone(), round };
                self.beside(async move { listing.prior(prior, records).await });
            }
            Effect::ReadLeftover { round, label, plans, repositories } => {
                let listing = Listing { set, stanza: spec.stanza, actor: self.actor.clone(), round };
                self.beside(async move { listing.leftover(label, plans, &repositories).await });
            }
            Effect::RecallReceipts { label, plan, units } => self.beside(async move {
                let wanted = Packs { stanza: spec.stanza, label, plan, backup: spec.backup, units };
                Event::ReceiptsRecalled { packs: recall::packs(set, wanted).await }
            }),
            Effect::FindStop { repositories, label, plan } => {
                let labelled = self.labelled(repositories, label);
                self.beside(async move {
                    let (stop, failed) = labelled.stop(plan).await;
                    Event::StopFound { stop, failed }
                });
            }
            Effect::RecallSession { repositories, label, plan } => {
                let labelled = self.labelled(repositories, label);
                self.beside(async move { Event::SessionRecalled { session: labelled.session(plan).await } });
            }
            other => return Some(other),
        }
        None
    }

    /// Does what the lease store must know before anything rests on it; hands back all other effects.
    async fn keep(&mut self, effect: Effect) -> Result<Option<Effect>, Failure> {
        match effect {
            Effect::LeaseUnits { worker, units } => self.lease(worker, units).await?,
            Effect::ReleaseLease { unit, attempt } => {
                let key = self.job_keys().lease(unit, attempt);
                self.leadership().commit(vec![Write::Delete { key }]).await?;
            }
            Effect::Settle { worker, unit, attempt } => self.settle(&worker, vec![(unit, attempt)]),
            Effect::PersistAnnounced(announced) => {
                if let Some(record) = &self.record {
                    record.announced(announced).await?;
                }
            }
            Effect::PersistStopOrder => self.put(self.job_keys().stop_order(), Bytes::new()).await?,
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn publish(&mut self, repository: RepoKey, contents: Arc<BackupContents>, record: Box<BackupRecord>) {
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
        self.leadership().keys.job(&self.spec.job.to_string()).expect("a UUID is a valid part of a key")
    }

    fn leadership(&self) -> &Leadership {
        self.registry.leadership()
    }

    async fn lease(&self, worker: WorkerName, units: Vec<(UnitId, Attempt)>) -> Result<(), Failure> {
        let Some(lease) = self.registry.lease(&worker) else {
            self.actor.do_send(Happened(Event::WorkerLost { worker }));
            return Ok(());
        };
        for some in units.chunks(BATCH_KEYS_MAX) {
            match self.lease_some(&worker, lease, some).await {
                Ok(leases) => {
                    self.actor.do_send(Happened(Event::UnitsLeased { worker: worker.clone(), leases }));
                }
                Err(LeaseError::Lost { .. }) => {
                    // Tells every job, this one too.
                    self.registry.lose(&worker).await;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn lease_some(
        &self,
        worker: &WorkerName,
        lease: LeaseId,
        units: &[(UnitId, Attempt)],
    ) -> Result<Vec<UnitLease>, LeaseError> {
        let keys = self.job_keys();
        let value = Bytes::copy_from_slice(worker.as_str().as_bytes());
        let claim = |(unit, attempt): &(UnitId, Attempt)| Claim {
            key: keys.lease(*unit, *attempt),
            value: value.clone(),
        };
        let claims = units.iter().map(claim).collect();
        let answers = self.leadership().acquire_each(claims, lease).await?;
        units
            .iter()
            .zip(answers)
            .map(|((unit, attempt), answer)| match answer {
                Acquire::Granted(token) => Ok(UnitLease { unit: *unit, attempt: *attempt, token }),
                // Granted already, and the answer was lost.
                Acquire::Held(Entry { token, lease: Some(by), .. }) if by == lease => {
                    Ok(UnitLease { unit: *unit, attempt: *attempt, token })
                }
                Acquire::Held(entry) => {
                    let holder = String::from_utf8_lossy(&entry.value).into_owned();
                    Err(LeaseError::Held { key: entry.key, holder })
                }
            })
            .collect()
    }

    /// Records and the ends of leases in one: a unit whose lease is gone and whose record is missing is done again.
    async fn accept(&mut self, some: Vec<Acceptance>) -> Result<(), Failure> {
        let keys = self.job_keys();
        let (mut writes, mut changed) = (Vec::new(), BTreeSet::new());
        let mut settled: BTreeMap<WorkerName, Vec<(UnitId, Attempt)>> = BTreeMap::new();
        for Acceptance { worker, accepted } in some {
            writes.push(Write::Delete { key: keys.lease(accepted.unit, accepted.attempt) });
            settled.entry(worker).or_default().push((accepted.unit, accepted.attempt));
            changed.insert(record_of(accepted.unit));
            self.accepted.entry(record_of(accepted.unit)).or_default().push(accepted);
        }
        for record in changed {
            let value = Bytes::from(encode_named(&self.accepted[&record]));
            writes.push(Write::Put { key: keys.done(record), value, expected: Expected::Anything });
        }
        self.leadership().commit(writes).await?;
        for (worker, units) in settled {
            units.iter().for_each(|(unit, _)| self.unwritten.remove(*unit));
            self.settle(&worker, units);
        }
        Ok(())
    }

    fn settle(&self, worker: &WorkerName, units: Vec<(UnitId, Attempt)>) {
        self.registry.instruct(worker, Instruction::Settled { job: self.spec.job, units });
    }

    async fn put(&self, key: Key, value: Bytes) -> Result<(), Failure> {
        let write = Write::Put { key, value, expected: Expected::Anything };
        Ok(self.leadership().commit(vec![write]).await?)
    }

    fn labelled(&self, repositories: Vec<RepoKey>, label: BackupLabel) -> Labelled {
        Labelled { set: self.repositories.clone(), spec: self.spec.clone(), repositories, label }
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

    fn stop_heartbeats(&mut self) {
        for (_, stop) in std::mem::take(&mut self.heartbeats) {
            stop.cancel();
        }
    }

    async fn end(&mut self) {
        self.stop_heartbeats();
        self.registry.unbind(self.spec.job);
        for (repository, token) in std::mem::take(&mut self.locks) {
            self.registry.leadership().unlock(&self.spec.stanza, repository, LockKind::Backup, token).await;
        }
    }
}

/// Accepted units as they are laid out in the lease store.
pub(crate) fn by_record(accepted: &[AcceptedUnit]) -> BTreeMap<u32, Vec<AcceptedUnit>> {
    let mut records: BTreeMap<u32, Vec<AcceptedUnit>> = BTreeMap::new();
    for unit in accepted {
        records.entry(record_of(unit.unit)).or_default().push(unit.clone());
    }
    records
}

fn record_of(unit: UnitId) -> u32 {
    unit.0 / UNITS_PER_RECORD
}

/// Whether one more accepted unit fits into a transaction: its lease, and its record unless that is in there already.
fn has_room() -> impl FnMut(&AcceptedUnit) -> bool {
    let (mut leases, mut records) = (0, BTreeSet::new());
    move |accepted| {
        let record = record_of(accepted.unit);
        let keys = leases + 1 + records.len() + usize::from(!records.contains(&record));
        if keys > BATCH_KEYS_MAX {
            return false;
        }
        leases += 1;
        records.insert(record);
        true
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
