//! The source's side of offloading: hands ranges of a job's files to compute workers, each against a ticket of the leader.
//!
//! Code map: this file listens and judges claims, `session` is one attempt's stream, `desk` reads for it into `buffers`, [`protocol`]
//! what is said (`PROTOCOL.md` beside it), `squeeze` is lz4 on the way. The other side is [`fetching`](crate::fetching).
//!
//! It is not: anybody who decides who computes what. The leader does, and its tickets say so.
//!
//! Invariants
//! 1. Nothing is opened before the claim was found good: the job is open here, its secret has signed the ticket, the peer's
//!    certificate is that of the worker in it. Nothing is read that the ticket's parts do not cover.
//! 2. A stream ends with its job, and a peer that neither asks nor takes is let go; between two wishes it holds no thread.
//! 3. Streams of one peer and helpings in memory are bounded, whatever peers do.
//!
//! Failure story: a stream that breaks moves its unit, and nothing else; the ticket is good for the same attempt until the job
//! ends. A hub that restarts has new secrets: old tickets open nothing.

mod buffers;
mod desk;
pub mod protocol;
mod session;
mod squeeze;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use squeeze::unsqueeze;

use crate::job::JobContext;
use buffers::Buffers;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::ticket::{Admits, TicketSecret};
use pgconvoy_core::wire::{JobId, Serving};
use pgconvoy_transport::{CloseKind, CloseReason, Connection, Listener};
use protocol::Claim;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Attempts of one compute worker at a time; as many as one connection may have streams.
pub const STREAMS_OF_PEER_MAX: usize = 64;
/// Helpings in memory at a time, for all streams together: 30 MiB of the source's budget.
const HELPINGS_MAX: usize = 64;

/// What is served of one job.
pub(crate) struct OpenJob {
    pub(crate) context: Arc<JobContext>,
    secret: TicketSecret,
}

pub struct Hub {
    /// `host:port`, as compute workers reach it.
    address: String,
    jobs: Mutex<BTreeMap<JobId, Arc<OpenJob>>>,
    streams: Mutex<BTreeMap<WorkerName, usize>>,
    helpings: Arc<Semaphore>,
    buffers: Buffers,
    closing: CancellationToken,
    runtime: Handle,
}

impl Hub {
    /// `runtime` must not be an actor's: reading from the page cache happens on it.
    pub fn new(address: String, runtime: Handle) -> Arc<Hub> {
        Arc::new(Hub {
            address,
            jobs: Mutex::default(),
            streams: Mutex::default(),
            helpings: Arc::new(Semaphore::new(HELPINGS_MAX)),
            buffers: Buffers::default(),
            closing: CancellationToken::new(),
            runtime,
        })
    }

    /// Takes compute workers until the listener is closed.
    pub async fn listen(self: Arc<Self>, listener: Arc<dyn Listener>) {
        while let Ok(connection) = listener.accept().await {
            self.runtime.spawn(self.clone().receive(connection));
        }
    }

    /// Lets everybody go.
    pub fn close(&self) {
        self.closing.cancel();
    }

    async fn receive(self: Arc<Self>, connection: Connection) {
        let Some(worker) = connection.peer().worker().cloned() else {
            let reason = format!("{} is no worker", connection.peer());
            return connection.close(CloseReason::new(CloseKind::Refused, reason));
        };
        // Dropping the receiver would close the connection. Nothing is said on it.
        let Connection { sender, receiver: _receiver, mut incoming } = connection;
        loop {
            let stream = tokio::select! {
                stream = incoming.accept_stream() => stream,
                () = self.closing.cancelled() => {
                    return sender.close(CloseReason::new(CloseKind::Shutdown, "the source's worker ends"));
                }
            };
            let Ok(stream) = stream else { return };
            let Some(place) = self.place_for(&worker) else {
                tracing::warn!("worker {worker} has {STREAMS_OF_PEER_MAX} streams here: one more is let go");
                continue;
            };
            let serving = session::serve(self.clone(), worker.clone(), stream);
            self.runtime.spawn(async move {
                serving.await;
                drop(place);
            });
        }
    }

    fn place_for(self: &Arc<Self>, worker: &WorkerName) -> Option<Place> {
        let mut streams = self.streams();
        let count = streams.entry(worker.clone()).or_default();
        if *count >= STREAMS_OF_PEER_MAX {
            return None;
        }
        *count += 1;
        Some(Place { hub: self.clone(), worker: worker.clone() })
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<WorkerName, usize>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<OpenJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for a helping.
    async fn room(&self) -> OwnedSemaphorePermit {
        let room = self.helpings.clone().acquire_owned().await;
        room.expect("the semaphore of a hub is never closed")
    }

    /// Whether this worker may have what it claims.
    fn judge(&self, worker: &WorkerName, claim: Claim) -> Result<(Arc<OpenJob>, Claim), Failure> {
        let Some(job) = self.jobs().get(&claim.job).cloned() else { return Err(not_open(&claim)) };
        let admits =
            Admits { job: claim.job, unit: claim.unit, attempt: claim.attempt, worker, parts: &claim.parts };
        if !job.secret.has_signed(&admits, &claim.ticket) {
            return Err(unsigned(worker, &claim));
        }
        Ok((job, claim))
    }

    /// Serves the job's files from now on, until the door is dropped.
    pub(crate) fn open(self: &Arc<Self>, job: JobId, context: Arc<JobContext>) -> Result<Door, Failure> {
        let secret = TicketSecret::from_random_bytes(crate::random::bytes()?);
        let open = Arc::new(OpenJob { context, secret: secret.clone() });
        self.jobs().insert(job, open.clone());
        let serving = Serving { address: self.address.clone(), secret };
        Ok(Door { hub: self.clone(), job, open, serving })
    }
}

/// One stream of a peer.
struct Place {
    hub: Arc<Hub>,
    worker: WorkerName,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.hub.streams();
        if let Some(count) = streams.get_mut(&self.worker) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.worker);
            }
        }
    }
}

/// A job that is served as long as this lives.
pub(crate) struct Door {
    hub: Arc<Hub>,
    job: JobId,
    open: Arc<OpenJob>,
    serving: Serving,
}

impl Door {
    /// What the leader is told.
    pub(crate) fn serving(&self) -> Serving {
        self.serving.clone()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut jobs = self.hub.jobs();
        // Another keeper may have opened the same job since.
        if jobs.get(&self.job).is_some_and(|open| Arc::ptr_eq(open, &self.open)) {
            jobs.remove(&self.job);
        }
    }
}

/// Nobody's fault: the source was restarted, or is done with the job.
fn not_open(claim: &Claim) -> Failure {
    let message = format!("job {} is not open at this source", claim.job);
    Failure::new(ErrorCode::HostConnect, message).retryable()
}

fn unsigned(worker: &WorkerName, claim: &Claim) -> Failure {
    let (unit, attempt, job) = (claim.unit, claim.attempt, claim.job);
    let message =
        format!("the ticket is not worker {worker}'s for attempt {attempt} at unit {unit} of job {job}");
    Failure::new(ErrorCode::Access, message)
        .hint("only the leader's tickets open anything here: was the source's worker restarted?")
}
