//! Names of WAL files as they lie: by directory, with the time at which each came.

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::format::layout::{self, ArchiveId};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_core::plan::backlog::Held;
use pgconvoy_core::units::Timestamp;
use pgconvoy_storage::list_children;
use std::time::{SystemTime, UNIX_EPOCH};

impl Repository {
    /// Names of an archive's directories, in order: 16 digits of a log, 8 of a timeline that has a history.
    pub async fn wal_directories(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
    ) -> Result<Vec<String>, RepositoryError> {
        let prefix = object_key(&layout::archive(stanza, archive));
        let found = list_children(self.storage(), Some(&prefix)).await?.prefixes;
        Ok(found.iter().map(|directory| directory.name().to_owned()).collect())
    }

    /// The files of one directory, in order of name; none if there is no such directory. Names that are no WAL file's are
    /// left out.
    pub async fn wal_directory(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        directory: &str,
    ) -> Result<Vec<Held>, RepositoryError> {
        let prefix = object_key(&format!("{}/{directory}", layout::archive(stanza, archive)));
        let objects = list_children(self.storage(), Some(&prefix)).await?.objects;
        let held = |object: &pgconvoy_storage::ObjectInfo| {
            let file: WalFileName = object.key.name().parse().ok()?;
            Some(Held { file, stored: object.modified.map(timestamp) })
        };
        Ok(objects.iter().filter_map(held).collect())
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
