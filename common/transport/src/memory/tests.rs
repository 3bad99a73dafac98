#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::identity::Role;
use bytes::Bytes;
use tokio::time::Instant;

fn coordinator() -> PeerIdentity {
    PeerIdentity { name: "c-1".parse().unwrap(), role: Role::Coordinator }
}

fn worker() -> PeerIdentity {
    PeerIdentity { name: "w-1".parse().unwrap(), role: Role::Worker }
}

fn connected(faults: &Faults) -> (Connection, Connection) {
    pair(worker(), coordinator(), faults)
}

fn kind(error: &TransportError) -> CloseKind {
    error.close_reason().unwrap().kind()
}

mod conformance {
    use super::*;
    use crate::conformance::Fixture;

    struct Memory {
        delay: Duration,
    }

    #[async_trait]
    impl Fixture for Memory {
        fn identities(&self) -> (PeerIdentity, PeerIdentity) {
            (worker(), coordinator())
        }

        async fn connect(&self) -> (Connection, Connection) {
            let (listener, dialer) = listen(coordinator());
            let faults = Faults::default();
            faults.delay(self.delay);
            let connector = dialer.connector(worker(), faults);
            let (near, far) = tokio::join!(connector.connect(), listener.accept());
            (near.unwrap(), far.unwrap())
        }
    }

    mod on_a_paused_clock {
        crate::transport_conformance!(
            [#[tokio::test(start_paused = true)]],
            super::Memory { delay: std::time::Duration::ZERO }
        );
    }

    mod on_several_threads {
        crate::transport_conformance!(
            [#[tokio::test(flavor = "multi_thread", worker_threads = 2)]],
            super::Memory { delay: std::time::Duration::ZERO }
        );
    }

    mod with_a_delay {
        crate::transport_conformance!(
            [#[tokio::test(start_paused = true)]],
            super::Memory { delay: std::time::Duration::from_millis(20) }
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_postpones_what_is_sent_and_keeps_the_order() {
    let faults = Faults::default();
    let (near, mut far) = connected(&faults);
    faults.delay(Duration::from_secs(2));
    near.send(Bytes::from_static(b"late")).await.unwrap();
    faults.delay(Duration::ZERO);
    near.send(Bytes::from_static(b"later")).await.unwrap();
    let start = Instant::now();
    assert_eq!(far.recv().await.unwrap().unwrap(), "late");
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(far.recv().await.unwrap().unwrap(), "later");
}

#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_during_a_short_cut_arrives_when_it_heals() {
    let faults = Faults::default();
    let (near, mut far) = connected(&faults);
    faults.cut();
    near.send(Bytes::from_static(b"patience")).await.unwrap();
    let almost = IDLE_TIMEOUT - Duration::from_millis(1);
    assert!(tokio::time::timeout(almost, far.recv()).await.is_err());
    faults.heal();
    assert_eq!(far.recv().await.unwrap().unwrap(), "patience");
}

#[tokio::test(start_paused = true)]
async fn a_cut_of_either_direction_ends_the_connection_for_both_after_the_idle_timeout() {
    for direction in [Direction::Outbound, Direction::Inbound] {
        let faults = Faults::default();
        let (mut near, mut far) = connected(&faults);
        let start = Instant::now();
        faults.cut_one_way(direction);
        let (near_end, far_end) = tokio::join!(near.recv(), far.recv());
        assert_eq!(start.elapsed(), IDLE_TIMEOUT);
        assert_eq!(kind(&near_end.unwrap_err()), CloseKind::Lost);
        assert_eq!(kind(&far_end.unwrap_err()), CloseKind::Lost);
    }
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_lets_the_other_direction_pass() {
    let faults = Faults::default();
    let (mut near, mut far) = connected(&faults);
    faults.cut_one_way(Direction::Outbound);
    near.send(Bytes::from_static(b"unheard")).await.unwrap();
    far.send(Bytes::from_static(b"heard")).await.unwrap();
    assert_eq!(near.recv().await.unwrap().unwrap(), "heard");
    assert!(tokio::time::timeout(Duration::from_secs(1), far.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_used_during_a_long_cut_is_over_all_the_same() {
    let faults = Faults::default();
    let (mut near, far) = connected(&faults);
    faults.cut();
    tokio::time::advance(IDLE_TIMEOUT).await;
    faults.heal();
    assert_eq!(kind(&near.recv().await.unwrap_err()), CloseKind::Lost);
    assert_eq!(kind(&far.send(Bytes::new()).await.unwrap_err()), CloseKind::Lost);
    let (near, mut far) = connected(&faults);
    near.send(Bytes::from_static(b"a new one works")).await.unwrap();
    assert_eq!(far.recv().await.unwrap().unwrap(), "a new one works");
}

#[tokio::test(start_paused = true)]
async fn a_close_behind_a_cut_is_heard_after_it_or_never() {
    let faults = Faults::default();
    let (near, mut far) = connected(&faults);
    faults.cut();
    near.close(CloseReason::new(CloseKind::Shutdown, ""));
    assert!(tokio::time::timeout(Duration::from_secs(1), far.recv()).await.is_err());
    faults.heal();
    assert_eq!(kind(&far.recv().await.unwrap_err()), CloseKind::Shutdown);

    let (near, mut far) = connected(&faults);
    faults.cut();
    near.close(CloseReason::new(CloseKind::Shutdown, ""));
    assert_eq!(kind(&far.recv().await.unwrap_err()), CloseKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn empty_frames_are_bounded_too() {
    let (near, _far) = connected(&Faults::default());
    let mut sent = 0_usize;
    while tokio::time::timeout(Duration::from_secs(1), near.send(Bytes::new())).await.is_ok() {
        sent += 1;
        assert!(sent <= 1 << 16, "{sent} empty frames were taken");
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_through_a_cut_waits_and_then_times_out() {
    let (listener, dialer) = listen(coordinator());
    let faults = Faults::default();
    let connector = dialer.connector(worker(), faults.clone());
    faults.cut_one_way(Direction::Inbound);
    let expected = TransportError::Timeout { what: "connect", after: CONNECT_TIMEOUT };
    assert_eq!(connector.connect().await.unwrap_err(), expected);
    faults.heal();
    connector.connect().await.unwrap();
    assert_eq!(listener.accept().await.unwrap().peer(), &worker());
}

#[tokio::test(start_paused = true)]
async fn nobody_connects_to_a_listener_that_is_closed_or_gone() {
    let (listener, dialer) = listen(coordinator());
    let connector = dialer.connector(worker(), Faults::default());
    let mut accepted = {
        let (near, far) = tokio::join!(connector.connect(), listener.accept());
        (near.unwrap(), far.unwrap())
    };
    listener.close();
    assert!(matches!(connector.connect().await, Err(TransportError::Unreachable { .. })));
    assert_eq!(kind(&listener.accept().await.unwrap_err()), CloseKind::Done);
    accepted.0.send(Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(accepted.1.recv().await.unwrap().unwrap(), "still here");

    let (listener, dialer) = listen(coordinator());
    drop(listener);
    let connector = dialer.connector(worker(), Faults::default());
    assert!(matches!(connector.connect().await, Err(TransportError::Unreachable { .. })));
}

#[tokio::test(start_paused = true)]
async fn streams_that_nobody_takes_are_refused() {
    let (near, far) = connected(&Faults::default());
    let Connection { incoming, receiver: _kept, .. } = far;
    drop(incoming);
    assert_eq!(near.open_stream().await.unwrap_err(), TransportError::StreamReset);
}
