//! Records of WAL that was given up.

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::format::layout::{self, ArchiveId};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::wal::DroppedBody;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_storage::{StorageError, list_children};

impl Repository {
    /// Writes the record, unless the file or a record of it is there.
    pub async fn record_dropped(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        file: &WalFileName,
        body: &DroppedBody,
    ) -> Result<(), RepositoryError> {
        if self.has_wal(stanza, archive, file).await? {
            return Ok(());
        }
        match self.put_object(Kind::Dropped, &layout::dropped_file(stanza, archive, file), body).await {
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => Ok(()),
            other => other,
        }
    }

    /// Files that were given up, in order of name, whether or not they came after all.
    pub async fn dropped_wal(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
    ) -> Result<Vec<WalFileName>, RepositoryError> {
        let prefix = object_key(&layout::dropped(stanza, archive));
        let objects = list_children(self.storage(), Some(&prefix)).await?.objects;
        Ok(objects.iter().filter_map(|object| object.key.name().parse().ok()).collect())
    }

    pub async fn dropped_record(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        file: &WalFileName,
    ) -> Result<Option<DroppedBody>, RepositoryError> {
        self.get_object(Kind::Dropped, &layout::dropped_file(stanza, archive, file)).await
    }
}
