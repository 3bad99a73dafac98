//! What a server says about itself, read in one go and judged elsewhere (`preflight`).

use crate::PostgresError;
use crate::clock::DatabaseTime;
use crate::session::{Answer, Session};
use pgconvoy_core::ids::SystemId;
use pgconvoy_core::pg::{PgVersion, WalSegmentSize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveMode {
    Off,
    On,
    /// Standbys archive too.
    Always,
}

impl FromStr for ArchiveMode {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(ArchiveMode::Off),
            "on" => Ok(ArchiveMode::On),
            "always" => Ok(ArchiveMode::Always),
            _ => Err("it is none of off, on, always"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the server was reached, for messages.
    pub place: String,
    pub version: PgVersion,
    /// `150004` is 15.4.
    pub server_version_num: u32,
    pub data_directory: PathBuf,
    pub port: u16,
    pub archive_mode: ArchiveMode,
    pub archive_command: String,
    /// Empty before version 15, and where `archive_command` is used.
    pub archive_library: String,
    pub wal_level: String,
    pub full_page_writes: bool,
    pub system_id: SystemId,
    pub catalog_version: u32,
    pub page_size: u32,
    pub relation_segment_blocks: u32,
    pub wal_page_size: u32,
    pub wal_segment_size: WalSegmentSize,
    pub data_checksums: bool,
    pub in_recovery: bool,
    pub postmaster_start: DatabaseTime,
}

const NAMES: [&str; 8] = [
    "server_version_num",
    "data_directory",
    "port",
    "archive_mode",
    "archive_command",
    "archive_library",
    "wal_level",
    "full_page_writes",
];

/// Sizes come from pg_control and not from settings of the same name, whose units have changed between versions.
const CONTROL_SQL: &str = "select s.system_identifier, s.catalog_version_no::int8 as catalog_version, \
     i.database_block_size::int8 as page_size, i.blocks_per_segment::int8 as segment_blocks, \
     i.wal_block_size::int8 as wal_page_size, i.bytes_per_wal_segment::int8 as wal_segment_size, \
     i.data_page_checksum_version <> 0 as checksums, pg_catalog.pg_is_in_recovery() as in_recovery, \
     (extract(epoch from pg_catalog.pg_postmaster_start_time()) * 1000000)::int8 as postmaster_start \
     from pg_catalog.pg_control_system() s, pg_catalog.pg_control_init() i";

pub(crate) async fn read(session: &Session) -> Result<Settings, PostgresError> {
    let texts = SettingTexts::read(session).await?;
    let server_version_num: u32 = texts.parse("server_version_num")?;
    let version = PgVersion::from_server_version_num(server_version_num)?;
    let control = session.row("tell its pg_control values", CONTROL_SQL, &[]).await?;
    Ok(Settings {
        place: session.place().to_owned(),
        version,
        server_version_num,
        data_directory: PathBuf::from(texts.get("data_directory")?),
        port: texts.parse("port")?,
        archive_mode: texts.parse("archive_mode")?,
        archive_command: texts.get("archive_command")?.to_owned(),
        archive_library: if version >= PgVersion::V15 {
            texts.get("archive_library")?.to_owned()
        } else {
            String::new()
        },
        wal_level: texts.get("wal_level")?.to_owned(),
        full_page_writes: texts.get("full_page_writes")? == "on",
        system_id: system_id(&control, "system_identifier")?,
        catalog_version: control.number("catalog_version")?,
        page_size: control.number("page_size")?,
        relation_segment_blocks: control.number("segment_blocks")?,
        wal_page_size: control.number("wal_page_size")?,
        wal_segment_size: wal_segment_size(&control)?,
        data_checksums: control.get("checksums")?,
        in_recovery: control.get("in_recovery")?,
        postmaster_start: DatabaseTime::from_microseconds(control.get("postmaster_start")?),
    })
}

/// SQL shows the identifier as a signed number.
pub(crate) fn system_id(answer: &Answer, column: &str) -> Result<SystemId, PostgresError> {
    answer.get(column).map(|signed: i64| SystemId(signed.cast_unsigned()))
}

fn wal_segment_size(control: &Answer) -> Result<WalSegmentSize, PostgresError> {
    let bytes: u64 = control.number("wal_segment_size")?;
    WalSegmentSize::new(bytes).map_err(|error| control.refuse(&bytes.to_string(), &error))
}

/// Rows of pg_settings. One that a user may not see is simply not there.
struct SettingTexts<'a> {
    session: &'a Session,
    texts: BTreeMap<String, String>,
}

impl<'a> SettingTexts<'a> {
    async fn read(session: &'a Session) -> Result<Self, PostgresError> {
        let sql = "select name, setting from pg_catalog.pg_settings where name = any($1)";
        let mut texts = BTreeMap::new();
        for row in session.rows("tell its settings", sql, &[&NAMES.as_slice()]).await? {
            if let Some(setting) = row.get::<Option<String>>("setting")? {
                texts.insert(row.get("name")?, setting);
            }
        }
        Ok(SettingTexts { session, texts })
    }

    fn get(&self, name: &'static str) -> Result<&str, PostgresError> {
        self.texts
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| PostgresError::SettingHidden { name, user: self.session.user().to_owned() })
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str) -> Result<T, PostgresError> {
        self.get(name)?.parse().map_err(|error: T::Err| self.refuse(name, &error))
    }

    fn refuse(&self, name: &'static str, reason: &dyn std::fmt::Display) -> PostgresError {
        PostgresError::Answer {
            place: self.session.place().to_owned(),
            what: name,
            value: self.texts.get(name).cloned().unwrap_or_default(),
            reason: reason.to_string(),
        }
    }
}
