//! Cases about control frames.

use super::{BUFFERS_PER_CONNECTION, Fixture, QUIET, pattern, read_frame, short_break, until_stuck, within};
use crate::connection::{CONTROL_BYTES_MAX, Connection, FRAME_BYTES_MAX};
use crate::error::{CloseKind, CloseReason, TransportError};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

pub async fn each_end_knows_the_other(fixture: &dyn Fixture) {
    let (near_identity, far_identity) = fixture.identities();
    let (near, far) = fixture.connect().await;
    assert_eq!(near.peer(), &far_identity);
    assert_eq!(far.peer(), &near_identity);
}

pub async fn frames_arrive_whole_and_in_order_both_ways(fixture: &dyn Fixture) {
    const FRAMES: usize = 500;
    let length = |number: usize| (number * number) % 9_001;
    let (mut near, mut far) = fixture.connect().await;
    let speak = |sender: Arc<dyn crate::Sender>| async move {
        for number in 0..FRAMES {
            sender.send(pattern(number, length(number))).await.unwrap();
        }
    };
    let hear = async |connection: &mut Connection| {
        for number in 0..FRAMES {
            let frame = read_frame(connection).await;
            assert!(frame == pattern(number, length(number)), "frame {number} is not what was sent");
        }
    };
    let (near_sender, far_sender) = (Arc::clone(&near.sender), Arc::clone(&far.sender));
    within(async {
        tokio::join!(speak(near_sender), speak(far_sender), hear(&mut near), hear(&mut far));
    })
    .await;
}

pub async fn frames_of_many_senders_keep_the_order_of_each(fixture: &dyn Fixture) {
    const SENDERS: u8 = 8;
    const FRAMES: u8 = 100;
    let (near, mut far) = fixture.connect().await;
    let tasks: Vec<_> = (0..SENDERS)
        .map(|who| {
            let sender = Arc::clone(&near.sender);
            tokio::spawn(async move {
                for number in 0..FRAMES {
                    sender.send(Bytes::from(vec![who, number])).await.unwrap();
                }
            })
        })
        .collect();
    let mut next = [0u8; SENDERS as usize];
    for _ in 0..usize::from(SENDERS) * usize::from(FRAMES) {
        let frame = read_frame(&mut far).await;
        let [who, number] = frame[..] else { panic!("a frame of {} bytes", frame.len()) };
        assert_eq!(number, next[usize::from(who)], "order of sender {who}");
        next[usize::from(who)] += 1;
    }
    for task in tasks {
        within(task).await.unwrap();
    }
}

pub async fn a_frame_that_is_too_large_is_refused_at_the_sender_and_nothing_else_happens(
    fixture: &dyn Fixture,
) {
    let (near, mut far) = fixture.connect().await;
    let refused = near.send(pattern(0, FRAME_BYTES_MAX + 1)).await;
    assert_eq!(refused, Err(TransportError::TooLarge { bytes: FRAME_BYTES_MAX + 1, max: FRAME_BYTES_MAX }));
    within(near.send(pattern(7, FRAME_BYTES_MAX))).await.unwrap();
    within(near.send(Bytes::new())).await.unwrap();
    assert!(read_frame(&mut far).await == pattern(7, FRAME_BYTES_MAX));
    assert!(read_frame(&mut far).await.is_empty());
}

pub async fn a_sender_waits_for_a_peer_that_does_not_read(fixture: &dyn Fixture) {
    const FRAME_BYTES: usize = 256 << 10;
    const FRAMES: usize = 80;
    let (near, mut far) = fixture.connect().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let (sender, counted) = (Arc::clone(&near.sender), Arc::clone(&taken));
    let speaking = tokio::spawn(async move {
        for number in 0..FRAMES {
            sender.send(pattern(number, FRAME_BYTES)).await.unwrap();
            counted.fetch_add(FRAME_BYTES, Ordering::SeqCst);
        }
    });
    let stuck_at = until_stuck(&taken).await;
    assert!(stuck_at > 0);
    assert!(stuck_at <= BUFFERS_PER_CONNECTION * CONTROL_BYTES_MAX + FRAME_BYTES_MAX, "{stuck_at} bytes");
    for number in 0..FRAMES {
        assert!(read_frame(&mut far).await == pattern(number, FRAME_BYTES), "frame {number}");
    }
    within(speaking).await.unwrap();
}

pub async fn a_cancelled_send_sends_all_or_nothing(fixture: &dyn Fixture) {
    const FRAME_BYTES: usize = 512 << 10;
    let (near, mut far) = fixture.connect().await;
    let mut sent = 0;
    while tokio::time::timeout(QUIET, near.send(pattern(sent, FRAME_BYTES))).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "{sent} frames were taken although nobody reads");
    }
    for number in 0..sent {
        assert!(read_frame(&mut far).await == pattern(number, FRAME_BYTES), "frame {number} is damaged");
    }
    within(near.send(Bytes::from_static(b"next"))).await.unwrap();
    let mut frame = read_frame(&mut far).await;
    if frame.len() == FRAME_BYTES {
        assert!(frame == pattern(sent, FRAME_BYTES), "the cancelled frame is damaged");
        frame = read_frame(&mut far).await;
    }
    assert_eq!(frame, "next");
}

pub async fn recv_can_be_cancelled_without_losing_a_frame(fixture: &dyn Fixture) {
    const FRAMES: usize = 300;
    let (near, mut far) = fixture.connect().await;
    let waits = Arc::new(Semaphore::new(0));
    let (sender, cancelled) = (Arc::clone(&near.sender), Arc::clone(&waits));
    let speaking = tokio::spawn(async move {
        for number in 0..FRAMES {
            // Now and then nothing is sent before a wait was cancelled.
            if number % 10 == 0 {
                cancelled.acquire().await.unwrap().forget();
            }
            sender.send(pattern(number, 5_000)).await.unwrap();
        }
    });
    let mut number = 0;
    let mut cancelled = 0;
    within(async {
        while number < FRAMES {
            tokio::select! {
                biased;
                frame = far.recv() => {
                    assert!(frame.unwrap().unwrap() == pattern(number, 5_000), "frame {number}");
                    number += 1;
                }
                () = short_break(cancelled) => {
                    cancelled += 1;
                    waits.add_permits(1);
                }
            }
        }
    })
    .await;
    within(speaking).await.unwrap();
}

pub async fn control_passes_while_bulk_is_stuck(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let mut stream = within(near.open_stream()).await.unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let writing = tokio::spawn(async move {
        while stream.writer.write(pattern(0, 64 << 10)).await.is_ok() {
            counted.fetch_add(64 << 10, Ordering::SeqCst);
        }
    });
    until_stuck(&taken).await;
    within(near.send(Bytes::from_static(b"stop"))).await.unwrap();
    assert_eq!(read_frame(&mut far).await, "stop");
    near.close(CloseReason::new(CloseKind::Done, ""));
    within(writing).await.unwrap();
}
