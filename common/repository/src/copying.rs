//! The record that a label belongs to a copy from another repository (`FORMAT.md` section 6a).
//!
//! Whoever looks for unfinished backups passes by a label that has it: it is no backup whose writer may be dead, it rests on nobody's
//! session, and no backup need wait for it. What it needs to be safe is the catalogue key alone: void or published, once.

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::plan::CopyBody;
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::StorageError;

impl Repository {
    pub async fn copy_record(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
    ) -> Result<Option<CopyBody>, RepositoryError> {
        self.get_object(Kind::Copy, &layout::copy(stanza, label)).await
    }

    /// Another one's record will do, if it is of the same backup: two copies of one help each other. Tells whether it is new.
    pub async fn begin_copy(&self, stanza: &StanzaName, body: &CopyBody) -> Result<bool, RepositoryError> {
        let name = layout::copy(stanza, body.label);
        match self.put_object(Kind::Copy, &name, body).await {
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {}
            put => return put.map(|()| true),
        }
        match self.copy_record(stanza, body.label).await? {
            Some(other) if other.backup != body.backup => Err(RepositoryError::Contradiction {
                place: self.describe(),
                object: name,
                reason: "another backup is being copied under this label".into(),
            }),
            _ => Ok(false),
        }
    }

    /// Once the label is decided; or by whoever began it, where something else turns out to lie there.
    pub async fn end_copy(&self, stanza: &StanzaName, label: BackupLabel) -> Result<(), RepositoryError> {
        Ok(self.storage().delete(&object_key(&layout::copy(stanza, label))).await?)
    }
}
