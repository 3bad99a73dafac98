//! Readies repositories for a new backup: opens each, learns its cluster and labels, and gives up what an earlier backup
//! left unfinished.
//!
//! Only called while the stanza's locks are held. Whether an unfinished backup's writer lives is told by its process on its
//! own host, and by its heartbeats elsewhere: two looks some time apart, no comparison of clocks.

use crate::actors::backup::now;
use crate::announce::HEARTBEAT_INTERVAL;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::machine::backup::contest::{Remains, judge_remains};
use pgconvoy_core::machine::backup::{BackupSpec, RepositoryFacts};
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A live writer puts a heartbeat in this time, even if its store takes as long as a call may take.
const LIVENESS_WINDOW: Duration =
    HEARTBEAT_INTERVAL.saturating_mul(2).saturating_add(Duration::from_secs(60));

type Prepared = Vec<(RepoKey, Result<RepositoryFacts, Failure>)>;

pub(crate) async fn prepare(
    set: Arc<RepositorySet>,
    spec: &BackupSpec,
    repositories: Vec<RepoKey>,
    own: Option<BackupLabel>,
) -> Prepared {
    let one = async |key: RepoKey| {
        let opened = set.open(key).await?;
        Ok::<_, Failure>(facts(&opened, spec, own).await?)
    };
    let all = repositories.into_iter().map(|key| {
        let one = &one;
        async move { (key, one(key).await) }
    });
    futures::future::join_all(all).await
}

async fn facts(
    repository: &Repository,
    spec: &BackupSpec,
    own: Option<BackupLabel>,
) -> Result<RepositoryFacts, RepositoryError> {
    let cluster = repository.cluster(&spec.stanza).await?;
    give_up_unfinished(repository, spec, own).await?;
    let mut labels: BTreeSet<BackupLabel> =
        repository.catalogue_labels(&spec.stanza).await?.into_iter().collect();
    labels.extend(repository.started_labels(&spec.stanza).await?);
    let has_this = match own {
        Some(label) => has_published(repository, spec, label).await?,
        None => false,
    };
    let labels = labels.into_iter().collect();
    Ok(RepositoryFacts { identity: repository.identity(), cluster, labels, has_this })
}

/// Whether this very backup is in the catalogue.
pub(crate) async fn has_published(
    repository: &Repository,
    spec: &BackupSpec,
    label: BackupLabel,
) -> Result<bool, RepositoryError> {
    let entry = repository.catalogue_entry(&spec.stanza, label).await?;
    Ok(matches!(entry, Some(CatalogueBody::Published(record)) if record.backup == spec.backup))
}

async fn give_up_unfinished(
    repository: &Repository,
    spec: &BackupSpec,
    own: Option<BackupLabel>,
) -> Result<(), RepositoryError> {
    let stanza = &spec.stanza;
    for begun in repository.unfinished(stanza).await? {
        let label = begun.label;
        if Some(label) == own {
            continue;
        }
        let remains = judge_remains(&begun, &spec.writer, process_runs);
        if remains == Remains::Watch && beats(repository, stanza, label).await? {
            return Err(repository.busy(label, begun.writer.as_ref()));
        }
        if remains != Remains::Sweep {
            let record =
                Repository::void_record(label, "its writer died before it was finished", &spec.writer, now());
            if !repository.give_up(stanza, record).await? {
                continue;
            }
        }
        let swept = repository.sweep(stanza, label).await?;
        tracing::info!(
            "unfinished backup {label} in {} was given up: {swept} objects removed",
            repository.describe()
        );
    }
    Ok(())
}

/// Of this host and these process numbers.
pub(crate) fn process_runs(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

/// Labels of the stanza in repositories that take no part, as far as they can be asked: labels grow everywhere.
pub(crate) async fn labels_elsewhere(
    set: &RepositorySet,
    stanza: &StanzaName,
    chosen: &[RepoKey],
) -> Vec<BackupLabel> {
    let mut labels = Vec::new();
    for key in set.keys().filter(|key| !chosen.contains(key)) {
        let asked = async {
            let opened = set.open(key).await?;
            let mut found = opened.catalogue_labels(stanza).await?;
            found.extend(opened.started_labels(stanza).await?);
            Ok::<_, RepositoryError>(found)
        };
        match asked.await {
            Ok(found) => labels.extend(found),
            Err(error) => tracing::warn!("repo {key} cannot be asked for its labels: {error}"),
        }
    }
    labels
}

async fn beats(
    repository: &Repository,
    stanza: &StanzaName,
    label: BackupLabel,
) -> Result<bool, RepositoryError> {
    let first = repository.newest_heartbeat(stanza, label).await?;
    tracing::info!(
        "backup {label} was begun on another host: watching {} s for its heartbeats",
        LIVENESS_WINDOW.as_secs()
    );
    tokio::time::sleep(LIVENESS_WINDOW).await;
    Ok(repository.newest_heartbeat(stanza, label).await? != first)
}
