//! Reads `global/pg_control`, `PG_VERSION` and `postmaster.pid` of a data directory. Blocks.

use crate::PostgresError;
use pgconvoy_core::pg::control::CONTROL_FILE_SIZE;
use pgconvoy_core::pg::{ControlFile, PgVersion, PostmasterPid};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// PostgreSQL overwrites pg_control in place, so a read may see half of a write. A write takes microseconds: a file that is
/// still wrong after a second is broken.
const CONTROL_READS_MAX: usize = 50;
const CONTROL_READ_PAUSE: Duration = Duration::from_millis(20);
/// PG_VERSION has a few characters, postmaster.pid eight short lines; more is something else.
const TEXT_BYTES_MAX: u64 = 16 << 10;

/// A pg_control whose checksum holds, with the bytes that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRead {
    pub control: ControlFile,
    pub bytes: Vec<u8>,
}

/// Reads until the checksum holds, for about a second.
pub fn read_control(directory: &Path) -> Result<ControlRead, PostgresError> {
    let path = directory.join("global").join("pg_control");
    let mut reason = String::new();
    for read in 0..CONTROL_READS_MAX {
        if read > 0 {
            std::thread::sleep(CONTROL_READ_PAUSE);
        }
        let bytes = read_limited(&path, CONTROL_FILE_SIZE as u64)?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok(ControlRead { control, bytes }),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(PostgresError::FileInvalid { path, reason })
}

pub fn read_version(directory: &Path) -> Result<PgVersion, PostgresError> {
    let path = directory.join("PG_VERSION");
    Ok(PgVersion::from_version_file(&read_text(&path)?)?)
}

/// `None` where there is no postmaster.pid.
pub fn read_postmaster_pid(directory: &Path) -> Result<Option<PostmasterPid>, PostgresError> {
    let path = pid_file(directory);
    match read_text(&path) {
        Ok(text) => PostmasterPid::parse(&text)
            .map(Some)
            .map_err(|error| PostgresError::FileInvalid { path, reason: error.to_string() }),
        Err(PostgresError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses a directory on which PostgreSQL runs. The file alone decides: whether its process lives cannot be seen from
/// another container or host, and to take a living one for dead costs the cluster.
pub fn existing_postmaster(directory: &Path) -> Result<(), PostgresError> {
    let path = pid_file(directory);
    match std::fs::symlink_metadata(&path) {
        Ok(_) => Err(PostgresError::Running { directory: directory.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PostgresError::file("look for", path, error)),
    }
}

fn pid_file(directory: &Path) -> PathBuf {
    directory.join("postmaster.pid")
}

fn read_text(path: &Path) -> Result<String, PostgresError> {
    let bytes = read_limited(path, TEXT_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|_| PostgresError::FileInvalid {
        path: path.to_owned(),
        reason: "it is not UTF-8".to_owned(),
    })
}

/// At most `limit` bytes from the beginning.
fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, PostgresError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => PostgresError::Missing { path: path.to_owned() },
        _ => PostgresError::file("read", path, error),
    })
}
