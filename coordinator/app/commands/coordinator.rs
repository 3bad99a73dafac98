//! `coordinator`: one of a fleet's coordinators, until it is told to stop.

use crate::context::{Context, Current};
use crate::fleet::store;
use crate::fleet::workshop::CommandWorkshop;
use crate::host::{random_identity, writer};
use crate::member;
use crate::reload::Reload;
use crate::runtime::block_on;
use crate::signals::{Signals, Word, tell_ready};
use pgconvoy_coordinator::Ttls;
use pgconvoy_coordinator::api::{self, ApiDeps};
use pgconvoy_coordinator::fleet::{Fleet, FleetDeps, LeaderAddress};
use pgconvoy_coordinator::revocations;
use pgconvoy_coordinator::tokens::Tokens;
use pgconvoy_core::config::{Config, restart};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_lease::{FleetKeys, LeaseStore};
use pgconvoy_transport::Role;
use pgconvoy_transport::pki::{Credentials, Revoked};
use pgconvoy_transport::quic::{ListenConfig, Load, QuicListener};
use pgconvoy_transport::tls::{Admission, Shown, https_client_config, https_server_config};
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// For work in hand when it is told to stop: jobs go on under another leader.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub fn run(context: &Context) -> Result<ExitCode, Failure> {
    block_on(serve(context))??;
    Ok(ExitCode::SUCCESS)
}

async fn serve(context: &Context) -> Result<(), Failure> {
    let config = &context.config;
    let configured = member::fleet(config)?;
    let credentials = member::credentials(configured)?;
    if credentials.member().identity.role != Role::Coordinator {
        return Err(Failure::new(ErrorCode::Access, "the certificate is not a coordinator's")
            .hint("pgconvoy cert issue --role=coordinator --name=NAME"));
    }
    let store::Store { leases, keys } = store::connect(Some(configured)).await?;
    let revoked = Revoked::default();
    // Nobody is admitted before it is known who is not welcome.
    revoked.replace(revocations::list(leases.as_ref(), &keys).await?);
    let listener = listen(config, &credentials, revoked.clone())?;
    let current = Arc::new(Current::new(context.clone()));
    let fleet = Fleet::new(FleetDeps {
        address: address(config, &credentials),
        fleet: keys.clone(),
        leases: leases.clone(),
        workshop: Arc::new(CommandWorkshop::new(current.clone())),
        runtime: Handle::current(),
        ttls: Ttls::FLEET,
        writer: writer(),
        identity: Arc::new(random_identity),
        revoked: revoked.clone(),
    });
    let shown = Shown::new(&credentials);
    let stop = CancellationToken::new();
    let api = Api {
        fleet: &fleet,
        credentials: &credentials,
        shown: &shown,
        leases: &leases,
        keys: &keys,
        stop: &stop,
    };
    let serving = Handle::current().spawn(api.serve(config.coordinator.http_listen, &revoked)?);
    let watching = revocations::follow(leases.clone(), keys.clone(), revoked.clone(), stop.clone());
    let watching = Handle::current().spawn(watching);
    let admitting = actix::spawn(fleet.clone().listen(listener.clone()));
    let signals = Signals::listen()?;
    tell_ready();
    tracing::info!("coordinator {} is ready", credentials.member().identity.name);
    let reload =
        Reload { current: &current, member: credentials.member(), needs_restart: restart::of_coordinator };
    let take_up = || {
        reload.run(|_, renewed| {
            renew(renewed, &credentials, &listener, &shown);
            Ok(())
        });
    };
    run_until_told(&fleet, &stop, signals, take_up).await;
    pgconvoy_transport::Listener::close(listener.as_ref());
    let _ = tokio::time::timeout(STOP_TIMEOUT, async {
        listener.idle().await;
        let _ = tokio::join!(admitting, serving, watching);
    })
    .await;
    Ok(())
}

/// Leads and follows; begins no more once it is told to stop.
async fn run_until_told(
    fleet: &Arc<Fleet>,
    stop: &CancellationToken,
    mut signals: Signals,
    take_up: impl Fn(),
) {
    let mut running = std::pin::pin!(fleet.run(stop.clone()));
    loop {
        tokio::select! {
            () = &mut running => return,
            word = signals.next(Duration::MAX) => match word {
                Word::Reload => take_up(),
                Word::Drain | Word::EndNow => {
                    tracing::warn!("stopping: another coordinator goes on with the jobs");
                    stop.cancel();
                    // Gives the leadership back, so that the next one need not wait for its lease to end.
                    let _ = tokio::time::timeout(STOP_TIMEOUT, &mut running).await;
                    return;
                }
            },
        }
    }
}

/// New handshakes show the new certificate. What a coordinator trusts when it asks another one was settled at the start.
fn renew(renewed: &Credentials, started_with: &Credentials, listener: &QuicListener, shown: &Shown) {
    listener.renew(renewed);
    shown.renew(renewed);
    if !renewed.authority().is_same(started_with.authority()) {
        tracing::warn!("[fleet] ca-file has changed: other coordinators are asked by it after a restart");
    }
}

/// What the API is made of.
struct Api<'a> {
    fleet: &'a Arc<Fleet>,
    credentials: &'a Credentials,
    shown: &'a Shown,
    leases: &'a Arc<dyn LeaseStore>,
    keys: &'a FleetKeys,
    stop: &'a CancellationToken,
}

impl Api<'_> {
    /// Listens at once; the future serves.
    fn serve(
        self,
        address: SocketAddr,
        revoked: &Revoked,
    ) -> Result<impl Future<Output = Result<(), Failure>> + Send + use<>, Failure> {
        let listen = TcpListener::bind(address).map_err(|error| {
            Failure::new(ErrorCode::HostConnect, format!("cannot listen on {address}: {error}"))
                .hint("is another coordinator running here? [coordinator] http-listen sets the address")
        })?;
        let admission = Admission::of([Role::Coordinator]);
        Ok(api::serve(ApiDeps {
            fleet: self.fleet.clone(),
            tokens: Tokens::new(self.leases.clone(), self.keys.clone()),
            listen,
            tls: https_server_config(self.shown),
            forward: https_client_config(self.credentials.authority(), admission, revoked),
            stop: self.stop.clone(),
        }))
    }
}

fn listen(
    config: &Config,
    credentials: &Credentials,
    revoked: Revoked,
) -> Result<Arc<QuicListener>, Failure> {
    let address = config.coordinator.quic_listen;
    let listener = QuicListener::bind(ListenConfig {
        address,
        credentials: credentials.clone(),
        admits: Admission::of([Role::Worker]),
        revoked,
        load: Load::Messages,
        runtime: Handle::current(),
    });
    listener.map(Arc::new).map_err(|error| {
        Failure::new(ErrorCode::HostConnect, format!("cannot listen on {address} (UDP): {error}"))
            .hint("is another coordinator running here? [coordinator] quic-listen sets the address")
    })
}

/// How others reach this coordinator.
fn address(config: &Config, credentials: &Credentials) -> LeaderAddress {
    let own = &config.coordinator;
    let reached = |listen: SocketAddr, configured: &Option<String>| {
        configured.clone().unwrap_or_else(|| {
            let host = if listen.ip().is_unspecified() { writer().host } else { listen.ip().to_string() };
            format!("{host}:{}", listen.port())
        })
    };
    LeaderAddress {
        name: credentials.member().identity.name.to_string(),
        quic: reached(own.quic_listen, &own.quic_address),
        api: format!("https://{}", reached(own.http_listen, &own.http_address)),
    }
}
