//! A fleet of two for tests: an authority, a coordinator that listens and a worker that dials.

use crate::connection::{Connection, Connector, Listener};
use crate::error::TransportError;
use crate::identity::Role;
use crate::pki::authority::MEMBER_VALIDITY;
use crate::pki::{Authority, Credentials, IssueRequest, Revoked};
use crate::quic::{DialConfig, ListenConfig, Load, QuicConnector, QuicDialer, QuicListener, Refusals};
use crate::tls::Admission;
use pgconvoy_core::units::Timestamp;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// One step of a test, on a busy machine.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a condition without a notification is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub(super) async fn within<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(STEP_TIMEOUT, step).await.expect("a step took longer than its timeout")
}

pub(super) fn now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    Timestamp::from_seconds(i64::try_from(seconds).unwrap())
}

pub(super) struct Fleet {
    pub(super) authority: Authority,
    pub(super) coordinator: Credentials,
    pub(super) worker: Credentials,
    pub(super) revoked: Revoked,
    /// Of whom the worker connects to.
    pub(super) load: Load,
}

impl Fleet {
    pub(super) fn new() -> Fleet {
        let authority = Authority::create(&"prod".parse().unwrap(), now()).unwrap();
        let coordinator = member(&authority, Role::Coordinator, "c-1");
        let worker = member(&authority, Role::Worker, "w-1");
        Fleet { authority, coordinator, worker, revoked: Revoked::default(), load: Load::Messages }
    }

    /// The coordinator, where workers and clients may connect.
    pub(super) fn listen(&self) -> QuicListener {
        listen_as(&self.coordinator, &self.revoked, self.load)
    }

    /// The worker's way to a coordinator.
    pub(super) fn connector(&self, address: SocketAddr) -> QuicConnector {
        connector_of(&self.worker, address)
    }

    /// Connects the worker; the ends are its own and the coordinator's.
    pub(super) async fn connect(
        &self,
        listener: &QuicListener,
        address: SocketAddr,
    ) -> (Connection, Connection) {
        let connector = self.connector(address);
        let (near, far) = within(async { tokio::join!(connector.connect(), listener.accept()) }).await;
        (near.unwrap(), far.unwrap())
    }
}

pub(super) fn listen_as(credentials: &Credentials, revoked: &Revoked, load: Load) -> QuicListener {
    QuicListener::bind(ListenConfig {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        credentials: credentials.clone(),
        admits: Admission::of([Role::Worker, Role::Client]),
        revoked: revoked.clone(),
        load,
        runtime: Handle::current(),
    })
    .unwrap()
}

pub(super) fn dialer_of(credentials: &Credentials, revoked: &Revoked) -> QuicDialer {
    QuicDialer::new(DialConfig {
        credentials: credentials.clone(),
        expects: Admission::of([Role::Coordinator]),
        revoked: revoked.clone(),
        runtime: Handle::current(),
    })
    .unwrap()
}

pub(super) fn connector_of(credentials: &Credentials, address: SocketAddr) -> QuicConnector {
    dialer_of(credentials, &Revoked::default()).connector(address.to_string())
}

/// A certificate that was issued just now.
pub(super) fn member(authority: &Authority, role: Role, name: &str) -> Credentials {
    member_at(authority, role, name, now())
}

/// A certificate that was issued at this time, for the usual validity.
pub(super) fn member_at(authority: &Authority, role: Role, name: &str, at: Timestamp) -> Credentials {
    let name = name.parse().unwrap();
    let request = IssueRequest { role, name, sans: Vec::new(), validity: MEMBER_VALIDITY };
    let issued = authority.issue(&request, at).unwrap();
    Credentials::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem, at).unwrap()
}

/// Why a connection did not come about, in the words of both sides: the one that dialled and the one that listened.
pub(super) async fn refusal(connector: &QuicConnector, listener: &QuicListener) -> (String, String) {
    let before = listener.refusals().count;
    let error = within(connector.connect()).await.expect_err("the connection was refused");
    let refusals = within(refused_since(listener, before)).await;
    let text = |error: &TransportError| error.to_string();
    (text(&error), text(refusals.last.as_ref().unwrap()))
}

/// What the listener has turned away, once that is more than `count`.
pub(super) async fn refused_since(listener: &QuicListener, count: u64) -> Refusals {
    loop {
        let refusals = listener.refusals();
        if refusals.count > count {
            return refusals;
        }
        // Within the step's timeout.
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
