//! Bodies and records: as version 1 wrote them, and as nobody did.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::catalogue::{
    BackupRecord, BackupSizes, CatalogueBody, ManifestReference, PageCounts, RepositoryOutcome, VoidRecord,
};
use super::cluster::{ClusterBody, RepositoryBody};
use super::manifest::{
    Database, DirectoryRecord, FileRecord, LinkRecord, ManifestHead, NO_OWNER, Ownership, RangeRecord,
    Record, Tablespace,
};
use super::pack::{BlockRun, ForeignFrame, ForeignPack, PackBody, PackRange};
use super::plan::{HeartbeatBody, PlanBody, Writer};
use super::wal::{StopBody, WalBody};
use super::*;
use crate::config::Layout;
use crate::ids::{
    Attempt, ClusterNumber, Identity, KeyGeneration, Oid, PlanNumber, RepoKey, SystemId, UnitId,
};
use crate::pg::{Lsn, PgVersion, TimelineId, WalSegmentSize};
use crate::units::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// `name hex` in each line.
const GOLDEN: &str = include_str!("../../testdata/format/v1/bodies.hex");

fn identity(number: u8) -> Identity {
    Identity::from_random_bytes([number; 16])
}

fn full() -> BackupLabel {
    "20261122-103000F".parse().unwrap()
}

fn incremental() -> BackupLabel {
    "20261122-103000F_20261123-103000I".parse().unwrap()
}

fn writer() -> Writer {
    Writer { host: "host1".into(), boot: "b7f3".into(), process: 4711 }
}

fn cluster() -> ClusterBody {
    ClusterBody {
        number: ClusterNumber(2),
        system_id: SystemId(7_000_000_000_000_000_001),
        version: PgVersion::V17,
        control_version: 1700,
        catalog_version: 202_406_281,
        page_size: 8192,
        wal_segment_size: WalSegmentSize::DEFAULT,
        hash_secret: HashSecret::from_random_bytes([7; HashSecret::BYTES]),
        created: Timestamp(1_795_000_000_123),
    }
}

fn plan() -> PlanBody {
    PlanBody {
        label: incremental(),
        backup: identity(1),
        kind: BackupKind::Incr,
        number: PlanNumber(2),
        writer: writer(),
        written: Timestamp(1_795_000_000_123),
        references: vec![full()],
        unit_size: 32 << 20,
        units: 3,
        files: 1000,
        bytes: 70 << 20,
    }
}

fn range() -> PackRange {
    PackRange {
        path: "base/5/1259".into(),
        offset: 8192,
        length: 20_000,
        block_size: 8192,
        hashes: (0..48).collect(),
        runs: vec![BlockRun(1, 0, 0, 0), BlockRun(2, 1, 0, 8192)],
        checksum: BlockHash([9; 16]),
        bad_pages: vec![2],
        sha1: Some(vec![5; 20]),
    }
}

fn pack() -> PackBody {
    let foreign = ForeignPack {
        label: full(),
        plan: PlanNumber(1),
        unit: UnitId(7),
        attempt: Attempt(3),
        generation: KeyGeneration(1),
        salt: vec![4; 32],
        frames: vec![ForeignFrame(5, 64, 1000, 1 << 20, 2)],
    };
    PackBody {
        backup: identity(1),
        label: incremental(),
        plan: PlanNumber(2),
        unit: UnitId(17),
        attempt: Attempt(1),
        worker: "db1".parse().unwrap(),
        slot: 3,
        ranges: vec![range(), PackRange { bad_pages: Vec::new(), sha1: None, ..range() }],
        foreign: vec![foreign],
        vanished: vec!["base/5/99".into()],
        skipped: 0,
        plain: false,
    }
}

fn head() -> ManifestHead {
    ManifestHead {
        label: incremental(),
        backup: identity(1),
        kind: BackupKind::Incr,
        prior: Some(full()),
        references: vec![full()],
        workers: vec!["db1".parse().unwrap()],
        users: vec!["postgres".into()],
        groups: vec!["postgres".into(), "dba".into()],
        version: PgVersion::V17,
        catalog_version: 202_406_281,
        page_size: 8192,
        online: true,
        checksums: true,
        started: Timestamp(1_795_000_000_123),
        stopped: Timestamp(1_795_000_060_456),
        timeline: TimelineId(2),
        lsn_start: Some(Lsn(0x0000_0001_0200_0028)),
        lsn_stop: Some(Lsn(0x0000_0001_0300_0100)),
        wal_start: Some("000000020000000100000002".parse().unwrap()),
        wal_stop: Some("000000020000000100000003".parse().unwrap()),
        tablespaces: vec![Tablespace { oid: Oid(16_400), name: "ts1".into(), destination: "/ts/1".into() }],
        databases: vec![Database { oid: Oid(5), name: "postgres".into() }],
        records: 3,
        files: 1,
        bytes: 28_192,
        backup_label: Some("START WAL LOCATION: 1/2000028\n".into()),
        tablespace_map: Some("16400 /ts/1\n".into()),
    }
}

fn records() -> Vec<Record> {
    let ownership = Ownership { mode: 0o700, user: 0, group: NO_OWNER };
    let range = RangeRecord {
        offset: 0,
        length: 8192,
        label: 1,
        plan: PlanNumber(1),
        unit: UnitId(7),
        attempt: Attempt(3),
        place: 2,
        worker: 0,
        slot: 3,
    };
    vec![
        Record::Directory(DirectoryRecord { path: "base".parse().unwrap(), ownership }),
        Record::File(FileRecord {
            path: "base/5/1259".parse().unwrap(),
            size: 28_192,
            modified: 1_795_000_000,
            ownership,
            checksum: BlockHash([3; 16]),
            ranges: vec![range, RangeRecord { offset: 8192, length: 20_000, label: 0, ..range }],
            bad_pages: vec![1, 3],
        }),
        Record::Link(LinkRecord {
            path: "pg_tblspc/16400".parse().unwrap(),
            destination: "/ts/1".into(),
            ownership,
        }),
    ]
}

fn published() -> CatalogueBody {
    let head = head();
    CatalogueBody::Published(Box::new(BackupRecord {
        label: head.label,
        backup: head.backup,
        kind: head.kind,
        prior: head.prior,
        references: head.references,
        cluster: ClusterNumber(2),
        system_id: cluster().system_id,
        version: head.version,
        online: true,
        started: head.started,
        stopped: head.stopped,
        timeline: head.timeline,
        lsn_start: head.lsn_start,
        lsn_stop: head.lsn_stop,
        wal_start: head.wal_start,
        wal_stop: head.wal_stop,
        sizes: BackupSizes { database: 1, changed: 2, stored: 3, stored_set: 4 },
        pages: PageCounts { checked: 5, errors: 6 },
        manifest: ManifestReference { size: 7, sha1: [8; 20] },
        annotations: BTreeMap::from([("reason".to_owned(), "before the upgrade".to_owned())]),
        repositories: vec![RepositoryOutcome {
            key: RepoKey(1),
            identity: Some(identity(2)),
            expected: true,
        }],
        writer: writer(),
        program: "0.1.0".into(),
    }))
}

fn void() -> CatalogueBody {
    let voided = Timestamp(1_795_000_000_123);
    CatalogueBody::Void(VoidRecord {
        label: full(),
        reason: "its writer is gone".into(),
        voided,
        writer: writer(),
    })
}

fn stop() -> StopBody {
    StopBody {
        start_lsn: Lsn(0x0000_0001_0200_0028),
        stop_lsn: Lsn(0x0000_0001_0300_0100),
        timeline: TimelineId(2),
        stopped: Timestamp(1_795_000_060_456),
        backup_label: "START WAL LOCATION: 1/2000028\n".into(),
        tablespace_map: String::new(),
        kept: None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(name: &str) -> Vec<u8> {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digits = line.unwrap_or_else(|| panic!("no golden {name}"));
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// A line of the golden file; what is there must decode to the value.
fn line<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &'static str, value: &T) -> String {
    let encoded = encode_named(value);
    assert_eq!(decode::<T>("body", &encoded).unwrap(), *value, "{name}");
    format!("{name} {}\n", hex(&encoded))
}

/// Equal bytes and a round trip are equal values. Other bytes need another version, and a file of its own.
#[test]
fn bodies_and_records_of_version_1_stay_as_they_are() {
    let identity = RepositoryBody {
        identity: identity(3),
        cipher: Cipher::Aes256Gcm,
        created: Timestamp(1_795_000_000_123),
        layout: Layout::Packed,
    };
    let wal = WalBody { name: "000000010000000000000001".into(), size: 16 << 20, sha1: [6; 20] };
    let mut encoded = Vec::new();
    records().iter().for_each(|record| record.encode(&mut encoded));
    let today = [
        line("repository", &identity),
        line("cluster", &cluster()),
        line("plan", &plan()),
        line("pack", &pack()),
        line("stop", &stop()),
        line("manifest", &head()),
        line("published", &published()),
        line("void", &void()),
        line("wal", &wal),
        line("heartbeat", &HeartbeatBody { writer: writer(), sequence: 12 }),
        format!("records {}\n", hex(&encoded)),
    ];
    let today = today.concat();
    assert!(today == GOLDEN, "the golden bodies are others than today's, which are\n{today}");
}

#[test]
fn golden_records_are_read_one_after_another() {
    let golden = golden("records");
    let mut rest = golden.as_slice();
    for record in records() {
        assert_eq!(Record::decode_next(&mut rest).unwrap(), record);
        record.validate(&head()).unwrap();
    }
    assert!(rest.is_empty());
}

#[test]
fn unknown_keys_are_ignored_and_needed_ones_are_missed() {
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Newer {
        writer: Writer,
        sequence: u64,
        mood: Vec<&'static str>,
    }
    let newer = encode_named(&Newer { writer: writer(), sequence: 3, mood: vec!["good"] });
    assert_eq!(decode::<HeartbeatBody>("heartbeat", &newer).unwrap().sequence, 3);
    assert!(decode::<HeartbeatBody>("heartbeat", &encode_named(&BTreeMap::from([("sequence", 3)]))).is_err());
}

/// Everything that is decoded from a store, on the same bytes.
fn decode_all(bytes: &[u8]) {
    let _ = decode::<RepositoryBody>("body", bytes);
    let _ = decode::<ClusterBody>("body", bytes);
    let _ = decode::<PlanBody>("body", bytes);
    let _ = decode::<ManifestHead>("body", bytes);
    let _ = decode::<CatalogueBody>("body", bytes);
    let _ = decode::<StopBody>("body", bytes);
    let _ = decode::<WalBody>("body", bytes);
    let _ = decode::<Vec<FrameEntry>>("frames", bytes);
    if let Ok(body) = decode::<PackBody>("body", bytes) {
        let secret = cluster().hash_secret;
        for range in &body.ranges {
            let _ = range.validate(&[FrameEntry(1 << 20, 100, 2)], &body.foreign, &secret);
        }
    }
    let mut rest = bytes;
    while let Ok(record) = Record::decode_next(&mut rest) {
        let _ = record.validate(&head());
    }
}

/// Announces four thousand million entries or bytes, and brings none.
#[test]
fn lengths_that_lie_are_errors_before_anything_is_reserved() {
    for kind in [0xC6, 0xDB, 0xDD, 0xDF] {
        let lie = [kind, 0xFF, 0xFF, 0xFF, 0xFF];
        decode_all(&lie);
        assert!(decode::<Vec<FrameEntry>>("frames", &lie).is_err());
        for name in ["pack", "published", "manifest", "records"] {
            let body = golden(name);
            for at in 0..body.len() {
                let replaced = [&body[..at], &lie, &body[at + 1..]].concat();
                decode_all(&replaced);
            }
        }
    }
}

#[test]
fn every_cut_of_a_body_is_an_error() {
    for name in ["pack", "published", "manifest", "plan", "cluster"] {
        let body = golden(name);
        for length in 0..body.len() {
            let cut = &body[..length];
            assert!(
                decode::<PackBody>("pack", cut).is_err() && decode::<CatalogueBody>("entry", cut).is_err()
            );
            assert!(
                decode::<ManifestHead>("manifest", cut).is_err() && decode::<PlanBody>("plan", cut).is_err()
            );
        }
    }
}

#[test]
fn a_block_map_of_impossible_size_is_refused() {
    let secret = cluster().hash_secret;
    let checksum = secret.hash(&[]);
    for (length, block_size) in [(u64::MAX, 1), (u64::MAX, 15), (1 << 60, 1), (u64::MAX, u32::MAX)] {
        let runs = vec![BlockRun(u32::MAX, 0, 0, 0); 3];
        let range = PackRange { length, block_size, hashes: Vec::new(), checksum, runs, ..range() };
        assert!(
            range.validate(&[FrameEntry(u32::MAX, 100, 2)], &[], &secret).is_err(),
            "{length} / {block_size}"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_end_in_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn changed_bodies_end_in_a_value_or_an_error(
        which in prop::sample::select(vec!["pack", "published", "void", "manifest", "records", "cluster", "plan", "stop"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = golden(which);
        for (place, value) in changes {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        decode_all(&bytes);
    }

    /// Whatever the numbers say, and although the hashes fit them.
    #[test]
    fn block_maps_with_arbitrary_numbers_are_judged_without_a_panic(
        length in prop_oneof![0..100_000_u64, any::<u64>()],
        block_size in prop_oneof![0..10_000_u32, any::<u32>()],
        runs in prop::collection::vec((any::<u32>(), 0..3_u32, 0..3_u32, any::<u32>()), 0..4),
        raw in any::<u32>(),
    ) {
        let secret = cluster().hash_secret;
        let blocks = length.div_ceil(u64::from(block_size.max(1))).min(1000);
        let hashes = vec![1; usize::try_from(blocks * 16).unwrap()];
        let checksum = secret.hash(&hashes);
        let runs = runs.into_iter().map(|(blocks, pack, frame, skip)| BlockRun(blocks, pack, frame, skip)).collect();
        let range = PackRange { length, block_size, hashes, checksum, runs, ..range() };
        let _ = range.validate(&[FrameEntry(raw, 100, 2)], &pack().foreign, &secret);
    }
}
