//! What a repository has of a stanza, for the plan.

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::plan::PlanBody;
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::plan::sync::{Archive, Begun, Entry, Holdings, Plans, Published};
use pgconvoy_storage::list_children;
use std::collections::BTreeMap;

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
        let undecided = match repository.copy_record(stanza, label).await {
            Ok(Some(copy)) => Begun::Copy(copy.backup),
            Ok(None) => Begun::Plans(plans(repository, stanza, label).await?),
            Err(RepositoryError::Storage(error)) => return Err(error.into()),
            Err(error) => Begun::Plans(Err(error.to_string())),
        };
        holdings.undecided.insert(label, undecided);
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

/// All that lie under the label.
pub(super) async fn plans(
    repository: &Repository,
    stanza: &StanzaName,
    label: BackupLabel,
) -> Result<Plans, RepositoryError> {
    let listing =
        list_children(repository.storage(), Some(&object_key(&layout::backup(stanza, label)))).await?;
    let mut plans = BTreeMap::new();
    for number in listing.objects.iter().filter_map(|object| layout::plan_number(object.key.name())) {
        let read = repository.get_object::<PlanBody>(Kind::Plan, &layout::plan(stanza, label, number)).await;
        match read {
            Ok(Some(plan)) => plans.insert(number, plan.backup),
            Ok(None) => return Ok(Err(format!("plan {} is gone", number.0))),
            Err(RepositoryError::Storage(error)) => return Err(error.into()),
            Err(error) => return Ok(Err(error.to_string())),
        };
    }
    Ok(if plans.is_empty() { Err("there is none".into()) } else { Ok(plans) })
}
