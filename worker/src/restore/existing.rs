//! What the target holds already, and what becomes of it: some of it may be what the backup holds.
//!
//! Invariants
//! 1. Before anything else is touched, what lies there is no cluster any more that could start.
//! 2. Nothing is removed behind a link unless the target's own link led there, and to where the plan's link leads.
//! 3. A file that stays is a plain file with one name: what is written to it changes nothing else.

use super::clean::leads_to;
use super::error::{Action, RestoreError};
use super::files::{self, LOST_AND_FOUND};
use super::places::Places;
use super::target::is_ours;
use super::{recovery, staging};
use pgconvoy_core::plan::restore::{PlannedFile, RestorePlan};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirEntry, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What may be in the target before a restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Existing {
    /// Nothing, or what an earlier restore left.
    #[default]
    Refused,
    /// A cluster, of which nothing stays.
    Replaced,
    /// A cluster, of which every block stays that the backup has too.
    Compared,
    /// The same; files of the backup's size and time are taken for the backup's without a look into them.
    Believed,
}

impl Existing {
    pub(super) fn may_be_a_cluster(self) -> bool {
        self != Existing::Refused
    }

    pub(super) fn keeps_files(self) -> bool {
        matches!(self, Existing::Compared | Existing::Believed)
    }
}

/// How a restore stands to what the target holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    pub(super) existing: Existing,
    /// What PostgreSQL is told of recovery stays as it is there.
    pub(super) preserves_settings: bool,
}

/// Removes everything that the plan does not put there. What stays is compared when its share is done.
pub(super) fn prune(plan: &RestorePlan, places: &Places, standing: Standing) -> Result<(), RestoreError> {
    let wanted = Wanted::new(plan, standing);
    staging::remove_all(places.target())?;
    prune_directory(&wanted, places.target(), "")?;
    files::sync_directory(places.target())
}

/// Paths of the plan, by what is to be there.
struct Wanted<'a> {
    directories: BTreeSet<&'a str>,
    links: BTreeMap<&'a str, &'a str>,
    /// Those that may stay if they are there.
    files: BTreeSet<&'a str>,
    preserves_settings: bool,
}

impl<'a> Wanted<'a> {
    fn new(plan: &'a RestorePlan, Standing { existing, preserves_settings }: Standing) -> Self {
        let mut covered = vec![0u64; plan.files.len()];
        for part in plan.packs.iter().flat_map(|pack| &pack.parts) {
            covered[part.file as usize] += part.length;
        }
        // What no part covers must be zeros, so it cannot stay; nor can pg_control, which comes last and under another name.
        let may_stay = |(number, file): (usize, &'a PlannedFile)| {
            let is_whole = file.parts > 0 && covered[number] == file.size;
            (existing.keeps_files() && is_whole && number != plan.control).then_some(file.path.as_str())
        };
        Wanted {
            directories: plan.directories.iter().map(|directory| directory.path.as_str()).collect(),
            links: plan.links.iter().map(|link| (link.path.as_str(), link.destination.as_str())).collect(),
            files: plan.files.iter().enumerate().filter_map(may_stay).collect(),
            preserves_settings,
        }
    }

    fn keeps_apart_from_the_plan(&self, path: &str) -> bool {
        is_ours(path.as_ref()) || self.preserves_settings && recovery::SETTINGS.contains(&path)
    }
}

fn prune_directory(wanted: &Wanted<'_>, directory: &Path, path: &str) -> Result<(), RestoreError> {
    let failed = || RestoreError::file(Action::LookAt, directory);
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.file_name() == LOST_AND_FOUND {
            continue;
        }
        let name = entry.file_name();
        let below = match (name.to_str(), path) {
            // PostgreSQL has no such names.
            (None, _) => {
                remove(&entry.path(), &look(&entry)?)?;
                continue;
            }
            (Some(name), "") => name.to_owned(),
            (Some(name), path) => format!("{path}/{name}"),
        };
        prune_entry(wanted, &entry, &below)?;
    }
    Ok(())
}

fn prune_entry(wanted: &Wanted<'_>, entry: &DirEntry, path: &str) -> Result<(), RestoreError> {
    let (place, found) = (entry.path(), look(entry)?);
    if wanted.keeps_apart_from_the_plan(path) && found.is_file() {
        return Ok(());
    }
    if let Some(destination) = wanted.links.get(path) {
        if !leads_to(&place, destination) {
            return remove(&place, &found);
        }
        let behind = Path::new(destination);
        return match files::look(behind)? {
            Some(metadata) if metadata.is_dir() => {
                staging::remove_all(behind)?;
                prune_directory(wanted, behind, path)
            }
            Some(metadata) if !(wanted.files.contains(path) && is_plain(&metadata)) => {
                remove(behind, &metadata)
            }
            _ => Ok(()),
        };
    }
    if wanted.directories.contains(path) && found.is_dir() {
        return prune_directory(wanted, &place, path);
    }
    if wanted.files.contains(path) && is_plain(&found) {
        return Ok(());
    }
    if found.is_symlink() {
        tracing::warn!("link {} is removed; what it led to stays", place.display());
    }
    remove(&place, &found)
}

fn look(entry: &DirEntry) -> Result<Metadata, RestoreError> {
    std::fs::symlink_metadata(entry.path()).map_err(RestoreError::file(Action::LookAt, &entry.path()))
}

/// A hard link elsewhere may be another cluster's, as pg_upgrade leaves them.
fn is_plain(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink() == 1
}

fn remove(place: &Path, found: &Metadata) -> Result<(), RestoreError> {
    let removed = if found.is_dir() { std::fs::remove_dir_all(place) } else { std::fs::remove_file(place) };
    removed.map_err(RestoreError::file(Action::Remove, place))
}

/// A file to be filled: what stayed of it, at the planned length, or a new one.
pub(super) fn open(path: &Path, size: u64, standing: Standing) -> Result<File, RestoreError> {
    if standing.existing.keeps_files() && files::look(path)?.is_some() {
        let file = files::open(path)?;
        set_length(&file, path, size)?;
        return Ok(file);
    }
    files::create(path)
}

/// Leaves a file of that length alone: its time may be what it is known by.
pub(super) fn set_length(file: &File, path: &Path, size: u64) -> Result<(), RestoreError> {
    let found = file.metadata().map_err(RestoreError::file(Action::LookAt, path))?.len();
    match found == size {
        true => Ok(()),
        false => file.set_len(size).map_err(RestoreError::file(Action::Write, path)),
    }
}

/// Whether a file that stayed is taken for the backup's without a look into it. `began`: when the backup did, in seconds.
pub(super) fn is_believed(
    path: &Path,
    planned: &PlannedFile,
    began: i64,
    standing: Standing,
) -> Result<bool, RestoreError> {
    let is_preserved = standing.preserves_settings && recovery::SETTINGS.contains(&planned.path.as_str());
    if standing.existing != Existing::Believed && !is_preserved {
        return Ok(false);
    }
    let Some(found) = files::look(path)? else { return Ok(false) };
    let is_alike = found.len() == planned.size && found.mtime() == planned.modified;
    // What changed in the second in which the backup began may have changed after it was read.
    Ok(is_preserved || is_alike && planned.modified < began)
}
