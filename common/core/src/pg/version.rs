//! The major versions of PostgreSQL that pgconvoy knows, one row each.
//!
//! Not here: what a version's files look like inside; those modules ask this table.
//!
//! Adding a version: one variant, one row, its `pg_control` in `testdata/pg`, and a look at every `>=` in this file.
//!
//! Source: `catalog/catversion.h`, `catalog/pg_control.h` and `access/xlog_internal.h` of each release branch; from 10 on the
//! tests hold every row against what a server of that version wrote.

use crate::failure::{Classify, ErrorCode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A major version of PostgreSQL. Text form as in `PG_VERSION`: `9.6`, `15`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PgVersion {
    V9_6,
    V10,
    V11,
    V12,
    V13,
    V14,
    V15,
    V16,
    V17,
    V18,
}

/// What is fixed when a major version is released.
struct Row {
    version: PgVersion,
    name: &'static str,
    control_version: u32,
    catalog_version: u32,
    wal_magic: u16,
    control: ControlLayout,
}

/// Where `pg_control` keeps what moved between versions, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ControlLayout {
    /// Before 11: the checkpoint before the last, which PostgreSQL falls back to when it cannot read the last.
    pub previous_checkpoint: Option<usize>,
    /// The copy of the last checkpoint record.
    pub checkpoint_copy: usize,
    /// Minimum recovery point; its timeline, backup start, backup end and "end required" follow at fixed distances.
    pub minimum_recovery: usize,
    /// Page size; segment blocks, WAL page size and WAL segment size follow at fixed distances.
    pub page_size: usize,
    pub page_checksums: usize,
    /// The CRC, which covers all bytes before it.
    pub crc: usize,
}

const fn layout(
    checkpoint_copy: usize,
    minimum_recovery: usize,
    page_size: usize,
    crc: usize,
) -> ControlLayout {
    // Seven numbers and up to three flags lie between page size and page checksums, padded alike in every version.
    let page_checksums = page_size + 36;
    // Where there is a previous checkpoint, it lies right before the copy of the last one and pushes it from 40 to 48.
    let previous_checkpoint = if checkpoint_copy == 48 { Some(40) } else { None };
    ControlLayout { previous_checkpoint, checkpoint_copy, minimum_recovery, page_size, page_checksums, crc }
}

const LAYOUT_9_6: ControlLayout = layout(48, 136, 216, 256);
/// Adds the mock authentication nonce before the CRC.
const LAYOUT_10: ControlLayout = layout(48, 136, 216, 288);
/// Drops the previous checkpoint's position.
const LAYOUT_11: ControlLayout = layout(40, 128, 208, 280);
/// Widens the checkpoint's transaction counter to 64 bits and adds max_wal_senders.
const LAYOUT_12: ControlLayout = layout(40, 136, 216, 288);
/// Adds the default signedness of char.
const LAYOUT_18: ControlLayout = layout(40, 136, 216, 292);

const fn row(
    version: PgVersion,
    name: &'static str,
    control_version: u32,
    catalog_version: u32,
    wal_magic: u16,
    control: ControlLayout,
) -> Row {
    Row { version, name, control_version, catalog_version, wal_magic, control }
}

const ROWS: [Row; 10] = [
    row(PgVersion::V9_6, "9.6", 960, 201_608_131, 0xD093, LAYOUT_9_6),
    row(PgVersion::V10, "10", 1002, 201_707_211, 0xD097, LAYOUT_10),
    row(PgVersion::V11, "11", 1100, 201_809_051, 0xD098, LAYOUT_11),
    row(PgVersion::V12, "12", 1201, 201_909_212, 0xD101, LAYOUT_12),
    row(PgVersion::V13, "13", 1300, 202_007_201, 0xD106, LAYOUT_12),
    row(PgVersion::V14, "14", 1300, 202_107_181, 0xD10D, LAYOUT_12),
    row(PgVersion::V15, "15", 1300, 202_209_061, 0xD110, LAYOUT_12),
    row(PgVersion::V16, "16", 1300, 202_307_071, 0xD113, LAYOUT_12),
    row(PgVersion::V17, "17", 1700, 202_406_281, 0xD116, LAYOUT_12),
    row(PgVersion::V18, "18", 1800, 202_506_291, 0xD118, LAYOUT_18),
];

/// A version that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL version '{found}' is not supported")]
pub struct VersionError {
    pub found: String,
}

impl Classify for VersionError {
    fn code(&self) -> ErrorCode {
        ErrorCode::VersionNotSupported
    }

    fn hints(&self) -> Vec<String> {
        vec![supported_versions_hint()]
    }
}

pub(crate) fn supported_versions_hint() -> String {
    format!(
        "supported are PostgreSQL 9.6 and 10 to {}; a newer one needs a newer pgconvoy",
        PgVersion::LATEST
    )
}

impl PgVersion {
    pub const LATEST: PgVersion = PgVersion::V18;

    /// Every supported version, oldest first.
    pub fn all() -> impl Iterator<Item = PgVersion> {
        ROWS.iter().map(|row| row.version)
    }

    fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.version == self).expect("every variant has a row, which a test checks")
    }

    fn find(found: impl fmt::Display, fits: impl Fn(&Row) -> bool) -> Result<Self, VersionError> {
        let row = ROWS.iter().find(|row| fits(row));
        row.map(|row| row.version).ok_or_else(|| VersionError { found: found.to_string() })
    }

    /// From the setting `server_version_num`: 90624 is 9.6, 150020 is 15.
    pub fn from_server_version_num(number: u32) -> Result<Self, VersionError> {
        let name = match number / 10_000 {
            9 => format!("9.{}", number / 100 % 100),
            major => major.to_string(),
        };
        Self::find(format_args!("{name} (server_version_num {number})"), |row| row.name == name)
    }

    /// From the text of a `PG_VERSION` file.
    pub fn from_version_file(text: &str) -> Result<Self, VersionError> {
        text.trim_end_matches(['\n', '\r']).parse()
    }

    /// From the magic number at the start of each WAL page.
    pub fn from_wal_magic(magic: u16) -> Result<Self, VersionError> {
        Self::find(format_args!("with WAL magic {magic:04X}"), |row| row.wal_magic == magic)
    }

    /// From the version numbers in `pg_control`. Several versions share a control version; the catalog version decides.
    pub fn from_control(control_version: u32, catalog_version: u32) -> Result<Self, VersionError> {
        Self::find(
            format_args!("with control version {control_version} and catalog version {catalog_version}"),
            |row| row.control_version == control_version && row.catalog_version == catalog_version,
        )
    }

    pub fn control_version(self) -> u32 {
        self.row().control_version
    }

    pub fn catalog_version(self) -> u32 {
        self.row().catalog_version
    }

    pub fn wal_magic(self) -> u16 {
        self.row().wal_magic
    }

    pub(crate) fn control_layout(self) -> ControlLayout {
        self.row().control
    }

    /// `9.6`, `15`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// `pg_wal`, before 10 `pg_xlog`.
    pub fn wal_directory(self) -> &'static str {
        if self >= PgVersion::V10 { "pg_wal" } else { "pg_xlog" }
    }

    /// `pg_xact`, before 10 `pg_clog`.
    pub fn xact_directory(self) -> &'static str {
        if self >= PgVersion::V10 { "pg_xact" } else { "pg_clog" }
    }

    /// `lsn` or `location`, as in `pg_current_wal_lsn` and `pg_current_xlog_location`.
    pub fn lsn_word(self) -> &'static str {
        if self >= PgVersion::V10 { "lsn" } else { "location" }
    }

    /// `wal` or `xlog`, as in `pg_switch_wal` and `pg_switch_xlog`.
    pub fn wal_word(self) -> &'static str {
        if self >= PgVersion::V10 { "wal" } else { "xlog" }
    }

    /// Before 12, recovery is set up in `recovery.conf`; since then by settings and signal files.
    pub fn uses_recovery_conf(self) -> bool {
        self < PgVersion::V12
    }

    pub fn backup_start_function(self) -> &'static str {
        if self >= PgVersion::V15 { "pg_backup_start" } else { "pg_start_backup" }
    }

    pub fn backup_stop_function(self) -> &'static str {
        if self >= PgVersion::V15 { "pg_backup_stop" } else { "pg_stop_backup" }
    }

    /// Since 10 the stop function can be told not to wait for the archive.
    pub fn can_stop_without_waiting(self) -> bool {
        self >= PgVersion::V10
    }

    /// Since 13 a base backup has a `backup_manifest`.
    pub fn has_backup_manifest(self) -> bool {
        self >= PgVersion::V13
    }

    /// Since 17 the server can write `pg_wal/summaries`.
    pub fn has_wal_summaries(self) -> bool {
        self >= PgVersion::V17
    }

    /// `PG_15_202209061`: the directory in a tablespace that belongs to this version.
    pub fn tablespace_directory(self) -> String {
        tablespace_directory(self, self.catalog_version())
    }
}

/// As [`PgVersion::tablespace_directory`], with the catalog version that a `pg_control` names.
pub fn tablespace_directory(version: PgVersion, catalog_version: u32) -> String {
    format!("PG_{version}_{catalog_version}")
}

impl fmt::Display for PgVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PgVersion {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::find(text.chars().take(20).collect::<String>(), |row| row.name == text)
    }
}

impl TryFrom<String> for PgVersion {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<PgVersion> for String {
    fn from(version: PgVersion) -> String {
        version.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_table_is_in_order_and_ends_with_the_latest() {
        let versions: Vec<PgVersion> = PgVersion::all().collect();
        assert!(versions.is_sorted());
        assert_eq!(versions.last(), Some(&PgVersion::LATEST));
        for version in versions {
            assert_eq!(version.to_string().parse(), Ok(version));
            assert_eq!(PgVersion::from_version_file(&format!("{version}\n")), Ok(version));
            assert_eq!(PgVersion::from_wal_magic(version.wal_magic()), Ok(version));
            assert_eq!(
                PgVersion::from_control(version.control_version(), version.catalog_version()),
                Ok(version)
            );
        }
    }

    #[test]
    fn a_server_version_number_gives_its_major_version() {
        for (number, version) in [(90_624, "9.6"), (100_000, "10"), (150_020, "15"), (180_004, "18")] {
            assert_eq!(PgVersion::from_server_version_num(number).unwrap().name(), version);
        }
    }

    #[test]
    fn an_unknown_version_is_refused_with_its_number_and_a_hint() {
        for (error, shown) in [
            (PgVersion::from_server_version_num(90_526), "9.5"),
            (PgVersion::from_server_version_num(190_000), "190000"),
            (PgVersion::from_version_file("8.4\n"), "8.4"),
            (PgVersion::from_control(1900, 202_606_011), "1900"),
            // A beta of 15: right control version, other catalog.
            (PgVersion::from_control(1300, 202_205_191), "202205191"),
            (PgVersion::from_wal_magic(0xD200), "D200"),
        ] {
            let error = error.unwrap_err();
            assert!(error.to_string().contains(shown), "{error}");
            assert_eq!(error.hints().len(), 1);
        }
    }

    #[test]
    fn names_changed_with_10_and_functions_with_15() {
        assert_eq!(
            (PgVersion::V9_6.wal_directory(), PgVersion::V9_6.xact_directory()),
            ("pg_xlog", "pg_clog")
        );
        assert_eq!((PgVersion::V10.wal_directory(), PgVersion::V10.xact_directory()), ("pg_wal", "pg_xact"));
        assert_eq!(PgVersion::V14.backup_start_function(), "pg_start_backup");
        assert_eq!(PgVersion::V15.backup_stop_function(), "pg_backup_stop");
        assert_eq!(PgVersion::V9_6.tablespace_directory(), "PG_9.6_201608131");
    }
}
