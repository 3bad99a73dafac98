//! Catalogue entries and labels.

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::list_children;
use std::collections::BTreeSet;

impl Repository {
    pub async fn catalogue_entry(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
    ) -> Result<Option<CatalogueBody>, RepositoryError> {
        let name = layout::catalogue_entry(stanza, label);
        let entry: Option<CatalogueBody> = self.get_object(Kind::Catalogue, &name).await?;
        let told = match &entry {
            Some(CatalogueBody::Published(record)) => Some(record.label),
            Some(CatalogueBody::Void(record)) => Some(record.label),
            None => None,
        };
        if told.is_some_and(|told| told != label) {
            return Err(RepositoryError::Contradiction {
                place: self.describe(),
                object: name,
                reason: "it is the entry of another backup".into(),
            });
        }
        Ok(entry)
    }

    /// Labels with a catalogue entry, published or void, in order.
    pub async fn catalogue_labels(&self, stanza: &StanzaName) -> Result<Vec<BackupLabel>, RepositoryError> {
        let listing = list_children(self.storage(), Some(&object_key(&layout::catalogue(stanza)))).await?;
        Ok(listing.objects.iter().filter_map(|object| object.key.name().parse().ok()).collect())
    }

    /// Labels that have anything under `backup/`, finished or not.
    pub async fn started_labels(
        &self,
        stanza: &StanzaName,
    ) -> Result<BTreeSet<BackupLabel>, RepositoryError> {
        let listing = list_children(self.storage(), Some(&object_key(&layout::backups(stanza)))).await?;
        Ok(listing.prefixes.iter().filter_map(|prefix| prefix.name().parse().ok()).collect())
    }

    /// Published backups in order of label. What cannot be read comes as an error beside its label, never as absence.
    pub async fn backups(
        &self,
        stanza: &StanzaName,
    ) -> Result<Vec<(BackupLabel, Result<BackupRecord, RepositoryError>)>, RepositoryError> {
        let mut backups = Vec::new();
        for label in self.catalogue_labels(stanza).await? {
            match self.catalogue_entry(stanza, label).await {
                Ok(Some(CatalogueBody::Published(record))) => backups.push((label, Ok(*record))),
                Ok(Some(CatalogueBody::Void(_)) | None) => {}
                Err(error) => backups.push((label, Err(error))),
            }
        }
        Ok(backups)
    }
}
