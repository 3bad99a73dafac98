//! The listening side: lets in who proves itself, and sees to it that nobody else costs much.
//!
//! One task takes what arrives at the socket, and one more runs for each handshake. A peer that is ready waits in a short
//! queue for `accept`; while that is full, ready peers count as handshakes that are under way.

use super::crowd::{Crowd, Place};
use super::settings::{HANDSHAKE_TIMEOUT, Load, PENDING_BYTES_MAX, PENDING_MAX, UNPROVED_MAX, transport};
use super::{control, failures, handshake, socket};
use crate::connection::{Connection, Listener};
use crate::error::{CloseKind, CloseReason, TransportError};
use crate::pki::{Credentials, Revoked};
use crate::tls::{Admission, quic_server_config};
use async_trait::async_trait;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};

/// Connections that wait for `accept`.
const BACKLOG_MAX: usize = 16;

/// Of those who are turned away, one is reported this often: strangers must not fill a disk with our log.
const LOG_INTERVAL: Duration = Duration::from_millis(200);

pub struct ListenConfig {
    pub address: SocketAddr,
    pub credentials: Credentials,
    /// Who may connect.
    pub admits: Admission,
    pub revoked: Revoked,
    pub load: Load,
    pub runtime: Handle,
}

/// What a listener turned away so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    pub count: u64,
    /// Whom and why, of the last one.
    pub last: Option<TransportError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Who knocks is told at once that it is of no use.
    Closed,
    /// The listener is dropped; the socket lives on with its connections.
    Gone,
}

/// See the module. Dropping it closes it.
pub struct QuicListener {
    endpoint: Endpoint,
    backlog: Mutex<mpsc::Receiver<Connection>>,
    phase: watch::Sender<Phase>,
    refusals: watch::Receiver<Refusals>,
    admits: Admission,
    revoked: Revoked,
    load: Load,
}

impl QuicListener {
    pub fn bind(config: ListenConfig) -> io::Result<QuicListener> {
        let ListenConfig { address, credentials, admits, revoked, load, runtime } = config;
        let server = server_config(&credentials, &admits, &revoked, load);
        let endpoint = socket::endpoint(address, Some(server), &runtime)?;
        let (ready, backlog) = mpsc::channel(BACKLOG_MAX);
        let phase = watch::Sender::new(Phase::Open);
        let (refused, refusals) = watch::channel(Refusals::default());
        let door = Door {
            ready,
            refused,
            revoked: revoked.clone(),
            crowd: Crowd::default(),
            quiet_until: std::sync::Mutex::new(Instant::now()),
            runtime: runtime.clone(),
        };
        runtime.spawn(Arc::new(door).keep(endpoint.clone(), phase.subscribe()));
        Ok(QuicListener { endpoint, backlog: Mutex::new(backlog), phase, refusals, admits, revoked, load })
    }

    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Shows another certificate to peers that connect from now on.
    pub fn renew(&self, credentials: &Credentials) {
        let server = server_config(credentials, &self.admits, &self.revoked, self.load);
        self.endpoint.set_server_config(Some(server));
    }

    pub fn refusals(&self) -> Refusals {
        self.refusals.borrow().clone()
    }

    /// Waits until what was closed has said so to its peers. Before a process ends.
    pub async fn idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

#[async_trait]
impl Listener for QuicListener {
    async fn accept(&self) -> Result<Connection, TransportError> {
        let closed = || TransportError::Closed(CloseReason::new(CloseKind::Done, "the listener is closed"));
        let mut phase = self.phase.subscribe();
        let next = async { self.backlog.lock().await.recv().await };
        tokio::select! {
            biased;
            // The sender of this channel is `self`, so the wait ends with the phase only.
            _ = phase.wait_for(|phase| *phase != Phase::Open) => Err(closed()),
            connection = next => connection.ok_or_else(closed),
        }
    }

    fn close(&self) {
        self.phase.send_replace(Phase::Closed);
    }
}

impl Drop for QuicListener {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Gone);
        self.endpoint.set_server_config(None);
    }
}

fn server_config(
    credentials: &Credentials,
    admits: &Admission,
    revoked: &Revoked,
    load: Load,
) -> ServerConfig {
    let tls = quic_server_config(credentials, admits.clone(), revoked);
    let crypto = QuicServerConfig::try_from(tls).expect("the provider has the cipher that QUIC begins with");
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(transport(false, load))
        .max_incoming(PENDING_MAX)
        .incoming_buffer_size(PENDING_BYTES_MAX)
        .incoming_buffer_size_total(PENDING_BYTES_MAX * PENDING_MAX as u64);
    server
}

/// What the accepting task and its handshakes share.
struct Door {
    ready: mpsc::Sender<Connection>,
    refused: watch::Sender<Refusals>,
    revoked: Revoked,
    crowd: Crowd,
    quiet_until: std::sync::Mutex<Instant>,
    runtime: Handle,
}

impl Door {
    async fn keep(self: Arc<Self>, endpoint: Endpoint, mut phase: watch::Receiver<Phase>) {
        loop {
            let knock = tokio::select! {
                biased;
                // An error says that the listener is gone.
                _ = phase.wait_for(|phase| *phase == Phase::Gone) => return,
                knock = endpoint.accept() => knock,
            };
            let Some(knock) = knock else { return };
            match *phase.borrow() {
                Phase::Open => self.answer(knock),
                Phase::Closed | Phase::Gone => knock.refuse(),
            }
        }
    }

    /// Decides at once, and without state for whoever is not let in.
    fn answer(self: &Arc<Self>, knock: quinn::Incoming) {
        if !knock.remote_address_validated() && self.crowd.len() >= UNPROVED_MAX {
            // Only a peer that really has this address hears the token that lets it in.
            if knock.retry().is_err() {
                tracing::debug!("a peer that proved its address was asked to do so again");
            }
            return;
        }
        let address = knock.remote_address();
        let Some(place) = self.crowd.enter(address.ip()) else {
            knock.refuse();
            let reason = "too many handshakes are under way".to_owned();
            self.turn_away(TransportError::Unreachable { address: address.to_string(), reason });
            return;
        };
        match knock.accept() {
            Ok(connecting) => {
                self.runtime.spawn(Arc::clone(self).receive(connecting, address, place));
            }
            Err(error) => self.turn_away(failures::connect_error(&address.to_string(), &error)),
        }
    }

    async fn receive(self: Arc<Self>, connecting: quinn::Connecting, address: SocketAddr, _place: Place) {
        let address = address.to_string();
        let attempt = async {
            let connection = connecting.await.map_err(|error| failures::connect_error(&address, &error))?;
            handshake::welcome(connection, &address).await
        };
        let late = || TransportError::Timeout { what: "the handshake", after: HANDSHAKE_TIMEOUT };
        let greeted = tokio::time::timeout(HANDSHAKE_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(late()));
        match greeted {
            Ok(greeted) => {
                let connection = control::connect(greeted, self.revoked.clone(), &self.runtime);
                // A listener that is gone takes nobody: dropping the connection closes it.
                let _ = self.ready.send(connection).await;
            }
            Err(error) => self.turn_away(error),
        }
    }

    fn turn_away(&self, error: TransportError) {
        let now = Instant::now();
        let mut quiet_until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= *quiet_until {
            *quiet_until = now + LOG_INTERVAL;
            tracing::warn!(%error, "a peer was turned away");
        } else {
            tracing::debug!(%error, "a peer was turned away");
        }
        drop(quiet_until);
        self.refused.send_modify(|refusals| {
            refusals.count += 1;
            refusals.last = Some(error);
        });
    }
}
