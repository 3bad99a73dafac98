//! `coordinator`: one of a fleet's coordinators, until it is told to stop.

use crate::context::Context;
use crate::fleet::workshop::ConfiguredWorkshop;
use crate::host::{random_identity, writer};
use crate::member;
use crate::runtime::block_on;
use crate::signals::Stops;
use pgconvoy_coordinator::Ttls;
use pgconvoy_coordinator::fleet::{Fleet, FleetDeps, LeaderAddress};
use pgconvoy_core::config::Config;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_transport::Role;
use pgconvoy_transport::pki::{Credentials, Revoked};
use pgconvoy_transport::quic::{ListenConfig, QuicListener};
use pgconvoy_transport::tls::Admission;
use std::net::SocketAddr;
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
    let leases = member::lease_store(configured).await?;
    let revoked = Revoked::default();
    let listener = listen(config, &credentials, revoked.clone())?;
    let fleet = Fleet::new(FleetDeps {
        address: address(config, &credentials),
        fleet: member::keys(configured)?,
        leases: leases.clone(),
        workshop: Arc::new(ConfiguredWorkshop::new(context)),
        runtime: Handle::current(),
        ttls: Ttls::FLEET,
        identity: Arc::new(random_identity),
    });
    let stop = CancellationToken::new();
    let api = crate::fleet::api::serve(crate::fleet::api::Serving {
        fleet: fleet.clone(),
        config,
        credentials: &credentials,
        leases,
        revoked,
        stop: stop.clone(),
    })
    .await?;
    let admitting = actix::spawn(fleet.clone().listen(listener.clone()));
    let mut stops = Stops::listen()?;
    stops.tell_ready();
    tracing::info!("coordinator {} is ready", credentials.member().identity.name);
    let mut running = std::pin::pin!(fleet.run(stop.clone()));
    tokio::select! {
        () = &mut running => {}
        _ = stops.next(Duration::MAX) => {
            tracing::warn!("stopping: another coordinator goes on with the jobs");
            stop.cancel();
            // Gives the leadership back, so that the next one need not wait for its lease to end.
            let _ = tokio::time::timeout(STOP_TIMEOUT, &mut running).await;
        }
    }
    pgconvoy_transport::Listener::close(listener.as_ref());
    let _ = tokio::time::timeout(STOP_TIMEOUT, async {
        listener.idle().await;
        let _ = admitting.await;
        let _ = api.await;
    })
    .await;
    Ok(())
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
