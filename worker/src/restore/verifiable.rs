//! PostgreSQL's own `backup_manifest`, of the files as they lie in the target, so that `pg_verifybackup` can judge the
//! restore before the first start.

use super::control::Control;
use super::error::{Action, RestoreError};
use super::files;
use super::owners::Owners;
use super::places::Places;
use super::source::Chosen;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::manifest::ManifestHead;
use pgconvoy_core::pg::backup_manifest::{ManifestFile, WalRange, write_backup_manifest};

const BACKUP_MANIFEST: &str = "backup_manifest";

/// A file that no manifest of ours lists, or that is not what it lists any more.
#[derive(Debug)]
pub(super) struct OwnFile {
    name: &'static str,
    size: u64,
    crc: u32,
}

impl OwnFile {
    pub(super) fn new(name: &'static str, bytes: &[u8]) -> Self {
        OwnFile { name, size: bytes.len() as u64, crc: crc32c::crc32c(bytes) }
    }
}

pub(super) fn check_version(head: &ManifestHead) -> Result<(), Failure> {
    if head.version.has_backup_manifest() {
        return Ok(());
    }
    let message = format!("PostgreSQL {} knows no {BACKUP_MANIFEST}", head.version);
    Err(Failure::new(ErrorCode::NotSupported, message).hint("leave --backup-manifest out: it came with 13"))
}

/// `crcs` has one entry per file of the plan.
pub(super) fn write(
    chosen: &Chosen,
    crcs: &[Option<u32>],
    control: &Control,
    own: &[OwnFile],
    places: &Places,
    owners: &Owners,
) -> Result<(), Failure> {
    let (head, plan) = (&chosen.head, &chosen.plan);
    let wal = format!("{}/", head.version.wal_directory());
    let listed = plan.files.iter().enumerate().filter_map(|(index, file)| {
        let path = file.path.as_str();
        // PostgreSQL leaves WAL out of it, as it is checked by being replayed.
        if path.starts_with(&wal) || own.iter().any(|own| own.name == path) {
            return None;
        }
        let crc = match index == plan.control {
            true => Some(crc32c::crc32c(&control.bytes)),
            // The CRC of nothing, for files without parts.
            false => crcs.get(index).copied().flatten().or(Some(0)),
        };
        Some(ManifestFile { path, size_bytes: file.size, modified: file.modified, crc32c: crc })
    });
    let modified = head.stopped.seconds();
    let own = own.iter().map(|own| ManifestFile {
        path: own.name,
        size_bytes: own.size,
        modified,
        crc32c: Some(own.crc),
    });
    let range = match (head.lsn_start, head.lsn_stop) {
        (Some(start), Some(end)) => vec![WalRange { timeline: head.timeline, start, end }],
        _ => Vec::new(),
    };
    let mut text = String::new();
    write_backup_manifest(&mut text, head.version, chosen.record.system_id, listed.chain(own), &range)?;
    let path = places.target().join(BACKUP_MANIFEST);
    let file = files::replace(&path, text.as_bytes())?;
    owners.give(&file, &path, owners.own(), None)?;
    file.sync_all().map_err(RestoreError::file(Action::Sync, &path))?;
    Ok(())
}
