//! The compute worker's side of offloading: gets the bytes of a unit from the source that its order names.
//!
//! Code map: this file keeps one connection for each source of a job, shared by all slots; `line` is a stream on it for a thread
//! that waits, `ahead` decides what to ask for before it is needed, `thrift` whether it comes as lz4, `fetch` is what the pipeline
//! reads from. The other side is [`serving`](crate::serving), which has the protocol too.
//!
//! Invariants
//! 1. A source that cannot be reached, breaks off or says nothing for the job's `io-timeout` ends the attempt as one that may be
//!    tried again elsewhere. What the source itself could not read bears the source's own words.
//! 2. Memory is bounded by what was asked for: under a MiB for each slot, beside what the stream holds.
//! 3. Only the worker that the order names is spoken to, by its certificate.

mod ahead;
mod fetch;
mod line;
mod thrift;

pub(crate) use fetch::Fetch;

use pgconvoy_core::failure::{ErrorCode, Failure, Retry};
use pgconvoy_core::ids::{Identity, WorkerName};
use pgconvoy_core::wire::{JobId, RemoteSource};
use pgconvoy_transport::reconnect::Dial;
use pgconvoy_transport::{
    CloseKind, CloseReason, Connection, Incoming, Receiver, Sender, Stream, TransportError,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thrift::Thrift;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long a source is knocked at: as long as a worker's lease, after which the leader knows better whether it is there.
const REACH_PATIENCE: Duration = Duration::from_secs(15);
/// Between two attempts to connect.
const KNOCK_PAUSE: Duration = Duration::from_millis(500);
/// Slots that ask together pay together for a source that is not there.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// A connection. It ends when this is dropped.
pub(crate) struct Peer {
    sender: Arc<dyn Sender>,
    thrift: Mutex<Thrift>,
    _others: Mutex<(Box<dyn Receiver>, Box<dyn Incoming>)>,
}

impl Peer {
    fn thrift(&self) -> MutexGuard<'_, Thrift> {
        self.thrift.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Door {
    peer: Option<Arc<Peer>>,
    failed: Option<(Instant, Failure)>,
}

type Doors = BTreeMap<(WorkerName, String), Arc<tokio::sync::Mutex<Door>>>;

/// The sources of one job, as far as this worker was sent to them. By default none can be reached.
pub struct RemoteSources {
    dial: Option<Arc<dyn Dial>>,
    job: JobId,
    ended: CancellationToken,
    doors: Mutex<Doors>,
}

impl Default for RemoteSources {
    fn default() -> RemoteSources {
        RemoteSources::new(None, JobId(Identity::default()), CancellationToken::new())
    }
}

impl fmt::Debug for RemoteSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSources").field("job", &self.job).finish_non_exhaustive()
    }
}

impl RemoteSources {
    /// Connections end with the job.
    pub fn new(dial: Option<Arc<dyn Dial>>, job: JobId, ended: CancellationToken) -> RemoteSources {
        RemoteSources { dial, job, ended, doors: Mutex::default() }
    }

    pub(crate) fn job(&self) -> JobId {
        self.job
    }

    /// A stream to the source, over the connection that there is or over a new one.
    async fn open(&self, remote: &RemoteSource, patience: Duration) -> Result<(Stream, Arc<Peer>), Failure> {
        let deadline = Instant::now() + patience;
        let peer = self.peer(remote, patience).await?;
        match timeout_at(deadline, peer.sender.open_stream()).await {
            Ok(Ok(stream)) => return Ok((stream, peer)),
            Ok(Err(error)) => tracing::debug!("source {} is lost: {error}", remote.worker),
            Err(_) => {
                let silent = TransportError::Timeout { what: "a wish for a stream", after: patience };
                return Err(unreached(remote, silent));
            }
        }
        // That one was over and nobody had noticed.
        self.forget(remote, &peer).await;
        let peer = self.peer(remote, patience).await?;
        let stream = peer.sender.open_stream().await.map_err(|error| unreached(remote, error))?;
        Ok((stream, peer))
    }

    async fn peer(&self, remote: &RemoteSource, patience: Duration) -> Result<Arc<Peer>, Failure> {
        let door = self.door(remote);
        let mut door = door.lock().await;
        if let Some(peer) = &door.peer {
            return Ok(peer.clone());
        }
        match &door.failed {
            Some((at, failure)) if at.elapsed() < FAILURE_HOLDS => return Err(failure.clone()),
            _ => {}
        }
        match self.knock(remote, patience.min(REACH_PATIENCE)).await {
            Ok(connection) => {
                let peer = self.keep(connection);
                (door.peer, door.failed) = (Some(peer.clone()), None);
                Ok(peer)
            }
            Err(failure) => {
                door.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    fn door(&self, remote: &RemoteSource) -> Arc<tokio::sync::Mutex<Door>> {
        let key = (remote.worker.clone(), remote.address.clone());
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.entry(key).or_default().clone()
    }

    async fn forget(&self, remote: &RemoteSource, lost: &Arc<Peer>) {
        let door = self.door(remote);
        let mut door = door.lock().await;
        if door.peer.as_ref().is_some_and(|peer| Arc::ptr_eq(peer, lost)) {
            door.peer = None;
        }
    }

    /// Again and again while that may help: a source that is started anew is back in seconds.
    async fn knock(&self, remote: &RemoteSource, patience: Duration) -> Result<Connection, Failure> {
        let Some(dial) = &self.dial else {
            let message = "this worker was not made to reach sources";
            return Err(Failure::new(ErrorCode::NotSupported, message));
        };
        let deadline = Instant::now() + patience;
        let mut last = TransportError::Timeout { what: "connect", after: patience };
        while Instant::now() < deadline {
            match timeout_at(deadline, dial.dial(&remote.address)).await {
                Ok(Ok(connection)) => return known(connection, remote),
                Ok(Err(error)) => {
                    let failure = unreached(remote, error.clone());
                    if failure.retry == Retry::IsFutile {
                        return Err(failure);
                    }
                    last = error;
                }
                Err(_) => break,
            }
            sleep(KNOCK_PAUSE).await;
        }
        Err(unreached(remote, last))
    }

    fn keep(&self, connection: Connection) -> Arc<Peer> {
        let Connection { sender, receiver, incoming } = connection;
        let (ended, closing) = (self.ended.clone(), sender.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {
                    closing.close(CloseReason::new(CloseKind::Done, "the job is over"));
                }
                _ = closing.closed() => {}
            }
        });
        let _others = Mutex::new((receiver, incoming));
        Arc::new(Peer { sender, thrift: Mutex::default(), _others })
    }
}

/// Whoever is at the address must be the worker that the order names.
fn known(connection: Connection, remote: &RemoteSource) -> Result<Connection, Failure> {
    if connection.peer().worker() == Some(&remote.worker) {
        return Ok(connection);
    }
    let reason = format!("{} is there, worker {} is expected", connection.peer(), remote.worker);
    connection.close(CloseReason::new(CloseKind::Refused, reason.clone()));
    Err(unreached(remote, TransportError::Identity { address: remote.address.clone(), reason }))
}

/// An error on the way to a source, with its name.
fn unreached(remote: &RemoteSource, error: TransportError) -> Failure {
    let RemoteSource { worker, address, .. } = remote;
    let failure = Failure::from(error).context(format!("source {worker} at {address}"));
    let hints = match failure.code {
        ErrorCode::HostConnect => {
            vec!["does UDP pass from this host to the source's [worker] address?".to_owned()]
        }
        _ => failure.hints,
    };
    Failure { hints, ..failure }
}

#[cfg(test)]
mod tests;
