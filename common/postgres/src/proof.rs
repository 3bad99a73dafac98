//! Proves that a directory is the live data directory of the connected server. Blocks.
//!
//! A snapshot, a copy, or a mount of yesterday's looks exactly like a cluster, and an online backup read from it would
//! restore to garbage. So, *after* the backup session started:
//! 1. `postmaster.pid` there names this directory (by device and inode, not by text), the server's port and its start;
//! 2. the server itself says that this is its directory;
//! 3. `pg_control` there, read now, has the server's system identifier and a checkpoint at or past the backup's start,
//!    which the start itself has just written.
//!
//! Files may be opened only after that.

use crate::PostgresError;
use crate::catalog::Tablespace;
use crate::control::{read_control, read_postmaster_pid};
use crate::roots::{FileId, Roots};
use crate::settings::Settings;
use pgconvoy_core::pg::{Lsn, PostmasterPid};
use std::path::Path;

/// postmaster.pid has the start of the process; the server tells when it had its memory and sockets, which with huge
/// pages and a slow name service is later, never earlier (but for the second that rounding costs).
const START_LATER_MAX_S: i64 = 300;
const START_EARLIER_MAX_S: i64 = 1;

/// The roots of a directory that is proved live.
pub fn prove_live(
    directory: &Path,
    server: &Settings,
    start_lsn: Lsn,
    tablespaces: &[Tablespace],
) -> Result<Roots, PostgresError> {
    let not_live = |reason: String| PostgresError::NotLive {
        directory: directory.to_owned(),
        place: server.place.clone(),
        reason,
    };
    let pid =
        read_postmaster_pid(directory)?.ok_or_else(|| not_live("there is no postmaster.pid".to_owned()))?;
    check_postmaster(&pid, server).map_err(not_live)?;
    let id = identify(directory)?;
    for (whose, path) in
        [("postmaster.pid", Path::new(&pid.data_directory)), ("the server", &server.data_directory)]
    {
        if identify(path).ok() != Some(id) {
            return Err(not_live(format!("{whose} names '{}', which is another one", path.display())));
        }
    }
    let control = read_control(directory)?.control;
    if control.system_id != server.system_id {
        return Err(PostgresError::SystemMismatch {
            directory: directory.to_owned(),
            place: server.place.clone(),
            found: control.system_id,
            expected: server.system_id,
        });
    }
    if control.checkpoint < start_lsn {
        let reason = format!(
            "its last checkpoint {} is before the start of the backup at {start_lsn}",
            control.checkpoint
        );
        return Err(not_live(reason));
    }
    Roots::record(directory, server.version, tablespaces)
}

fn check_postmaster(pid: &PostmasterPid, server: &Settings) -> Result<(), String> {
    if pid.standalone {
        return Err("its postmaster.pid is a single-user backend's".to_owned());
    }
    if pid.port != Some(server.port) {
        let found = pid.port.map_or_else(|| "no port".to_owned(), |port| format!("port {port}"));
        return Err(format!("its postmaster.pid has {found}, the server has port {}", server.port));
    }
    let later_s = server.postmaster_start.seconds().saturating_sub(pid.start_time);
    if !(-START_EARLIER_MAX_S..=START_LATER_MAX_S).contains(&later_s) {
        return Err(format!("its postmaster started {later_s} s before the server did"));
    }
    Ok(())
}

fn identify(path: &Path) -> Result<FileId, PostgresError> {
    std::fs::metadata(path)
        .map(|metadata| FileId::of(&metadata))
        .map_err(|error| PostgresError::file("look at", path, error))
}
