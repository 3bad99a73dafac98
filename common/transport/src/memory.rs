//! Connections inside one process: for the embedded engine, and for tests that need a network which fails on order.
//!
//! It keeps to the contract as a network would, not better: a close overtakes frames, a cut is noticed by the idle
//! timeout, limits are the same.
//!
//! Invariants
//! 1. Nothing is spawned. Whoever waits for a connection also waits for its end.
//! 2. What is queued is bounded by permits that travel with the bytes.
//!
//! Code map: `faults` is the network between two processes, `wire` the state of one connection, `control` and `stream`
//! are the two ends' handles on it.

mod control;
mod faults;
mod stream;
mod wire;

pub use crate::connection::IDLE_TIMEOUT;
pub use faults::{Direction, Faults};

use crate::connection::{Connection, Connector, Listener};
use crate::error::{CloseKind, CloseReason, TransportError};
use crate::identity::PeerIdentity;
use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};

/// Connections that wait for `accept`; the next connector waits.
pub const BACKLOG_MAX: usize = 16;

/// How long a connector tries. As long as the idle timeout: a network that is out for longer would end the connection.
pub const CONNECT_TIMEOUT: Duration = IDLE_TIMEOUT;

/// Two ends of one connection: `near` sees `far` as its peer, and the other way round. [`Direction::Outbound`] is from
/// near to far.
pub fn pair(near: PeerIdentity, far: PeerIdentity, faults: &Faults) -> (Connection, Connection) {
    control::connect(near, far, faults.clone())
}

/// A listener and what reaches it.
pub fn listen(identity: PeerIdentity) -> (MemoryListener, MemoryDialer) {
    let (sender, backlog) = mpsc::channel(BACKLOG_MAX);
    let (open, seen) = watch::channel(true);
    (MemoryListener { backlog: Mutex::new(backlog), open }, MemoryDialer { identity, sender, open: seen })
}

/// See [`listen`].
pub struct MemoryListener {
    backlog: Mutex<mpsc::Receiver<Connection>>,
    open: watch::Sender<bool>,
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&self) -> Result<Connection, TransportError> {
        let closed = || TransportError::Closed(CloseReason::new(CloseKind::Done, "the listener is closed"));
        let mut open = self.open.subscribe();
        let next = async { self.backlog.lock().await.recv().await };
        tokio::select! {
            biased;
            // The sender of this channel is `self`, so the wait ends with `false` only.
            _ = open.wait_for(|open| !open) => Err(closed()),
            connection = next => connection.ok_or_else(closed),
        }
    }

    fn close(&self) {
        self.open.send_replace(false);
    }
}

/// The address of a listener: makes connectors for any number of peers.
#[derive(Clone)]
pub struct MemoryDialer {
    identity: PeerIdentity,
    sender: mpsc::Sender<Connection>,
    open: watch::Receiver<bool>,
}

impl MemoryDialer {
    /// A connector for the peer that is `identity`. All its connections pass through the same faults.
    pub fn connector(&self, identity: PeerIdentity, faults: Faults) -> MemoryConnector {
        MemoryConnector { identity, faults, dialer: self.clone() }
    }
}

/// See [`MemoryDialer::connector`].
pub struct MemoryConnector {
    identity: PeerIdentity,
    faults: Faults,
    dialer: MemoryDialer,
}

#[async_trait]
impl Connector for MemoryConnector {
    async fn connect(&self) -> Result<Connection, TransportError> {
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, self.reach());
        attempt.await.unwrap_or(Err(TransportError::Timeout { what: "connect", after: CONNECT_TIMEOUT }))
    }
}

impl MemoryConnector {
    async fn reach(&self) -> Result<Connection, TransportError> {
        self.faults.both_up().await;
        let unreachable = || TransportError::Unreachable {
            address: self.dialer.identity.to_string(),
            reason: "nobody listens".to_owned(),
        };
        let mut open = self.dialer.open.clone();
        let place = tokio::select! {
            biased;
            // An error says that the listener was dropped: the same as closed.
            _ = open.wait_for(|open| !open) => return Err(unreachable()),
            place = self.dialer.sender.reserve() => place.map_err(|_gone| unreachable())?,
        };
        let (near, far) = pair(self.identity.clone(), self.dialer.identity.clone(), &self.faults);
        place.send(far);
        Ok(near)
    }
}

#[cfg(test)]
mod tests;
