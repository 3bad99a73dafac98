//! The data directory that is restored into: may it be, whose is it, and the marker in it.

use super::clean;
use super::error::{Action, RestoreError};
use super::existing::{Existing, Standing};
use super::files;
use super::marker::{MARKER, MARKER_NEW, MarkedPlace, Marker};
use super::source::Chosen;
use pgconvoy_core::failure::Failure;
use pgconvoy_postgres::control::existing_postmaster;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every cluster has it.
const VERSION_FILE: &str = "PG_VERSION";

/// What is there before anything is done.
#[derive(Debug)]
pub(super) enum State {
    Vacant,
    /// An earlier restore did not come to its end.
    Marked(Marker),
    /// A cluster that may be restored over.
    Cluster,
}

#[derive(Debug)]
pub(super) struct Found {
    directory: PathBuf,
    state: State,
}

impl Found {
    pub(super) fn marker(&self) -> Option<&Marker> {
        match &self.state {
            State::Vacant | State::Cluster => None,
            State::Marked(marker) => Some(marker),
        }
    }

    /// Whether what the target's own links lead to may be used by the restore.
    pub(super) fn may_go_through_links(&self) -> bool {
        matches!(self.state, State::Cluster)
    }
}

/// A directory that is ours, for as long as the value lives.
#[derive(Debug)]
pub(super) struct Target {
    directory: PathBuf,
    /// Bears the lock; the kernel drops it with the process.
    handle: File,
    standing: Standing,
}

impl Target {
    /// Refuses a directory in use, or with anything in it that no restore left, unless that is a cluster and may be there.
    pub(super) fn look(directory: &str, existing: Existing) -> Result<Found, Failure> {
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
            if !existing.may_be_a_cluster() {
                clean::refuse_a_living_cluster(&directory)?;
            }
            return Ok(Found { directory, state: State::Marked(marker) });
        }
        if existing.may_be_a_cluster() && files::look(&directory.join(VERSION_FILE))?.is_some() {
            return Ok(Found { directory, state: State::Cluster });
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
    pub(super) fn begin(found: Found, chosen: &Chosen, wanted: Standing) -> Result<Target, Failure> {
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
        let Standing { existing, preserves_settings } = wanted;
        let again = Target::look(&directory.to_string_lossy(), existing)?;
        let is_cluster = match &again.state {
            State::Vacant => false,
            State::Cluster => true,
            State::Marked(old) => goes_on(old, chosen, existing, directory)?,
        };
        if is_cluster {
            clean::disarm(directory, preserves_settings)?;
        }
        marker_of(chosen).write(directory)?;
        // Of an unfinished restore of the same backup, whatever the options, each block is compared.
        let existing = match (is_cluster, existing) {
            (false, _) => Existing::Refused,
            (true, Existing::Refused) => Existing::Compared,
            (true, existing) => existing,
        };
        let standing = Standing { existing, preserves_settings };
        Ok(Target { directory: directory.clone(), handle, standing })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What is there to be restored over, and how; `Refused`: nothing.
    pub(super) fn standing(&self) -> Standing {
        self.standing
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

/// What becomes of an unfinished restore: this one goes on with it, or it is removed.
fn goes_on(
    old: &Marker,
    chosen: &Chosen,
    existing: Existing,
    directory: &Path,
) -> Result<bool, RestoreError> {
    let is_the_same = old.backup == chosen.head.backup && old.places == marker_of(chosen).places;
    let (place, label) = (directory.display(), old.label);
    if is_the_same || existing.may_be_a_cluster() {
        tracing::info!("{place} holds an unfinished restore of {label}: this one goes on with it");
        return Ok(true);
    }
    tracing::info!("{place} holds an unfinished restore of {label}: it is removed");
    clean::clean(directory, old)?;
    Ok(false)
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
