//! One connection of a worker: passes instructions on and reports up, and keeps the worker's lease while it is heard.

use crate::registry::{Connected, Registry};
use actix::{Actor, ActorContext, Addr, Context, Handler, Message};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::wire::{Held, Hello, Instruction, Report, ReportBody};
use pgconvoy_transport::pki::Serial;
use pgconvoy_transport::{
    Channel, CloseKind, CloseReason, Connection, TransportError, TypedReceiver, TypedSender,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// A peer that connects and says nothing is none of ours.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Something came from the worker.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Heard(pub Report);

/// The connection is over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Gone {
    pub is_goodbye: bool,
}

/// Say this to the worker.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Instruct(pub Instruction);

/// This connection is not needed any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Retire;

#[derive(Message)]
#[rtype(result = "()")]
pub enum FromWorker {
    Report(WorkerName, ReportBody),
    Joined(WorkerName, Option<Held>),
    Lost(WorkerName),
    /// It takes nothing new, or does so again.
    Drained(WorkerName, bool),
}

pub struct WorkerLink {
    worker: WorkerName,
    number: Connected,
    registry: Arc<Registry>,
    runtime: Handle,
    /// Bounded by what the worker asked for.
    instructions: mpsc::UnboundedSender<Instruction>,
    revoked: Arc<Tidings>,
}

/// More would not fit into one message: serial numbers have up to 40 digits.
const REVOKED_TOLD_MAX: usize = 20_000;

/// Which revoked certificates the worker has not been told of on this connection.
struct Tidings(Mutex<watch::Receiver<BTreeSet<Serial>>>);

impl Tidings {
    fn take(&self) -> Vec<String> {
        let mut revoked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An error says that nobody revokes any more.
        if !revoked.has_changed().unwrap_or(false) {
            return Vec::new();
        }
        let serials = revoked.borrow_and_update();
        if serials.len() > REVOKED_TOLD_MAX {
            tracing::error!("{} certificates are revoked: workers hear of {REVOKED_TOLD_MAX}", serials.len());
        }
        serials.iter().take(REVOKED_TOLD_MAX).map(Serial::to_string).collect()
    }
}

impl WorkerLink {
    /// Waits for the worker's hello, registers it and starts its link.
    pub async fn join(
        connection: Connection,
        registry: Arc<Registry>,
        runtime: Handle,
    ) -> Result<WorkerName, Failure> {
        let Channel { sender, mut receiver, incoming } = Channel::<Instruction, Report>::new(connection);
        let hello = match hello(&mut receiver).await {
            Ok(hello) => hello,
            Err(failure) => return Err(turn_away(&sender, failure)),
        };
        if sender.peer().worker() != Some(&hello.worker) {
            let message = format!("{} calls itself worker {}", sender.peer(), hello.worker);
            let failure = Failure::new(ErrorCode::Access, message)
                .hint("a worker's name is the one in its certificate");
            return Err(turn_away(&sender, failure));
        }
        let (welcome, number) = match registry.admit(&hello).await {
            Ok(admitted) => admitted,
            Err(failure) => return Err(turn_away(&sender, failure)),
        };
        sender.send(&Instruction::Welcome(welcome)).await?;
        let (instructions, queue) = mpsc::unbounded_channel();
        let worker = hello.worker.clone();
        let revoked = Arc::new(Tidings(Mutex::new(registry.revoked().watch())));
        let link = WorkerLink {
            worker: worker.clone(),
            number,
            registry: registry.clone(),
            runtime,
            instructions,
            revoked,
        };
        let link = link.start_with(receiver, incoming, queue, sender);
        registry.connected(*hello, number, link);
        Ok(worker)
    }

    fn start_with(
        self,
        receiver: TypedReceiver<Report>,
        incoming: Box<dyn pgconvoy_transport::Incoming>,
        queue: mpsc::UnboundedReceiver<Instruction>,
        sender: TypedSender<Instruction>,
    ) -> Addr<Self> {
        let runtime = self.runtime.clone();
        let link = self.start();
        runtime.spawn(pass_reports(receiver, incoming, link.clone()));
        runtime.spawn(pass_instructions(queue, sender, link.clone()));
        link
    }
}

async fn hello(receiver: &mut TypedReceiver<Report>) -> Result<Box<Hello>, Failure> {
    let refused = |reason: &str| Failure::new(ErrorCode::Protocol, format!("a worker was refused: {reason}"));
    let said = tokio::time::timeout(HELLO_TIMEOUT, receiver.recv())
        .await
        .map_err(|_| refused("it said nothing"))??
        .ok_or_else(|| refused("it left at once"))?;
    match said.body {
        ReportBody::Hello(hello) => Ok(hello),
        _ => Err(refused("it did not say hello first")),
    }
}

fn turn_away(sender: &TypedSender<Instruction>, failure: Failure) -> Failure {
    sender.close(CloseReason::new(CloseKind::Refused, failure.message.clone()));
    failure
}

async fn pass_instructions(
    mut queue: mpsc::UnboundedReceiver<Instruction>,
    sender: TypedSender<Instruction>,
    link: Addr<WorkerLink>,
) {
    while let Some(instruction) = queue.recv().await {
        match sender.send(&instruction).await {
            Ok(()) => {}
            Err(TransportError::Closed(_)) => break,
            // An order that cannot be said would be waited for in vain.
            Err(error) => {
                tracing::warn!("an instruction could not be sent: {error}");
                break;
            }
        }
    }
    link.do_send(Gone { is_goodbye: false });
    sender.close(CloseReason::new(CloseKind::Done, "the coordinator has no more orders"));
}

async fn pass_reports(
    mut receiver: TypedReceiver<Report>,
    _incoming: Box<dyn pgconvoy_transport::Incoming>,
    link: Addr<WorkerLink>,
) {
    let is_goodbye = loop {
        match receiver.recv().await {
            // Waiting for the mailbox is the back-pressure.
            Ok(Some(report)) => {
                if link.send(Heard(report)).await.is_err() {
                    return;
                }
            }
            Ok(None) => break true,
            Err(error) => {
                tracing::debug!("a worker's connection ended: {error}");
                break error.close_reason().is_some_and(|reason| reason.kind() == CloseKind::Done);
            }
        }
    };
    link.do_send(Gone { is_goodbye });
}

impl Actor for WorkerLink {
    type Context = Context<Self>;
}

impl Handler<Heard> for WorkerLink {
    type Result = ();

    fn handle(&mut self, Heard(report): Heard, context: &mut Self::Context) {
        match (report.job, report.body) {
            (None, ReportBody::Alive { sequence }) => self.keep_alive(sequence, context),
            (None, ReportBody::Draining) => self.registry.draining(&self.worker),
            (Some(job), body) => {
                if let Some(actor) = self.registry.route(job) {
                    actor.do_send(FromWorker::Report(self.worker.clone(), body));
                }
            }
            (None, _) => tracing::debug!("worker {} reports without a job", self.worker),
        }
    }
}

impl WorkerLink {
    fn keep_alive(&self, sequence: u64, context: &Context<Self>) {
        use actix::AsyncContext;
        let (registry, worker, number) = (self.registry.clone(), self.worker.clone(), self.number);
        let (instructions, link) = (self.instructions.clone(), context.address());
        let revoked = self.revoked.clone();
        self.runtime.spawn(async move {
            let Some(lease) = registry.lease(&worker) else { return link.do_send(Retire) };
            match registry.leadership().leases.keep_alive(lease).await {
                Ok(ttl) => {
                    registry.heard(&worker, number);
                    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    // When the connection is over, it needs no answer.
                    let revoked = revoked.take();
                    let _ = instructions.send(Instruction::Confirmed { sequence, ttl_ms, revoked });
                }
                Err(pgconvoy_lease::LeaseError::Lost { .. }) => registry.lose(&worker).await,
                Err(error) => tracing::debug!("the lease of worker {worker} was not prolonged: {error}"),
            }
        });
    }
}

impl Handler<Gone> for WorkerLink {
    type Result = ();

    fn handle(&mut self, Gone { is_goodbye }: Gone, context: &mut Self::Context) {
        self.registry.disconnected(&self.worker, self.number, is_goodbye);
        context.stop();
    }
}

impl Handler<Retire> for WorkerLink {
    type Result = ();

    /// The queue ends with the actor, and the connection with the queue.
    fn handle(&mut self, _: Retire, context: &mut Self::Context) {
        context.stop();
    }
}

impl Handler<Instruct> for WorkerLink {
    type Result = ();

    fn handle(&mut self, Instruct(instruction): Instruct, _: &mut Self::Context) {
        // When the writer is gone, it has said so.
        let _ = self.instructions.send(instruction);
    }
}
