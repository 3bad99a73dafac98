#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use async_trait::async_trait;
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_core::ids::{Identity, PlanNumber, WorkerName};
use pgconvoy_core::pg::{FileClass, Fork};
use pgconvoy_core::ticket::{Admits, TicketSecret};
use pgconvoy_core::wire::PriorRange;
use std::fmt::Write as _;
use std::path::Path;

const COMPUTER: &str = include_str!("../../../testdata/serving/v1/computer.hex");
const SOURCE: &str = include_str!("../../../testdata/serving/v1/source.hex");
/// Where to write today's recording instead of comparing it.
const OUT: &str = "PGCONVOY_GOLDEN_OUT";

/// Bytes in pieces of that size, as a network brings them.
struct Pieces(VecDeque<Bytes>);

#[async_trait]
impl StreamReader for Pieces {
    async fn read(&mut self) -> Result<Option<Bytes>, TransportError> {
        Ok(self.0.pop_front())
    }
}

fn intake(bytes: &[u8], piece: usize) -> Intake {
    let pieces = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
    Intake::new(Box::new(Pieces(pieces)), "a peer".to_owned())
}

fn claim() -> Claim {
    let job = JobId(Identity::from_random_bytes([9; 16]));
    let (unit, attempt) = (UnitId(17), Attempt(2));
    let worker: WorkerName = "computer".parse().unwrap();
    let range = PriorRange {
        prior: 0,
        label: 1,
        plan: PlanNumber(1),
        unit: UnitId(3),
        attempt: Attempt(1),
        place: 4,
        offset: 0,
        length: 1 << 20,
    };
    let part = |class, length, prior_size, prior| UnitPart {
        path: "base/5/16384".parse().unwrap(),
        class,
        offset: 0,
        length,
        block_size: 8192,
        prior_size,
        prior,
    };
    let relation = FileClass::Relation { fork: Fork::Main, segment: 0 };
    let parts = vec![
        part(relation, 1 << 20, Some(1 << 20), vec![range]),
        part(FileClass::Other, 88, None, Vec::new()),
    ];
    let admits = Admits { job, unit, attempt, worker: &worker, parts: &parts };
    let ticket = TicketSecret::from_random_bytes([7; TicketSecret::BYTES]).sign(&admits);
    Claim { job, unit, attempt, parts, reads_all: false, squeezes: false, ticket }
}

fn asks() -> Vec<(&'static str, Ask)> {
    vec![
        ("open", Ask::Open { part: 0 }),
        ("read", Ask::Read { offset: 262_144, length: CHUNK_BYTES }),
        ("page", Ask::Page { part: 0, offset: 270_336 }),
        ("open-another", Ask::Open { part: 1 }),
        ("rest", Ask::Rest),
    ]
}

fn answers() -> Vec<(&'static str, Answer)> {
    let told = Told { end: 1 << 20, to_read: vec![(32, 62), (100, 128)] };
    let failure =
        Failure::new(ErrorCode::FileRead, "cannot read base/5/16385: EIO").hint("is its disk healthy?");
    vec![
        ("opened", Answer::Opened { unread: Some(told), wrong_summary: None }),
        ("bytes", Answer::Bytes { raw: CHUNK_BYTES, stored: 4711 }),
        (
            "opened-distrusted",
            Answer::Opened { unread: None, wrong_summary: Some("page 7 was changed".to_owned()) },
        ),
        ("vanished", Answer::Vanished),
        ("nothing", Answer::Bytes { raw: 0, stored: 0 }),
        ("failed", Answer::Failed(failure)),
    ]
}

fn line(name: &str, message: &Bytes) -> String {
    let hex = message.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    format!("{name} {hex}\n")
}

fn spoken() -> [(&'static str, String, &'static str); 2] {
    let mut computer = line("claim", &encode(&claim()).unwrap());
    computer.extend(asks().iter().map(|(name, ask)| line(name, &encode(ask).unwrap())));
    let source = answers().iter().map(|(name, answer)| line(name, &encode(answer).unwrap())).collect();
    [("computer.hex", computer, COMPUTER), ("source.hex", source, SOURCE)]
}

fn bytes(recorded: &str) -> Vec<u8> {
    let digits = recorded.lines().map(|line| line.split_once(' ').unwrap().1).collect::<String>();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn what_is_said_today_is_what_was_recorded() {
    for (name, today, recorded) in spoken() {
        match std::env::var_os(OUT) {
            Some(folder) => {
                let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
                std::fs::create_dir_all(&top).unwrap();
                std::fs::write(top.join(name), today).unwrap();
            }
            None => assert_eq!(today, recorded, "{name}"),
        }
    }
}

#[tokio::test]
async fn a_recorded_conversation_reads_back_whatever_pieces_it_comes_in() {
    for piece in [1, 3, 100, 1 << 20] {
        let mut computer = intake(&bytes(COMPUTER), piece);
        assert_eq!(computer.message::<Claim>(CLAIM_BYTES_MAX).await.unwrap(), Some(claim()));
        for (name, ask) in asks() {
            assert_eq!(computer.message::<Ask>(ASK_BYTES_MAX).await.unwrap(), Some(ask), "{name}");
        }
        assert_eq!(computer.message::<Ask>(ASK_BYTES_MAX).await, Ok(None));
        let mut source = intake(&bytes(SOURCE), piece);
        for (name, answer) in answers() {
            assert_eq!(source.message::<Answer>(FRAME_BYTES_MAX).await.unwrap(), Some(answer), "{name}");
        }
    }
}

#[tokio::test]
async fn bytes_follow_their_message_and_the_next_message_follows_them() {
    let head = encode(&Answer::Bytes { raw: 5, stored: 5 }).unwrap();
    let all = [&head[..], b"bytes", &encode(&Answer::Vanished).unwrap()].concat();
    for piece in [1, 2, 7, 1000] {
        let mut intake = intake(&all, piece);
        intake.message::<Answer>(FRAME_BYTES_MAX).await.unwrap();
        let body: Vec<u8> = intake.body(5).await.unwrap().into_iter().flatten().collect();
        assert_eq!(body, b"bytes");
        assert_eq!(intake.message(FRAME_BYTES_MAX).await.unwrap(), Some(Answer::Vanished));
    }
}

#[tokio::test]
async fn what_is_cut_off_or_too_long_is_an_error() {
    let message = encode(&Ask::Open { part: 7 }).unwrap();
    for cut in 1..message.len() {
        assert!(intake(&message[..cut], 100).message::<Ask>(ASK_BYTES_MAX).await.is_err(), "after {cut}");
    }
    assert!(intake(b"byt", 100).body(5).await.is_err());
    assert!(intake(&message, 100).message::<Ask>(5).await.is_err());
    assert!(intake(&[0, 0, 0, 0], 100).message::<Ask>(ASK_BYTES_MAX).await.is_err());
}
