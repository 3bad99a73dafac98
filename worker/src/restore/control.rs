//! pg_control, the file without which nothing starts: checked, poisoned where the backup must be recovered by its
//! backup_label, and given its name when everything else is on disk.

use super::error::{Action, RestoreError};
use super::files;
use super::places::Places;
use super::source::Chosen;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::pg::ControlFile;
use pgconvoy_core::pg::control::poison_checkpoint;

/// The bytes as they will be.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) bytes: Vec<u8>,
}

pub(super) fn read(chosen: &Chosen, places: &Places) -> Result<Control, Failure> {
    let path = places.control_new();
    let mut bytes = std::fs::read(&path).map_err(RestoreError::file(Action::Read, &path))?;
    let unusable = |reason: String| RestoreError::Control { reason };
    let control = ControlFile::parse(&bytes).map_err(|error| unusable(error.to_string()))?;
    if control.system_id != chosen.record.system_id {
        let reason =
            format!("it is of system {}, the backup of {}", control.system_id, chosen.record.system_id);
        return Err(unusable(reason).into());
    }
    // Without the label's help PostgreSQL must not find a checkpoint; where there is no label, it must.
    if chosen.head.backup_label.is_some() {
        poison_checkpoint(&mut bytes).map_err(|error| unusable(error.to_string()))?;
    }
    Ok(Control { bytes })
}

pub(super) fn put_in_place(control: &Control, places: &Places) -> Result<(), RestoreError> {
    let (new, path) = (places.control_new(), places.control());
    files::replace(&new, &control.bytes)?;
    std::fs::rename(&new, &path).map_err(RestoreError::file(Action::Rename, &path))?;
    files::sync_directory(path.parent().unwrap_or(places.target()))?;
    files::sync_directory(places.target())
}
