#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;

/// Of "123456789", as every description of CRC-32C has it.
const CRC_OF_123456789: u32 = 0xE306_9283;

const FILES: [ManifestFile<'static>; 2] = [
    ManifestFile {
        path: "backup_label",
        size_bytes: 227,
        modified: 1_795_422_932,
        crc32c: Some(CRC_OF_123456789),
    },
    ManifestFile { path: "log/a \"b\"\\\n\u{1}é", size_bytes: 0, modified: 0, crc32c: None },
];

const RANGES: [WalRange; 2] = [
    WalRange { timeline: TimelineId(1), start: Lsn(0x200_0028), end: Lsn(0x300_0000) },
    WalRange { timeline: TimelineId(2), start: Lsn(0x300_0000), end: Lsn(0x1_0000_ABC0) },
];

/// Everything between the first lines and the checksum.
const BODY: &str = r#""Files": [
{ "Path": "backup_label", "Size": 227, "Last-Modified": "2026-11-23 08:35:32 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "839206e3" },
{ "Path": "log/a \"b\"\\\n\u0001é", "Size": 0, "Last-Modified": "1970-01-01 00:00:00 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/3000000" },
{ "Timeline": 2, "Start-LSN": "0/3000000", "End-LSN": "1/ABC0" }
],
"#;

fn rendered(version: PgVersion) -> Result<String, BackupManifestError> {
    let mut text = String::new();
    write_backup_manifest(&mut text, version, SystemId(7_711_282_346_008_322_027), FILES, &RANGES)
        .map(|()| text)
}

#[test]
fn version_1_is_the_text_that_sha256sum_sums() {
    let first = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n";
    let checksum = "45265b9e2a4514e13f2ee360e1836e4e01dec5f3a5e02bb33f588074d4017424";
    let expected = format!("{first}{BODY}\"Manifest-Checksum\": \"{checksum}\"}}\n");
    for version in [PgVersion::V13, PgVersion::V16] {
        assert_eq!(rendered(version).unwrap(), expected);
    }
}

#[test]
fn version_2_names_the_system() {
    let first = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7711282346008322027,\n";
    let checksum = "843624d7e7b356a44d1efab52f3a1cdcae61bef6f10fe1594c6cfaa62da74564";
    let expected = format!("{first}{BODY}\"Manifest-Checksum\": \"{checksum}\"}}\n");
    for version in [PgVersion::V17, PgVersion::V18] {
        assert_eq!(rendered(version).unwrap(), expected);
    }
}

#[test]
fn a_version_without_manifests_is_refused() {
    assert_eq!(rendered(PgVersion::V12), Err(BackupManifestError::Version { version: PgVersion::V12 }));
}

#[test]
fn a_time_that_is_no_date_is_refused_with_its_file() {
    let file = ManifestFile { modified: i64::MAX, ..FILES[0] };
    let error =
        write_backup_manifest(&mut String::new(), PgVersion::V18, SystemId(1), [file], &[]).unwrap_err();
    assert!(error.to_string().contains("backup_label"), "{error}");
}
