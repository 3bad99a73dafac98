//! What a repository has of a stanza, for the plan.

use crate::error::RepositoryError;
use crate::open::Repository;
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::plan::sync::{Archive, Entry, Holdings, Published};

/// `is_target`: undecided labels count too.
pub(super) async fn holdings(
    repository: &Repository,
    stanza: &StanzaName,
    is_target: bool,
) -> Result<Holdings, RepositoryError> {
    let mut holdings = Holdings { clusters: repository.clusters(stanza).await?, ..Holdings::default() };
    // Begun ones first: one that is decided between the listings is then seen as decided.
    let begun = if is_target { repository.started_labels(stanza).await? } else { Default::default() };
    for label in repository.catalogue_labels(stanza).await? {
        let entry = match repository.catalogue_entry(stanza, label).await {
            Ok(Some(CatalogueBody::Published(record))) => Entry::Published(Published::from(&*record)),
            Ok(Some(CatalogueBody::Void(_))) => Entry::Void,
            Ok(None) => continue,
            Err(RepositoryError::Storage(error)) => return Err(error.into()),
            Err(error) => Entry::Unreadable(error.to_string()),
        };
        holdings.entries.insert(label, entry);
    }
    for label in begun.into_iter().filter(|label| !holdings.entries.contains_key(label)) {
        let copy = repository.copy_record(stanza, label).await?.map(|copy| copy.backup);
        let backup = match copy {
            Some(backup) => Some(backup),
            None => repository.begun(stanza, label, false).await?.plan.map(|plan| plan.backup),
        };
        holdings.undecided.insert(label, backup);
    }
    for cluster in &holdings.clusters {
        let id = cluster.archive_id();
        let (files, parts) = repository.wal_files_and_parts(stanza, id).await?;
        let dropped = repository.dropped_wal(stanza, id).await?;
        let archive = Archive {
            files: files.into_iter().collect(),
            parts: parts.into_iter().collect(),
            dropped: dropped.into_iter().collect(),
        };
        holdings.archives.insert(id, archive);
    }
    Ok(holdings)
}
