#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::protocol::{AHEAD_BYTES_MAX, Answer, Ask, CHUNK_BYTES, Intake, encode};
use super::testing::{COMPUTER, Source, Way, job, worker};
use super::*;
use crate::job::testing::{ONE, PATIENCE, STALL, Site, order, part};
use bytes::Bytes;
use pgconvoy_core::failure::Retry;
use pgconvoy_core::ids::{Attempt, Identity, UnitId};
use pgconvoy_core::pg::FileClass;
use pgconvoy_core::ticket::Ticket;
use pgconvoy_core::wire::{UnitOrder, UnitPart};
use pgconvoy_transport::connection::STREAM_BYTES_MAX;
use pgconvoy_transport::{Dial, Role, Stream, StreamWriter, TransportError};
use std::time::Duration;
use tokio::time::timeout;

/// A stream to a source, for who says what nobody should say.
struct Wire {
    connection: Connection,
    writer: Box<dyn StreamWriter>,
    intake: Intake,
}

impl Wire {
    async fn to(way: &Way) -> Wire {
        let connection = way.dial("source:7434").await.unwrap();
        let Stream { writer, reader } = connection.open_stream().await.unwrap();
        Wire { connection, writer, intake: Intake::new(reader, "the source".to_owned()) }
    }

    /// Whoever has refused hears no more.
    async fn say<T: serde::Serialize>(&mut self, message: &T) {
        match self.writer.write(encode(message).unwrap()).await {
            Ok(()) | Err(TransportError::StreamReset) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// `Ok(None)` at the end of the stream.
    async fn hear(&mut self) -> Result<Option<Answer>, TransportError> {
        timeout(PATIENCE, self.intake.message(1 << 20)).await.expect("the source says nothing")
    }

    /// The bytes of the next answer, which must not be squeezed.
    async fn bytes(&mut self) -> Vec<u8> {
        let Some(Answer::Bytes { raw, stored }) = self.hear().await.unwrap() else { panic!("no bytes") };
        assert_eq!(raw, stored);
        let body = timeout(PATIENCE, self.intake.body(stored as usize)).await.unwrap().unwrap();
        body.into_iter().flatten().collect()
    }

    async fn failure(&mut self) -> Failure {
        match self.hear().await.unwrap() {
            Some(Answer::Failed(failure)) => {
                assert_eq!(self.hear().await, Ok(None), "nothing follows a failure");
                failure
            }
            other => panic!("no failure: {other:?}"),
        }
    }
}

fn claim(order: &UnitOrder, ticket: Ticket) -> Claim {
    Claim {
        job: job(),
        unit: order.unit,
        attempt: order.attempt,
        parts: order.parts.clone(),
        reads_all: false,
        squeezes: false,
        ticket,
    }
}

/// A claim that is good, for this order.
fn good(source: &Source, order: &UnitOrder) -> Claim {
    claim(order, source.ticket(COMPUTER, order))
}

async fn claimed(source: &Source, order: &UnitOrder) -> Wire {
    let mut wire = Wire::to(&source.way(COMPUTER, Role::Worker)).await;
    wire.say(&good(source, order)).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_what_it_was_made_for_and_nothing_else() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    let unit = order(1, &[ONE], &[site.relation("16384", 4)]);
    let longer = order(1, &[ONE], &[site.relation("16384", 4), part("base/5/16385", 8192)]);
    let ours = good(&source, &unit);
    let nobodys = TicketSecret::from_random_bytes([1; 32]);
    let admits = Admits {
        job: job(),
        unit: unit.unit,
        attempt: unit.attempt,
        worker: &worker(COMPUTER),
        parts: &unit.parts,
    };
    let bad = [
        ("another job", Claim { job: JobId(Identity::from_random_bytes([1; 16])), ..ours.clone() }),
        ("another unit", Claim { unit: UnitId(2), ..ours.clone() }),
        ("another attempt", Claim { attempt: Attempt(2), ..ours.clone() }),
        ("more parts", Claim { parts: longer.parts.clone(), ..ours.clone() }),
        ("another worker", claim(&unit, source.ticket("computer2", &unit))),
        ("no ticket of ours", claim(&unit, nobodys.sign(&admits))),
    ];
    for (what, claim) in bad {
        let mut wire = Wire::to(&source.way(COMPUTER, Role::Worker)).await;
        wire.say(&claim).await;
        wire.say(&Ask::Open { part: 0 }).await;
        let failure = wire.failure().await;
        // Only that a job is not open may be another's fault, and passing.
        let (code, retry) = match what {
            "another job" => (ErrorCode::HostConnect, Retry::MayHelp),
            _ => (ErrorCode::Access, Retry::IsFutile),
        };
        assert_eq!((failure.code, failure.retry), (code, retry), "{what}: {failure}");
    }
    // A stranger with somebody else's ticket.
    let mut wire = Wire::to(&source.way("stranger", Role::Worker)).await;
    wire.say(&ours).await;
    assert_eq!(wire.failure().await.code, ErrorCode::Access);

    let mut wire = claimed(&source, &unit).await;
    wire.say(&Ask::Open { part: 0 }).await;
    wire.say(&Ask::Read { offset: 8192, length: 8192 }).await;
    assert_eq!(wire.hear().await, Ok(Some(Answer::Opened { unread: None, wrong_summary: None })));
    let content = std::fs::read(site.pg().join("base/5/16384")).unwrap();
    assert_eq!(wire.bytes().await, content[8192..2 * 8192]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_worker_gets_no_stream() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    for role in [Role::Coordinator, Role::Client] {
        let connection = source.way(COMPUTER, role).dial("source:7434").await.unwrap();
        let reason = timeout(PATIENCE, connection.sender.closed()).await.unwrap();
        assert_eq!(reason.kind(), CloseKind::Refused, "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_that_the_parts_do_not_cover() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    let whole = site.relation("16384", 80);
    let middle = UnitPart { offset: 8192, length: 70 * 8192, ..whole.clone() };
    let unit = order(1, &[ONE], &[middle, UnitPart { class: FileClass::Other, ..whole }]);
    let (open, second) = (Ask::Open { part: 0 }, Ask::Open { part: 1 });
    let read = |offset, length| Ask::Read { offset, length };
    let page = |part, offset| Ask::Page { part, offset };
    let table: [(&[Ask], ErrorCode); 14] = [
        (&[open, read(0, 8192)], ErrorCode::Access),
        (&[open, read(71 * 8192, 1)], ErrorCode::Access),
        (&[open, read(70 * 8192, 8193)], ErrorCode::Access),
        (&[open, read(u64::MAX, u32::MAX)], ErrorCode::Access),
        (&[open, read(8192, CHUNK_BYTES + 1)], ErrorCode::Access),
        (&[open, Ask::Rest], ErrorCode::Access),
        (&[open, page(0, 0)], ErrorCode::Access),
        (&[open, page(0, 71 * 8192)], ErrorCode::Access),
        (&[open, page(0, u64::MAX)], ErrorCode::Access),
        (&[open, page(1, 8192)], ErrorCode::Protocol),
        (&[read(8192, 1)], ErrorCode::Protocol),
        (&[Ask::Open { part: 2 }], ErrorCode::Protocol),
        (&[second, open], ErrorCode::Protocol),
        (&[open, read(2 * 8192, 8192), read(8192, 8192)], ErrorCode::Protocol),
    ];
    for (asks, code) in table {
        let mut wire = claimed(&source, &unit).await;
        for ask in asks {
            wire.say(ask).await;
        }
        for ask in &asks[..asks.len() - 1] {
            match ask {
                Ask::Open { .. } => drop(wire.hear().await.unwrap()),
                _ => drop(wire.bytes().await),
            }
        }
        let failure = wire.failure().await;
        assert_eq!(failure.code, code, "{asks:?}: {failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_as_lz4_where_that_was_asked_for_and_they_shrink() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    site.write("base/5/16385", &[7; 8192]);
    let unit = order(1, &[ONE], &[site.relation("16384", 1), part("base/5/16385", 8192)]);
    for squeezes in [false, true] {
        let mut wire = Wire::to(&source.way(COMPUTER, Role::Worker)).await;
        wire.say(&Claim { squeezes, ..good(&source, &unit) }).await;
        for (part, shrinks) in [(0, false), (1, true)] {
            wire.say(&Ask::Open { part }).await;
            wire.say(&Ask::Read { offset: 0, length: 8192 }).await;
            assert!(matches!(wire.hear().await, Ok(Some(Answer::Opened { .. }))));
            let Ok(Some(Answer::Bytes { raw, stored })) = wire.hear().await else { panic!("no bytes") };
            assert_eq!((raw, stored < raw), (8192, squeezes && shrinks));
            timeout(PATIENCE, wire.intake.body(stored as usize)).await.unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_comes_as_it_is_now_from_any_part_that_was_opened() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    let unit = order(1, &[ONE], &[site.relation("16384", 4), site.relation("16385", 4)]);
    let mut wire = claimed(&source, &unit).await;
    wire.say(&Ask::Open { part: 0 }).await;
    wire.say(&Ask::Open { part: 1 }).await;
    for _ in 0..2 {
        assert!(matches!(wire.hear().await, Ok(Some(Answer::Opened { .. }))));
    }
    let mut content = std::fs::read(site.pg().join("base/5/16384")).unwrap();
    content[8192] ^= 1;
    site.write("base/5/16384", &content);
    wire.say(&Ask::Page { part: 0, offset: 8192 }).await;
    assert_eq!(wire.bytes().await, content[8192..2 * 8192]);
    site.write("base/5/16385", &content[..8192]);
    wire.say(&Ask::Page { part: 1, offset: 8192 }).await;
    assert_eq!(wire.bytes().await, Vec::<u8>::new(), "the file is shorter by now");
    std::fs::remove_file(site.pg().join("base/5/16384")).unwrap();
    wire.say(&Ask::Page { part: 0, offset: 8192 }).await;
    assert_eq!(wire.bytes().await, Vec::<u8>::new(), "the file is gone by now");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_has_no_bytes_and_what_has_ended_has_none_again() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    let mut cut = site.relation("16384", 4);
    cut.length *= 2;
    let unit = order(1, &[ONE], &[part("base/5/1", 8192), cut]);
    let mut wire = claimed(&source, &unit).await;
    wire.say(&Ask::Open { part: 0 }).await;
    wire.say(&Ask::Read { offset: 0, length: 8192 }).await;
    assert_eq!(wire.hear().await, Ok(Some(Answer::Vanished)));
    assert_eq!(wire.bytes().await, Vec::<u8>::new());
    wire.say(&Ask::Open { part: 1 }).await;
    wire.say(&Ask::Read { offset: 0, length: 5 * 8192 }).await;
    assert!(matches!(wire.hear().await, Ok(Some(Answer::Opened { .. }))));
    assert_eq!(wire.bytes().await.len(), 4 * 8192);
    site.relation("16384", 8);
    wire.say(&Ask::Read { offset: 5 * 8192, length: 8192 }).await;
    assert_eq!(wire.bytes().await, Vec::<u8>::new(), "it has grown since, and lies behind a gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_end_the_stream_before_they_are_kept() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    let unit = order(1, &[ONE], &[site.relation("16384", 4)]);
    for garbage in [&u32::MAX.to_be_bytes()[..], &[0, 0, 0, 1, 0xc1], &[0, 0, 2, 0]] {
        let mut wire = claimed(&source, &unit).await;
        wire.writer.write(Bytes::copy_from_slice(garbage)).await.unwrap();
        assert_eq!(wire.hear().await, Err(TransportError::StreamReset), "{garbage:?}");
    }
    let mut wire = Wire::to(&source.way(COMPUTER, Role::Worker)).await;
    wire.writer.write(Bytes::from_static(&[0xff; 4])).await.unwrap();
    assert_eq!(wire.failure().await.code, ErrorCode::Protocol, "a claim is at most a frame");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_end_ends_its_streams_and_its_door_lets_nobody_in() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    let source = Source::of(&context);
    let unit = order(1, &[ONE], &[site.relation("16384", 4)]);
    let mut wire = claimed(&source, &unit).await;
    wire.say(&Ask::Open { part: 0 }).await;
    assert!(matches!(wire.hear().await, Ok(Some(Answer::Opened { .. }))));
    context.ended.cancel();
    assert_eq!(wire.hear().await, Err(TransportError::StreamReset));

    let (again, way) = (good(&source, &unit), source.way(COMPUTER, Role::Worker));
    let Source { hub, door, .. } = source;
    drop(door);
    assert!(hub.jobs().is_empty());
    let mut wire = Wire::to(&way).await;
    wire.say(&again).await;
    assert_eq!(wire.failure().await.code, ErrorCode::HostConnect);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_has_so_many_streams_and_gives_their_places_back() {
    let site = Site::new().await;
    let source = Source::of(&site.context(PATIENCE).await);
    let unit = order(1, &[ONE], &[site.relation("16384", 4)]);
    let mut wires = Vec::new();
    // Each over a connection of its own, so that it is not the connection that has no room.
    for _ in 0..STREAMS_OF_PEER_MAX {
        let mut wire = claimed(&source, &unit).await;
        wire.say(&Ask::Open { part: 0 }).await;
        assert!(matches!(wire.hear().await, Ok(Some(Answer::Opened { .. }))));
        wires.push(wire);
    }
    let mut refused = Wire::to(&source.way(COMPUTER, Role::Worker)).await;
    let _ = refused.writer.write(encode(&good(&source, &unit)).unwrap()).await;
    assert!(refused.hear().await.is_err());
    drop(wires.pop().unwrap().connection);
    let freed = async {
        while source.hub.streams().get(&worker(COMPUTER)).copied() == Some(STREAMS_OF_PEER_MAX) {
            // The timeout is PATIENCE.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed).await.unwrap();
    let mut wire = claimed(&source, &unit).await;
    wire.say(&Ask::Open { part: 0 }).await;
    assert!(matches!(wire.hear().await, Ok(Some(Answer::Opened { .. }))));
}

#[tokio::test(start_paused = true)]
async fn who_claims_nothing_or_wishes_nothing_is_let_go_and_its_place_is_free() {
    let site = Site::new().await;
    let source = Source::of(&site.context(STALL).await);
    let mut silent = Wire::to(&source.way(COMPUTER, Role::Worker)).await;
    silent.writer.write(Bytes::from_static(&[0])).await.unwrap();
    assert_eq!(silent.hear_however_late().await, Err(TransportError::StreamReset));
    let mut idle = claimed(&source, &order(1, &[ONE], &[part("base/5/1", 8192)])).await;
    assert_eq!(idle.hear_however_late().await, Err(TransportError::StreamReset));
    assert!(source.hub.streams().is_empty());
}

impl Wire {
    async fn hear_however_late(&mut self) -> Result<Option<Answer>, TransportError> {
        timeout(Duration::from_secs(600), self.intake.message(1 << 20)).await.expect("it is never let go")
    }
}

#[test]
fn what_is_asked_for_ahead_fits_into_the_window_of_a_stream() {
    let chunks = usize::try_from(AHEAD_BYTES_MAX / u64::from(CHUNK_BYTES)).unwrap();
    let head = encode(&Answer::Bytes { raw: CHUNK_BYTES, stored: CHUNK_BYTES }).unwrap().len();
    assert!(usize::try_from(AHEAD_BYTES_MAX).unwrap() + chunks * head < STREAM_BYTES_MAX);
}
