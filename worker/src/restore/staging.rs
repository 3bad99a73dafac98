//! Where mates put the files of their shares until the main worker gives them their names.
//!
//! Beside the files that they will be, since a rename does not leave its filesystem: in the target, and behind each link to a
//! directory. The main worker makes a directory for each beginning of each mate, under a random name; a mate makes files in it and
//! nothing else.
//!
//! Invariant: once a staging place is removed, whoever had it can write to nothing that has a name: what it has open is
//! unlinked, and what it wants to open is not there.

use super::error::{Action, RestoreError};
use super::files;
use super::places::Places;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::Identity;
use pgconvoy_core::plan::restore::{PlannedFile, RestorePlan};
use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub(super) const STAGING: &str = "pgconvoy.restore.d";
/// What is being removed: nobody knows a path that leads into it.
const REMOVED: &str = "pgconvoy.restore.gone";
/// A call that was under way when the name went may still make a file: at most one per slot of its worker.
const REMOVALS_MAX: usize = 100;

/// The directories that staging places are made in.
pub(super) fn roots(plan: &RestorePlan, places: &Places) -> Vec<PathBuf> {
    let files: BTreeSet<&str> = match plan.links.is_empty() {
        true => BTreeSet::new(),
        false => plan.files.iter().map(|file| file.path.as_str()).collect(),
    };
    let behind = places.destinations().filter(|(path, _)| !files.contains(path));
    let behind = behind.map(|(_, destination)| destination.to_owned());
    std::iter::once(places.target().to_owned()).chain(behind).collect()
}

pub(super) fn path(places: &Places, staging: Identity, number: u32, file: &PlannedFile) -> PathBuf {
    let root = places.root_of(&file.path);
    root.join(STAGING).join(staging.to_string()).join(number.to_string())
}

/// By the main worker.
pub(super) fn make(roots: &[PathBuf], staging: Identity) -> Result<(), RestoreError> {
    for root in roots {
        let above = root.join(STAGING);
        if files::look(&above)?.is_none() {
            create(&above)?;
        }
        create(&above.join(staging.to_string()))?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<(), RestoreError> {
    let made = DirBuilder::new().mode(files::PRIVATE_DIRECTORY).create(path);
    made.map_err(RestoreError::file(Action::CreateDirectory, path))
}

/// By a mate: what the main worker made is seen from here, in every place.
pub(super) fn find(roots: &[PathBuf], staging: Identity) -> Result<(), Failure> {
    for root in roots {
        let path = root.join(STAGING).join(staging.to_string());
        match std::fs::read_dir(&path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                let message = format!("{} has files in it already", path.display());
                return Err(Failure::new(ErrorCode::PathNotEmpty, message));
            }
            Err(error) => {
                let failure = Failure::from(RestoreError::file(Action::LookAt, &path)(error));
                let hint =
                    format!("{} must be the same directory on all hosts of the restore", root.display());
                return Err(failure.context("the main worker's target is not seen from here").hint(hint));
            }
        }
    }
    Ok(())
}

/// One mate's.
pub(super) fn remove(roots: &[PathBuf], staging: Identity) -> Result<(), RestoreError> {
    roots.iter().try_for_each(|root| remove_in(root, &root.join(STAGING).join(staging.to_string())))
}

/// All of them, also those that an earlier restore left.
pub(super) fn remove_all(root: &Path) -> Result<(), RestoreError> {
    remove_in(root, &root.join(STAGING))
}

/// Its name goes first, and with it every path that leads into it.
fn remove_in(root: &Path, path: &Path) -> Result<(), RestoreError> {
    let gone = root.join(REMOVED);
    empty_out(&gone)?;
    match std::fs::rename(path, &gone) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        renamed => renamed.map_err(RestoreError::file(Action::Rename, path))?,
    }
    empty_out(&gone)
}

fn empty_out(gone: &Path) -> Result<(), RestoreError> {
    let mut removed = std::fs::remove_dir_all(gone);
    for _ in 0..REMOVALS_MAX {
        match &removed {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                removed = std::fs::remove_dir_all(gone);
            }
            _ => break,
        }
    }
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(RestoreError::file(Action::Remove, gone)(error))
        }
        _ => Ok(()),
    }
}

/// Every file of a share, with where it was staged and where it belongs. None is touched unless all are there.
pub(super) fn check<'a>(files: impl Iterator<Item = (PathBuf, &'a PlannedFile)>) -> Result<(), RestoreError> {
    for (path, planned) in files {
        let metadata = std::fs::symlink_metadata(&path).map_err(RestoreError::file(Action::LookAt, &path))?;
        if !metadata.is_file() || metadata.len() != planned.size {
            return Err(RestoreError::Staged { path, size: metadata.len(), planned: planned.size });
        }
    }
    Ok(())
}
