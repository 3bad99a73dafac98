//! What archiving looks at in a data directory: whose it is, and whether PostgreSQL recovers there.
//!
//! PostgreSQL runs `restore_command` in its data directory and takes every exit status up to 125 for "no such file". Which
//! failures must be above that depends on the files that [`recovery`] looks at, so it has an answer for every directory,
//! and leans towards [`Recovery::Archive`] where something cannot be read.

use super::ClusterIdentity;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::{ControlFile, WalSegmentSize};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::control::read_control;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const RECOVERY_CONF: &str = "recovery.conf";
const STANDBY_SIGNAL: &str = "standby.signal";
const RECOVERY_SIGNAL: &str = "recovery.signal";
/// Any of these makes a directory a data directory. Signal files are among them: whatever has one is to be recovered.
const EVIDENCE: [&str; 5] =
    ["PG_VERSION", "global/pg_control", RECOVERY_CONF, STANDBY_SIGNAL, RECOVERY_SIGNAL];

/// What PostgreSQL does in a directory when it believes that a WAL file does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// It ends recovery and promotes.
    Archive,
    /// It waits, asks again and streams.
    Standby,
    /// Nobody recovers there.
    None,
}

/// The first of some directories that is a data directory.
pub fn find(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates
        .into_iter()
        .find(|directory| EVIDENCE.iter().any(|name| is_there(&directory.join(name)) == Some(true)))
}

/// From 12 on signal files decide, of which `standby.signal` is the stronger; before, recovery.conf does. No version looks
/// at both.
pub fn recovery(directory: &Path) -> Recovery {
    match std::fs::read_to_string(directory.join(RECOVERY_CONF)) {
        Ok(text) if is_standby_mode(&text) => return Recovery::Standby,
        Ok(_) => return Recovery::Archive,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) => return Recovery::Archive,
    }
    match [STANDBY_SIGNAL, RECOVERY_SIGNAL].map(|name| is_there(&directory.join(name))) {
        [Some(true), _] => Recovery::Standby,
        [Some(false), Some(false)] => Recovery::None,
        _ => Recovery::Archive,
    }
}

/// Whose data directory it is; `None` where there is no pg_control. Blocks for up to a second where it is being written.
pub fn identity(directory: &Path) -> Result<Option<ClusterIdentity>, Failure> {
    Ok(control(directory)?.map(|control| identity_of(&control)))
}

/// As [`identity`], for a server that is about to recover: refuses a restored directory that lost its backup_label, from
/// which PostgreSQL cannot start.
pub fn identity_for_recovery(directory: &Path) -> Result<Option<ClusterIdentity>, Failure> {
    let Some(control) = control(directory)? else { return Ok(None) };
    if control.is_poisoned() && is_there(&directory.join("backup_label")) == Some(false) {
        let message =
            format!("'{}' was restored from a backup, and its backup_label is gone", directory.display());
        return Err(Failure::new(ErrorCode::CannotTell, message)
            .hint("never remove backup_label: without it PostgreSQL would start from the wrong place")
            .hint("restore again"));
    }
    Ok(Some(identity_of(&control)))
}

/// The size of its WAL segments; `None` where there is no pg_control that can be read.
pub fn segment_size(directory: &Path) -> Option<WalSegmentSize> {
    control(directory).ok().flatten().map(|control| control.wal_segment_size)
}

fn identity_of(control: &ControlFile) -> ClusterIdentity {
    ClusterIdentity { system_id: control.system_id, version: control.version }
}

fn control(directory: &Path) -> Result<Option<ControlFile>, Failure> {
    match read_control(directory) {
        Ok(read) => Ok(Some(read.control)),
        Err(PostgresError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `None`: it cannot be said.
fn is_there(path: &Path) -> Option<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Some(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Some(false),
        Err(_) => None,
    }
}

/// The last `standby_mode` of a recovery.conf counts; what is no boolean keeps PostgreSQL from starting.
fn is_standby_mode(text: &str) -> bool {
    let value = |line: &str| {
        let line = line.trim_start();
        let name = line.get(..STANDBY_MODE.len()).filter(|name| name.eq_ignore_ascii_case(STANDBY_MODE))?;
        let rest = &line[name.len()..];
        if !rest.starts_with(|character: char| character.is_whitespace() || character == '=') {
            return None;
        }
        let rest = rest.trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest).split('#').next().unwrap_or_default().trim();
        let unquoted = rest.strip_prefix('\'').and_then(|rest| rest.split('\'').next());
        Some(is_true(unquoted.unwrap_or(rest)))
    };
    text.lines().rev().find_map(value).unwrap_or(false)
}

const STANDBY_MODE: &str = "standby_mode";

/// PostgreSQL takes every beginning of a word, and `on` in full.
fn is_true(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    !value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value))
        || value == "on"
        || value == "1"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        directory
    }

    fn recovery_with(files: &[(&str, &str)]) -> Recovery {
        recovery(directory(files).path())
    }

    #[test]
    fn signal_files_say_what_postgresql_does_without_a_segment() {
        assert_eq!(recovery_with(&[("PG_VERSION", "15\n")]), Recovery::None);
        assert_eq!(recovery_with(&[(RECOVERY_SIGNAL, "")]), Recovery::Archive);
        assert_eq!(recovery_with(&[(STANDBY_SIGNAL, "")]), Recovery::Standby);
        assert_eq!(recovery_with(&[(RECOVERY_SIGNAL, ""), (STANDBY_SIGNAL, "")]), Recovery::Standby);
    }

    #[test]
    fn before_version_12_recovery_conf_says_it() {
        let with = |text| recovery_with(&[(RECOVERY_CONF, text), (STANDBY_SIGNAL, "")]);
        for standby in [
            "standby_mode = 'on'\n",
            "standby_mode on",
            "STANDBY_MODE='TRUE' # yes",
            "standby_mode=1",
            "  standby_mode = y",
        ] {
            assert_eq!(with(standby), Recovery::Standby, "{standby}");
        }
        for archive in [
            "",
            "restore_command = 'x'\n",
            "#standby_mode = on",
            "standby_mode = 'on'\nstandby_mode = off",
            "standby_mode = o",
            "standby_mode = ''",
            "standby_modeon = on",
        ] {
            assert_eq!(with(archive), Recovery::Archive, "{archive}");
        }
    }

    #[test]
    fn what_cannot_be_read_counts_as_archive_recovery() {
        let unreadable = directory(&[]);
        std::fs::create_dir(unreadable.path().join(RECOVERY_CONF)).unwrap();
        assert_eq!(recovery(unreadable.path()), Recovery::Archive);
    }

    #[test]
    fn the_first_candidate_that_is_a_data_directory_is_taken() {
        let (empty, data) = (directory(&[]), directory(&[("PG_VERSION", "15\n")]));
        let other = directory(&[(RECOVERY_SIGNAL, "")]);
        let candidates = [&empty, &data, &other].map(|directory| directory.path().to_owned());
        assert_eq!(find(candidates).as_deref(), Some(data.path()));
        assert_eq!(find([empty.path().to_owned()]), None);
    }

    #[test]
    fn a_directory_without_pg_control_has_no_identity_and_a_broken_one_is_an_error() {
        let data = directory(&[("PG_VERSION", "15\n")]);
        assert_eq!(identity(data.path()), Ok(None));
        std::fs::create_dir_all(data.path().join("global/pg_control")).unwrap();
        assert!(identity(data.path()).is_err());
    }
}
