//! Cases about streams.

use super::{BUFFERS_PER_CONNECTION, Fixture, STEP_TIMEOUT, pattern, short_break, until_stuck, within};
use crate::connection::{CHUNK_BYTES_MAX, STREAM_BYTES_MAX, STREAMS_MAX, Stream, StreamReader};
use crate::error::TransportError;
use crate::{Connection, Sender};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Opens a stream and says something on it, so that the peer hears of it.
async fn open(near: &Connection, far: &mut Connection) -> (Stream, Stream) {
    let mut ours = within(near.open_stream()).await.unwrap();
    within(ours.writer.write(Bytes::from_static(b"hello"))).await.unwrap();
    let mut theirs = within(far.accept_stream()).await.unwrap();
    assert_eq!(within(theirs.reader.read()).await.unwrap().unwrap(), "hello");
    (ours, theirs)
}

/// Reads to the end, or to the error that takes its place.
async fn read_all(reader: &mut dyn StreamReader) -> Result<Vec<u8>, (usize, TransportError)> {
    let mut all = Vec::new();
    loop {
        match within(reader.read()).await {
            Ok(Some(chunk)) => {
                assert!(
                    !chunk.is_empty() && chunk.len() <= CHUNK_BYTES_MAX,
                    "a chunk of {} bytes",
                    chunk.len()
                );
                all.extend_from_slice(&chunk);
            }
            Ok(None) => return Ok(all),
            Err(error) => return Err((all.len(), error)),
        }
    }
}

pub async fn a_stream_carries_bytes_in_order_to_its_end(fixture: &dyn Fixture) {
    const BYTES: usize = 5 << 20;
    let (near, mut far) = fixture.connect().await;
    let mut ours = within(near.open_stream()).await.unwrap();
    let writing = tokio::spawn(async move {
        let all = pattern(0, BYTES);
        let mut at = 0;
        // Writes of many sizes: none, one byte, more than a chunk.
        for length in [0, 1, 700_000, 3, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 12_345, BYTES] {
            let end = BYTES.min(at + length);
            ours.writer.write(all.slice(at..end)).await.unwrap();
            at = end;
        }
        assert_eq!(at, BYTES);
        ours.writer.finish().await.unwrap();
        assert_eq!(ours.writer.write(Bytes::from_static(b"x")).await, Err(TransportError::Finished));
        // The other half stays, so that nothing but `finish` ends the first.
        ours.reader
    });
    let mut theirs = within(far.accept_stream()).await.unwrap();
    let all = read_all(&mut *theirs.reader).await.unwrap();
    assert!(all == pattern(0, BYTES), "{} bytes arrived, not as they were sent", all.len());
    assert_eq!(within(theirs.reader.read()).await, Ok(None), "the end stays the end");
    within(writing).await.unwrap();
}

pub async fn a_stream_answers_on_its_other_half(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let (mut ours, mut theirs) = open(&near, &mut far).await;
    within(ours.writer.finish()).await.unwrap();
    assert_eq!(within(theirs.reader.read()).await, Ok(None));
    within(theirs.writer.write(pattern(3, 70_000))).await.unwrap();
    within(theirs.writer.finish()).await.unwrap();
    assert!(read_all(&mut *ours.reader).await.unwrap() == pattern(3, 70_000));
}

pub async fn a_writer_waits_for_a_reader_that_does_not_read(fixture: &dyn Fixture) {
    const WRITE_BYTES: usize = 64 << 10;
    let (near, mut far) = fixture.connect().await;
    let (mut ours, mut theirs) = open(&near, &mut far).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let writing = tokio::spawn(async move {
        for number in 0..1_000 {
            ours.writer.write(pattern(number, WRITE_BYTES)).await.unwrap();
            counted.fetch_add(WRITE_BYTES, Ordering::SeqCst);
        }
        ours.writer.finish().await.unwrap();
    });
    let stuck_at = until_stuck(&taken).await;
    assert!(
        stuck_at <= BUFFERS_PER_CONNECTION * STREAM_BYTES_MAX + WRITE_BYTES,
        "{stuck_at} bytes were taken"
    );
    let all = read_all(&mut *theirs.reader).await.unwrap();
    assert_eq!(all.len(), 1_000 * WRITE_BYTES);
    within(writing).await.unwrap();
}

pub async fn a_stream_dropped_without_finish_never_looks_complete(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let (mut ours, mut theirs) = open(&near, &mut far).await;
    within(ours.writer.write(pattern(0, 1_000))).await.unwrap();
    drop(ours);
    let (_, error) = read_all(&mut *theirs.reader).await.unwrap_err();
    assert_eq!(error, TransportError::StreamReset);
}

pub async fn a_stream_that_was_reset_never_looks_complete(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let (mut ours, mut theirs) = open(&near, &mut far).await;
    ours.writer.reset();
    assert_eq!(ours.writer.write(Bytes::from_static(b"x")).await, Err(TransportError::StreamReset));
    assert_eq!(read_all(&mut *theirs.reader).await.unwrap_err().1, TransportError::StreamReset);
    within(theirs.writer.write(Bytes::from_static(b"why"))).await.unwrap();
    assert_eq!(within(ours.reader.read()).await.unwrap().unwrap(), "why", "the other direction goes on");
}

pub async fn a_reader_that_goes_away_stops_the_writer(fixture: &dyn Fixture) {
    let (near, mut far) = fixture.connect().await;
    let (mut ours, theirs) = open(&near, &mut far).await;
    let Stream { reader, writer: _kept } = theirs;
    drop(reader);
    let stopped = within(async {
        loop {
            if let Err(error) = ours.writer.write(pattern(0, 64 << 10)).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(stopped, TransportError::StreamReset);
}

pub async fn a_read_can_be_cancelled_without_losing_bytes(fixture: &dyn Fixture) {
    const BYTES: usize = 2 << 20;
    let (near, mut far) = fixture.connect().await;
    let mut ours = within(near.open_stream()).await.unwrap();
    let waits = Arc::new(Semaphore::new(0));
    let cancelled = Arc::clone(&waits);
    let writing = tokio::spawn(async move {
        for (number, at) in (0..BYTES).step_by(4 << 10).enumerate() {
            ours.writer.write(pattern(at, 4 << 10)).await.unwrap();
            // Now and then nothing is written before a wait was cancelled.
            if number % 10 == 0 {
                cancelled.acquire().await.unwrap().forget();
            }
        }
        ours.writer.finish().await.unwrap();
        ours.reader
    });
    let mut theirs = within(far.accept_stream()).await.unwrap();
    let mut all = Vec::new();
    let mut cancelled = 0;
    within(async {
        loop {
            tokio::select! {
                biased;
                chunk = theirs.reader.read() => match chunk.unwrap() {
                    Some(chunk) => all.extend_from_slice(&chunk),
                    None => break,
                },
                () = short_break(cancelled) => {
                    cancelled += 1;
                    waits.add_permits(1);
                }
            }
        }
    })
    .await;
    assert!(all == pattern(0, BYTES), "{} bytes arrived, not as they were sent", all.len());
    within(writing).await.unwrap();
}

/// Sends a number on a stream of its own and hears it back.
async fn ask(sender: Arc<dyn Sender>, number: usize) {
    let mut stream = tokio::time::timeout(STEP_TIMEOUT, sender.open_stream()).await.unwrap().unwrap();
    stream.writer.write(pattern(number, 3_000)).await.unwrap();
    stream.writer.finish().await.unwrap();
    assert!(read_all(&mut *stream.reader).await.unwrap() == pattern(number, 3_000), "stream {number}");
}

pub async fn many_streams_run_side_by_side_and_the_ones_too_many_wait(fixture: &dyn Fixture) {
    const STREAMS: usize = 3 * STREAMS_MAX;
    let (near, mut far) = fixture.connect().await;
    let held = {
        let mut held = Vec::new();
        for _ in 0..STREAMS_MAX {
            held.push(within(near.open_stream()).await.unwrap());
        }
        assert!(super::stays_undone(near.open_stream()).await, "more streams were opened than allowed");
        held
    };
    // A stream on which nothing was said may not be known to the peer: ending them makes them known.
    for mut stream in held {
        within(stream.writer.finish()).await.unwrap();
    }
    let echoing = tokio::spawn(async move {
        while let Ok(mut stream) = far.accept_stream().await {
            tokio::spawn(async move {
                // A stream of the first lot has nobody left who hears the answer.
                let Ok(all) = read_all(&mut *stream.reader).await else { return };
                if stream.writer.write(all.into()).await.is_ok() {
                    let _ = stream.writer.finish().await;
                }
            });
        }
    });
    let asking: Vec<_> =
        (0..STREAMS).map(|number| tokio::spawn(ask(Arc::clone(&near.sender), number))).collect();
    for task in asking {
        within(task).await.unwrap();
    }
    drop(near);
    within(echoing).await.unwrap();
}
