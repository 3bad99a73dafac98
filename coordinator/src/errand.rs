//! A job that one worker does by itself and reports once: verify.
//!
//! It goes to a worker that can open all repositories which it looks at, the very same ones. If nobody has said so, some other one
//! tries: what a worker could open was told when it connected, and may be better by now.
//!
//! Who cancels it waits until its worker has stopped, or is lost: what the job holds must not be free while somebody still works.
//!
//! Failure story: a worker that is lost is replaced by another, which begins anew. A new leader sends the same errand to the same
//! job's worker, which answers for the one under way.

use crate::actors::worker_link::FromWorker;
use crate::progress::Progress;
use crate::registry::{Registry, WorkerState, WorkerView};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use futures::future::join_all;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Identity, RepoKey, StanzaName, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::wire::{
    ErrandEnd, ErrandOrder, Instruction, JobId, Order, OrderBody, ReportBody, RepositorySeen,
};
use pgconvoy_repository::RepositorySet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// How long an errand waits for a worker that can do it before it fails.
const WORKER_PATIENCE: Duration = Duration::from_secs(120);
const WORKER_POLL: Duration = Duration::from_millis(500);
/// How long it waits for one that sees all repositories before it takes one that does not.
pub(crate) const BEST_PATIENCE: Duration = Duration::from_secs(10);
/// How long a worker may take to stop after it was told to: longer than any call to a store lasts.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(180);
/// A repository that takes longer is known by its number only.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

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

/// One under way: of one worker, or shared by several.
pub struct Errand {
    pub control: ErrandControl,
    /// `None`: nothing is told of it before its end.
    pub progress: Option<watch::Receiver<Progress>>,
    pub(crate) ended: oneshot::Receiver<Result<ErrandEnd, Failure>>,
}

impl Errand {
    /// Must be called on the arbiter that actors live on.
    pub fn start(
        registry: Arc<Registry>,
        record: &JobRecord,
        repositories: Arc<RepositorySet>,
        runtime: &Handle,
    ) -> Errand {
        let (end, ended) = oneshot::channel();
        let actor = ErrandActor {
            registry,
            job: record.id,
            kind: record.kind,
            stanza: record.stanza.clone(),
            options: record.options.clone(),
            repositories: None,
            worker: None,
            waited: Duration::ZERO,
            cancelled: None,
            end: Some(end),
        };
        let actor = actor.start();
        let asking = actor.clone();
        runtime.spawn(async move { asking.do_send(Identified(identities(&repositories).await)) });
        Errand { control: ErrandControl::new(actor.recipient()), progress: None, ended }
    }

    pub async fn end(&mut self) -> Result<ErrandEnd, Failure> {
        let gone = || Failure::new(ErrorCode::Assert, "the errand's actor is gone");
        (&mut self.ended).await.map_err(|_| gone())?
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Cancel(pub(crate) Failure);

/// What is to be looked at; without an identity where it could not be opened here.
pub(crate) type Identities = BTreeMap<RepoKey, Option<Identity>>;

pub(crate) async fn identities(repositories: &RepositorySet) -> Identities {
    let identity = |key: RepoKey| async move {
        let opened = timeout(LOOK_TIMEOUT, repositories.open(key)).await;
        (key, opened.ok().and_then(Result::ok).map(|opened| opened.identity()))
    };
    join_all(repositories.keys().map(identity)).await.into_iter().collect()
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Identified(pub(crate) Identities);

struct ErrandActor {
    registry: Arc<Registry>,
    job: JobId,
    kind: JobKind,
    stanza: StanzaName,
    options: JobOptions,
    /// `None`: they are being asked.
    repositories: Option<Identities>,
    worker: Option<WorkerName>,
    /// For a worker, or for the end of one that was told to stop.
    waited: Duration,
    /// Why its worker was told to stop.
    cancelled: Option<Failure>,
    end: Option<oneshot::Sender<Result<ErrandEnd, Failure>>>,
}

impl ErrandActor {
    fn poll(&mut self, context: &mut Context<Self>) {
        match &self.cancelled {
            None => self.look_for_a_worker(context),
            Some(_) if self.waited < STOP_PATIENCE => self.waited += WORKER_POLL,
            Some(_) => {
                tracing::warn!("the worker of job {} does not say that it has stopped", self.job);
                self.finish_cancelled(context);
            }
        }
    }

    fn look_for_a_worker(&mut self, context: &mut Context<Self>) {
        let Some(wanted) = self.repositories.as_ref().filter(|_| self.worker.is_none() && self.end.is_some())
        else {
            return;
        };
        let workers = self.registry.workers().into_iter();
        let free = workers.filter(|worker| worker.state == WorkerState::Up);
        let seen = free.map(|worker| (seen_by(&worker, wanted), Reverse(worker.name)));
        match seen.max() {
            Some((seen, Reverse(worker))) if seen == wanted.len() || self.waited >= BEST_PATIENCE => {
                self.send(&worker);
                self.worker = Some(worker);
            }
            Some(_) => self.waited += WORKER_POLL,
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

    fn tell_to_stop(&self, worker: &WorkerName) {
        let epoch = self.registry.leadership().epoch();
        let order = Order { epoch, job: self.job, body: OrderBody::End };
        self.registry.instruct(worker, Instruction::Order(order));
    }

    fn finish_cancelled(&mut self, context: &mut Context<Self>) {
        if let Some(reason) = self.cancelled.clone() {
            self.finish(Err(reason), context);
        }
    }

    fn finish(&mut self, end: Result<ErrandEnd, Failure>, context: &mut Context<Self>) {
        if let Some(sender) = self.end.take() {
            // Nobody waits any more if the leadership is over.
            let _ = sender.send(end);
        }
        if let Some(worker) = &self.worker {
            self.tell_to_stop(worker);
        }
        self.registry.unbind(self.job);
        context.stop();
    }
}

/// How many of the repositories the worker could open.
pub(crate) fn seen_by(worker: &WorkerView, wanted: &Identities) -> usize {
    let sees = |(key, identity): &(&RepoKey, &Option<Identity>)| {
        let is_it = |seen: &RepositorySeen| match identity {
            Some(identity) => seen.identity == *identity,
            None => seen.repository == **key,
        };
        worker.repositories.iter().any(is_it)
    };
    wanted.iter().filter(sees).count()
}

impl Actor for ErrandActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.registry.bind(self.job, None, context.address().recipient());
        context.run_interval(WORKER_POLL, ErrandActor::poll);
    }
}

impl Handler<FromWorker> for ErrandActor {
    type Result = ();

    fn handle(&mut self, message: FromWorker, context: &mut Self::Context) {
        match message {
            FromWorker::Report(worker, ReportBody::ErrandEnded(end))
                if self.worker == Some(worker.clone()) =>
            {
                let end = self.cancelled.clone().map_or(end, Err);
                self.finish(end, context);
            }
            FromWorker::Report(..) => {}
            FromWorker::Joined(worker, held) if self.cancelled.is_some() => {
                // It may have forgotten the job and not be done with it: its report tells, or time.
                if held.is_some() {
                    self.tell_to_stop(&worker);
                }
            }
            FromWorker::Joined(worker, held) => {
                // It has it from an earlier leader, or its order was lost with the connection.
                if held.is_some() || self.worker.as_ref() == Some(&worker) {
                    self.send(&worker);
                    self.worker = Some(worker);
                }
            }
            FromWorker::Lost(worker) if self.worker == Some(worker.clone()) => {
                if self.cancelled.is_some() {
                    return self.finish_cancelled(context);
                }
                self.worker = None;
                self.waited = Duration::ZERO;
                tracing::warn!("worker {worker} is lost: {} of job {} begins anew", self.kind, self.job);
            }
            FromWorker::Lost(_) | FromWorker::Drained(..) => {}
        }
    }
}

impl Handler<Identified> for ErrandActor {
    type Result = ();

    fn handle(&mut self, Identified(repositories): Identified, context: &mut Self::Context) {
        self.repositories = Some(repositories);
        self.look_for_a_worker(context);
    }
}

impl Handler<Cancel> for ErrandActor {
    type Result = ();

    fn handle(&mut self, Cancel(reason): Cancel, context: &mut Self::Context) {
        match &self.worker {
            Some(worker) if self.cancelled.is_none() => {
                self.tell_to_stop(worker);
                self.waited = Duration::ZERO;
                self.cancelled = Some(reason);
            }
            Some(_) => {}
            None => self.finish(Err(reason), context),
        }
    }
}

#[cfg(test)]
mod tests;
