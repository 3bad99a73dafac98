//! What waits to be archived: PostgreSQL's `archive_status` directory.

use super::spool::trouble;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::wal::DroppedBody;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_core::units::{ByteCount, Timestamp};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const STATUS_DIRECTORY: &str = "archive_status";
const READY: &str = "ready";

/// The files that PostgreSQL holds ready. `None`: there is no such directory (any more).
pub fn waiting(pg_wal: &Path) -> Result<Option<BTreeSet<WalFileName>>, Failure> {
    let directory = pg_wal.join(STATUS_DIRECTORY);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(trouble("read", &directory, &error)),
    };
    let mut waiting = BTreeSet::new();
    for entry in entries {
        let path = PathBuf::from(entry.map_err(|error| trouble("read", &directory, &error))?.file_name());
        if path.extension().is_some_and(|kind| kind == READY) {
            let name = path.file_stem().and_then(|name| name.to_str());
            waiting.extend(name.and_then(|name| name.parse::<WalFileName>().ok()));
        }
    }
    Ok(Some(waiting))
}

/// Whether PostgreSQL waits for this very file.
pub fn is_waiting(path: &Path) -> bool {
    let (Some(pg_wal), Some(name)) = (path.parent(), path.file_name()) else { return false };
    let mut status = pg_wal.join(STATUS_DIRECTORY).join(name).into_os_string();
    status.push(".");
    status.push(READY);
    Path::new(&status).exists()
}

/// Whether so many files are more than may wait. They count as much as one segment each, as the server's disk sees them.
pub fn is_too_much(waiting: usize, segment_bytes: u64, max: ByteCount) -> bool {
    u64::try_from(waiting).unwrap_or(u64::MAX).saturating_mul(segment_bytes) > max.0
}

/// The size of a segment, as the first one shows it; nothing where only small files wait.
pub fn segment_bytes(pg_wal: &Path, waiting: &BTreeSet<WalFileName>) -> u64 {
    let segments = waiting.iter().filter(|file| matches!(file, WalFileName::Segment(_)));
    let mut sizes = segments.filter_map(|file| std::fs::metadata(pg_wal.join(file.to_string())).ok());
    sizes.next().map_or(0, |data| data.len())
}

/// What is kept of a file that was dropped.
pub fn drop_record(file: &WalFileName, max: ByteCount) -> DroppedBody {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    DroppedBody {
        name: file.to_string(),
        dropped: Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        queue_bytes_max: max.0,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
    }
}

/// What is said of a file that was dropped.
pub fn dropped(file: &WalFileName, max: ByteCount) -> String {
    format!("dropped WAL file '{file}' because archive queue exceeded {max}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn ready_files_are_found_and_others_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(waiting(folder.path()), Ok(None));
        let status = folder.path().join(STATUS_DIRECTORY);
        std::fs::create_dir(&status).unwrap();
        let names =
            ["000000010000000000000002.ready", "000000010000000000000001.done", "00000002.history.ready"];
        for name in names.iter().chain(&["000000010000000000000003.partial.ready", "x.ready"]) {
            std::fs::write(status.join(name), "").unwrap();
        }
        let found: Vec<String> =
            waiting(folder.path()).unwrap().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["000000010000000000000002", "000000010000000000000003.partial", "00000002.history"]
        );
        assert!(is_waiting(&folder.path().join("000000010000000000000002")));
        assert!(!is_waiting(&folder.path().join("000000010000000000000001")));
    }

    #[test]
    fn so_much_may_wait_and_not_a_byte_more() {
        assert!(!is_too_much(2, 16, ByteCount(32)));
        assert!(is_too_much(3, 16, ByteCount(32)));
        assert!(is_too_much(usize::MAX, u64::MAX, ByteCount(32)));
    }
}
