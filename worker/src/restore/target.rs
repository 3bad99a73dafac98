//! The data directory that is restored into: may it be, whose is it, and the marker in it.

use super::clean;
use super::error::{Action, RestoreError};
use super::files;
use super::marker::{MARKER, MARKER_NEW, MarkedPlace, Marker};
use super::source::Chosen;
use pgconvoy_core::failure::Failure;
use pgconvoy_postgres::control::existing_postmaster;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is there before anything is done.
#[derive(Debug)]
pub(super) enum State {
    Vacant,
    /// An earlier restore did not come to its end.
    Marked(Marker),
}

#[derive(Debug)]
pub(super) struct Found {
    directory: PathBuf,
    state: State,
}

impl Found {
    pub(super) fn marker(&self) -> Option<&Marker> {
        match &self.state {
            State::Vacant => None,
            State::Marked(marker) => Some(marker),
        }
    }
}

/// A directory that is ours, for as long as the value lives.
#[derive(Debug)]
pub(super) struct Target {
    directory: PathBuf,
    /// Bears the lock; the kernel drops it with the process.
    handle: File,
}

impl Target {
    /// Refuses a directory in use, or with anything in it that no restore left.
    pub(super) fn look(directory: &str) -> Result<Found, Failure> {
        let directory = PathBuf::from(directory);
        existing_postmaster(&directory)?;
        let vacant = |directory| Ok(Found { directory, state: State::Vacant });
        match std::fs::metadata(&directory) {
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && files::look(&directory)?.is_none() =>
            {
                return vacant(directory);
            }
            Err(error) => return Err(RestoreError::file(Action::LookAt, &directory)(error).into()),
            Ok(_) => {}
        }
        if let Some(marker) = Marker::read(&directory)? {
            clean::refuse_a_living_cluster(&directory)?;
            return Ok(Found { directory, state: State::Marked(marker) });
        }
        // A process that died while it wrote its marker had done nothing else.
        let nothing_but = |name: &str| -> Result<bool, RestoreError> {
            let failed = || RestoreError::file(Action::LookAt, &directory);
            let mut names = std::fs::read_dir(&directory).map_err(failed())?;
            names.try_fold(true, |only, entry| {
                let found = entry.map_err(failed())?.file_name();
                Ok(only && (found == name || found == files::LOST_AND_FOUND))
            })
        };
        if nothing_but(MARKER_NEW)? {
            vacant(directory)
        } else {
            Err(RestoreError::NotEmpty { path: directory }.into())
        }
    }

    /// Takes the directory: locked, emptied of what an earlier restore left, and marked as ours.
    pub(super) fn begin(found: Found, chosen: &Chosen) -> Result<Target, Failure> {
        let Found { directory, .. } = &found;
        files::make_directories(directory)?;
        let handle = File::open(directory).map_err(RestoreError::file(Action::Open, directory))?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RestoreError::Busy { path: directory.clone() }.into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(RestoreError::file(Action::Open, directory)(error).into());
            }
        }
        // Choosing a backup took its time: what was seen before it holds only if it is still so.
        let again = Target::look(&directory.to_string_lossy())?;
        if let Some(old) = again.marker() {
            tracing::info!(
                "{} holds an unfinished restore of {}: it is begun anew",
                directory.display(),
                old.label
            );
            clean::clean(directory, old)?;
        }
        marker_of(chosen).write(directory)?;
        Ok(Target { directory: directory.clone(), handle })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// User and group.
    pub(super) fn owner(&self) -> Result<(u32, u32), RestoreError> {
        let metadata = self.handle.metadata().map_err(RestoreError::file(Action::LookAt, &self.directory))?;
        Ok((metadata.uid(), metadata.gid()))
    }

    /// The cluster is whole.
    pub(super) fn end(self) -> Result<(), RestoreError> {
        Marker::remove(&self.directory)
    }
}

fn marker_of(chosen: &Chosen) -> Marker {
    let place = |link: &pgconvoy_core::plan::restore::PlannedLink| MarkedPlace {
        path: link.path.to_string(),
        destination: link.destination.clone(),
    };
    Marker {
        label: chosen.head.label,
        backup: chosen.head.backup,
        repository: chosen.origin.identity(),
        places: chosen.plan.links.iter().map(place).collect(),
    }
}

/// For the message of those who find it.
pub(super) fn is_ours(name: &std::ffi::OsStr) -> bool {
    name == MARKER || name == MARKER_NEW
}
