//! What a leader does: takes over, serves the queue, begins jobs and sees them to their end.
//!
//! Mirrors `lead.rs`, `running.rs`, `recall.rs` and `records.rs` of `pgconvoy-coordinator`.

use crate::coordinator::{CoordinatorAct, TICK};
use crate::effects::Executor;
use crate::lease_store::{Acquire, Key, Value};
use crate::scenario::{SOURCE_PATIENCE, UNIT_SIZE, WORKER_TTL, job_id, stanza};
use crate::world::World;
use crate::{Millis, identity, wall};
use pgconvoy_core::config::BackupStandby;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupKind;
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::ids::{Epoch, FencingToken, StanzaName, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions, JobState};
use pgconvoy_core::machine::backup::event::UnitLease;
use pgconvoy_core::machine::backup::{BackupMachine, BackupSpec, Event, Outcome, Recovered, Status};
use pgconvoy_core::machine::queue::{QueuedJob, Start};
use pgconvoy_core::record::{Begun, JobRecord};
use pgconvoy_core::wire::{Compress, JobId, SourceOptions};
use std::collections::BTreeMap;

const QUEUE_INTERVAL: Millis = 2_000;
/// Before a lease store that did not answer is asked again.
pub(crate) const ASK_AGAIN: Millis = 250;

/// A job in its leader's hands.
pub(crate) struct Live {
    pub(crate) record: JobRecord,
    pub(crate) run: Option<Run>,
    pub(crate) is_cancelled: bool,
}

pub(crate) struct Run {
    pub(crate) machine: BackupMachine,
    pub(crate) executor: Executor,
}

impl World {
    pub(crate) fn take_over(&mut self, id: usize, epoch: FencingToken) {
        if self.leading(id, epoch).is_none() {
            return;
        }
        if !self.store_answers(id) {
            return self.coordinator_later(id, ASK_AGAIN, CoordinatorAct::TakeOver(epoch));
        }
        self.adopt_workers(id, epoch);
        let mut records = self.store.records();
        records.sort_by_key(|record| record.created);
        for record in records {
            self.go_on_with(id, epoch, record);
        }
        if let Some(leading) = self.leading(id, epoch) {
            leading.has_taken_over = true;
        }
        self.coordinator_later(id, 0, CoordinatorAct::Serve(epoch));
    }

    fn adopt_workers(&mut self, id: usize, epoch: FencingToken) {
        let now = self.now;
        let registered = self.store.entries.iter().filter_map(|(key, entry)| match (key, &entry.value) {
            (Key::Worker(name), Value::Incarnation(incarnation)) => {
                Some((name.clone(), *incarnation, entry.lease?))
            }
            _ => None,
        });
        for (name, incarnation, lease) in registered.collect::<Vec<_>>() {
            if self.store.keep_alive(lease, now).is_ok() {
                self.know(id, epoch, name.clone(), incarnation, lease);
                self.expire_later(id, epoch, name, WORKER_TTL);
            }
        }
    }

    fn go_on_with(&mut self, id: usize, epoch: FencingToken, record: JobRecord) {
        let job = record.id;
        let queued = self.queued(&record);
        let begun = record.begun.clone().filter(|_| record.state.is_under_way());
        let Some(leading) = self.leading(id, epoch) else { return };
        let is_over = record.state.is_over();
        let is_paused = record.state == JobState::Paused;
        leading.jobs.insert(job, Live { record, run: None, is_cancelled: false });
        match begun {
            _ if is_over => {}
            None => leading.queue.submit(queued),
            Some(begun) => {
                leading.queue.adopt(queued, Some(begun.source.clone()));
                let recovered = self.recovered(job, &begun, is_paused);
                let spec = BackupSpec { epoch: Epoch(epoch.0), ..begun.spec };
                self.run_backup(id, epoch, job, spec, begun.source, recovered);
            }
        }
    }

    fn recovered(&self, job: JobId, begun: &Begun, paused: bool) -> Recovered {
        let lease = |(key, entry): (&Key, &crate::lease_store::Entry)| match (key, &entry.value) {
            (Key::Unit(of, unit, attempt), Value::Holder(worker)) if *of == job => {
                let lease = UnitLease { unit: *unit, attempt: *attempt, token: entry.token };
                Some((worker.clone(), lease))
            }
            _ => None,
        };
        Recovered {
            announced: begun.announced.clone(),
            accepted: self.store.accepted(job),
            leases: self.store.entries.iter().filter_map(lease).collect(),
            stop_ordered: self.store.entries.contains_key(&Key::StopOrder(job)),
            paused,
        }
    }

    fn queued(&self, record: &JobRecord) -> QueuedJob {
        QueuedJob {
            id: record.id,
            kind: record.kind,
            stanza: record.stanza.clone(),
            repositories: self.scenario.repositories.clone(),
            priority: record.priority,
            created: record.created,
        }
    }

    pub(crate) fn serve(&mut self, id: usize, epoch: FencingToken) {
        let standbys = self.standby_names();
        let Some(leading) = self.leading(id, epoch) else { return };
        let workers = &leading.workers;
        let primaries = |stanza: &StanzaName| {
            let sources = crate::coordinator::sources_of(workers, stanza);
            sources.into_iter().filter(|source| !standbys.contains(source)).collect()
        };
        let starts = leading.queue.start(primaries, pgconvoy_core::ids::WorkerName::to_string);
        self.coordinator_later(id, QUEUE_INTERVAL, CoordinatorAct::Serve(epoch));
        for Start { id: job, source } in starts {
            // The one before may have found that another one leads.
            if self.leading(id, epoch).is_none() {
                return;
            }
            let source = source.expect("a backup has a source");
            self.begin_backup(id, epoch, job, source);
        }
    }

    /// The record first, then the work.
    fn begin_backup(&mut self, id: usize, epoch: FencingToken, job: JobId, source: WorkerName) {
        let spec = self.spec(id, epoch, job);
        let begun = Begun { spec: spec.clone(), source: source.clone(), announced: None };
        let started = wall(self.now);
        let is_written = self.change_record(id, epoch, job, |record| {
            record.state = JobState::Running;
            record.started = Some(started);
            record.begun = Some(begun);
        });
        if is_written {
            self.run_backup(id, epoch, job, spec, source, Recovered::default());
        } else if let Some(leading) = self.leading(id, epoch) {
            // The store did not answer: later again.
            leading.queue.remove(job);
            let record = leading.jobs[&job].record.clone();
            let queued = self.queued(&record);
            self.leading(id, epoch).expect("it was just here").queue.submit(queued);
        }
    }

    /// Changes a record in the store, then in memory. `false`: it is not changed.
    pub(crate) fn change_record(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        change: impl FnOnce(&mut JobRecord),
    ) -> bool {
        let answers = self.store_answers(id);
        let Some(leading) = self.leading(id, epoch).filter(|_| answers) else { return false };
        let mut record = leading.jobs[&job].record.clone();
        if self.store.check(Some(epoch)).is_err() {
            self.step_down(id);
            return false;
        }
        change(&mut record);
        self.commit_check(epoch);
        self.store.put(Key::Job(job), Value::Record(Box::new(record.clone())));
        if let Some(live) = self.leading(id, epoch).and_then(|leading| leading.jobs.get_mut(&job)) {
            live.record = record;
        }
        true
    }

    fn spec(&mut self, id: usize, epoch: FencingToken, job: JobId) -> BackupSpec {
        let backup = identity(self.rng.next());
        let rests = crate::scenario::rests(job);
        let stanza = self.leading(id, epoch).expect("it serves its queue").jobs[&job].record.stanza.clone();
        BackupSpec {
            job,
            epoch: Epoch(epoch.0),
            backup,
            kind: if rests.is_some() { BackupKind::Incr } else { BackupKind::Full },
            delta: rests == Some(true),
            resume: false,
            stanza,
            repositories: self.scenario.repositories.clone(),
            required: self.scenario.repositories.clone(),
            source: SourceOptions {
                online: true,
                force: false,
                start_fast: true,
                archive_check: true,
                archive_mode_check: true,
                checksum_page: None,
                exclude: Vec::new(),
                db_timeout_ms: 1_000,
            },
            compress: Compress { codec: 2, level: 3 },
            own_compress: BTreeMap::new(),
            file_sha1: false,
            standby: match self.scenario.with_standbys {
                true => BackupStandby::Prefer,
                false => BackupStandby::No,
            },
            offload: Default::default(),
            page_errors: Default::default(),
            archive_copy: crate::scenario::copies_wal(job),
            unit_size: UNIT_SIZE,
            whole_files: false,
            stall_timeout_ms: 1_000,
            source_patience_ms: SOURCE_PATIENCE,
            annotations: Default::default(),
            writer: Writer { host: format!("c{id}"), boot: "b".into(), process: 1 },
            program: "0".into(),
        }
    }

    fn run_backup(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        spec: BackupSpec,
        source: WorkerName,
        recovered: Recovered,
    ) {
        let Some(lease) = self.leading(id, epoch).map(|leading| leading.lease) else { return };
        for repository in &spec.repositories {
            let key = Key::Lock(spec.stanza.to_string(), *repository);
            match self.store.acquire(key, Value::Nothing, lease, Some(epoch)) {
                Ok(Acquire::Granted(_)) => {}
                other => {
                    let failure = Failure::new(ErrorCode::LockAcquire, format!("{other:?}"));
                    return self.conclude(id, epoch, job, JobState::Failed, Some(failure));
                }
            }
        }
        self.ledger.run_begins(job, &spec.stanza, epoch);
        let stanza = spec.stanza.clone();
        let leading = self.leading(id, epoch).expect("it was just here");
        let readers = crate::coordinator::sources_of(&leading.workers, &stanza);
        let accepted = recovered.accepted.clone();
        self.note(format_args!(
            "job {} runs under coordinator {id}: {} accepted, announced {}, stop {}",
            short(job),
            accepted.len(),
            recovered.announced.is_some(),
            recovered.stop_ordered
        ));
        let (machine, effects) = BackupMachine::start(spec.clone(), source, readers, recovered);
        let executor = Executor::new(spec, accepted);
        let leading = self.leading(id, epoch).expect("it was just here");
        leading.routes.insert(job, stanza);
        let live = leading.jobs.get_mut(&job).expect("it was made before it runs");
        live.run = Some(Run { machine, executor });
        self.want(id, epoch, job, effects);
        self.coordinator_later(id, TICK, CoordinatorAct::Tick { epoch, job });
    }

    pub(crate) fn finished(&mut self, id: usize, epoch: FencingToken, job: JobId, outcome: &Outcome) {
        let Some(leading) = self.leading(id, epoch) else { return };
        leading.routes.remove(&job);
        let is_cancelled = leading.jobs[&job].is_cancelled;
        let name = leading.jobs[&job].record.stanza.to_string();
        let lease = leading.lease;
        self.ledger.run_ends(job, epoch);
        for repository in self.scenario.repositories.clone() {
            let key = Key::Lock(name.clone(), repository);
            if self.store.entries.get(&key).is_some_and(|entry| entry.lease == Some(lease)) {
                self.store.delete(&key);
            }
        }
        let state = match outcome.status {
            Status::Ok => JobState::Done,
            Status::Partial => JobState::Partial,
            Status::Error if is_cancelled => JobState::Cancelled,
            Status::Error => JobState::Failed,
        };
        self.note(format_args!("job {} ends: {} {:?}", short(job), state.name(), outcome.failure));
        self.conclude(id, epoch, job, state, outcome.failure.clone());
    }

    pub(crate) fn conclude(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        state: JobState,
        failure: Option<Failure>,
    ) {
        let after = self.rng.range(1, 100);
        let answer = Box::new(crate::effects::Answer::Conclude { state, failure });
        self.coordinator_later(id, after, CoordinatorAct::Answered { epoch, job, answer });
    }

    /// Written down at last; progress is of no use any more.
    pub(crate) fn write_end(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        state: JobState,
        failure: Option<Failure>,
    ) {
        if self.leading(id, epoch).is_none() {
            return;
        }
        if !self.store_answers(id) {
            let answer = Box::new(crate::effects::Answer::Conclude { state, failure });
            return self.coordinator_later(id, ASK_AGAIN, CoordinatorAct::Answered { epoch, job, answer });
        }
        let finished = Some(wall(self.now));
        let is_written = self.change_record(id, epoch, job, |record| {
            (record.state, record.finished, record.failure) = (state, finished, failure);
        });
        if is_written {
            self.store.entries.retain(|key, _| match key {
                Key::Unit(of, _, _) | Key::Done(of) | Key::StopOrder(of) => *of != job,
                _ => true,
            });
            if let Some(leading) = self.leading(id, epoch) {
                leading.queue.remove(job);
                leading.jobs.get_mut(&job).expect("it was just changed").run = None;
            }
        }
    }

    /// The coordinator that leads and can be spoken to.
    fn leader(&mut self) -> Option<(usize, FencingToken)> {
        let now = self.now;
        (0..self.coordinators.len()).find_map(|id| {
            let coordinator = &self.coordinators[id];
            let leading = coordinator.leading.as_ref().filter(|leading| leading.has_taken_over)?;
            let epoch = leading.epoch;
            (coordinator.frozen_since.is_none()
                && now >= coordinator.cut_off_until
                && now >= self.store_down_until
                && self.store.holds(epoch)
                && self.leading(id, epoch).is_some())
            .then_some((id, epoch))
        })
    }

    pub(crate) fn submit(&mut self, number: usize) {
        let Some((id, epoch)) = self.leader() else {
            let again = crate::scenario::Fault::Submit(number);
            return self.at(self.now + 500, crate::world::Action::Fault(again));
        };
        let record = JobRecord {
            id: job_id(number),
            kind: JobKind::Backup,
            stanza: stanza(self.scenario.jobs[number].stanza),
            options: JobOptions::default(),
            priority: 0,
            state: JobState::Queued,
            submitted_by: "somebody".into(),
            created: wall(self.now),
            started: None,
            finished: None,
            begun: None,
            main_worker: None,
            failure: None,
            result: None,
        };
        let queued = self.queued(&record);
        self.store.put(Key::Job(record.id), Value::Record(Box::new(record.clone())));
        let leading = self.leading(id, epoch).expect("it was just found");
        leading.queue.submit(queued);
        leading.jobs.insert(record.id, Live { record, run: None, is_cancelled: false });
        self.coordinator_later(id, 0, CoordinatorAct::Serve(epoch));
    }

    pub(crate) fn cancel(&mut self, number: usize) {
        let Some((id, epoch)) = self.leader() else { return };
        let job = job_id(number);
        let leading = self.leading(id, epoch).expect("it was just found");
        let Some(live) = leading.jobs.get_mut(&job).filter(|live| !live.record.state.is_over()) else {
            return;
        };
        let reason = Failure::new(ErrorCode::Term, "cancelled by somebody");
        if leading.queue.is_waiting(job) {
            leading.queue.remove(job);
            self.conclude(id, epoch, job, JobState::Cancelled, Some(reason));
        } else {
            live.is_cancelled = true;
            self.tell_job(id, epoch, job, Event::Abandoned(reason));
        }
        self.ledger.cancelled(job);
    }

    pub(crate) fn pause(&mut self, number: usize, is_paused: bool) {
        let Some((id, epoch)) = self.leader() else {
            if !is_paused {
                let again = crate::scenario::Fault::Pause(number, false);
                self.at(self.now + 500, crate::world::Action::Fault(again));
            }
            return;
        };
        let job = job_id(number);
        let wanted = if is_paused { JobState::Running } else { JobState::Paused };
        let leading = self.leading(id, epoch).expect("it was just found");
        let Some(live) = leading.jobs.get(&job).filter(|live| live.record.state == wanted) else { return };
        if live.run.is_none() {
            return;
        }
        let (state, event) =
            if is_paused { (JobState::Paused, Event::Paused) } else { (JobState::Running, Event::Resumed) };
        let is_written = self.change_record(id, epoch, job, |record| record.state = state);
        if !is_written && !is_paused {
            let again = crate::scenario::Fault::Pause(number, false);
            self.at(self.now + 500, crate::world::Action::Fault(again));
        }
        if is_written {
            self.tell_job(id, epoch, job, event);
            if is_paused {
                let after = self.rng.range(500, 20_000);
                let again = crate::scenario::Fault::Pause(number, false);
                self.at(self.now + after, crate::world::Action::Fault(again));
            }
        }
    }
}

pub(crate) fn short(job: JobId) -> String {
    job.to_string().chars().take(8).collect()
}
