//! Small deeds on files and directories, each with the error that names it.

use super::error::{Action, RestoreError};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

pub(super) const PRIVATE_DIRECTORY: u32 = 0o700;
/// Those above the one that was asked for: whoever runs PostgreSQL must get through.
const COMMON_DIRECTORY: u32 = 0o755;
const PRIVATE_FILE: u32 = 0o600;
/// What a filesystem puts at its own top.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// Writes a small file and syncs it; its directory is the caller's to sync.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<File, RestoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(PRIVATE_FILE);
    let mut file = options.open(path).map_err(RestoreError::file(Action::Create, path))?;
    file.write_all(bytes).map_err(RestoreError::file(Action::Write, path))?;
    file.sync_all().map_err(RestoreError::file(Action::Sync, path))?;
    Ok(file)
}

/// A file that must not be there yet, whatever else is under its name.
pub(super) fn create(path: &Path) -> Result<File, RestoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(PRIVATE_FILE);
    options.open(path).map_err(RestoreError::file(Action::Create, path))
}

/// A file that is there.
pub(super) fn open(path: &Path) -> Result<File, RestoreError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(RestoreError::file(Action::Open, path))
}

pub(super) fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    let directory = File::open(path).map_err(RestoreError::file(Action::Open, path))?;
    directory.sync_all().map_err(RestoreError::file(Action::Sync, path))
}

/// Makes a directory and those above it that are missing, durably.
pub(super) fn make_directories(path: &Path) -> Result<(), RestoreError> {
    make(path, PRIVATE_DIRECTORY)
}

fn make(path: &Path, mode: u32) -> Result<(), RestoreError> {
    match (DirBuilder::new().mode(mode).create(path), path.parent()) {
        (Ok(()), above) => above.map_or(Ok(()), sync_directory),
        (Err(error), _) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        (Err(error), Some(above)) if error.kind() == ErrorKind::NotFound => {
            make(above, COMMON_DIRECTORY)?;
            make(path, mode)
        }
        (Err(error), _) => Err(RestoreError::file(Action::CreateDirectory, path)(error)),
    }
}

/// Whether something is in it, apart from what a filesystem puts there.
pub(super) fn is_empty(directory: &Path) -> Result<bool, RestoreError> {
    let failed = || RestoreError::file(Action::LookAt, directory);
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        if entry.map_err(failed())?.file_name() != LOST_AND_FOUND {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `None`: there is nothing of that name. A link is looked at, not followed.
pub(super) fn look(path: &Path) -> Result<Option<std::fs::Metadata>, RestoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RestoreError::file(Action::LookAt, path)(error)),
    }
}

/// Removing what is not there is success.
pub(super) fn remove_file(path: &Path) -> Result<(), RestoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(RestoreError::file(Action::Remove, path)(error))
        }
        _ => Ok(()),
    }
}
