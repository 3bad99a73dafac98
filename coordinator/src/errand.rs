//! A job that one worker does by itself and reports once: verify.
//!
//! Failure story: a worker that is lost is replaced by another, which begins anew. A new leader sends the same errand to the same
//! job's worker, which answers for the one under way.

use crate::actors::worker_link::FromWorker;
use crate::progress::Progress;
use crate::registry::{Registry, WorkerState};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{StanzaName, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::wire::{ErrandEnd, ErrandOrder, Instruction, JobId, Order, OrderBody, ReportBody};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How long an errand waits for a worker that can do it before it fails.
const WORKER_PATIENCE: Duration = Duration::from_secs(120);
const WORKER_POLL: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct ErrandControl(actix::Recipient<Cancel>);

impl ErrandControl {
    pub(crate) fn new(actor: actix::Recipient<Cancel>) -> ErrandControl {
        ErrandControl(actor)
    }

    pub fn cancel(&self, reason: Failure) {
        self.0.do_send(Cancel(reason));
    }
}

/// One under way: of one worker, or a restore of several.
pub struct Errand {
    pub control: ErrandControl,
    /// `None`: nothing is told of it before its end.
    pub progress: Option<watch::Receiver<Progress>>,
    pub(crate) ended: oneshot::Receiver<Result<ErrandEnd, Failure>>,
}

impl Errand {
    /// Must be called on the arbiter that actors live on.
    pub fn start(registry: Arc<Registry>, record: &JobRecord) -> Errand {
        let (end, ended) = oneshot::channel();
        let actor = ErrandActor {
            registry,
            job: record.id,
            kind: record.kind,
            stanza: record.stanza.clone(),
            options: record.options.clone(),
            worker: None,
            waited: Duration::ZERO,
            end: Some(end),
        };
        Errand { control: ErrandControl::new(actor.start().recipient()), progress: None, ended }
    }

    pub async fn end(&mut self) -> Result<ErrandEnd, Failure> {
        let gone = || Failure::new(ErrorCode::Assert, "the errand's actor is gone");
        (&mut self.ended).await.map_err(|_| gone())?
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Cancel(pub(crate) Failure);

struct ErrandActor {
    registry: Arc<Registry>,
    job: JobId,
    kind: JobKind,
    stanza: StanzaName,
    options: JobOptions,
    worker: Option<WorkerName>,
    waited: Duration,
    end: Option<oneshot::Sender<Result<ErrandEnd, Failure>>>,
}

impl ErrandActor {
    fn look_for_a_worker(&mut self, context: &mut Context<Self>) {
        if self.worker.is_some() || self.end.is_none() {
            return;
        }
        let mut workers = self.registry.workers().into_iter();
        let free = workers.find(|worker| worker.state == WorkerState::Up);
        match free {
            Some(worker) => {
                self.send(&worker.name);
                self.worker = Some(worker.name);
            }
            None if self.waited >= WORKER_PATIENCE => {
                let failure =
                    Failure::new(ErrorCode::HostConnect, format!("no worker is here to {}", self.kind))
                        .hint("pgconvoy workers list shows who is");
                self.finish(Err(failure), context);
            }
            None => self.waited += WORKER_POLL,
        }
    }

    fn send(&self, worker: &WorkerName) {
        let (kind, stanza, options) = (self.kind, self.stanza.clone(), self.options.clone());
        let body = OrderBody::Errand(Box::new(ErrandOrder { kind, stanza, options }));
        let epoch = self.registry.leadership().epoch();
        self.registry.instruct(worker, Instruction::Order(Order { epoch, job: self.job, body }));
    }

    fn finish(&mut self, end: Result<ErrandEnd, Failure>, context: &mut Context<Self>) {
        if let Some(sender) = self.end.take() {
            // Nobody waits any more if the leadership is over.
            let _ = sender.send(end);
        }
        if let Some(worker) = &self.worker {
            let epoch = self.registry.leadership().epoch();
            let order = Order { epoch, job: self.job, body: OrderBody::End };
            self.registry.instruct(worker, Instruction::Order(order));
        }
        self.registry.unbind(self.job);
        context.stop();
    }
}

impl Actor for ErrandActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.registry.bind(self.job, None, context.address().recipient());
        self.look_for_a_worker(context);
        context.run_interval(WORKER_POLL, |actor, context| actor.look_for_a_worker(context));
    }
}

impl Handler<FromWorker> for ErrandActor {
    type Result = ();

    fn handle(&mut self, message: FromWorker, context: &mut Self::Context) {
        match message {
            FromWorker::Report(worker, ReportBody::ErrandEnded(end))
                if self.worker == Some(worker.clone()) =>
            {
                self.finish(end, context);
            }
            FromWorker::Report(..) => {}
            FromWorker::Joined(worker, held) => {
                // It has it from an earlier leader, or its order was lost with the connection.
                if held.is_some() || self.worker.as_ref() == Some(&worker) {
                    self.send(&worker);
                    self.worker = Some(worker);
                }
            }
            FromWorker::Lost(worker) if self.worker == Some(worker.clone()) => {
                self.worker = None;
                self.waited = Duration::ZERO;
                tracing::warn!("worker {worker} is lost: {} of job {} begins anew", self.kind, self.job);
            }
            FromWorker::Lost(_) => {}
        }
    }
}

impl Handler<Cancel> for ErrandActor {
    type Result = ();

    fn handle(&mut self, Cancel(reason): Cancel, context: &mut Self::Context) {
        self.finish(Err(reason), context);
    }
}
