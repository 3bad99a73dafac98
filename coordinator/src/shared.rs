//! A job that workers share, a restore or a `repo-sync`: events in, effects out. What it decides is [`RestoreMachine`]'s business.
//!
//! To a restore come the workers that it names; to a `repo-sync` those that see both repositories, the very same ones. If nobody
//! has said so, some other one tries to lead it: what a worker could open was told when it connected, and may be better by now.
//!
//! Failure story: with the leadership the actor goes. The record says whose job it is, and the next leader's machine asks
//! that worker how far it is.

use crate::actors::backup::now;
use crate::actors::worker_link::FromWorker;
use crate::errand::{
    BEST_PATIENCE, Cancel, Errand, ErrandControl, Identified, Identities, STOP_PATIENCE, identities, seen_by,
};
use crate::progress::Progress;
use crate::records::JobKeeper;
use crate::registry::{Registry, WorkerState};
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{IdError, WorkerName};
use pgconvoy_core::job::JobOptions;
use pgconvoy_core::machine::restore::{Crew, Effect, Event, RestoreMachine, RestoreSpec};
use pgconvoy_core::wire::{ErrandEnd, ErrandOrder, Instruction, JobId, Order, OrderBody, ReportBody};
use pgconvoy_repository::RepositorySet;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

/// The option that names the workers which may take part.
pub const WORKER_OPTION: &str = "worker";
/// How long a job waits for its main worker: a restart of its process, not a repair of its host.
const PATIENCE_MS: u64 = 120_000;
/// How often the machine is told that time has passed.
const TICK: Duration = Duration::from_millis(500);

/// Each once, in the order in which they were named.
pub fn named_workers(options: &JobOptions) -> Result<Vec<WorkerName>, Failure> {
    let failed = |error: IdError| Failure::new(ErrorCode::OptionInvalidValue, error.to_string());
    let mut named: Vec<WorkerName> = Vec::new();
    for value in options.values(WORKER_OPTION) {
        let worker = value.parse().map_err(failed)?;
        if !named.contains(&worker) {
            named.push(worker);
        }
    }
    Ok(named)
}

/// Must be called on the arbiter that actors live on.
pub(crate) fn restore(
    registry: Arc<Registry>,
    keeper: Arc<JobKeeper>,
    runtime: Handle,
) -> Result<Errand, Failure> {
    let named = named_workers(&keeper.record().options)?;
    let spec = spec(&keeper, Crew::Named(named.clone()), Duration::ZERO);
    Ok(begin(registry, keeper, runtime, spec, Comers::Named(named)).1)
}

/// Must be called on the arbiter that actors live on.
pub(crate) fn repo_sync(
    registry: Arc<Registry>,
    keeper: Arc<JobKeeper>,
    repositories: Arc<RepositorySet>,
    runtime: Handle,
) -> Errand {
    let spec = spec(&keeper, Crew::Anyone, STOP_PATIENCE);
    let comers = Comers::Seeing(Seeing::default());
    let (actor, errand) = begin(registry, keeper, runtime.clone(), spec, comers);
    runtime.spawn(async move { actor.do_send(Identified(identities(&repositories).await)) });
    errand
}

fn spec(keeper: &JobKeeper, crew: Crew, stop_patience: Duration) -> RestoreSpec {
    let record = keeper.record();
    RestoreSpec {
        crew,
        errand: ErrandOrder { kind: record.kind, stanza: record.stanza, options: record.options },
        main: record.main_worker,
        patience_ms: PATIENCE_MS,
        stop_patience_ms: u64::try_from(stop_patience.as_millis()).unwrap_or(u64::MAX),
    }
}

fn begin(
    registry: Arc<Registry>,
    keeper: Arc<JobKeeper>,
    runtime: Handle,
    spec: RestoreSpec,
    comers: Comers,
) -> (Addr<SharedActor>, Errand) {
    let (end, ended) = oneshot::channel();
    let (progress, watcher) = watch::channel(Progress::of_nothing());
    let (job, machine) = (keeper.record().id, RestoreMachine::start(now(), spec));
    let actor = SharedActor { registry, keeper, runtime, job, comers, machine, progress, end: Some(end) };
    let actor = actor.start();
    let control = ErrandControl::new(actor.clone().recipient());
    (actor, Errand { control, progress: Some(watcher), ended })
}

/// Whom the machine hears of.
enum Comers {
    Named(Vec<WorkerName>),
    Seeing(Seeing),
}

#[derive(Default)]
struct Seeing {
    /// `None`: they are being asked.
    wanted: Option<Identities>,
    /// Of these the machine knows that they are here.
    told: BTreeSet<WorkerName>,
    /// For one that sees all.
    waited: Duration,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Happened(Event);

struct SharedActor {
    registry: Arc<Registry>,
    keeper: Arc<JobKeeper>,
    runtime: Handle,
    job: JobId,
    comers: Comers,
    machine: RestoreMachine,
    progress: watch::Sender<Progress>,
    end: Option<oneshot::Sender<Result<ErrandEnd, Failure>>>,
}

impl SharedActor {
    fn tell(&mut self, event: Event, context: &mut Context<Self>) {
        for effect in self.machine.on_event(now(), event) {
            self.carry_out(effect, context);
        }
        let is_over = self.end.is_none();
        self.progress.send_if_modified(|known| {
            let mut next = Progress::of_restore(&self.machine);
            if is_over {
                next.busy.clear();
            }
            std::mem::replace(known, next) != *known
        });
    }

    fn carry_out(&mut self, effect: Effect, context: &mut Context<Self>) {
        match effect {
            Effect::RecordMain(worker) => self.record_main(worker, context),
            Effect::Order { worker, order } => self.say(&worker, OrderBody::Restore(order)),
            Effect::End(worker) => self.say(&worker, OrderBody::End),
            Effect::Warn(message) => tracing::warn!("job {}: {message}", self.job),
            Effect::Finish(end) => {
                if let Some(sender) = self.end.take() {
                    // Nobody waits any more if the leadership is over.
                    let _ = sender.send(end);
                }
                self.registry.unbind(self.job);
                context.stop();
            }
        }
    }

    fn record_main(&self, worker: WorkerName, context: &Context<Self>) {
        let (keeper, actor) = (self.keeper.clone(), context.address());
        self.runtime.spawn(async move {
            let recorded = keeper.change(|record| record.main_worker = Some(worker)).await;
            actor.do_send(Happened(match recorded {
                Ok(_) => Event::MainRecorded,
                Err(failure) => Event::Cancelled(failure),
            }));
        });
    }

    fn say(&self, worker: &WorkerName, body: OrderBody) {
        let epoch = self.registry.leadership().epoch();
        self.registry.instruct(worker, Instruction::Order(Order { epoch, job: self.job, body }));
    }
}

impl SharedActor {
    /// Whoever is here and sees all repositories. Where nobody leads and nobody else comes, the one that sees most.
    fn welcome(&mut self, waited: Duration, context: &mut Context<Self>) {
        let has_main = self.machine.has_main();
        let Comers::Seeing(seeing) = &mut self.comers else { return };
        let Some(wanted) = &seeing.wanted else { return };
        let workers = self.registry.workers().into_iter();
        let new = workers
            .filter(|worker| worker.state == WorkerState::Up && !seeing.told.contains(&worker.name))
            .map(|worker| (seen_by(&worker, wanted), Reverse(worker.name)));
        let (seers, others): (Vec<_>, Vec<_>) = new.partition(|(seen, _)| *seen == wanted.len());
        let mut comers: Vec<WorkerName> = seers.into_iter().map(|(_, Reverse(worker))| worker).collect();
        if comers.is_empty() && !has_main {
            seeing.waited += waited;
            if seeing.waited >= BEST_PATIENCE {
                comers.extend(others.into_iter().max().map(|(_, Reverse(worker))| worker));
            }
        }
        seeing.told.extend(comers.iter().cloned());
        for worker in comers {
            self.tell(Event::Joined { worker, holds: false }, context);
        }
    }

    /// `false`: it is not to be told that the worker came, or not yet.
    fn knows(&mut self, worker: &WorkerName, holds: bool) -> bool {
        match &mut self.comers {
            Comers::Named(_) => holds || self.registry.here().contains(worker),
            Comers::Seeing(seeing) if holds => {
                seeing.told.insert(worker.clone());
                true
            }
            Comers::Seeing(seeing) => seeing.told.contains(worker),
        }
    }
}

impl Actor for SharedActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.registry.bind(self.job, None, context.address().recipient());
        let here = self.registry.here();
        if let Comers::Named(named) = &self.comers {
            for worker in named.clone().into_iter().filter(|worker| here.contains(worker)) {
                self.tell(Event::Joined { worker, holds: false }, context);
            }
        }
        context.run_interval(TICK, |actor, context| {
            actor.welcome(TICK, context);
            actor.tell(Event::Ticked, context);
        });
    }
}

impl Handler<Happened> for SharedActor {
    type Result = ();

    fn handle(&mut self, Happened(event): Happened, context: &mut Self::Context) {
        self.tell(event, context);
    }
}

impl Handler<FromWorker> for SharedActor {
    type Result = ();

    fn handle(&mut self, message: FromWorker, context: &mut Self::Context) {
        let event = match message {
            FromWorker::Report(worker, ReportBody::Restore(report)) => Event::Reported { worker, report },
            FromWorker::Joined(worker, held) if self.knows(&worker, held.is_some()) => {
                Event::Joined { worker, holds: held.is_some() }
            }
            FromWorker::Lost(worker) => {
                if let Comers::Seeing(seeing) = &mut self.comers {
                    seeing.told.remove(&worker);
                }
                Event::Lost { worker }
            }
            FromWorker::Report(..) | FromWorker::Joined(..) | FromWorker::Drained(..) => return,
        };
        self.tell(event, context);
    }
}

impl Handler<Identified> for SharedActor {
    type Result = ();

    fn handle(&mut self, Identified(repositories): Identified, context: &mut Self::Context) {
        if let Comers::Seeing(seeing) = &mut self.comers {
            seeing.wanted = Some(repositories);
        }
        self.welcome(Duration::ZERO, context);
    }
}

impl Handler<Cancel> for SharedActor {
    type Result = ();

    fn handle(&mut self, Cancel(reason): Cancel, context: &mut Self::Context) {
        self.tell(Event::Cancelled(reason), context);
    }
}
