//! Empties what an unfinished restore or an old cluster left, in an order in which it is at no moment a cluster that starts.
//!
//! Only the target itself and the places that its marker lists are touched, and of these only the ones that the target's
//! own links still lead to: they were empty when the marker was written. Staging places go by their own way: a mate of the
//! unfinished restore may still write there.

use super::error::{Action, RestoreError};
use super::files::{self, LOST_AND_FOUND};
use super::marker::{MarkedPlace, Marker};
use super::recovery::SETTINGS;
use super::staging;
use super::target::is_ours;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::pg::ControlFile;
use pgconvoy_core::plan::restore::CONTROL_PATH;
use std::path::Path;

/// What makes PostgreSQL recover in one way or another, or refuse to.
const AFTER_CONTROL: [&str; 5] =
    ["backup_label", "tablespace_map", "recovery.signal", "standby.signal", "recovery.conf"];
/// One of the two, by version.
const WAL_DIRECTORIES: [&str; 2] = ["pg_wal", "pg_xlog"];

/// The marker goes after pg_control came. Where both are there, the restore was whole, and only while pg_control is as the
/// restore wrote it, poisoned, has nobody used the cluster since.
pub(super) fn refuse_a_living_cluster(directory: &Path) -> Result<(), Failure> {
    let path = directory.join(CONTROL_PATH);
    if files::look(&path)?.is_none() {
        return Ok(());
    }
    let bytes = std::fs::read(&path).map_err(RestoreError::file(Action::Read, &path))?;
    match ControlFile::parse(&bytes) {
        Ok(control) if control.is_poisoned() => Ok(()),
        _ => Err(RestoreError::Alive { path: directory.to_owned() }.into()),
    }
}

/// What lies there starts no more; what else it holds stays.
pub(super) fn disarm(target: &Path, preserves_settings: bool) -> Result<(), RestoreError> {
    remove_what_recovery_begins_with(target, preserves_settings)?;
    for name in WAL_DIRECTORIES {
        // Through a link too: a server would replay what it finds there.
        let directory = target.join(name);
        if directory.is_dir() {
            empty(&directory, |name| name == LOST_AND_FOUND)?;
            files::sync_directory(&directory)?;
        }
    }
    Ok(())
}

pub(super) fn clean(target: &Path, marker: &Marker) -> Result<(), RestoreError> {
    remove_what_recovery_begins_with(target, false)?;
    let (wal, others): (Vec<&MarkedPlace>, Vec<&MarkedPlace>) =
        marker.places.iter().partition(|place| WAL_DIRECTORIES.contains(&place.path.as_str()));
    for place in wal.into_iter().chain(others) {
        clean_place(target, place)?;
    }
    staging::remove_all(target)?;
    empty(target, is_ours)?;
    files::sync_directory(target)
}

/// pg_control before all else.
fn remove_what_recovery_begins_with(target: &Path, preserves_settings: bool) -> Result<(), RestoreError> {
    let control = target.join(CONTROL_PATH);
    if files::look(&control)?.is_some() {
        files::remove_file(&control)?;
        files::sync_directory(&target.join("global"))?;
    }
    let stays = |name: &&&str| !(preserves_settings && SETTINGS.contains(*name));
    for name in AFTER_CONTROL.iter().filter(stays) {
        files::remove_file(&target.join(name))?;
    }
    files::sync_directory(target)
}

/// Links lead away from the target: what they lead to goes before them, or nobody would know any more whose it was.
fn clean_place(target: &Path, place: &MarkedPlace) -> Result<(), RestoreError> {
    let link = target.join(&place.path);
    if !leads_to(&link, &place.destination) {
        return Ok(());
    }
    let destination = Path::new(&place.destination);
    match files::look(destination)? {
        Some(metadata) if metadata.is_dir() => {
            staging::remove_all(destination)?;
            empty(destination, |name| name == LOST_AND_FOUND)?;
            files::sync_directory(destination)
        }
        Some(metadata) if metadata.is_file() => files::remove_file(destination),
        _ => Ok(()),
    }
}

pub(super) fn leads_to(link: &Path, destination: &str) -> bool {
    std::fs::read_link(link).is_ok_and(|found| found == Path::new(destination))
}

/// Removes what is in a directory; links themselves, never what they lead to.
fn empty(directory: &Path, keep: impl Fn(&std::ffi::OsStr) -> bool) -> Result<(), RestoreError> {
    let failed = || RestoreError::file(Action::LookAt, directory);
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if keep(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type().map_err(failed())?.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        removed.map_err(RestoreError::file(Action::Remove, &path))?;
    }
    Ok(())
}
