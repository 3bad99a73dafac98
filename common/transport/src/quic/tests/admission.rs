//! Who is let in, and what both sides say of those who are not.

use super::fleet::{
    Fleet, connector_of, dialer_of, listen_as, member, member_at, now, refusal, refused_since, within,
};
use crate::connection::{Connector, Listener};
use crate::error::CloseKind;
use crate::identity::Role;
use crate::pki::authority::MEMBER_VALIDITY;
use crate::pki::{Authority, Revoked};
use crate::quic::socket::client_endpoint;
use crate::quic::{DialConfig, ListenConfig, Load, QuicDialer, QuicListener};
use crate::tls::Admission;
use pgconvoy_core::failure::{Classify, ErrorCode, Retry};
use pgconvoy_core::units::Timestamp;
use quinn::crypto::rustls::QuicClientConfig;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What both sides say, apart from addresses: `<near>` and `<far>` end with these.
fn check((near, far): &(String, String), near_end: &str, far_end: &str) {
    assert!(near.starts_with("the identity of 127.0.0.1:"), "{near}");
    assert!(near.ends_with(near_end), "{near}");
    assert!(far.starts_with("the identity of 127.0.0.1:"), "{far}");
    assert!(far.ends_with(far_end), "{far}");
}

#[tokio::test]
async fn members_of_one_fleet_know_each_other_by_their_certificates() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let (near, far) = fleet.connect(&listener, listener.local_address().unwrap()).await;
    assert_eq!(near.peer().to_string(), "coordinator c-1");
    assert_eq!(far.peer().to_string(), "worker w-1");
    assert_eq!(listener.refusals().count, 0);
}

#[tokio::test]
async fn a_member_of_another_fleet_is_refused_by_whoever_sees_its_certificate_first() {
    let (ours, theirs) = (Fleet::new(), Fleet::new());
    let listener = ours.listen();
    let stranger = connector_of(&theirs.worker, listener.local_address().unwrap());
    let words = "the certificate was not issued by this fleet's authority";
    let both = refusal(&stranger, &listener).await;
    check(&both, words, &format!("the peer did not accept this side's certificate: {words}"));
}

#[tokio::test]
async fn a_listener_refuses_a_worker_of_another_authority_that_trusts_ours() {
    let (ours, theirs) = (Fleet::new(), Fleet::new());
    let listener = ours.listen();
    // It has both authorities' certificates, and a certificate of the other one.
    let both = format!("{}{}", theirs.authority.cert_pem(), ours.authority.cert_pem());
    let name = "w-9".parse().unwrap();
    let request =
        crate::pki::IssueRequest { role: Role::Worker, name, sans: Vec::new(), validity: MEMBER_VALIDITY };
    let issued = theirs.authority.issue(&request, now()).unwrap();
    let worker = crate::pki::Credentials::from_pem(&both, &issued.cert_pem, &issued.key_pem, now()).unwrap();
    let words = "the certificate was not issued by this fleet's authority";
    let both = refusal(&connector_of(&worker, listener.local_address().unwrap()), &listener).await;
    check(&both, &format!("the peer did not accept this side's certificate: {words}"), words);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_the_time_of_its_end() {
    let long_ago = Timestamp::from_seconds(now().seconds() - 3 * 365 * 86_400);
    let end = Timestamp::from_seconds(long_ago.seconds() + i64::try_from(MEMBER_VALIDITY.as_secs()).unwrap());
    let old = Authority::create(&"prod".parse().unwrap(), long_ago).unwrap();
    let expired = member_at(&old, Role::Worker, "w-1", long_ago);
    let listener_of_old =
        listen_as(&member(&old, Role::Coordinator, "c-1"), &Revoked::default(), Load::Messages);
    let both =
        refusal(&connector_of(&expired, listener_of_old.local_address().unwrap()), &listener_of_old).await;
    let words = format!("the certificate expired at {end}");
    check(&both, &format!("the peer did not accept this side's certificate: {words}"), &words);
}

#[tokio::test]
async fn a_worker_cannot_pose_as_a_coordinator() {
    let fleet = Fleet::new();
    let impostor =
        listen_as(&member(&fleet.authority, Role::Worker, "w-2"), &Revoked::default(), Load::Messages);
    let words = "the certificate is that of worker w-2, a coordinator is expected";
    let both = refusal(&fleet.connector(impostor.local_address().unwrap()), &impostor).await;
    check(&both, words, &format!("the peer did not accept this side's certificate: {words}"));
}

#[tokio::test]
async fn a_role_that_the_listener_does_not_admit_is_refused() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let other =
        connector_of(&member(&fleet.authority, Role::Coordinator, "c-2"), listener.local_address().unwrap());
    let words = "the certificate is that of coordinator c-2, a worker or client is expected";
    let both = refusal(&other, &listener).await;
    check(&both, &format!("the peer did not accept this side's certificate: {words}"), words);
}

#[tokio::test]
async fn a_dialer_that_expects_a_name_takes_no_other() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let dialer = crate::quic::QuicDialer::new(crate::quic::DialConfig {
        credentials: fleet.worker.clone(),
        expects: Admission::of([Role::Coordinator]).named("c-7".parse().unwrap()),
        revoked: Revoked::default(),
        runtime: Handle::current(),
    });
    let connector = dialer.unwrap().connector(listener.local_address().unwrap().to_string());
    let (near, _far) = refusal(&connector, &listener).await;
    assert!(near.ends_with("the certificate is that of coordinator c-1, c-7 is expected"), "{near}");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_then_on_and_its_connections_end() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let address = listener.local_address().unwrap();
    let connector = fleet.connector(address);
    let (near, far) = within(async { tokio::join!(connector.connect(), listener.accept()) }).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    let serial = fleet.worker.facts().serial.clone();
    fleet.revoked.add(serial.clone());
    let reason = within(near.sender.closed()).await;
    assert_eq!(reason.kind(), CloseKind::Refused);
    assert_eq!(reason.text(), format!("the certificate {serial} was revoked"));
    assert_eq!(within(far.sender.closed()).await, reason);
    // The same connector: it would resume its session if sessions were kept.
    let words = format!("the certificate of worker w-1 was revoked (serial {serial})");
    let both = refusal(&connector, &listener).await;
    check(&both, &format!("the peer did not accept this side's certificate: {words}"), &words);
}

#[tokio::test]
async fn a_dialer_refuses_a_revoked_coordinator() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let revoked = Revoked::default();
    let dialer = dialer_of(&fleet.worker, &revoked);
    let connector = dialer.connector(listener.local_address().unwrap().to_string());
    let (first, far) = within(async { tokio::join!(connector.connect(), listener.accept()) }).await;
    let (first, _far) = (first.unwrap(), far.unwrap());
    revoked.add(fleet.coordinator.facts().serial.clone());
    assert_eq!(within(first.sender.closed()).await.kind(), CloseKind::Refused);
    let error = within(connector.connect()).await.unwrap_err();
    assert!(error.to_string().contains("the certificate of coordinator c-1 was revoked"), "{error}");
    assert_eq!((error.code(), error.retry()), (ErrorCode::Access, Retry::IsFutile));
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let mut tls = crate::tls::https_client_config(
        fleet.worker.authority(),
        Admission::of([Role::Coordinator]),
        &Revoked::default(),
    );
    tls.alpn_protocols = vec![crate::protocol::ALPN.to_vec()];
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = client_endpoint(&Handle::current()).unwrap();
    let address = listener.local_address().unwrap();
    let connecting = endpoint.connect_with(client, address, "pgconvoy").unwrap();
    if let Ok(connection) = within(connecting).await {
        within(connection.closed()).await;
    }
    let refusals = within(refused_since(&listener, 0)).await;
    let words = refusals.last.unwrap().to_string();
    assert!(words.ends_with("peer sent no certificates"), "{words}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_whoever_connects_next() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let address = listener.local_address().unwrap();
    let (old, _old_far) = fleet.connect(&listener, address).await;
    listener.renew(&member(&fleet.authority, Role::Coordinator, "c-1-renewed"));
    let (new, _new_far) = fleet.connect(&listener, address).await;
    assert_eq!(old.peer().name.as_str(), "c-1");
    assert_eq!(new.peer().name.as_str(), "c-1-renewed");
}

#[tokio::test]
async fn workers_reach_workers_where_nobody_else_is_let_in() {
    let fleet = Fleet::new();
    let source = QuicListener::bind(ListenConfig {
        address: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        credentials: member(&fleet.authority, Role::Worker, "w-2"),
        admits: Admission::of([Role::Worker]),
        revoked: Revoked::default(),
        load: Load::Files,
        runtime: Handle::current(),
    });
    let source = source.unwrap();
    let to_source = |credentials| {
        let dialer = QuicDialer::new(DialConfig {
            credentials,
            expects: Admission::of([Role::Worker]),
            revoked: Revoked::default(),
            runtime: Handle::current(),
        });
        dialer.unwrap().connector(source.local_address().unwrap().to_string())
    };
    let near = to_source(fleet.worker.clone());
    let (near, far) = within(async { tokio::join!(near.connect(), source.accept()) }).await;
    assert_eq!(near.unwrap().peer().to_string(), "worker w-2");
    assert_eq!(far.unwrap().peer().to_string(), "worker w-1");
    for (role, name) in [(Role::Coordinator, "c-1"), (Role::Client, "op")] {
        let words = format!("the certificate is that of {role} {name}, a worker is expected");
        let both = refusal(&to_source(member(&fleet.authority, role, name)), &source).await;
        check(&both, &format!("the peer did not accept this side's certificate: {words}"), &words);
    }
}
