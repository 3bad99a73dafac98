//! A restore, by one worker or shared by several: events in, effects out. What it decides is [`RestoreMachine`]'s business.
//!
//! Failure story: with the leadership the actor goes. The record says whose restore it is, and the next leader's machine asks
//! that worker how far it is.

use crate::actors::backup::now;
use crate::actors::worker_link::FromWorker;
use crate::errand::{Cancel, Errand, ErrandControl};
use crate::progress::Progress;
use crate::records::JobKeeper;
use crate::registry::Registry;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{IdError, WorkerName};
use pgconvoy_core::job::JobOptions;
use pgconvoy_core::machine::restore::{Effect, Event, RestoreMachine, RestoreSpec};
use pgconvoy_core::wire::{ErrandEnd, ErrandOrder, Instruction, JobId, Order, OrderBody, ReportBody};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

/// The option that names the workers which may take part.
pub const WORKER_OPTION: &str = "worker";
/// How long a restore waits for its main worker: a restart of its process, not a repair of its host.
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
pub(crate) fn start(
    registry: Arc<Registry>,
    keeper: Arc<JobKeeper>,
    runtime: Handle,
) -> Result<Errand, Failure> {
    let record = keeper.record();
    let spec = RestoreSpec {
        named: named_workers(&record.options)?,
        errand: ErrandOrder { kind: record.kind, stanza: record.stanza, options: record.options },
        main: record.main_worker,
        patience_ms: PATIENCE_MS,
    };
    let (end, ended) = oneshot::channel();
    let (progress, watcher) = watch::channel(Progress::of_nothing());
    let (named, machine) = (spec.named.clone(), RestoreMachine::start(now(), spec));
    let actor =
        RestoreActor { registry, keeper, runtime, job: record.id, named, machine, progress, end: Some(end) };
    let control = ErrandControl::new(actor.start().recipient());
    Ok(Errand { control, progress: Some(watcher), ended })
}

#[derive(Message)]
#[rtype(result = "()")]
struct Happened(Event);

struct RestoreActor {
    registry: Arc<Registry>,
    keeper: Arc<JobKeeper>,
    runtime: Handle,
    job: JobId,
    named: Vec<WorkerName>,
    machine: RestoreMachine,
    progress: watch::Sender<Progress>,
    end: Option<oneshot::Sender<Result<ErrandEnd, Failure>>>,
}

impl RestoreActor {
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

impl Actor for RestoreActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.registry.bind(self.job, None, context.address().recipient());
        let here = self.registry.here();
        for worker in self.named.clone().into_iter().filter(|worker| here.contains(worker)) {
            self.tell(Event::Joined { worker, holds: false }, context);
        }
        context.run_interval(TICK, |actor, context| actor.tell(Event::Ticked, context));
    }
}

impl Handler<Happened> for RestoreActor {
    type Result = ();

    fn handle(&mut self, Happened(event): Happened, context: &mut Self::Context) {
        self.tell(event, context);
    }
}

impl Handler<FromWorker> for RestoreActor {
    type Result = ();

    fn handle(&mut self, message: FromWorker, context: &mut Self::Context) {
        let event = match message {
            FromWorker::Report(worker, ReportBody::Restore(report)) => Event::Reported { worker, report },
            FromWorker::Joined(worker, held) if held.is_some() || self.registry.here().contains(&worker) => {
                Event::Joined { worker, holds: held.is_some() }
            }
            FromWorker::Lost(worker) => Event::Lost { worker },
            FromWorker::Report(..) | FromWorker::Joined(..) | FromWorker::Drained(..) => return,
        };
        self.tell(event, context);
    }
}

impl Handler<Cancel> for RestoreActor {
    type Result = ();

    fn handle(&mut self, Cancel(reason): Cancel, context: &mut Self::Context) {
        self.tell(Event::Cancelled(reason), context);
    }
}
