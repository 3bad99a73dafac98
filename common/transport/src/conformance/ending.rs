//! Cases about how connections end.

use super::{Fixture, pattern, read_frame, stays_undone, within};
use crate::error::{CloseKind, CloseReason, TransportError};
use bytes::Bytes;
use std::sync::Arc;

pub async fn a_close_reaches_the_peer_with_its_reason(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let reason = CloseReason::new(CloseKind::Superseded, "worker w-1 has connected again");
    near.close(reason.clone());
    assert_eq!(within(far.recv()).await, Err(TransportError::Closed(reason.clone())));
    assert_eq!(within(far.recv()).await, Err(TransportError::Closed(reason.clone())), "over stays over");
    assert_eq!(within(far.sender.closed()).await, reason);
    assert_eq!(within(far.send(Bytes::new())).await, Err(TransportError::Closed(reason.clone())));
    assert_eq!(within(far.open_stream()).await.unwrap_err(), TransportError::Closed(reason.clone()));
    assert_eq!(within(far.accept_stream()).await.unwrap_err(), TransportError::Closed(reason));
}

pub async fn the_first_reason_of_a_close_counts(fixture: &dyn Fixture) {
    let (near, far) = fixture.connect().await;
    near.close(CloseReason::new(CloseKind::Refused, "first"));
    near.close(CloseReason::new(CloseKind::Done, "second"));
    assert_eq!(within(far.sender.closed()).await.text(), "first");
    assert_eq!(within(near.sender.closed()).await.kind(), CloseKind::Refused);
}

pub async fn a_close_wakes_whoever_waits_on_this_side(fixture: &dyn Fixture) {
    let (mut near, _far) = fixture.connect().await;
    let sender = Arc::clone(&near.sender);
    let waiting = tokio::spawn(async move { near.recv().await });
    tokio::task::yield_now().await;
    sender.close(CloseReason::new(CloseKind::Shutdown, "enough"));
    let error = within(waiting).await.unwrap().unwrap_err();
    assert_eq!(error.close_reason().unwrap().kind(), CloseKind::Shutdown);
}

pub async fn a_close_ends_the_streams(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let mut ours = within(near.open_stream()).await.unwrap();
    within(ours.writer.write(pattern(0, 10))).await.unwrap();
    let mut theirs = within(far.accept_stream()).await.unwrap();
    assert_eq!(within(theirs.reader.read()).await.unwrap().unwrap(), pattern(0, 10));
    far.close(CloseReason::new(CloseKind::Shutdown, ""));
    let kind = |error: TransportError| error.close_reason().map(CloseReason::kind);
    assert_eq!(kind(within(ours.reader.read()).await.unwrap_err()), Some(CloseKind::Shutdown));
    assert_eq!(kind(within(ours.writer.write(pattern(0, 10))).await.unwrap_err()), Some(CloseKind::Shutdown));
    assert_eq!(kind(within(theirs.reader.read()).await.unwrap_err()), Some(CloseKind::Shutdown));
}

pub async fn dropping_the_receiver_ends_the_connection(fixture: &dyn Fixture) {
    let (mut near, far) = fixture.connect().await;
    let crate::Connection { sender, receiver, incoming: _kept } = far;
    drop(receiver);
    let error = within(near.recv()).await.unwrap_err();
    assert_eq!(error.close_reason().unwrap().kind(), CloseKind::Dropped);
    assert!(within(sender.send(Bytes::new())).await.is_err(), "a sender alone keeps nothing open");
}

pub async fn dropping_the_senders_ends_nothing(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let crate::Connection { sender, mut receiver, incoming: _kept } = near;
    within(sender.send(Bytes::from_static(b"one"))).await.unwrap();
    drop(sender);
    assert_eq!(read_frame(&mut far).await, "one");
    assert!(stays_undone(far.recv()).await);
    within(far.send(Bytes::from_static(b"two"))).await.unwrap();
    assert_eq!(within(receiver.recv()).await.unwrap().unwrap(), "two");
}

pub async fn finish_ends_one_direction_only(fixture: &dyn Fixture) {
    const FRAMES: usize = 50;
    let (mut near, mut far) = fixture.connect().await;
    for number in 0..FRAMES {
        within(near.send(pattern(number, 100))).await.unwrap();
    }
    within(near.sender.finish()).await.unwrap();
    assert_eq!(within(near.send(Bytes::new())).await, Err(TransportError::Finished));
    for number in 0..FRAMES {
        assert_eq!(read_frame(&mut far).await, pattern(number, 100));
    }
    assert_eq!(within(far.recv()).await, Ok(None));
    assert_eq!(within(far.recv()).await, Ok(None), "the end stays the end");
    within(far.send(Bytes::from_static(b"understood"))).await.unwrap();
    assert_eq!(read_frame(&mut near).await, "understood");
}
