//! A worker's ways to and from other workers: where it serves what it sees, and how it reaches those that serve it.

use crate::host::writer;
use crate::runtime::one_thread;
use pgconvoy_core::config::{Compute, Config, WorkerConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_transport::pki::{Credentials, Revoked};
use pgconvoy_transport::quic::{DialConfig, ListenConfig, Load, QuicDialer, QuicListener};
use pgconvoy_transport::tls::Admission;
use pgconvoy_transport::{Dial, Listener, Role};
use pgconvoy_worker::serving::Hub;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Handle;

pub(super) struct Offloading {
    /// Where `listen` is configured.
    source: Option<(Arc<Hub>, Arc<QuicListener>)>,
    /// Where `compute` is.
    dialer: Option<QuicDialer>,
}

impl Offloading {
    pub(super) fn start(
        config: &Config,
        credentials: &Credentials,
        revoked: &Revoked,
    ) -> Result<Offloading, Failure> {
        let own = &config.worker;
        let source = own.listen.map(|listen| {
            // The database's host pays: packets and helpings follow each other closely, and on several threads each would wake another.
            let runtime = one_thread()?;
            let listener = listener(listen, credentials, revoked, runtime.clone())?;
            let hub = Hub::new(address(own, listen), runtime.clone());
            runtime.spawn(hub.clone().listen(listener.clone()));
            tracing::info!("compute workers are served at {}", address(own, listen));
            Ok::<_, Failure>((hub, listener))
        });
        let dialer = (own.compute != Compute::Nobody).then(|| dialer(credentials, revoked));
        Ok(Offloading { source: source.transpose()?, dialer: dialer.transpose()? })
    }

    pub(super) fn hub(&self) -> Option<Arc<Hub>> {
        self.source.as_ref().map(|(hub, _)| hub.clone())
    }

    pub(super) fn reach(&self) -> Option<Arc<dyn Dial>> {
        self.dialer.clone().map(|dialer| Arc::new(dialer) as Arc<dyn Dial>)
    }

    /// New handshakes show the new certificate.
    pub(super) fn renew(&self, renewed: &Credentials) {
        if let Some((_, listener)) = &self.source {
            listener.renew(renewed);
        }
        if let Some(dialer) = &self.dialer {
            dialer.renew(renewed);
        }
    }

    /// Waits until peers have heard that it is over.
    pub(super) async fn end(&self) {
        if let Some((hub, listener)) = &self.source {
            listener.close();
            hub.close();
            listener.idle().await;
        }
        if let Some(dialer) = &self.dialer {
            dialer.idle().await;
        }
    }
}

fn listener(
    address: SocketAddr,
    credentials: &Credentials,
    revoked: &Revoked,
    runtime: Handle,
) -> Result<Arc<QuicListener>, Failure> {
    let listener = QuicListener::bind(ListenConfig {
        address,
        credentials: credentials.clone(),
        admits: Admission::of([Role::Worker]),
        revoked: revoked.clone(),
        load: Load::Files,
        runtime,
    });
    listener.map(Arc::new).map_err(|error| {
        Failure::new(ErrorCode::HostConnect, format!("cannot listen on {address} (UDP): {error}"))
            .hint("is another worker running here? [worker] listen sets the address")
    })
}

fn dialer(credentials: &Credentials, revoked: &Revoked) -> Result<QuicDialer, Failure> {
    let dialer = QuicDialer::new(DialConfig {
        credentials: credentials.clone(),
        expects: Admission::of([Role::Worker]),
        revoked: revoked.clone(),
        runtime: Handle::current(),
    });
    dialer.map_err(|error| Failure::new(ErrorCode::HostConnect, format!("cannot open a UDP socket: {error}")))
}

/// How compute workers reach this source.
fn address(own: &WorkerConfig, listen: SocketAddr) -> String {
    own.address.clone().unwrap_or_else(|| {
        let host = if listen.ip().is_unspecified() { writer().host } else { host_of(listen) };
        format!("{host}:{}", listen.port())
    })
}

/// As it stands before a port.
fn host_of(listen: SocketAddr) -> String {
    if listen.is_ipv6() { format!("[{}]", listen.ip()) } else { listen.ip().to_string() }
}
