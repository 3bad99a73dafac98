//! Readies repositories for a new backup: opens each, learns its cluster, its labels and what the backup rests on there, and
//! tells which earlier backups were left unfinished. Core decides what becomes of them; giving one up is done here as well.
//!
//! Only called while the stanza's locks are held. Whether an unfinished backup's writer lives is told by its process on its
//! own host, and by its heartbeats elsewhere: two looks some time apart, no comparison of clocks.

use crate::actors::backup::now;
use crate::announce::HEARTBEAT_INTERVAL;
use pgconvoy_core::failure::{Classify as _, ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody};
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::machine::backup::contest::{Begun, Remains, judge_remains};
use pgconvoy_core::machine::backup::{Announced, BackupSpec, Event, RepositoryFacts};
use pgconvoy_core::plan::incremental::may_be_prior;
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A live writer puts a heartbeat in this time, even if its store takes as long as a call may take.
pub const LIVENESS_WINDOW: Duration =
    HEARTBEAT_INTERVAL.saturating_mul(2).saturating_add(Duration::from_secs(60));

/// Every repository is looked at; nothing is written.
pub(crate) async fn prepare(
    set: Arc<RepositorySet>,
    spec: &BackupSpec,
    repositories: Vec<RepoKey>,
    own: Option<Announced>,
) -> Event {
    let (other_labels, are_others_asked) = labels_elsewhere(&set, &spec.stanza, &repositories).await;
    let looking = repositories.iter().map(|key| {
        let (set, own) = (set.clone(), own.as_ref());
        async move { (*key, look(&set, *key, spec, own).await) }
    });
    let results = futures::future::join_all(looking).await;
    Event::RepositoriesOpened { results, other_labels, are_others_asked }
}

async fn look(
    set: &RepositorySet,
    key: RepoKey,
    spec: &BackupSpec,
    own: Option<&Announced>,
) -> Result<RepositoryFacts, Failure> {
    let repository = set.open(key).await?;
    let cluster = repository.cluster(&spec.stanza).await?;
    let unfinished = unfinished(&repository, spec, own.map(|own| own.label)).await?;
    let mut labels: BTreeSet<BackupLabel> =
        repository.catalogue_labels(&spec.stanza).await?.into_iter().collect();
    labels.extend(repository.started_labels(&spec.stanza).await?);
    let has_this = match own {
        Some(own) => has_published(&repository, spec, own.label).await?,
        None => false,
    };
    let prior = match own {
        Some(own) => bound_prior(&repository, spec, own).await?,
        None => newest_prior(&repository, spec, &cluster, &labels).await?,
    };
    let labels = labels.into_iter().collect();
    Ok(RepositoryFacts { identity: repository.identity(), cluster, labels, has_this, unfinished, prior })
}

/// The one that units of an earlier leader refer to.
async fn bound_prior(
    repository: &Repository,
    spec: &BackupSpec,
    own: &Announced,
) -> Result<Option<Box<BackupRecord>>, Failure> {
    let Some(label) = own.prior_in(repository.number()) else { return Ok(None) };
    match repository.catalogue_entry(&spec.stanza, label).await? {
        Some(CatalogueBody::Published(record)) => Ok(Some(record)),
        _ => {
            let message = format!("backup {label}, which {} rests on, is not there any more", own.label);
            Err(Failure::new(ErrorCode::BackupSetInvalid, message).hint("start the backup again"))
        }
    }
}

/// The newest backup of this cluster that a new one may rest on. An entry that cannot be read is passed by: it may be the
/// newest, but nothing can rest on it.
async fn newest_prior(
    repository: &Repository,
    spec: &BackupSpec,
    cluster: &ClusterBody,
    labels: &BTreeSet<BackupLabel>,
) -> Result<Option<Box<BackupRecord>>, RepositoryError> {
    for label in labels.iter().rev().filter(|label| may_be_prior(spec.kind, **label)) {
        match repository.catalogue_entry(&spec.stanza, *label).await {
            Ok(Some(CatalogueBody::Published(record))) if record.cluster == cluster.number => {
                return Ok(Some(record));
            }
            Ok(_) => {}
            Err(RepositoryError::Storage(error)) => return Err(error.into()),
            Err(error) => tracing::warn!("backup {label} is not taken as a prior: {error}"),
        }
    }
    Ok(None)
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

/// Unfinished backups whose writers are dead. One that lives ends the job.
async fn unfinished(
    repository: &Repository,
    spec: &BackupSpec,
    own: Option<BackupLabel>,
) -> Result<Vec<Begun>, RepositoryError> {
    let mut dead = Vec::new();
    for begun in repository.unfinished(&spec.stanza).await? {
        if Some(begun.label) == own {
            continue;
        }
        let remains = judge_remains(&begun, &spec.writer, process_runs);
        if remains == Remains::Watch && beats(repository, &spec.stanza, begun.label).await? {
            return Err(repository.busy(begun.label, begun.writer()));
        }
        dead.push(begun);
    }
    Ok(dead)
}

/// Gives up what nobody goes on with.
pub(crate) async fn give_up_unfinished(
    set: Arc<RepositorySet>,
    spec: &BackupSpec,
    repository: RepoKey,
    unfinished: Vec<Begun>,
) -> Result<(), Failure> {
    let repository = set.open(repository).await?;
    for begun in &unfinished {
        give_up(&repository, spec, begun).await?;
    }
    Ok(())
}

async fn give_up(repository: &Repository, spec: &BackupSpec, begun: &Begun) -> Result<(), RepositoryError> {
    let (stanza, label) = (&spec.stanza, begun.label);
    if !begun.is_void {
        // Its writer was found dead some time ago; since then somebody may have gone on with it, under a plan of his own.
        let present = repository.begun(stanza, label, false).await?;
        if present.plan != begun.plan {
            return Err(repository.busy(label, present.writer()));
        }
        let record =
            Repository::void_record(label, "its writer died before it was finished", &spec.writer, now());
        if !repository.give_up(stanza, record).await? {
            return Ok(());
        }
    }
    let swept = repository.sweep(stanza, label).await?;
    tracing::info!(
        "unfinished backup {label} in {} was given up: {} objects removed",
        repository.describe(),
        swept.removed
    );
    if let Some(kept) = swept.kept {
        let hints = kept.hints().join("; ");
        tracing::warn!("some of the unfinished backup {label} stays for a later sweep: {kept} ({hints})");
    }
    Ok(())
}

/// Of this host and these process numbers.
pub fn process_runs(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

/// Labels of the stanza in repositories that take no part, and whether all of those could be asked.
async fn labels_elsewhere(
    set: &RepositorySet,
    stanza: &StanzaName,
    chosen: &[RepoKey],
) -> (Vec<BackupLabel>, bool) {
    let (mut labels, mut are_all_asked) = (Vec::new(), true);
    for key in set.keys().filter(|key| !chosen.contains(key)) {
        let asked = async {
            let opened = set.open(key).await?;
            let mut found = opened.catalogue_labels(stanza).await?;
            found.extend(opened.started_labels(stanza).await?);
            Ok::<_, RepositoryError>(found)
        };
        match asked.await {
            Ok(found) => labels.extend(found),
            Err(error) => {
                are_all_asked = false;
                tracing::warn!("repo {key} cannot be asked for its labels: {error}");
            }
        }
    }
    (labels, are_all_asked)
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
