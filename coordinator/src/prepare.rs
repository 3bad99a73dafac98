//! Readies repositories for a new backup: opens each, learns its cluster, its labels and what the backup rests on there, and
//! decides what becomes of an earlier backup that was left unfinished: it is gone on with, or given up.
//!
//! Only called while the stanza's locks are held. Whether an unfinished backup's writer lives is told by its process on its
//! own host, and by its heartbeats elsewhere: two looks some time apart, no comparison of clocks.

use crate::actors::backup::now;
use crate::announce::HEARTBEAT_INTERVAL;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody};
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::machine::backup::contest::{Begun, Remains, judge_remains};
use pgconvoy_core::machine::backup::{Announced, BackupSpec, RepositoryFacts};
use pgconvoy_core::plan::incremental::{Basis, may_be_prior, references_on};
use pgconvoy_core::plan::leftover::{Leftover, Prospect, adopted};
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A live writer puts a heartbeat in this time, even if its store takes as long as a call may take.
const LIVENESS_WINDOW: Duration =
    HEARTBEAT_INTERVAL.saturating_mul(2).saturating_add(Duration::from_secs(60));

type Prepared = Vec<(RepoKey, Result<RepositoryFacts, Failure>)>;

/// In two steps: first every repository is looked at, then what nobody goes on with is given up in each.
pub(crate) async fn prepare(
    set: Arc<RepositorySet>,
    spec: &BackupSpec,
    repositories: Vec<RepoKey>,
    own: Option<Announced>,
) -> (Prepared, Vec<BackupLabel>) {
    let other_labels = labels_elsewhere(&set, &spec.stanza, &repositories).await;
    let own = own.as_ref();
    let looking = repositories.iter().map(|key| {
        let set = set.clone();
        async move { (*key, look(&set, *key, spec, own).await) }
    });
    let looked: BTreeMap<_, _> = futures::future::join_all(looking).await.into_iter().collect();
    let kept = match own {
        Some(own) => Some(own.label),
        None => to_go_on_with(spec, &looked, &other_labels),
    };
    let clearing = looked.into_iter().map(|(key, looked)| async move {
        let cleared = match looked {
            Ok(looked) => looked.clear(spec, kept).await,
            Err(failure) => Err(failure),
        };
        (key, cleared)
    });
    (futures::future::join_all(clearing).await, other_labels)
}

/// A repository that was looked at.
struct Looked {
    repository: Arc<Repository>,
    facts: RepositoryFacts,
    /// Unfinished backups of writers that are dead.
    dead: Vec<Begun>,
}

async fn look(
    set: &RepositorySet,
    key: RepoKey,
    spec: &BackupSpec,
    own: Option<&Announced>,
) -> Result<Looked, Failure> {
    let repository = set.open(key).await?;
    let cluster = repository.cluster(&spec.stanza).await?;
    let dead = unfinished(&repository, spec, own.map(|own| own.label)).await?;
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
    let leftover = own.filter(|own| own.plan.0 > 1).map(|own| Leftover {
        label: own.label,
        plan: own.plan,
        references: Vec::new(),
    });
    let labels = labels.into_iter().collect();
    let identity = repository.identity();
    let facts = RepositoryFacts { identity, cluster, labels, has_this, leftover, prior };
    Ok(Looked { repository, facts, dead })
}

/// The unfinished backup that is resumed, if there is one that can be.
fn to_go_on_with(
    spec: &BackupSpec,
    looked: &BTreeMap<RepoKey, Result<Looked, Failure>>,
    elsewhere: &[BackupLabel],
) -> Option<BackupLabel> {
    let looked = || looked.iter().filter_map(|(key, looked)| Some((*key, looked.as_ref().ok()?)));
    let priors = looked().filter_map(|(key, one)| Some((key, one.facts.prior.as_ref()?.label)));
    let basis = Basis::choose(spec.kind, &priors.collect());
    let like = BackupLabel::next(basis.kind, basis.prior, now(), []);
    let prospect = |one: &Looked| Prospect {
        leftovers: one.dead.iter().filter_map(Begun::leftover).collect(),
        labels: one.facts.labels.clone(),
        references: one
            .facts
            .prior
            .as_ref()
            .filter(|prior| basis.of.values().any(|label| *label == prior.label))
            .map(|prior| references_on(prior))
            .unwrap_or_default(),
    };
    let prospects = looked().map(|(key, one)| (key, prospect(one))).collect();
    adopted(like, &prospects, elsewhere).filter(|_| spec.resume)
}

impl Looked {
    /// Gives up what is not gone on with.
    async fn clear(
        mut self,
        spec: &BackupSpec,
        kept: Option<BackupLabel>,
    ) -> Result<RepositoryFacts, Failure> {
        for begun in &self.dead {
            if Some(begun.label) == kept {
                self.facts.leftover = begun.leftover();
            } else {
                give_up(&self.repository, spec, begun).await?;
            }
        }
        Ok(self.facts)
    }
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

async fn give_up(repository: &Repository, spec: &BackupSpec, begun: &Begun) -> Result<(), RepositoryError> {
    let (stanza, label) = (&spec.stanza, begun.label);
    if !begun.is_void {
        let record =
            Repository::void_record(label, "its writer died before it was finished", &spec.writer, now());
        if !repository.give_up(stanza, record).await? {
            return Ok(());
        }
    }
    let swept = repository.sweep(stanza, label).await?;
    tracing::info!(
        "unfinished backup {label} in {} was given up: {swept} objects removed",
        repository.describe()
    );
    Ok(())
}

/// Of this host and these process numbers.
pub(crate) fn process_runs(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

/// Labels of the stanza in repositories that take no part, as far as they can be asked: labels grow everywhere.
async fn labels_elsewhere(set: &RepositorySet, stanza: &StanzaName, chosen: &[RepoKey]) -> Vec<BackupLabel> {
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
