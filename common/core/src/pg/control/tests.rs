#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use proptest::prelude::*;

/// What a server of each version wrote while it ran, its first 512 bytes, and what `pg_control_system()` and
/// `pg_control_checkpoint()` of the same server said of it.
struct Golden {
    version: PgVersion,
    bytes: &'static [u8],
    control_version: u32,
    catalog_version: u32,
    system_id: u64,
    checkpoint: u64,
    redo: u64,
}

macro_rules! golden {
    ($version:ident, $file:literal, $control:literal, $catalog:literal, $system_id:literal, $checkpoint:literal, $redo:literal) => {
        Golden {
            version: PgVersion::$version,
            bytes: include_bytes!(concat!("../../../testdata/pg/", $file)),
            control_version: $control,
            catalog_version: $catalog,
            system_id: $system_id,
            checkpoint: $checkpoint,
            redo: $redo,
        }
    };
}

const GOLDEN: [Golden; 9] = [
    golden!(V10, "pg_control_10", 1002, 201707211, 7711282321615916885, 0x187DEA8, 0x187DE70),
    golden!(V11, "pg_control_11", 1100, 201809051, 7711282324994617193, 0x18A7FD0, 0x18A7F98),
    golden!(V12, "pg_control_12", 1201, 201909212, 7711282327878717308, 0x18AAE38, 0x18AAE00),
    golden!(V13, "pg_control_13", 1300, 202007201, 7711282330879647626, 0x184BAC0, 0x184BA88),
    golden!(V14, "pg_control_14", 1300, 202107181, 7711282333984448408, 0x198B138, 0x198B100),
    golden!(V15, "pg_control_15", 1300, 202209061, 7711282337492676545, 0x177B258, 0x177B220),
    golden!(V16, "pg_control_16", 1300, 202307071, 7711282339904155599, 0x1768CD8, 0x1768CA0),
    golden!(V17, "pg_control_17", 1700, 202406281, 7711282343084167133, 0x1764228, 0x17641D0),
    golden!(V18, "pg_control_18", 1800, 202506291, 7711282346008322027, 0x1792370, 0x1792318),
];

impl Golden {
    fn expected(&self) -> ControlFile {
        ControlFile {
            version: self.version,
            control_version: self.control_version,
            catalog_version: self.catalog_version,
            system_id: SystemId(self.system_id),
            state: ClusterState::InProduction,
            checkpoint: Lsn(self.checkpoint),
            redo: Lsn(self.redo),
            timeline: TimelineId(1),
            page_checksums: 1,
            page_size: PageSize::DEFAULT,
            relation_segment_blocks: 131_072,
            wal_page_size: 8192,
            wal_segment_size: WalSegmentSize::DEFAULT,
            minimum_recovery_point: Lsn::ZERO,
            minimum_recovery_timeline: TimelineId(0),
            backup_start: Lsn::ZERO,
            backup_end: Lsn::ZERO,
            backup_end_required: false,
        }
    }
}

#[test]
fn the_file_of_every_version_from_10_reads_as_its_server_said() {
    for golden in GOLDEN {
        assert_eq!(ControlFile::parse(golden.bytes), Ok(golden.expected()), "{}", golden.version);
    }
}

#[test]
fn every_version_but_9_6_has_a_golden_file() {
    let golden: Vec<PgVersion> = GOLDEN.iter().map(|golden| golden.version).collect();
    assert!(PgVersion::all().filter(|version| *version != PgVersion::V9_6).eq(golden));
}

#[test]
fn a_cluster_shut_down_says_so() {
    let control = ControlFile::parse(include_bytes!("../../../testdata/pg/pg_control_17_shut_down")).unwrap();
    assert_eq!(control.state, ClusterState::ShutDown);
    assert!(control.state.is_shut_down() && control.redo == control.checkpoint);
}

/// No server of 9.6 could be had, so these bytes follow its struct ControlFileData in `catalog/pg_control.h`, field by
/// field, with the padding of a 64-bit machine.
fn control_file_of_9_6() -> Vec<u8> {
    let mut bytes = Vec::new();
    let word = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    let half = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    word(&mut bytes, 6_569_239_123_849_665_679); // system_identifier
    half(&mut bytes, 960); // pg_control_version
    half(&mut bytes, 201_608_131); // catalog_version_no
    half(&mut bytes, 5); // state: in archive recovery
    half(&mut bytes, 0);
    word(&mut bytes, 1_500_000_000); // time
    word(&mut bytes, 0x3_0000_0098); // checkPoint
    word(&mut bytes, 0x2_0000_0098); // prevCheckPoint
    word(&mut bytes, 0x3_0000_0060); // checkPointCopy: redo
    half(&mut bytes, 7); // ThisTimeLineID
    half(&mut bytes, 6); // PrevTimeLineID
    half(&mut bytes, 1); // fullPageWrites
    for counter in 0..9 {
        half(&mut bytes, 1000 + counter); // nextXidEpoch .. oldestMultiDB
    }
    word(&mut bytes, 1_500_000_000); // time
    for counter in 0..4 {
        half(&mut bytes, counter); // oldestCommitTsXid, newestCommitTsXid, oldestActiveXid, padding
    }
    word(&mut bytes, 1); // unloggedLSN
    word(&mut bytes, 0x3_0000_1000); // minRecoveryPoint
    half(&mut bytes, 7); // minRecoveryPointTLI
    half(&mut bytes, 0);
    word(&mut bytes, 0x3_0000_0060); // backupStartPoint
    word(&mut bytes, 0x3_0000_2000); // backupEndPoint
    half(&mut bytes, 1); // backupEndRequired
    for setting in [1, 0, 100, 8, 0, 64, 0, 8] {
        half(&mut bytes, setting); // wal_level .. track_commit_timestamp, maxAlign
    }
    half(&mut bytes, 0);
    bytes.extend(1_234_567.0_f64.to_le_bytes()); // floatFormat
    for size in [8192, 131_072, 8192, 16 << 20, 64, 32, 1996, 2048] {
        half(&mut bytes, size); // blcksz .. loblksize
    }
    bytes.extend([1, 1, 1, 0]); // enableIntTimes, float4ByVal, float8ByVal
    half(&mut bytes, 1); // data_checksum_version
    let crc = crc32c::crc32c(&bytes);
    half(&mut bytes, crc);
    bytes.resize(CONTROL_FILE_SIZE, 0);
    bytes
}

#[test]
fn the_documented_layout_of_9_6_is_read() {
    let control = ControlFile::parse(&control_file_of_9_6()).unwrap();
    assert_eq!((control.version, control.system_id), (PgVersion::V9_6, SystemId(6_569_239_123_849_665_679)));
    assert_eq!((control.checkpoint, control.redo), (Lsn(0x3_0000_0098), Lsn(0x3_0000_0060)));
    assert_eq!((control.timeline, control.state), (TimelineId(7), ClusterState::InArchiveRecovery));
    assert_eq!(control.minimum_recovery_point, Lsn(0x3_0000_1000));
    assert_eq!(control.minimum_recovery_timeline, TimelineId(7));
    assert_eq!((control.backup_start, control.backup_end), (Lsn(0x3_0000_0060), Lsn(0x3_0000_2000)));
    assert!(control.backup_end_required && control.has_page_checksums());
    assert_eq!((control.page_size, control.relation_segment_size()), (PageSize::DEFAULT, 1 << 30));
    assert_eq!((control.wal_page_size, control.wal_segment_size), (8192, WalSegmentSize::DEFAULT));
}

/// Puts a value somewhere and makes the CRC right again.
fn altered(version: PgVersion, offset: usize, value: &[u8]) -> Vec<u8> {
    let golden = GOLDEN.iter().find(|golden| golden.version == version).unwrap();
    let mut bytes = golden.bytes.to_vec();
    bytes[offset..offset + value.len()].copy_from_slice(value);
    let layout = version.control_layout();
    let (_, crc) = checksums(&bytes, layout);
    bytes[layout.crc..layout.crc + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn any_damage_before_the_crc_is_noticed() {
    for golden in GOLDEN {
        let layout = golden.version.control_layout();
        for index in (0..layout.crc + 4).filter(|index| !(8..16).contains(index)) {
            let mut bytes = golden.bytes.to_vec();
            bytes[index] ^= 0x01;
            let error = ControlFile::parse(&bytes).unwrap_err();
            assert!(
                matches!(error, ControlError::Checksum { .. }),
                "{}, byte {index}: {error}",
                golden.version
            );
            assert_eq!(error.retry(), Retry::MayHelp);
        }
    }
}

#[test]
fn an_unknown_version_is_refused_with_its_numbers_and_hints() {
    let error = ControlFile::parse(&altered(PgVersion::V18, 8, &1900u32.to_le_bytes())).unwrap_err();
    assert!(error.to_string().contains("control version 1900 and catalog version 202506291"), "{error}");
    assert_eq!((error.code(), error.hints().len()), (ErrorCode::VersionNotSupported, 2));
    let beta = ControlFile::parse(&altered(PgVersion::V15, 12, &202_205_191u32.to_le_bytes())).unwrap_err();
    assert!(matches!(beta, ControlError::UnknownVersion { catalog_version: 202_205_191, .. }));
}

#[test]
fn another_byte_order_is_called_by_its_name() {
    let swapped = [1300u32.to_be_bytes(), 202_209_061u32.to_be_bytes()].concat();
    assert_eq!(ControlFile::parse(&altered(PgVersion::V15, 8, &swapped)), Err(ControlError::ByteOrder));
}

#[test]
fn values_that_no_server_writes_are_refused() {
    for (offset, value) in [(16, 7), (216, 3000), (220, 0), (224, 0), (228, 5 << 20)] {
        let error =
            ControlFile::parse(&altered(PgVersion::V15, offset, &u32::to_le_bytes(value))).unwrap_err();
        assert!(matches!(error, ControlError::Field { .. }), "{error}");
    }
    assert_eq!(ControlFile::parse(&GOLDEN[0].bytes[..511]), Err(ControlError::TooShort { bytes: 511 }));
}

#[test]
fn a_poisoned_file_differs_in_its_checkpoint_alone() {
    for golden in GOLDEN {
        let mut bytes = golden.bytes.to_vec();
        poison_checkpoint(&mut bytes).unwrap();
        let poisoned = ControlFile::parse(&bytes).unwrap();
        assert!(poisoned.is_poisoned() && !golden.expected().is_poisoned());
        assert_eq!(ControlFile { checkpoint: Lsn(golden.checkpoint), ..poisoned }, golden.expected());
    }
}

#[test]
fn a_server_that_would_fall_back_to_the_previous_checkpoint_finds_poison_there_too() {
    let mut bytes = control_file_of_9_6();
    poison_checkpoint(&mut bytes).unwrap();
    assert_eq!(u64_at(&bytes, 40), POISONED_CHECKPOINT.0);
    // From 11 on the same place holds the redo position.
    let mut bytes = GOLDEN[1].bytes.to_vec();
    poison_checkpoint(&mut bytes).unwrap();
    assert_eq!(u64_at(&bytes, 40), GOLDEN[1].redo);
}

#[test]
fn the_poison_passes_as_a_position_but_never_as_a_record() {
    // The largest header a WAL page has is 40 bytes; smaller offsets make PostgreSQL refuse even with a backup_label.
    for wal_page_size in [1 << 10, 8 << 10, 64 << 10] {
        assert!(POISONED_CHECKPOINT.0 % wal_page_size >= 40);
    }
    assert!(!POISONED_CHECKPOINT.0.is_multiple_of(8));
}

#[test]
fn a_file_that_does_not_parse_is_not_poisoned() {
    let mut bytes = GOLDEN[0].bytes.to_vec();
    bytes[100] ^= 1;
    let before = bytes.clone();
    assert!(poison_checkpoint(&mut bytes).is_err());
    assert_eq!(bytes, before);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), which in 0..GOLDEN.len(), at in 0usize..512) {
        let _ = ControlFile::parse(&bytes);
        let version = GOLDEN[which].version;
        let value = &bytes[..bytes.len().min(8).min(512 - at)];
        let _ = ControlFile::parse(&altered(version, at, value));
    }
}
