//! One leadership of a fleet, from taking over to losing it: its workers, its queue, its jobs.
//!
//! Invariants
//! 1. A job is begun only after its record says so, and is over only after its record says so: whoever leads next knows.
//! 2. Jobs of an earlier leader are bound before the first worker is admitted, so that no worker is told that they are over.
//! 3. Nothing here acts for a leadership that is lost: every write to the store is guarded, and effects stop.
//!
//! Failure story: a leader that dies leaves records, leases and accepted units. The next one finds all of it; workers come to
//! it with what they hold.

mod auditing;
mod commands;
mod errands;
mod forgetting;
mod sources;

pub use crate::audit::Caller;

use crate::actors::backup::now;
use crate::actors::worker_link::WorkerLink;
use crate::audit;
use crate::jobs::{JobView, Live, RunControl};
use crate::leader::{Leadership, Ttls};
use crate::progress::Progress;
use crate::recall;
use crate::records::{self, JobKeeper, job_keys};
use crate::registry::Registry;
use crate::running::{BackupRun, Stage, Task};
use crate::workshop::Workshop;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::ids::{Identity, StanzaName, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions, JobState};
use pgconvoy_core::machine::backup::{BackupSpec, Outcome, Recovered, Status};
use pgconvoy_core::machine::queue::{JobQueue, QueuedJob, Start};
use pgconvoy_core::record::{Begun, JobRecord};
use pgconvoy_core::wire::{Hello, JobId};
use pgconvoy_transport::Connection;
use pgconvoy_transport::pki::Revoked;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// Jobs that wait or run. Beyond it a submission is refused: somebody submits in a loop.
pub const JOBS_MAX: usize = 10_000;
/// The queue is looked at this often though nothing was heard that would change it.
const QUEUE_INTERVAL: Duration = Duration::from_secs(2);

pub struct LeadDeps {
    pub leadership: Arc<Leadership>,
    pub workshop: Arc<dyn Workshop>,
    pub runtime: Handle,
    pub ttls: Ttls,
    /// Who writes to repositories from here.
    pub writer: Writer,
    /// For identities; from outside, because it is random.
    pub identity: Arc<dyn Fn() -> Result<Identity, Failure> + Send + Sync>,
    pub revoked: Revoked,
}

#[derive(Default)]
struct State {
    queue: JobQueue,
    jobs: BTreeMap<JobId, Live>,
}

impl State {
    /// Units in the hands of each worker, of all jobs.
    fn load(&self) -> BTreeMap<WorkerName, u32> {
        let mut load = BTreeMap::new();
        for progress in self.jobs.values().filter_map(Live::progress) {
            for (worker, units) in &progress.busy {
                *load.entry(worker.clone()).or_default() += units;
            }
        }
        load
    }
}

pub struct Lead {
    deps: LeadDeps,
    registry: Arc<Registry>,
    state: Mutex<State>,
    /// Something happened that may let a job begin.
    changed: Notify,
    /// Counts changes of any job, for whoever lists them.
    version: watch::Sender<u64>,
    /// Audit records since old ones were removed.
    audited: AtomicUsize,
}

impl Lead {
    /// Loads what an earlier leader left and goes on with it. Must be called on the arbiter that actors live on.
    pub async fn take_over(deps: LeadDeps) -> Result<Arc<Lead>, Failure> {
        let workshop = deps.workshop.clone();
        let admission = Arc::new(move |hello: &Hello| {
            hello.sources.iter().try_for_each(|source| workshop.may_serve(&hello.worker, &source.stanza))
        });
        let (leadership, runtime) = (deps.leadership.clone(), deps.runtime.clone());
        let registry = Registry::new(leadership, runtime, deps.ttls.worker, admission, deps.revoked.clone());
        registry.adopt().await?;
        let lead = Arc::new(Lead {
            deps,
            registry,
            state: Mutex::default(),
            changed: Notify::new(),
            version: watch::Sender::new(0),
            audited: AtomicUsize::new(0),
        });
        let mut records = records::load(&lead.deps.leadership).await?;
        records.sort_by_key(|record| record.created);
        for record in records {
            lead.go_on_with(record).await;
        }
        lead.forget_the_oldest().await;
        audit::trim(&lead.deps.leadership).await?;
        Ok(lead)
    }

    /// Serves the queue until the leadership is lost.
    pub async fn run(self: &Arc<Self>) {
        let lost = self.deps.leadership.clone();
        let serving = async {
            loop {
                self.start_what_can().await;
                let _ = tokio::time::timeout(QUEUE_INTERVAL, self.changed.notified()).await;
            }
        };
        tokio::select! {
            () = lost.lost() => {}
            () = serving => {}
        }
    }

    /// Parts with the workers, which look for another coordinator.
    pub fn end(&self) {
        self.registry.dismiss();
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub fn leadership(&self) -> &Arc<Leadership> {
        &self.deps.leadership
    }

    /// Takes a worker's connection.
    pub async fn admit(&self, connection: Connection) {
        let peer = connection.peer().to_string();
        match WorkerLink::join(connection, self.registry.clone(), self.deps.runtime.clone()).await {
            Ok(worker) => {
                tracing::info!("worker {worker} is here");
                self.changed.notify_one();
            }
            Err(failure) => tracing::warn!("{peer} was turned away: {failure}"),
        }
    }

    pub fn new_job(&self) -> Result<JobId, Failure> {
        Ok(JobId((self.deps.identity)()?))
    }

    pub async fn submit(
        self: &Arc<Self>,
        caller: &Caller,
        id: JobId,
        kind: JobKind,
        stanza: StanzaName,
        options: JobOptions,
        priority: i32,
    ) -> Result<(), Failure> {
        let repositories = self.deps.workshop.check(kind, &stanza, &options)?;
        if self.lock().jobs.values().filter(|job| !job.record().state.is_over()).count() >= JOBS_MAX {
            let message = format!("{JOBS_MAX} jobs wait or run already");
            return Err(
                Failure::new(ErrorCode::LockAcquire, message).hint("does something submit in a loop?")
            );
        }
        let record = JobRecord {
            id,
            kind,
            stanza,
            options,
            priority,
            state: JobState::Queued,
            submitted_by: caller.name.clone(),
            created: now(),
            started: None,
            finished: None,
            begun: None,
            main_worker: None,
            failure: None,
            result: None,
        };
        let keeper = JobKeeper::new(self.deps.leadership.clone(), record.clone());
        keeper.change(|_| {}).await?;
        let mut state = self.lock();
        state.queue.submit(queued(&record, repositories));
        state.jobs.insert(id, Live::waiting(keeper));
        drop(state);
        self.touch();
        Ok(())
    }

    pub fn jobs(&self) -> Vec<JobView> {
        self.lock().jobs.values().map(Live::view).collect()
    }

    pub fn job(&self, id: JobId) -> Option<JobView> {
        self.lock().jobs.get(&id).map(Live::view)
    }

    /// Changes whenever any job does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    async fn go_on_with(self: &Arc<Self>, record: JobRecord) {
        let keeper = JobKeeper::new(self.deps.leadership.clone(), record.clone());
        let id = record.id;
        if record.state.is_over() {
            self.lock().jobs.insert(id, Live::waiting(keeper));
            return;
        }
        let repositories = self.deps.workshop.check(record.kind, &record.stanza, &record.options);
        let repositories = match (&record.begun, repositories) {
            (Some(begun), _) => begun.spec.repositories.clone(),
            (None, Ok(repositories)) => repositories,
            (None, Err(failure)) => return self.fail(&keeper, failure).await,
        };
        let job = queued(&record, repositories);
        let begun = record.begun.clone();
        let is_under_way = record.state.is_under_way() && (begun.is_some() || record.kind != JobKind::Backup);
        {
            let mut state = self.lock();
            state.jobs.insert(id, Live::waiting(keeper.clone()));
            if !is_under_way {
                return state.queue.submit(job);
            }
            state.queue.adopt(job, begun.as_ref().map(|begun| begun.source.clone()));
        }
        tracing::info!("job {id} goes on under this leader");
        let resumed = match begun {
            Some(begun) => self.resume_backup(&keeper, begun).await,
            None => self.resume_errand(&keeper).await,
        };
        if let Err(failure) = resumed {
            self.fail(&keeper, failure).await;
        }
    }

    /// Before any worker comes: one that is told that the job is over would end it.
    async fn resume_errand(self: &Arc<Self>, keeper: &Arc<JobKeeper>) -> Result<(), Failure> {
        let is_to_end = keeper.record().state == JobState::Draining;
        self.begin_errand(keeper).await?;
        if is_to_end {
            self.cancel_anew(keeper.record().id);
        }
        Ok(())
    }

    /// What was asked of an earlier leader.
    fn cancel_anew(&self, id: JobId) {
        if let Some(job) = self.lock().jobs.get_mut(&id) {
            job.is_cancelled = true;
            job.control.cancel(Failure::new(ErrorCode::Term, "cancelled under an earlier leader"));
        }
    }

    async fn resume_backup(self: &Arc<Self>, keeper: &Arc<JobKeeper>, begun: Begun) -> Result<(), Failure> {
        let record = keeper.record();
        let keys = job_keys(&self.deps.leadership, record.id);
        let paused = record.state == JobState::Paused;
        let recovered = recall::recovered(&self.deps.leadership, &keys, begun.announced, paused).await?;
        let (epoch, writer) = (self.deps.leadership.epoch(), self.deps.writer.clone());
        let spec = BackupSpec { epoch, writer, ..begun.spec };
        self.run_backup(keeper.clone(), spec, begun.source, recovered).await?;
        if record.state == JobState::Draining {
            self.cancel_anew(record.id);
        }
        Ok(())
    }

    async fn start_what_can(self: &Arc<Self>) {
        let starts = {
            let mut state = self.lock();
            let load = state.load();
            let sources =
                |stanza: &StanzaName| sources::best_first(stanza, &self.registry.sources_of(stanza), &load);
            state.queue.start(sources, |worker| self.registry.host(worker))
        };
        for Start { id, source } in starts {
            let Some(keeper) = self.lock().jobs.get(&id).map(|job| job.keeper.clone()) else { continue };
            let begun = match source {
                Some(source) => self.begin_backup(&keeper, source).await,
                None => self.begin_errand(&keeper).await,
            };
            if let Err(failure) = begun {
                self.fail(&keeper, failure).await;
            }
        }
    }

    async fn begin_backup(
        self: &Arc<Self>,
        keeper: &Arc<JobKeeper>,
        source: WorkerName,
    ) -> Result<(), Failure> {
        let spec = self.deps.workshop.spec(&keeper.record(), self.deps.leadership.epoch())?;
        let begun = Begun { spec: spec.clone(), source: source.clone(), announced: None };
        keeper
            .change(|record| {
                record.state = JobState::Running;
                record.started = Some(now());
                record.begun = Some(begun);
            })
            .await?;
        self.run_backup(keeper.clone(), spec, source, Recovered::default()).await
    }

    async fn run_backup(
        self: &Arc<Self>,
        keeper: Arc<JobKeeper>,
        spec: BackupSpec,
        source: WorkerName,
        recovered: Recovered,
    ) -> Result<(), Failure> {
        let record = keeper.record();
        let tools = self.deps.workshop.tools(&record.stanza, &record.options)?;
        let stage = Stage {
            registry: self.registry.clone(),
            repositories: tools.repositories,
            runtime: self.deps.runtime.clone(),
            archive_timeout: tools.archive_timeout,
        };
        let run = stage.backup(Task { spec, source, recovered, record: Some(keeper.clone()) }).await?;
        if let Some(job) = self.lock().jobs.get_mut(&record.id) {
            job.control = RunControl::Backup(run.control.clone());
            job.progress = Some(run.progress.clone());
        }
        self.touch();
        self.deps.runtime.spawn(Arc::clone(self).see_to_its_end(keeper, run));
        Ok(())
    }

    async fn see_to_its_end(self: Arc<Self>, keeper: Arc<JobKeeper>, mut run: BackupRun) {
        let begin = Instant::now();
        let progress = run.progress.clone();
        let ended = tokio::select! {
            ended = run.outcome() => ended,
            never = self.follow(keeper.record().id, progress) => match never {},
        };
        // Without an outcome another coordinator leads, and the job is its own.
        let Ok(outcome) = ended else { return };
        let is_cancelled = self.lock().jobs.get(&keeper.record().id).is_some_and(|job| job.is_cancelled);
        let record = keeper.record();
        let result = self.deps.workshop.result(&record, &outcome, begin.elapsed());
        let state = state_of(&outcome, is_cancelled);
        if let Err(failure) = self.conclude(&keeper, state, outcome.verdict().err(), result).await {
            tracing::warn!("the end of job {} was not written down: {failure}", record.id);
        }
        self.lock().queue.remove(record.id);
        self.touch();
    }

    /// Tells watchers whenever there is progress; never ends by itself.
    async fn follow(&self, id: JobId, mut progress: watch::Receiver<Progress>) -> Infallible {
        while progress.changed().await.is_ok() {
            if let Some(job) = self.lock().jobs.get_mut(&id) {
                job.measure(Instant::now());
            }
            self.touch();
        }
        std::future::pending().await
    }

    async fn fail(&self, keeper: &Arc<JobKeeper>, failure: Failure) {
        let id = keeper.record().id;
        if let Err(failure) = self.conclude(keeper, JobState::Failed, Some(failure), None).await {
            tracing::warn!("the end of job {id} was not written down: {failure}");
        }
        self.lock().queue.remove(id);
        self.touch();
    }

    async fn conclude(
        &self,
        keeper: &Arc<JobKeeper>,
        state: JobState,
        failure: Option<Failure>,
        result: Option<String>,
    ) -> Result<(), Failure> {
        keeper
            .change(|record| {
                record.state = state;
                record.finished = Some(now());
                record.failure = failure;
                record.result = result;
            })
            .await?;
        keeper.forget_progress().await?;
        self.forget_the_oldest().await;
        Ok(())
    }

    fn touch(&self) {
        self.version.send_modify(|version| *version += 1);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn queued(record: &JobRecord, repositories: Vec<pgconvoy_core::ids::RepoKey>) -> QueuedJob {
    QueuedJob {
        id: record.id,
        kind: record.kind,
        stanza: record.stanza.clone(),
        repositories,
        priority: record.priority,
        created: record.created,
    }
}

/// Those on a primary first. A standby cannot keep a backup's session; one whose server is down may still serve offline.
fn state_of(outcome: &Outcome, is_cancelled: bool) -> JobState {
    match outcome.status {
        Status::Ok => JobState::Done,
        Status::Partial => JobState::Partial,
        Status::Error if is_cancelled => JobState::Cancelled,
        Status::Error => JobState::Failed,
    }
}
