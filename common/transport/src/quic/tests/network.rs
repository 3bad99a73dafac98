//! Networks that fail: cut, slow, gone.

use super::fleet::{Fleet, dialer_of, within};
use crate::conformance::proxy::UdpProxy;
use crate::connection::{Connector, IDLE_TIMEOUT, Listener};
use crate::error::{CloseKind, CloseReason, TransportError};
use crate::memory::Direction;
use crate::pki::Revoked;
use crate::quic::{HANDSHAKE_TIMEOUT, KEEP_ALIVE_INTERVAL};
use crate::reconnect::Reconnect;
use crate::reconnect::{Dial, Redial};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What a cut may take beyond the idle timeout: the timer starts with the last packet, sent or received, and a busy
/// machine is late.
const LATE_MAX: Duration = Duration::from_secs(8);

fn kind(error: &TransportError) -> CloseKind {
    error.close_reason().unwrap().kind()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_ends_the_connection_for_both_ends_after_the_idle_timeout() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let proxy = UdpProxy::start(listener.local_address().unwrap()).await.unwrap();
    let (mut near, mut far) = fleet.connect(&listener, proxy.address()).await;
    let start = Instant::now();
    proxy.cut();
    let (near_end, far_end) = within(async { tokio::join!(near.recv(), far.recv()) }).await;
    let took = start.elapsed();
    assert!(took >= IDLE_TIMEOUT - KEEP_ALIVE_INTERVAL && took < IDLE_TIMEOUT + LATE_MAX, "{took:?}");
    assert_eq!(kind(&near_end.unwrap_err()), CloseKind::Lost);
    assert_eq!(kind(&far_end.unwrap_err()), CloseKind::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_cut_in_one_direction_ends_the_connection_for_both_ends() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let proxy = UdpProxy::start(listener.local_address().unwrap()).await.unwrap();
    let (mut near, mut far) = fleet.connect(&listener, proxy.address()).await;
    proxy.cut_one_way(Direction::Inbound);
    let both = async { tokio::join!(near.recv(), far.recv()) };
    // One end hears nothing and gives up; the other one then hears nothing either: twice the timeout.
    let timeout = 2 * (IDLE_TIMEOUT + LATE_MAX);
    let (near_end, far_end) = tokio::time::timeout(timeout, both).await.unwrap();
    assert_eq!(kind(&near_end.unwrap_err()), CloseKind::Lost);
    assert_eq!(kind(&far_end.unwrap_err()), CloseKind::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_cut_heals_and_nothing_is_missing() {
    const CUT: Duration = Duration::from_secs(2);
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let proxy = UdpProxy::start(listener.local_address().unwrap()).await.unwrap();
    let (near, mut far) = fleet.connect(&listener, proxy.address()).await;
    proxy.cut();
    near.send(Bytes::from_static(b"patience")).await.unwrap();
    // Until the cut's end nothing arrives: this is the cut's length, not a wait for something within a timeout.
    assert!(tokio::time::timeout(CUT, far.recv()).await.is_err());
    proxy.heal();
    assert_eq!(within(far.recv()).await.unwrap().unwrap(), "patience");
    within(far.send(Bytes::from_static(b"understood"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_connection_outlives_the_idle_timeout() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let (near, mut far) = fleet.connect(&listener, listener.local_address().unwrap()).await;
    let quiet = IDLE_TIMEOUT + KEEP_ALIVE_INTERVAL;
    assert!(tokio::time::timeout(quiet, far.recv()).await.is_err(), "nothing is sent and nothing ends");
    near.send(Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(within(far.recv()).await.unwrap().unwrap(), "still here");
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_within_the_handshake_timeout() {
    let fleet = Fleet::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let start = Instant::now();
    let error = within(fleet.connector(socket.local_addr().unwrap()).connect()).await.unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    assert!(start.elapsed() < HANDSHAKE_TIMEOUT + LATE_MAX);
}

#[tokio::test]
async fn a_name_without_an_address_is_a_clear_error() {
    let fleet = Fleet::new();
    let dialer = dialer_of(&fleet.worker, &Revoked::default());
    for address in ["no-such-host.invalid:7432", "no port", ""] {
        let error = within(dialer.dial(address)).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot connect to {address}: ")), "{error}");
    }
}

#[tokio::test]
async fn a_closed_listener_takes_nobody_and_ends_nobody() {
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let address = listener.local_address().unwrap();
    let (near, mut far) = fleet.connect(&listener, address).await;
    listener.close();
    assert_eq!(kind(&within(listener.accept()).await.unwrap_err()), CloseKind::Done);
    let error = within(fleet.connector(address).connect()).await.unwrap_err();
    assert!(error.to_string().ends_with("it takes no further connections at the moment"), "{error}");
    near.send(Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(within(far.recv()).await.unwrap().unwrap(), "still here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redial_finds_the_leader_among_coordinators() {
    let fleet = Fleet::new();
    let (follower, leader) = (fleet.listen(), fleet.listen());
    let leader_address = leader.local_address().unwrap().to_string();
    let addresses = vec![follower.local_address().unwrap().to_string()];
    let dialer = dialer_of(&fleet.worker, &Revoked::default());
    let redial = Redial::new(dialer, addresses, Box::new(|| 0)).unwrap();
    let following = tokio::spawn(async move {
        let connection = follower.accept().await.unwrap();
        connection.close(CloseReason::new(CloseKind::NotLeader, leader_address));
        follower.idle().await;
    });
    // The hint comes with the answer or after it, as the packets lie.
    if let Ok(first) = within(redial.connect()).await {
        redial.ended(&within(first.sender.closed()).await);
    }
    let (near, far) = within(async { tokio::join!(redial.connect(), leader.accept()) }).await;
    near.unwrap().send(Bytes::from_static(b"hello")).await.unwrap();
    drop(far);
    within(following).await.unwrap();
}

/// Of a link that carries this many bytes a second, all of it wanted by these streams.
const NARROW: u32 = 4 << 20;
const BULK_STREAMS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_frames_overtake_bulk_data_on_a_link_that_is_full() {
    const FRAMES: usize = 64;
    const FRAME_BYTES: usize = 16 << 10;
    let fleet = Fleet::new();
    let listener = fleet.listen();
    let proxy = UdpProxy::start(listener.local_address().unwrap()).await.unwrap();
    let (near, mut far) = fleet.connect(&listener, proxy.address()).await;
    proxy.narrow(NARROW);
    let bulk = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..BULK_STREAMS {
        let mut stream = within(near.open_stream()).await.unwrap();
        tasks
            .spawn(async move { while stream.writer.write(Bytes::from(vec![7; 64 << 10])).await.is_ok() {} });
        let mut stream = within(far.accept_stream()).await.unwrap();
        let bulk = Arc::clone(&bulk);
        tasks.spawn(async move {
            while let Ok(Some(chunk)) = stream.reader.read().await {
                bulk.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        });
    }
    // Every stream has its share before the first frame is sent.
    let passed = || bulk.load(Ordering::Relaxed);
    within(async {
        while passed() < BULK_STREAMS * (64 << 10) {
            // Within the step's timeout.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let before = passed();
    for _ in 0..FRAMES {
        near.send(Bytes::from(vec![1; FRAME_BYTES])).await.unwrap();
    }
    for _ in 0..FRAMES {
        assert_eq!(within(far.recv()).await.unwrap().unwrap().len(), FRAME_BYTES);
    }
    let overtaken = passed() - before;
    let control = FRAMES * FRAME_BYTES;
    // In fair shares it would be sixteen times as much as of control; what was on its way before is let through.
    assert!(overtaken < control, "{overtaken} bytes of bulk data arrived before {control} of control");
}
