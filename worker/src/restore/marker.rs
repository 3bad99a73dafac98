//! The file that says: a restore was begun here and is not whole yet.
//!
//! It lists the places outside of the target that the restore may fill, which were empty or absent when it was written: only
//! these may be emptied by the next one. JSON, because somebody may have to read it at night.

use super::error::{Action, RestoreError};
use super::files;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::Identity;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;

pub(super) const MARKER: &str = "pgconvoy.restore";
/// Written first, renamed when it is whole.
pub(super) const MARKER_NEW: &str = "pgconvoy.restore.new";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Marker {
    pub(super) label: BackupLabel,
    pub(super) backup: Identity,
    /// Where it is restored from.
    pub(super) repository: Identity,
    pub(super) places: Vec<MarkedPlace>,
}

/// A link of the target and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MarkedPlace {
    pub(super) path: String,
    pub(super) destination: String,
}

impl Marker {
    pub(super) fn read(directory: &Path) -> Result<Option<Marker>, Failure> {
        let path = directory.join(MARKER);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RestoreError::file(Action::Read, &path)(error).into()),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::new(
                ErrorCode::PathNotEmpty,
                format!("{} is no marker of a restore: {error}", path.display()),
            )
            .hint("empty the directory if nothing in it is needed any more, or restore to another place")
        })
    }

    /// Durable when this returns.
    pub(super) fn write(&self, directory: &Path) -> Result<(), RestoreError> {
        let new = directory.join(MARKER_NEW);
        let text = serde_json::to_vec_pretty(self).expect("texts and identities always serialise");
        files::replace(&new, &text)?;
        std::fs::rename(&new, directory.join(MARKER)).map_err(RestoreError::file(Action::Rename, &new))?;
        files::sync_directory(directory)
    }

    pub(super) fn remove(directory: &Path) -> Result<(), RestoreError> {
        let path = directory.join(MARKER);
        std::fs::remove_file(&path).map_err(RestoreError::file(Action::Remove, &path))?;
        files::sync_directory(directory)
    }
}
