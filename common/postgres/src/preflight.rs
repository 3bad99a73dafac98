//! Judges a server's settings before a backup: pure, so that every verdict can be tested without a server.

use crate::PostgresError;
use crate::settings::{ArchiveMode, Settings};
use std::fmt;

/// The names under which an archive_command may call us: our own, and the one that scripts know.
const ARCHIVER_NAMES: [&str; 2] = ["pgconvoy", "pgbackrest"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveExpectation {
    /// False with `--no-archive-check`: archive_mode and archive_command are not looked at.
    pub check: bool,
    /// False with `--no-archive-mode-check`: standbys may archive too.
    pub refuse_always: bool,
}

impl Default for ArchiveExpectation {
    fn default() -> Self {
        ArchiveExpectation { check: true, refuse_always: true }
    }
}

/// What does not stop a backup but should be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    FullPageWritesOff,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::FullPageWritesOff => f.write_str(
                "full_page_writes is off: PostgreSQL turns it on while a backup runs, but a crash can tear pages of the \
                 cluster itself",
            ),
        }
    }
}

/// Whether an online backup can start on this server.
pub fn check_settings(
    settings: &Settings,
    archive: ArchiveExpectation,
) -> Result<Vec<Warning>, PostgresError> {
    if settings.in_recovery {
        return Err(PostgresError::InRecovery { place: settings.place.clone() });
    }
    if settings.wal_level == "minimal" {
        return Err(PostgresError::WalLevel(settings.wal_level.clone()));
    }
    if archive.check {
        check_archiving(settings, archive.refuse_always)?;
    }
    Ok(if settings.full_page_writes { Vec::new() } else { vec![Warning::FullPageWritesOff] })
}

fn check_archiving(settings: &Settings, refuse_always: bool) -> Result<(), PostgresError> {
    match settings.archive_mode {
        ArchiveMode::Off => return Err(PostgresError::ArchiveDisabled),
        ArchiveMode::Always if refuse_always => return Err(PostgresError::ArchiveAlways),
        ArchiveMode::Always | ArchiveMode::On => {}
    }
    // A library is used instead of the command, which may still say the right thing.
    if !settings.archive_library.is_empty() {
        let value = settings.archive_library.clone();
        return Err(PostgresError::ArchiveCommand { setting: "archive_library", value });
    }
    if !ARCHIVER_NAMES.iter().any(|name| settings.archive_command.contains(name)) {
        let value = settings.archive_command.clone();
        return Err(PostgresError::ArchiveCommand { setting: "archive_command", value });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use crate::clock::DatabaseTime;
    use pgconvoy_core::failure::Classify;
    use pgconvoy_core::ids::SystemId;
    use pgconvoy_core::pg::{PgVersion, WalSegmentSize};

    fn sound() -> Settings {
        Settings {
            place: "db1:5432".into(),
            version: PgVersion::V15,
            server_version_num: 150_004,
            data_directory: "/pg".into(),
            port: 5432,
            archive_mode: ArchiveMode::On,
            archive_command: "pgconvoy --stanza=main archive-push %p".into(),
            archive_library: String::new(),
            wal_level: "replica".into(),
            full_page_writes: true,
            system_id: SystemId(1),
            catalog_version: 202_209_061,
            page_size: 8192,
            relation_segment_blocks: 131_072,
            wal_page_size: 8192,
            wal_segment_size: WalSegmentSize::DEFAULT,
            data_checksums: false,
            in_recovery: false,
            postmaster_start: DatabaseTime::from_microseconds(0),
        }
    }

    fn code(settings: &Settings) -> u8 {
        let error = check_settings(settings, ArchiveExpectation::default()).unwrap_err();
        assert_eq!(error.hints().len(), 1, "{error}");
        error.code().number()
    }

    #[test]
    fn a_sound_server_passes_without_a_word() {
        assert_eq!(check_settings(&sound(), ArchiveExpectation::default()).unwrap(), []);
        let scripted = Settings { archive_command: "/usr/bin/pgbackrest archive-push %p".into(), ..sound() };
        assert_eq!(check_settings(&scripted, ArchiveExpectation::default()).unwrap(), []);
    }

    #[test]
    fn each_setting_that_prevents_a_backup_has_its_own_code_and_a_hint() {
        assert_eq!(code(&Settings { in_recovery: true, ..sound() }), 58);
        assert_eq!(code(&Settings { archive_mode: ArchiveMode::Off, ..sound() }), 87);
        assert_eq!(code(&Settings { archive_mode: ArchiveMode::Always, ..sound() }), 67);
        assert_eq!(code(&Settings { archive_command: "cp %p /mnt/wal/%f".into(), ..sound() }), 68);
        assert_eq!(code(&Settings { archive_command: String::new(), ..sound() }), 68);
        assert_eq!(code(&Settings { archive_library: "basic_archive".into(), ..sound() }), 68);
        assert_eq!(code(&Settings { wal_level: "minimal".into(), ..sound() }), 27);
    }

    #[test]
    fn without_the_archive_check_nothing_of_archiving_is_looked_at() {
        let unarchived =
            Settings { archive_mode: ArchiveMode::Off, archive_command: String::new(), ..sound() };
        let unchecked = ArchiveExpectation { check: false, ..ArchiveExpectation::default() };
        assert_eq!(check_settings(&unarchived, unchecked).unwrap(), []);
    }

    #[test]
    fn archiving_from_standbys_is_accepted_when_told_so() {
        let always = Settings { archive_mode: ArchiveMode::Always, ..sound() };
        let told = ArchiveExpectation { refuse_always: false, ..ArchiveExpectation::default() };
        assert_eq!(check_settings(&always, told).unwrap(), []);
    }

    #[test]
    fn torn_pages_are_warned_about() {
        let settings = Settings { full_page_writes: false, ..sound() };
        assert_eq!(
            check_settings(&settings, ArchiveExpectation::default()).unwrap(),
            [Warning::FullPageWritesOff]
        );
    }
}
