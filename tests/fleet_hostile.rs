//! Peers that a fleet must refuse, against real daemons: each is told why, the log says so, and nobody else notices.

mod support;

use pgconvoy_core::units::Timestamp;
use pgconvoy_transport::conformance::proxy::UdpProxy;
use pgconvoy_transport::conformance::raw::RawPeer;
use pgconvoy_transport::memory::Direction;
use pgconvoy_transport::pki::authority::MEMBER_VALIDITY;
use pgconvoy_transport::pki::{Authority, Credentials, IssueRequest};
use pgconvoy_transport::protocol::ALPN;
use pgconvoy_transport::quic::{DialConfig, QuicDialer};
use pgconvoy_transport::{Admission, Dial as _, Role};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use support::fleet::{Fleet, FleetOptions};
use support::{Random, Result, Site, SiteOptions, ensure, limits, note};
use tokio::runtime::{Handle, Runtime};

/// A fleet of one worker, over a cluster without data.
fn stage() -> Result<(Site, Fleet)> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let fleet = Fleet::start(&site, &FleetOptions { workers: 1, ..FleetOptions::default() })?;
    Ok((site, fleet))
}

fn now() -> Result<Timestamp> {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    Ok(Timestamp::from_seconds(i64::try_from(seconds)?))
}

/// A worker's certificate of the fleet's own authority, issued at that time.
fn issued_at(fleet: &Fleet, name: &str, at: Timestamp) -> Result<Credentials> {
    let text = |file: &str| std::fs::read_to_string(fleet.pki().join(file));
    let authority = Authority::load(&text("ca.crt")?, &text("ca.key")?)?;
    let request =
        IssueRequest { role: Role::Worker, name: name.parse()?, sans: Vec::new(), validity: MEMBER_VALIDITY };
    let issued = authority.issue(&request, at)?;
    Ok(Credentials::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem, at)?)
}

/// The fleet does its work: all its workers are here, and a backup succeeds.
fn is_well(fleet: &Fleet) -> Result<()> {
    for coordinator in &fleet.coordinators {
        ensure!(coordinator.is_running()?, "{} is gone", coordinator.name);
    }
    fleet.await_workers(fleet.workers.len())?;
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    Ok(())
}

fn address_of_the_leader(fleet: &Fleet) -> Result<SocketAddr> {
    fleet.quic_address(fleet.leader()?)
}

#[test]
fn an_expired_certificate_is_refused_by_the_coordinator_and_by_the_worker_that_has_it() -> Result<()> {
    let (_site, fleet) = stage()?;
    let long_ago = now()?.seconds() - i64::try_from(2 * MEMBER_VALIDITY.as_secs())?;
    let expired = issued_at(&fleet, "worker-7", Timestamp::from_seconds(long_ago))?;
    let leader = fleet.leader()?;
    let address = fleet.quic_address(leader)?.to_string();
    let error = Runtime::new()?.block_on(async {
        let dialer = QuicDialer::new(DialConfig {
            credentials: expired,
            expects: Admission::of([Role::Coordinator]),
            revoked: Default::default(),
            runtime: Handle::current(),
        })?;
        // Who listens learns of it after who dials is done: then the refusal comes as the first answer.
        let refused = match dialer.dial(&address).await {
            Ok(mut connection) => connection.recv().await.map(|_| ()),
            Err(error) => Err(error),
        };
        Ok::<_, anyhow::Error>(refused.err())
    })?;
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("expired"), "the worker is told '{error}'");
    fleet.coordinators[leader].await_log("expired")?;
    is_well(&fleet)
}

#[test]
fn a_worker_is_refused_with_a_stanza_that_the_configuration_gives_to_another() -> Result<()> {
    let mut site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let everybodys = site.config.clone();
    site.config = site.config.clone().pg_host("worker-0");
    let mut fleet = Fleet::start(&site, &FleetOptions { workers: 1, ..FleetOptions::default() })?;
    // By its own configuration the data directory is on whatever host reads it.
    let mut greedy = fleet.worker(&site, 1, &everybodys)?;
    greedy.start()?;
    greedy.await_log("which the configuration here does not give to it")?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader].await_log("worker worker-1 offers data of stanza main")?;
    assert_eq!(fleet.workers_in_state("up")?, ["worker-0"]);
    is_well(&fleet)?;
    fleet.workers[0].stop()?.ok()?;
    Ok(())
}

#[test]
fn what_is_no_message_ends_its_own_connection_only() -> Result<()> {
    const FRAMES: u32 = 50;
    const BYTES_MAX: u64 = 2000;
    let (_site, fleet) = stage()?;
    let credentials = issued_at(&fleet, "worker-0", now()?)?;
    let leader = fleet.leader()?;
    let address = fleet.quic_address(leader)?;
    let mut random = Random::from_environment()?;
    Runtime::new()?.block_on(async {
        let raw = RawPeer::new(&credentials, ALPN);
        let mut said = vec![limits::within(raw.say_until_closed(address, &[0xff; 4])).await?];
        for _ in 0..FRAMES {
            let length = random.below(BYTES_MAX) + 1;
            let body: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
            let frame = [&u32::try_from(length)?.to_be_bytes()[..], &body].concat();
            said.push(limits::within(raw.say_until_closed(address, &frame)).await?);
        }
        note(said.join("\n"));
        Ok::<_, anyhow::Error>(())
    })?;
    for words in ["1048576 are allowed", "was turned away"] {
        fleet.coordinators[leader].await_log(words)?;
    }
    is_well(&fleet)
}

#[test]
fn a_thousand_connections_without_a_handshake_keep_nobody_out() -> Result<()> {
    const PEERS: u64 = 1000;
    /// A worker starts, is let in and is listed.
    const PATIENCE: Duration = Duration::from_secs(20);
    let (site, mut fleet) = stage()?;
    let credentials = issued_at(&fleet, "worker-0", now()?)?;
    let address = address_of_the_leader(&fleet)?;
    let runtime = Runtime::new()?;
    let half_open = runtime.block_on(async {
        // They never hear an answer, as if their addresses were forged.
        let proxy = UdpProxy::start(address).await?;
        proxy.cut_one_way(Direction::Inbound);
        let raw = RawPeer::new(&credentials, ALPN);
        let knocks: Vec<_> = (0..PEERS).map(|_| raw.knock(proxy.address())).collect();
        while proxy.packets().0 < PEERS {
            // The test's own timeout ends it.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, anyhow::Error>((proxy, knocks))
    })?;
    fleet.add_worker(&site, 1)?;
    fleet.workers[1].start()?;
    limits::wait_for("another worker", PATIENCE, || {
        Ok(fleet.workers_in_state("up")?.contains(&"worker-1".to_owned()).then_some(()))
    })?;
    // Whoever watches the fleet reads what kind of peers these are.
    let leader = fleet.leader()?;
    for words in ["a peer was turned away", "the handshake"] {
        fleet.coordinators[leader].await_log(words)?;
    }
    is_well(&fleet)?;
    runtime.block_on(async { drop(half_open) });
    Ok(())
}
