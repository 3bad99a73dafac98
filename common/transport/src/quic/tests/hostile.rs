//! Peers that send what they must not, or that only take places.

use super::fleet::{Fleet, refused_since, within};
use crate::Connection;
use crate::conformance::QUIET;
use crate::conformance::proxy::UdpProxy;
use crate::conformance::raw::RawPeer;
use crate::connection::{Connector, Listener};
use crate::error::{CloseKind, TransportError};
use crate::memory::Direction;
use crate::protocol::{ALPN, VERSIONS, VersionRange, encode_preface};
use crate::quic::{HANDSHAKE_TIMEOUT, HANDSHAKES_OF_HOST_MAX, QuicListener, UNPROVED_MAX};
use quinn::{ConnectionError, RecvStream, SendStream};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// A raw connection that has said its first bytes, and its control stream.
async fn say(
    fleet: &Fleet,
    listener: &QuicListener,
    bytes: &[u8],
) -> (quinn::Connection, (SendStream, RecvStream)) {
    let raw = RawPeer::new(&fleet.worker, ALPN);
    within(raw.say(listener.local_address().unwrap(), bytes)).await
}

/// With which kind and text the other side closed.
async fn closed_with(connection: &quinn::Connection) -> (CloseKind, String) {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            let number = u32::try_from(close.error_code.into_inner()).unwrap();
            (CloseKind::from_number(number), String::from_utf8(close.reason.to_vec()).unwrap())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_preface_of_another_protocol_ends_the_connection_with_a_reason() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let (connection, _control) = say(&fleet, &listener, b"GET / HTTP/1.1\r\n\r\n").await;
    let words = "the first bytes are not pgconvoy's";
    assert_eq!(closed_with(&connection).await, (CloseKind::Protocol, words.to_owned()));
    let refusals = within(refused_since(&listener, 0)).await;
    assert!(refusals.last.unwrap().to_string().contains(words));
}

#[tokio::test]
async fn a_peer_without_a_common_version_is_told_both_ranges() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let preface = encode_preface(VersionRange { min: 40, max: 42 });
    let (connection, _control) = say(&fleet, &listener, &preface).await;
    let (kind, text) = closed_with(&connection).await;
    assert_eq!(kind, CloseKind::Protocol);
    assert_eq!(
        text,
        format!("no common protocol version: this side speaks {VERSIONS}, the peer versions 40 to 42")
    );
}

#[tokio::test]
async fn a_peer_that_speaks_another_protocol_of_tls_is_refused() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let raw = RawPeer::new(&fleet.worker, b"h3");
    assert!(within(raw.knock(listener.local_address().unwrap())).await.is_err());
    let refusals = within(refused_since(&listener, 0)).await;
    assert!(
        refusals
            .last
            .unwrap()
            .to_string()
            .ends_with("it speaks another protocol, or a version too far from ours")
    );
}

async fn accepted(fleet: &Fleet, bytes: &[u8]) -> (quinn::Connection, (SendStream, RecvStream), Connection) {
    let listener = fleet.listen();
    let all = [&encode_preface(VERSIONS)[..], bytes].concat();
    let (connection, control) = say(fleet, &listener, &all).await;
    let far = within(listener.accept()).await.unwrap();
    (connection, control, far)
}

#[tokio::test]
async fn a_frame_that_claims_too_much_ends_the_connection_before_its_bytes_come() {
    let fleet = Fleet::new();
    let (connection, _control, mut far) =
        accepted(&fleet, &[0, 0, 0, 2, b'o', b'k', 0xff, 0xff, 0xff, 0xff]).await;
    assert_eq!(within(far.recv()).await.unwrap().unwrap(), "ok");
    let error = within(far.recv()).await.unwrap_err();
    assert_eq!(error.close_reason().unwrap().kind(), CloseKind::Protocol);
    let (kind, text) = closed_with(&connection).await;
    assert_eq!(kind, CloseKind::Protocol);
    assert_eq!(text, "a frame of 4294967295 bytes was announced, 1048576 are allowed");
}

#[tokio::test]
async fn a_control_stream_that_ends_within_a_frame_is_no_finish() {
    let fleet = Fleet::new();
    let (connection, mut control, mut far) = accepted(&fleet, &[0, 0, 0, 9, 1, 2, 3]).await;
    control.0.finish().unwrap();
    let error = within(far.recv()).await.unwrap_err();
    assert_eq!(error.close_reason().unwrap().kind(), CloseKind::Protocol);
    assert_eq!(closed_with(&connection).await.0, CloseKind::Protocol);
}

#[tokio::test]
async fn a_control_stream_that_is_reset_is_no_finish() {
    let fleet = Fleet::new();
    let (_connection, mut control, mut far) = accepted(&fleet, &[]).await;
    control.0.reset(quinn::VarInt::from_u32(9)).unwrap();
    let error = within(far.recv()).await.unwrap_err();
    assert_eq!(error.close_reason().unwrap().kind(), CloseKind::Protocol);
}

#[tokio::test]
async fn a_peer_that_proves_itself_and_then_says_nothing_is_turned_away_in_time() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let raw = RawPeer::new(&fleet.worker, ALPN);
    let start = Instant::now();
    let connection = within(raw.knock(listener.local_address().unwrap())).await.unwrap();
    let refusals = within(refused_since(&listener, 0)).await;
    assert!(start.elapsed() >= HANDSHAKE_TIMEOUT);
    assert!(matches!(refusals.last, Some(TransportError::Timeout { .. })), "{refusals:?}");
    within(connection.closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_peers_without_a_handshake_do_not_keep_a_good_one_out() {
    const PEERS: usize = 1_000;
    /// A good peer gets in without waiting for anybody's timeout.
    const PATIENCE: Duration = Duration::from_secs(4);
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let target = listener.local_address().unwrap();
    // They never hear an answer, as if their addresses were forged.
    let proxy = UdpProxy::start(target).await.unwrap();
    proxy.cut_one_way(Direction::Inbound);
    let raw = RawPeer::new(&fleet.worker, ALPN);
    let half_open: Vec<quinn::Connecting> = (0..PEERS).map(|_| raw.knock(proxy.address())).collect();
    within(async {
        while proxy.packets().0 < PEERS as u64 {
            // Within the step's timeout.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let connector = fleet.connector(target);
    let both = async { tokio::join!(connector.connect(), listener.accept()) };
    let (near, far) = tokio::time::timeout(PATIENCE, both).await.expect("the good peer was kept waiting");
    assert_eq!(near.unwrap().peer().to_string(), "coordinator c-1");
    assert_eq!(far.unwrap().peer().to_string(), "worker w-1");
    // What they say when they end would be one more knock of each.
    proxy.cut();
    drop(half_open);
    within(async {
        while listener.refusals().count == 0 {
            // Within the step's timeout, which is longer than that of a handshake.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // All of them began at the same time, so their timeouts come together.
    tokio::time::sleep(QUIET).await;
    let most = u64::try_from(UNPROVED_MAX).unwrap();
    let refused = listener.refusals().count;
    assert!((1..=most).contains(&refused), "{refused} handshakes were begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_proves_its_address_and_then_dawdles_does_not_keep_another_one_out() {
    const PEERS: usize = 3 * HANDSHAKES_OF_HOST_MAX;
    /// Long before any of the dawdlers is turned away for its slowness.
    const PATIENCE: Duration = Duration::from_secs(3);
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let target = listener.local_address().unwrap();
    let elsewhere = RawPeer::at(Ipv4Addr::new(127, 0, 0, 2), &fleet.worker, ALPN);
    let dawdlers: Vec<quinn::Connecting> = (0..PEERS).map(|_| elsewhere.knock(target)).collect();
    // The first ones too many were refused, so all places of that host are taken.
    within(refused_since(&listener, 0)).await;
    let connector = fleet.connector(target);
    let both = async { tokio::join!(connector.connect(), listener.accept()) };
    let (near, far) = tokio::time::timeout(PATIENCE, both).await.expect("the good peer was kept waiting");
    assert_eq!(near.unwrap().peer().to_string(), "coordinator c-1");
    assert_eq!(far.unwrap().peer().to_string(), "worker w-1");
    drop(dawdlers);
}
