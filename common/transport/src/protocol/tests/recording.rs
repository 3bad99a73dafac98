//! A conversation of protocol version 1, as bytes that never change: a backup with one source, a shared restore, what
//! standbys and compute workers add to a backup, and a shared `repo-sync`.
//!
//! `testdata/protocol/README.md` says how the recording of a new version is made.

mod copying;
mod restore;
mod sources;

use super::*;
use crate::typed;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::format::manifest::{Database, Tablespace};
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::format::{BackupLabel, BlockHash};
use pgconvoy_core::ids::{
    Attempt, ClusterNumber, Epoch, FencingToken, Identity, Oid, PlanNumber, RepoKey, SystemId, UnitId,
};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::pg::{FileClass, Fork, Lsn, PgVersion, TimelineId, WalSegmentSize};
use pgconvoy_core::plan::inventory::{EntryKind, ScannedEntry};
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

const WORKER: &str = include_str!("../../../testdata/protocol/v1/worker.hex");
const COORDINATOR: &str = include_str!("../../../testdata/protocol/v1/coordinator.hex");

/// The range of a program that speaks version 1 and no other.
const VERSION_1: VersionRange = VersionRange { min: 1, max: 1 };

/// Where to write today's recording instead of comparing it.
const OUT: &str = "PGCONVOY_GOLDEN_OUT";

const REPO: RepoKey = RepoKey(1);
const OTHER_REPO: RepoKey = RepoKey(2);
const UNIT: UnitId = UnitId(17);
const ATTEMPT: Attempt = Attempt(1);
const TOKEN: FencingToken = FencingToken(4_294_967_299);
const ARCHIVE: ArchiveId = ArchiveId { version: PgVersion::V17, number: ClusterNumber(1) };
const STALL_TIMEOUT_MS: u64 = 60_000;

fn job() -> JobId {
    JobId(Identity::from_random_bytes([9; 16]))
}

fn failure() -> Failure {
    Failure::new(ErrorCode::FileWrite, "no space left on device").hint("make room").retryable()
}

fn label() -> BackupLabel {
    "20261122-103000F_20261123-103000I".parse().unwrap()
}

fn instructions() -> Vec<(&'static str, Instruction)> {
    let welcome = Welcome { epoch: Epoch(7), ttl_ms: 15_000, jobs: vec![job()], same_lease: true };
    let around = [
        ("welcome", Instruction::Welcome(welcome)),
        ("confirmed", Instruction::Confirmed { sequence: 3, ttl_ms: 15_000, revoked: Vec::new() }),
        ("settled", Instruction::Settled { job: job(), units: vec![(UNIT, ATTEMPT)] }),
    ];
    let orders = orders().into_iter().map(|(name, order)| (name, Instruction::Order(order)));
    around.into_iter().chain(orders).collect()
}

fn orders() -> Vec<(&'static str, Order)> {
    let bodies = vec![
        (
            "preflight",
            OrderBody::Preflight(PreflightOrder { stanza: "main".parse().unwrap(), options: options() }),
        ),
        ("open-session", OrderBody::OpenSession { label: label().to_string() }),
        ("scan", OrderBody::Scan),
        ("prepare", OrderBody::Prepare(Box::new(context()))),
        ("run-unit", OrderBody::RunUnit(Box::new(unit()))),
        ("give-back", OrderBody::GiveBack { units: vec![UNIT] }),
        ("supply-wal", OrderBody::SupplyWal(supply())),
        ("close-session", OrderBody::CloseSession { repositories: vec![REPO, OTHER_REPO] }),
        ("errand", OrderBody::Errand(Box::new(errand()))),
        ("end", OrderBody::End),
    ];
    let order = |(name, body)| (name, Order { epoch: Epoch(7), job: job(), body });
    bodies
        .into_iter()
        .chain(restore::orders())
        .chain(sources::orders())
        .chain(copying::orders())
        .map(order)
        .collect()
}

fn options() -> SourceOptions {
    SourceOptions {
        online: true,
        force: false,
        start_fast: true,
        archive_check: true,
        archive_mode_check: true,
        checksum_page: None,
        exclude: vec!["log/".to_owned()],
        db_timeout_ms: 1_830_000,
    }
}

fn errand() -> ErrandOrder {
    let mut options = JobOptions::default();
    options.set("set", vec!["latest".to_owned()]);
    ErrandOrder { kind: JobKind::Verify, stanza: "main".parse().unwrap(), options }
}

fn context() -> UnitContext {
    UnitContext {
        stanza: "main".parse().unwrap(),
        options: options(),
        start: Some(Lsn(0x1_0200_0028)),
        cluster: ClusterNumber(1),
        archive: ARCHIVE,
        label: label(),
        backup: Identity::from_random_bytes([5; 16]),
        plan: PlanNumber(1),
        repositories: vec![REPO, OTHER_REPO],
        identities: Vec::new(),
        compress: Compress { codec: 2, level: 3 },
        own_compress: BTreeMap::new(),
        file_sha1: false,
        stall_timeout_ms: STALL_TIMEOUT_MS,
        priors: Vec::new(),
        summaries: None,
        reading: Default::default(),
    }
}

fn unit() -> UnitOrder {
    let part = |path: &str, class, length| UnitPart {
        path: path.parse().unwrap(),
        class,
        offset: 0,
        length,
        block_size: 65_536,
        prior_size: None,
        prior: Vec::new(),
    };
    UnitOrder {
        unit: UNIT,
        attempt: ATTEMPT,
        token: TOKEN,
        repositories: vec![REPO, OTHER_REPO],
        parts: vec![
            part("base/5/1259", FileClass::Relation { fork: Fork::Main, segment: 0 }, 114_688),
            part("global/pg_control", FileClass::Control, 8_192),
        ],
        reads_all: false,
        source: None,
    }
}

fn supply() -> SupplyOrder {
    SupplyOrder {
        repository: OTHER_REPO,
        archive: ARCHIVE,
        segments: vec!["000000010000000100000002".parse().unwrap()],
        compress: Compress { codec: 2, level: 3 },
        stall_timeout_ms: STALL_TIMEOUT_MS,
    }
}

fn reports() -> Vec<(&'static str, Report)> {
    let of_no_job = [
        ("hello", ReportBody::Hello(Box::new(hello()))),
        ("alive", ReportBody::Alive { sequence: 3 }),
        ("draining", ReportBody::Draining),
    ]
    .map(|(name, body)| (name, None, body));
    let of_the_job = vec![
        ("preflighted", ReportBody::Preflighted(Ok(preflight_facts()))),
        ("session-opened", ReportBody::SessionOpened(Ok(session_facts()))),
        ("scanned", ReportBody::Scanned(scanned())),
        ("scan-ended", ReportBody::ScanEnded(Ok(scan_end()))),
        ("prepared", ReportBody::Prepared(Ok(vec![failed()]))),
        ("ready", ReportBody::Ready { units: 4 }),
        ("unit-done", ReportBody::UnitDone(receipt())),
        ("unit-failed", ReportBody::UnitFailed(unit_failure())),
        ("unit-returned", ReportBody::UnitReturned(held_unit())),
        ("wal-supplied", wal_supplied()),
        ("session-lost", ReportBody::SessionLost(failure())),
        ("session-closed", ReportBody::SessionClosed(Ok(session_end()))),
        ("errand-ended", ReportBody::ErrandEnded(Ok(errand_end()))),
    ];
    let of_the_job = of_the_job.into_iter().chain(restore::reports()).chain(sources::reports());
    let of_the_job = of_the_job.map(|(name, body)| (name, Some(job()), body));
    let report = |(name, job, body)| (name, Report { job, body });
    let again = ("hello-of-a-standby", None, ReportBody::Hello(Box::new(sources::hello_of_a_standby())));
    let of_copies = copying::reports().into_iter().map(|(name, body)| (name, Some(job()), body));
    of_no_job.into_iter().chain(of_the_job).chain([again]).chain(of_copies).map(report).collect()
}

fn hello() -> Hello {
    let seen = |stanza: &str, server| SourceSeen {
        stanza: stanza.parse().unwrap(),
        directory: "/srv/pg".to_owned(),
        server,
    };
    Hello {
        worker: "db1".parse().unwrap(),
        incarnation: Identity::from_random_bytes([4; 16]),
        program: "0.1.0".to_owned(),
        slots: 4,
        sources: vec![
            seen("main", ServerSeen::Primary(SystemId(7_000_000_000_000_000_001))),
            seen("other", ServerSeen::Standby(SystemId(7_000_000_000_000_000_002))),
            seen("third", ServerSeen::Down("connection refused".to_owned())),
            seen("fourth", ServerSeen::Unknown),
        ],
        held: vec![Held {
            job: job(),
            session: true,
            prepared: true,
            standing: None,
            units: vec![held_unit()],
        }],
        draining: false,
        repositories: Vec::new(),
        host: String::new(),
        computes: Default::default(),
    }
}

fn held_unit() -> HeldUnit {
    HeldUnit { unit: UNIT, attempt: ATTEMPT, token: TOKEN }
}

fn errand_end() -> ErrandEnd {
    ErrandEnd { result: Some("[]".to_owned()), failure: Some(failure()) }
}

fn preflight_facts() -> PreflightFacts {
    PreflightFacts {
        system_id: SystemId(7_000_000_000_000_000_001),
        version: PgVersion::V17,
        control_version: 1700,
        catalog_version: 202_406_281,
        page_size: 8_192,
        checksums: true,
        wal_segment_size: WalSegmentSize::DEFAULT,
        relation_segment_blocks: 131_072,
        timeline: TimelineId(1),
        warnings: vec!["full_page_writes is off".to_owned()],
    }
}

fn session_facts() -> SessionFacts {
    SessionFacts {
        offline_control: None,
        started: Timestamp(1_795_343_400_123),
        timeline: TimelineId(1),
        start: Some(SessionStart {
            lsn: Lsn(0x1_0200_0028),
            segment: "000000010000000100000002".parse().unwrap(),
            segment_before: "000000010000000100000001".parse().unwrap(),
            checkpoint: None,
        }),
        databases: vec![Database { oid: Oid(5), name: "postgres".to_owned() }],
        tablespaces: vec![Tablespace {
            oid: Oid(16_384),
            name: "fast".to_owned(),
            destination: "/srv/fast".to_owned(),
        }],
    }
}

fn scanned() -> Vec<ScannedEntry> {
    let entry = |path: &str, kind| ScannedEntry {
        path: path.parse().unwrap(),
        kind,
        mode: 0o600,
        user: Some("postgres".to_owned()),
        group: None,
        modified: 1_795_343_000,
    };
    let class = FileClass::Relation { fork: Fork::Main, segment: 0 };
    vec![
        entry("base", EntryKind::Directory),
        entry("base/5/1259", EntryKind::File { size: 114_688, class }),
        entry("pg_tblspc/16384", EntryKind::Link { destination: "/srv/fast".to_owned() }),
    ]
}

fn scan_end() -> ScanEnd {
    ScanEnd { warnings: Vec::new(), copy_start: Timestamp(1_795_343_402_000) }
}

fn failed() -> RepositoryFailure {
    RepositoryFailure { repository: OTHER_REPO, failure: failure() }
}

fn receipt() -> Receipt {
    Receipt {
        unit: UNIT,
        attempt: ATTEMPT,
        token: TOKEN,
        slot: 3,
        parts: vec![
            PartReceipt::Present {
                place: Some(0),
                length: 114_688,
                checksum: BlockHash([8; 16]),
                pages_checked: 14,
                bad_pages: vec![11],
            },
            PartReceipt::Vanished,
        ],
        read: 122_880,
        changed: 0,
        skipped: 0,
        wrong_summary: None,
        stored: vec![StoredPack { repository: REPO, bytes: 23_456 }],
        failed: vec![failed()],
        spent: Default::default(),
        standby: None,
    }
}

fn unit_failure() -> UnitFailure {
    let failed = vec![failed()];
    UnitFailure {
        unit: UNIT,
        attempt: ATTEMPT,
        token: TOKEN,
        failure: failure(),
        failed,
        wrong_summary: None,
    }
}

fn wal_supplied() -> ReportBody {
    ReportBody::WalSupplied { repository: OTHER_REPO, archiver_works: true, result: Err(failure()) }
}

fn session_end() -> SessionEnd {
    let stop = StopBody {
        start_lsn: Lsn(0x1_0200_0028),
        stop_lsn: Lsn(0x1_0300_0100),
        timeline: TimelineId(1),
        stopped: Timestamp(1_795_343_500_456),
        backup_label: "START WAL LOCATION: 1/2000028\n".to_owned(),
        tablespace_map: "16384 /srv/fast\n".to_owned(),
        kept: None,
    };
    SessionEnd { stop: Some(stop), failed: vec![failed()] }
}

fn line(name: &str, bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {digits}\n")
}

fn framed<T: Serialize>(message: &T) -> Vec<u8> {
    let frame = typed::encode(message).unwrap();
    [&encode_frame_head(&frame).unwrap()[..], &frame[..]].concat()
}

/// One direction as it is spoken today.
fn spoken<T: Serialize>(messages: &[(&str, T)]) -> String {
    let frames = messages.iter().map(|(name, message)| line(name, &framed(message)));
    line("preface", &encode_preface(VERSION_1)) + &frames.collect::<String>()
}

/// All bytes of a recorded direction.
fn bytes(recording: &str) -> Vec<u8> {
    let digits: String = recording.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Reads a recording as if it came from a peer, and says it again.
fn replay<T: Serialize + DeserializeOwned + PartialEq + Debug>(recording: &str, expected: &[(&str, T)]) {
    let recorded = bytes(recording);
    let mut decoder = Decoder::default();
    decoder.push(&recorded);
    let theirs = decoder.preface().unwrap().unwrap();
    assert_eq!(negotiate(VERSIONS, theirs), Ok(1));
    let mut again = encode_preface(theirs).to_vec();
    let mut messages = Vec::new();
    while let Some(frame) = decoder.frame().unwrap() {
        let message: T = typed::decode(&frame).unwrap();
        again.extend_from_slice(&framed(&message));
        messages.push(message);
    }
    decoder.end().unwrap();
    assert!(again == recorded, "what was read from the recording is written in other bytes");
    let expected: Vec<&T> = expected.iter().map(|(_, message)| message).collect();
    assert_eq!(messages.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_recorded_conversation_of_version_1_reads_and_is_said_again_in_the_same_bytes() {
    replay(WORKER, &reports());
    replay(COORDINATOR, &instructions());
}

#[test]
fn what_is_spoken_today_is_what_was_recorded() {
    let directions = [
        ("worker.hex", spoken(&reports()), WORKER),
        ("coordinator.hex", spoken(&instructions()), COORDINATOR),
    ];
    for (name, today, recorded) in directions {
        match std::env::var_os(OUT).map(PathBuf::from) {
            Some(folder) => write(&folder, name, &today),
            None => assert!(today == recorded, "{name} is spoken otherwise today:\n{today}"),
        }
    }
}

/// The folder is named from the top of the checkout.
fn write(folder: &Path, name: &str, text: &str) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    std::fs::create_dir_all(&top).unwrap();
    std::fs::write(top.join(name), text).unwrap();
}
