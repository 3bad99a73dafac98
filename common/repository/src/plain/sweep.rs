//! Removes what no backup needs: files of attempts, and data directories of backups that are none.

use super::{PlainFiles, blocking};
use crate::error::RepositoryError;
use crate::open::Repository;
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::IoAction;
use std::io::ErrorKind;

impl Repository {
    /// All files under a label, whether it was published or not. They go before its objects, which are listed to be deleted: among
    /// files there are links, which no listing takes.
    pub async fn remove_files(&self, stanza: &StanzaName, label: BackupLabel) -> Result<(), RepositoryError> {
        let Some(files) = self.plain().cloned() else { return Ok(()) };
        let names = [layout::partial(stanza, label), layout::data(stanza, label)];
        blocking("removing files", move || names.iter().try_for_each(|name| files.remove(name))).await
    }

    /// What attempts at backups have left whose labels are decided, this one's among them.
    pub(crate) async fn remove_attempts(&self, stanza: &StanzaName) -> Result<(), RepositoryError> {
        let Some(files) = self.plain().cloned() else { return Ok(()) };
        let (looking, backups) = (files.clone(), layout::backups(stanza));
        let found = blocking("looking for files", move || looking.partial_labels(&backups)).await?;
        for label in found {
            match self.catalogue_entry(stanza, label).await {
                Ok(Some(CatalogueBody::Published(_) | CatalogueBody::Void(_))) => {}
                _ => continue,
            }
            let (files, name) = (files.clone(), layout::partial(stanza, label));
            blocking("removing files", move || files.remove(&name)).await?;
        }
        Ok(())
    }
}

impl PlainFiles {
    /// Links are removed, never what they lead to.
    fn remove(&self, name: &str) -> Result<(), RepositoryError> {
        match std::fs::remove_dir_all(self.path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(self.failed(name, IoAction::Remove)),
        }
    }

    fn partial_labels(&self, backups: &str) -> Result<Vec<BackupLabel>, RepositoryError> {
        let entries = match std::fs::read_dir(self.path(backups)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(self.failed(backups, IoAction::List))?,
        };
        let mut labels = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.failed(backups, IoAction::List))?;
            labels.extend(entry.file_name().to_str().and_then(layout::partial_label));
        }
        Ok(labels)
    }
}
