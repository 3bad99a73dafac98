//! The connecting side: one UDP socket, any number of peers.

use super::settings::{HANDSHAKE_TIMEOUT, Load, transport};
use super::{control, failures, handshake, socket};
use crate::connection::{Connection, Connector};
use crate::error::TransportError;
use crate::pki::{Credentials, Revoked};
use crate::reconnect::Dial;
use crate::tls::{Admission, quic_client_config};
use async_trait::async_trait;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectError, Endpoint};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::runtime::Handle;

/// Addresses of one name that are tried in turn; a name of more is a mistake, or a trick to keep us busy.
const ADDRESSES_MAX: usize = 4;

/// TLS wants a name; ours is not sent, and the certificate is judged by its URI.
const SERVER_NAME: &str = "pgconvoy";

pub struct DialConfig {
    pub credentials: Credentials,
    /// Who may answer: a worker that dials expects [`Role::Coordinator`](crate::Role::Coordinator).
    pub expects: Admission,
    pub revoked: Revoked,
    pub runtime: Handle,
}

/// See the module. Clones share the socket.
#[derive(Clone)]
pub struct QuicDialer {
    endpoint: Endpoint,
    client: Arc<RwLock<ClientConfig>>,
    expects: Admission,
    revoked: Revoked,
    runtime: Handle,
}

fn client_config(credentials: &Credentials, expects: &Admission, revoked: &Revoked) -> ClientConfig {
    let tls = quic_client_config(credentials, expects.clone(), revoked);
    let crypto = QuicClientConfig::try_from(tls).expect("the provider has the cipher that QUIC begins with");
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport(true, Load::Messages));
    client
}

impl QuicDialer {
    pub fn new(config: DialConfig) -> io::Result<QuicDialer> {
        let DialConfig { credentials, expects, revoked, runtime } = config;
        let client = Arc::new(RwLock::new(client_config(&credentials, &expects, &revoked)));
        Ok(QuicDialer { endpoint: socket::client_endpoint(&runtime)?, client, expects, revoked, runtime })
    }

    /// Shows another certificate, and trusts another authority, from the next connection on.
    pub fn renew(&self, credentials: &Credentials) {
        let client = client_config(credentials, &self.expects, &self.revoked);
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// A connector for one address, `host:port`, which is resolved at each attempt.
    pub fn connector(&self, address: impl Into<String>) -> QuicConnector {
        QuicConnector { dialer: self.clone(), address: address.into() }
    }

    /// Waits until what was closed has said so to its peers. Before a process ends.
    pub async fn idle(&self) {
        self.endpoint.wait_idle().await;
    }

    async fn reach(&self, socket: SocketAddr, address: &str) -> Result<Connection, TransportError> {
        let unreachable =
            |reason: String| TransportError::Unreachable { address: address.to_owned(), reason };
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let connecting = self
            .endpoint
            .connect_with(client, socket, SERVER_NAME)
            .map_err(|error: ConnectError| unreachable(error.to_string()))?;
        let attempt = async {
            let connection = connecting.await.map_err(|error| failures::connect_error(address, &error))?;
            handshake::greet(connection, address).await
        };
        let nobody = || unreachable(format!("no answer within {HANDSHAKE_TIMEOUT:?}"));
        let greeted =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(nobody()))?;
        Ok(control::connect(greeted, self.revoked.clone(), &self.runtime))
    }
}

#[async_trait]
impl Dial for QuicDialer {
    async fn dial(&self, address: &str) -> Result<Connection, TransportError> {
        let unreachable =
            |reason: String| TransportError::Unreachable { address: address.to_owned(), reason };
        let lookup = tokio::time::timeout(HANDSHAKE_TIMEOUT, tokio::net::lookup_host(address)).await;
        let found = lookup
            .map_err(|_| unreachable("its name was not resolved in time".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        let mut outcome = Err(unreachable("its name has no address".to_owned()));
        for socket in found.take(ADDRESSES_MAX) {
            outcome = self.reach(socket, address).await;
            if !matches!(outcome, Err(TransportError::Unreachable { .. })) {
                return outcome;
            }
        }
        outcome
    }
}

/// See [`QuicDialer::connector`].
pub struct QuicConnector {
    dialer: QuicDialer,
    address: String,
}

#[async_trait]
impl Connector for QuicConnector {
    async fn connect(&self) -> Result<Connection, TransportError> {
        self.dialer.dial(&self.address).await
    }
}
