//! One connected worker: passes orders on and reports up, and keeps the worker's lease while it is heard.

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient};
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::wire::{Order, Report, ReportBody};
use pgconvoy_lease::store::LeaseId;
use pgconvoy_lease::{Acquire, FleetKeys, LeaseStore};
use pgconvoy_transport::{Channel, CloseKind, CloseReason, Connection, TypedReceiver, TypedSender};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A peer that connects and says nothing is none of ours.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Something came from the worker.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Heard(pub Report);

/// The connection is over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Gone;

/// Pass this on to the worker.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Obey(pub Order);

/// Reports go to this job from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Bind(pub Recipient<FromWorker>);

#[derive(Message)]
#[rtype(result = "()")]
pub enum FromWorker {
    Report(Report),
    Lost(WorkerName),
}

pub struct WorkerLink {
    name: WorkerName,
    lease: LeaseId,
    leases: Arc<dyn LeaseStore>,
    runtime: Handle,
    /// Bounded by what the worker asked for.
    orders: mpsc::UnboundedSender<Order>,
    job: Option<Recipient<FromWorker>>,
    heard: Instant,
    ttl: Duration,
}

/// A worker that said hello.
#[derive(Clone)]
pub struct Joined {
    pub name: WorkerName,
    pub lease: LeaseId,
    pub link: Addr<WorkerLink>,
}

impl WorkerLink {
    /// Waits for the worker's hello, registers it and starts its link.
    pub async fn join(
        connection: Connection,
        leases: Arc<dyn LeaseStore>,
        keys: &FleetKeys,
        runtime: Handle,
        ttl: Duration,
    ) -> Result<Joined, Failure> {
        let Channel { sender, mut receiver, incoming } = Channel::<Order, Report>::new(connection);
        let refused =
            |reason: &str| Failure::new(ErrorCode::Protocol, format!("a worker was refused: {reason}"));
        let hello = tokio::time::timeout(HELLO_TIMEOUT, receiver.recv())
            .await
            .map_err(|_| refused("it said nothing"))??;
        let hello = hello.ok_or_else(|| refused("it left at once"))?;
        let ReportBody::Hello { .. } = hello.body else { return Err(refused("it did not say hello first")) };
        let name = hello.worker;
        let lease = leases.grant(ttl).await?;
        let key = keys.worker(&name);
        if let Acquire::Held(_) = leases.acquire(key, Bytes::new(), lease, None).await? {
            sender.close(CloseReason::new(CloseKind::Refused, "a worker of that name is connected"));
            return Err(refused("one of its name is connected"));
        }
        let (orders, queue) = mpsc::unbounded_channel();
        let (link_name, link_runtime) = (name.clone(), runtime.clone());
        let link = WorkerLink::create(move |context| {
            let link = context.address();
            link_runtime.spawn(pass_reports(receiver, incoming, link.clone()));
            link_runtime.spawn(pass_orders(queue, sender, link));
            WorkerLink {
                name: link_name,
                lease,
                leases,
                runtime: link_runtime,
                orders,
                job: None,
                heard: Instant::now(),
                ttl,
            }
        });
        Ok(Joined { name, lease, link })
    }

    fn lost(&mut self, context: &mut Context<Self>) {
        if let Some(job) = self.job.take() {
            job.do_send(FromWorker::Lost(self.name.clone()));
        }
        let (leases, lease) = (self.leases.clone(), self.lease);
        self.runtime.spawn(async move {
            if let Err(error) = leases.revoke(lease).await {
                tracing::debug!("a worker's lease was not revoked, and expires by itself: {error}");
            }
        });
        context.stop();
    }
}

async fn pass_orders(
    mut queue: mpsc::UnboundedReceiver<Order>,
    sender: TypedSender<Order>,
    link: Addr<WorkerLink>,
) {
    while let Some(order) = queue.recv().await {
        if let Err(error) = sender.send(&order).await {
            // An order that is lost is a worker that is lost: it would be waited for in vain.
            tracing::warn!("an order could not be sent: {error}");
            link.do_send(Gone);
            break;
        }
    }
    sender.close(CloseReason::new(CloseKind::Done, "the coordinator has no more orders"));
}

async fn pass_reports(
    mut receiver: TypedReceiver<Report>,
    _incoming: Box<dyn pgconvoy_transport::Incoming>,
    link: Addr<WorkerLink>,
) {
    loop {
        match receiver.recv().await {
            // Waiting for the mailbox is the back-pressure.
            Ok(Some(report)) => {
                if link.send(Heard(report)).await.is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::debug!("a worker's connection ended: {error}");
                break;
            }
        }
    }
    link.do_send(Gone);
}

impl Actor for WorkerLink {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(self.ttl / 3, |link, context| {
            if link.heard.elapsed() > link.ttl {
                tracing::warn!("worker {} has been silent for {} s", link.name, link.ttl.as_secs());
                link.lost(context);
            }
        });
    }
}

impl Handler<Heard> for WorkerLink {
    type Result = ();

    fn handle(&mut self, Heard(report): Heard, context: &mut Self::Context) {
        self.heard = Instant::now();
        if report.body == ReportBody::Alive {
            let (leases, lease, link) = (self.leases.clone(), self.lease, context.address());
            self.runtime.spawn(async move {
                if leases.keep_alive(lease).await.is_err() {
                    link.do_send(Gone);
                }
            });
        } else if let Some(job) = &self.job {
            job.do_send(FromWorker::Report(report));
        }
    }
}

impl Handler<Gone> for WorkerLink {
    type Result = ();

    fn handle(&mut self, _: Gone, context: &mut Self::Context) {
        self.lost(context);
    }
}

impl Handler<Obey> for WorkerLink {
    type Result = ();

    fn handle(&mut self, Obey(order): Obey, _: &mut Self::Context) {
        // When the writer is gone, it has said so.
        let _ = self.orders.send(order);
    }
}

impl Handler<Bind> for WorkerLink {
    type Result = ();

    fn handle(&mut self, Bind(job): Bind, _: &mut Self::Context) {
        self.job = Some(job);
    }
}
