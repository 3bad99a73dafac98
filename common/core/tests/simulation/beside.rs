//! What a coordinator does in repositories beside the order of effects: it takes time, goes on though the leadership is lost, and
//! ends in an event that only the same leadership hears.
//!
//! Mirrors `announce.rs`, `prepare.rs`, `recall.rs` and `wal_wait.rs` of `pgconvoy-coordinator`, and the parts of
//! `pgconvoy-repository` that these call.

use crate::Millis;
use crate::coordinator::CoordinatorAct;
use crate::scenario::cluster;
use crate::storage::{Entry, Plan};
use crate::world::World;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::manifest::Record;
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::ids::{FencingToken, Identity, RepoKey};
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::machine::backup::contest::Begun;
use pgconvoy_core::machine::backup::event::{AcceptedUnit, RecalledPack};
use pgconvoy_core::machine::backup::{Announced, Event, Fate, RecalledSession, RepositoryFacts};
use pgconvoy_core::pg::WalSegmentName;
use pgconvoy_core::plan::inventory::Inventory;
use pgconvoy_core::wire::{JobId, RepositoryFailure, SessionFacts, StoredPack};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const WAL_POLL: Millis = 500;
const HEARTBEAT_INTERVAL: Millis = 4_000;
/// A live writer puts a heartbeat in this time.
const LIVENESS_WINDOW: Millis = 12_000;

#[derive(Debug, Clone)]
pub(crate) struct WalWait {
    pub(crate) epoch: FencingToken,
    pub(crate) job: JobId,
    pub(crate) repository: RepoKey,
    pub(crate) missing: Vec<WalSegmentName>,
    pub(crate) until: Millis,
}

#[derive(Debug, Clone)]
pub(crate) struct Publishing {
    pub(crate) epoch: FencingToken,
    pub(crate) job: JobId,
    pub(crate) repository: RepoKey,
    pub(crate) label: BackupLabel,
    pub(crate) backup: Identity,
    pub(crate) contents: Arc<BackupContents>,
    pub(crate) record: Box<BackupRecord>,
    pub(crate) has_manifest: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct ReadingPrior {
    pub(crate) epoch: FencingToken,
    pub(crate) job: JobId,
    pub(crate) round: u32,
    pub(crate) prior: u32,
    pub(crate) records: Vec<(RepoKey, Box<BackupRecord>)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Clearing {
    pub(crate) epoch: FencingToken,
    pub(crate) job: JobId,
    pub(crate) repository: RepoKey,
    pub(crate) unfinished: Vec<Begun>,
}

impl World {
    /// Two looks: labels whose writer put no heartbeat in between may be given up.
    pub(crate) fn prepare_repositories(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        seen: Option<BTreeMap<(RepoKey, BackupLabel), u64>>,
    ) {
        let now = self.now;
        let announced = self.store.record(job).and_then(|record| record.begun.as_ref()?.announced.clone());
        let own = announced.as_ref().map(|known| known.label);
        let mut watched = BTreeMap::new();
        let mut results = Vec::new();
        for key in self.scenario.repositories.clone() {
            let repository = self.repository(job, key);
            let looked = repository.ask(now).map(|repository| {
                let (mut is_busy, mut dead) = (false, Vec::new());
                for (label, is_void) in repository.unfinished() {
                    let beats = repository.plans[&label].beats;
                    if Some(label) == own {
                        continue;
                    }
                    match seen.as_ref().map(|seen| seen.get(&(key, label))) {
                        _ if is_void => dead.push(repository.begun(label, true)),
                        None | Some(None) => drop(watched.insert((key, label), beats)),
                        Some(Some(before)) if *before == beats => {
                            dead.push(repository.begun(label, false));
                        }
                        Some(_) => is_busy = true,
                    }
                }
                (is_busy, dead)
            });
            results.push((key, looked));
        }
        if !watched.is_empty() {
            watched.extend(seen.into_iter().flatten());
            let act = CoordinatorAct::Prepare { epoch, job, seen: Some(watched) };
            return self.coordinator_later(id, LIVENESS_WINDOW, act);
        }
        let result = |(key, looked): (RepoKey, Result<(bool, Vec<Begun>), Failure>)| {
            let facts = looked.and_then(|(is_busy, unfinished)| match is_busy {
                true => Err(Failure::new(ErrorCode::LockAcquire, "somebody backs up")),
                false => Ok(self.facts_of(job, key, announced.as_ref(), unfinished)),
            });
            (key, facts)
        };
        let results = results.into_iter().map(result).collect();
        let other_labels = Vec::new();
        let event = Event::RepositoriesOpened { results, other_labels, are_others_asked: true };
        self.tell_job(id, epoch, job, event);
    }

    pub(crate) fn clear(&mut self, id: usize, clearing: Clearing) {
        let Clearing { epoch, job, repository, unfinished } = clearing;
        let now = self.now;
        let result = self.repository(job, repository).ask(now).map(|repository| {
            for begun in unfinished {
                if repository.give_up(begun.label) == Fate::Void {
                    repository.sweep(begun.label);
                }
            }
        });
        self.tell_job(id, epoch, job, Event::UnfinishedGivenUp { repository, result });
    }

    fn facts_of(
        &self,
        job: JobId,
        key: RepoKey,
        announced: Option<&Announced>,
        unfinished: Vec<Begun>,
    ) -> RepositoryFacts {
        let repository = &self.repositories[&self.place(job, key)];
        let mut labels: BTreeSet<BackupLabel> = repository.catalogue.keys().copied().collect();
        labels.extend(repository.plans.keys().copied());
        let prior = match (announced, crate::scenario::rests(job)) {
            (Some(own), _) => own.prior_in(key).map(|label| repository.records[&label].clone()),
            (None, rests) => repository.newest().filter(|_| rests.is_some()),
        };
        RepositoryFacts {
            has_this: announced
                .is_some_and(|own| matches!(repository.catalogue.get(&own.label), Some(Entry::Published(_)))),
            unfinished,
            prior,
            identity: Identity::default(),
            cluster: cluster(),
            labels: labels.into_iter().collect(),
        }
    }

    /// The manifest of an earlier backup, of the first repository that answers.
    pub(crate) fn read_prior(&mut self, id: usize, reading: ReadingPrior) {
        let ReadingPrior { epoch, job, round, prior, records } = reading;
        let now = self.now;
        let mut result = Err(Failure::new(ErrorCode::FileRead, "no repository answers"));
        for (key, record) in records {
            let manifest = match self.repository(job, key).ask(now) {
                Ok(repository) => repository.manifests[&record.label].clone(),
                Err(failure) => {
                    result = Err(failure);
                    continue;
                }
            };
            let head = Box::new(manifest.head_in(&record));
            self.tell_job(id, epoch, job, Event::PriorOpened { round, prior, head });
            let files = manifest.records().filter_map(|record| match record {
                Record::File(file) => Some(file),
                Record::Directory(_) | Record::Link(_) => None,
            });
            let files = files.collect();
            self.tell_job(id, epoch, job, Event::PriorListed { round, prior, files });
            result = Ok(());
            break;
        }
        self.tell_job(id, epoch, job, Event::PriorRead { round, prior, result });
    }

    pub(crate) fn await_wal(&mut self, id: usize, mut wait: WalWait) {
        let now = self.now;
        let repository = self.repository(wait.job, wait.repository);
        let result = repository.ask(now).map(|repository| {
            let archived = now >= repository.archived_from;
            wait.missing.retain(|segment| !archived && !repository.supplied.contains(segment));
        });
        let (epoch, job, repository) = (wait.epoch, wait.job, wait.repository);
        if result.is_ok() && !wait.missing.is_empty() && now < wait.until {
            return self.coordinator_later(id, WAL_POLL, CoordinatorAct::AwaitWal(Box::new(wait)));
        }
        let result = result.map(|()| wait.missing);
        self.tell_job(id, epoch, job, Event::WalFound { repository, result });
    }

    pub(crate) fn write_plan(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        key: RepoKey,
        label: BackupLabel,
    ) {
        let (now, backup) = (self.now, self.backup_of(id, epoch, job));
        let Some(backup) = backup else { return };
        let repository = self.repository(job, key);
        let result = repository.ask(now).and_then(|repository| {
            if matches!(repository.catalogue.get(&label), Some(Entry::Void)) {
                return Err(Failure::new(ErrorCode::LockAcquire, "somebody has given this backup up"));
            }
            let plan = repository.plans.entry(label).or_insert(Plan { backup, beats: 0 });
            let is_ours = plan.backup == backup;
            let foreign = || Failure::new(ErrorCode::RepoInvalid, "another backup has this label");
            let rivals = repository.plans.iter().any(|(other, plan)| {
                *other != label && plan.backup != backup && !repository.catalogue.contains_key(other)
            });
            if rivals {
                return Err(Failure::new(
                    ErrorCode::LockAcquire,
                    "another backup was begun at the same time",
                ));
            }
            if is_ours { Ok(()) } else { Err(foreign()) }
        });
        self.coordinator_later(
            id,
            HEARTBEAT_INTERVAL,
            CoordinatorAct::Beat { epoch, job, repository: key, label },
        );
        self.tell_job(id, epoch, job, Event::PlanWritten { repository: key, result });
    }

    fn backup_of(&mut self, id: usize, epoch: FencingToken, job: JobId) -> Option<Identity> {
        self.run_of(id, epoch, job).map(|run| run.executor.spec.backup)
    }

    pub(crate) fn beat(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        key: RepoKey,
        label: BackupLabel,
    ) {
        let now = self.now;
        if !self.run_of(id, epoch, job).is_some_and(|run| run.executor.beating.contains(&key)) {
            return;
        }
        if let Ok(repository) = self.repository(job, key).ask(now)
            && let Some(plan) = repository.plans.get_mut(&label)
        {
            plan.beats += 1;
        }
        self.coordinator_later(
            id,
            HEARTBEAT_INTERVAL,
            CoordinatorAct::Beat { epoch, job, repository: key, label },
        );
    }

    pub(crate) fn recall(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        label: BackupLabel,
        units: Vec<AcceptedUnit>,
    ) -> Vec<RecalledPack> {
        let now = self.now;
        let Some(run) = self.run_of(id, epoch, job) else { return Vec::new() };
        let dropped = run.executor.dropped.clone();
        let (mut packs, mut lost) = (Vec::new(), BTreeSet::new());
        for unit in units {
            let shown = |key: &RepoKey| {
                let repository = &self.repositories[&self.place(job, *key)];
                repository
                    .is_whole(now)
                    .then(|| repository.packs.get(&(label, unit.unit, unit.attempt)))
                    .flatten()
            };
            let all: Option<Vec<_>> = unit.repositories.iter().map(shown).collect();
            match all.as_ref().and_then(|all| all.first()) {
                Some(pack) => {
                    let stored = |key: &RepoKey| StoredPack { repository: *key, bytes: 1 };
                    let stored = unit.repositories.iter().map(stored).collect();
                    packs.push(RecalledPack { body: pack.body.clone(), stored });
                }
                None if unit
                    .repositories
                    .iter()
                    .any(|key| !dropped.contains(key) && shown(key).is_none()) =>
                {
                    lost.insert(unit.unit);
                }
                None => {}
            }
        }
        for key in lost.iter().flat_map(|_| self.scenario.repositories.clone()).collect::<BTreeSet<_>>() {
            let repository = self.repository(job, key);
            repository.ever_failed |= !repository.is_whole(now);
        }
        if let Some(run) = self.run_of(id, epoch, job) {
            run.executor.lost.extend(lost);
        }
        packs
    }

    pub(crate) fn give_up(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        label: BackupLabel,
        mut left: Vec<RepoKey>,
        mut fates: Vec<(RepoKey, Result<Fate, Failure>)>,
    ) {
        let now = self.now;
        let Some(key) = left.pop() else {
            return self.tell_job(id, epoch, job, Event::GivenUp { fates });
        };
        let fate = self.repository(job, key).ask(now).map(|repository| repository.give_up(label));
        self.note(format_args!("label {label} in repo {key} is to be given up: {fate:?}"));
        fates.push((key, fate));
        let after = self.rng.range(1, 300);
        self.coordinator_later(id, after, CoordinatorAct::GiveUp { epoch, job, label, left, fates });
    }

    /// The record of the stop, with the session that it ended, of the first repository that shows one.
    fn stop_record(&mut self, job: JobId, label: BackupLabel) -> Option<(StopBody, SessionFacts)> {
        let now = self.now;
        self.scenario.repositories.clone().into_iter().find_map(|key| {
            let asked = self.repository(job, key).ask(now);
            asked.ok().and_then(|repository| repository.stops.get(&label).cloned())
        })
    }

    pub(crate) fn find_stop(&mut self, id: usize, epoch: FencingToken, job: JobId, label: BackupLabel) {
        let found = self.stop_record(job, label);
        self.note(format_args!("the stop of {label} is looked for, and found: {}", found.is_some()));
        let (now, mut failed) = (self.now, Vec::new());
        if let Some(record) = &found {
            for key in self.scenario.repositories.clone() {
                match self.repository(job, key).ask(now) {
                    Ok(repository) => drop(repository.stops.entry(label).or_insert_with(|| record.clone())),
                    Err(failure) => failed.push(RepositoryFailure { repository: key, failure }),
                }
            }
        }
        let stop = found.map(|(stop, _)| stop);
        self.tell_job(id, epoch, job, Event::StopFound { stop, failed });
    }

    pub(crate) fn recall_session(&mut self, id: usize, epoch: FencingToken, job: JobId, label: BackupLabel) {
        let entries = self.scenario.stanzas[self.scenario.stanza_of(job)].entries.clone();
        let session = self.stop_record(job, label).map(|(_, session)| {
            let mut inventory = Inventory::default();
            entries.into_iter().for_each(|entry| inventory.push(entry).expect("scans are in order"));
            let preflight = crate::scenario::preflight_facts();
            Box::new(RecalledSession { preflight, session, inventory })
        });
        self.note(format_args!("the session of {label} is looked for, and found: {}", session.is_some()));
        self.tell_job(id, epoch, job, Event::SessionRecalled { session });
    }

    pub(crate) fn publish(&mut self, id: usize, mut publishing: Publishing) {
        let (now, repository) = (self.now, publishing.repository);
        let (epoch, job, label, backup) =
            (publishing.epoch, publishing.job, publishing.label, publishing.backup);
        if let Some(run) = self.run_of(id, epoch, job) {
            // Its heartbeats go on until the entry is there.
            run.executor.beating.insert(repository);
        }
        let store = self.repository(job, repository);
        let result = store.ask(now).and_then(|store| {
            if !publishing.has_manifest {
                let manifest = store.manifests.entry(label).or_insert_with(|| publishing.contents.clone());
                let is_own = manifest.head.backup == publishing.contents.head.backup;
                let foreign = || Failure::new(ErrorCode::RepoInvalid, "another manifest is there");
                return if is_own { Ok(false) } else { Err(foreign()) };
            }
            let is_new = !store.catalogue.contains_key(&label);
            match store.catalogue.entry(label).or_insert(Entry::Published(backup)) {
                Entry::Published(known) if *known == backup => {
                    store.records.entry(label).or_insert_with(|| publishing.record.clone());
                    Ok(is_new)
                }
                _ => Err(Failure::new(ErrorCode::RepoInvalid, "the backup was given up")),
            }
        });
        match result {
            Ok(_) if !publishing.has_manifest => {
                publishing.has_manifest = true;
                let after = self.rng.range(1, 1_500);
                self.coordinator_later(id, after, CoordinatorAct::Publish(Box::new(publishing)));
            }
            result => {
                if let Ok(is_new) = result {
                    self.note(format_args!(
                        "{label} is published in repo {repository} by coordinator {id}: new {is_new}"
                    ));
                    if is_new {
                        self.check_not_over(job, repository, label);
                    }
                    self.ledger.published(job, repository, label);
                    self.check_entry(job, repository, label);
                }
                let result = result.map(|_| ());
                self.tell_job(id, epoch, job, Event::Published { repository, result });
            }
        }
    }
}
