//! A peer that says whatever a test wants, after a handshake with a member's good certificate.

use crate::Role;
use crate::pki::{Credentials, Revoked};
use crate::protocol::{VERSIONS, encode_preface};
use crate::quic::settings::{Load, transport};
use crate::quic::socket::{client_endpoint, endpoint};
use crate::tls::{Admission, quic_client_config};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connecting, Connection, Endpoint, RecvStream, SendStream};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::runtime::Handle;

/// See the module. Needs a tokio runtime.
pub struct RawPeer {
    endpoint: Endpoint,
    client: quinn::ClientConfig,
}

impl RawPeer {
    /// `alpn` names the protocol that it claims to speak.
    pub fn new(credentials: &Credentials, alpn: &[u8]) -> RawPeer {
        RawPeer::with(credentials, alpn, client_endpoint(&Handle::current()).unwrap())
    }

    /// As if on another host.
    pub fn at(host: Ipv4Addr, credentials: &Credentials, alpn: &[u8]) -> RawPeer {
        RawPeer::with(credentials, alpn, endpoint((host, 0).into(), None, &Handle::current()).unwrap())
    }

    fn with(credentials: &Credentials, alpn: &[u8], endpoint: Endpoint) -> RawPeer {
        let mut tls =
            quic_client_config(credentials, Admission::of([Role::Coordinator]), &Revoked::default());
        tls.alpn_protocols = vec![alpn.to_vec()];
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        client.transport_config(transport(true, Load::Messages));
        RawPeer { endpoint, client }
    }

    /// Begins a handshake.
    pub fn knock(&self, address: SocketAddr) -> Connecting {
        self.endpoint.connect_with(self.client.clone(), address, "pgconvoy").unwrap()
    }

    /// Connects and sends these bytes on the control stream, in place of all that a peer would say.
    pub async fn say(&self, address: SocketAddr, bytes: &[u8]) -> (Connection, (SendStream, RecvStream)) {
        let connection = self.knock(address).await.unwrap();
        let mut control = connection.open_bi().await.unwrap();
        control.0.write_all(bytes).await.unwrap();
        (connection, control)
    }

    /// The same, after the preface that a well-behaved peer begins with; then waits until the other side has had enough.
    /// Answers with what it said.
    pub async fn say_until_closed(&self, address: SocketAddr, bytes: &[u8]) -> String {
        let preface = encode_preface(VERSIONS);
        let (connection, _control) = self.say(address, &[&preface[..], bytes].concat()).await;
        connection.closed().await.to_string()
    }
}
