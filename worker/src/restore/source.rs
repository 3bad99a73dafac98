//! Finds the backup: which repository gives the manifest, and which others may give what is damaged there.

use super::RestoreOrder;
use super::Surroundings;
use super::error::as_failure;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody};
use pgconvoy_core::format::manifest::ManifestHead;
use pgconvoy_core::format::{BackupLabel, HashSecret, layout};
use pgconvoy_core::ids::{Identity, RepoKey, StanzaName};
use pgconvoy_core::plan::restore::{RestorePlan, RestorePlanError, RestorePlanner, RestoreTarget};
use pgconvoy_repository::manifest::ManifestReader;
use pgconvoy_repository::object::ObjectReader;
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;

/// A repository that has the backup.
#[derive(Debug)]
pub(super) struct Origin {
    repository: Arc<Repository>,
    /// It did not answer: the others are asked first from now on.
    is_away: AtomicBool,
}

impl Origin {
    pub(super) fn new(repository: Arc<Repository>) -> Arc<Origin> {
        Arc::new(Origin { repository, is_away: AtomicBool::new(false) })
    }

    pub(super) fn key(&self) -> RepoKey {
        self.repository.number()
    }

    pub(super) fn identity(&self) -> Identity {
        self.repository.identity()
    }

    pub(super) fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    pub(super) fn is_away_now(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }
}

/// The backup that is restored.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) stanza: StanzaName,
    pub(super) origin: Arc<Origin>,
    pub(super) record: BackupRecord,
    pub(super) head: ManifestHead,
    pub(super) plan: RestorePlan,
    pub(super) secret: HashSecret,
    set: Arc<RepositorySet>,
    alternates: OnceLock<Vec<Arc<Origin>>>,
}

/// Asks one repository after the other. What cannot be read is said, and the next one is asked.
pub(super) fn choose(order: &RestoreOrder, around: &Surroundings) -> Result<Chosen, Failure> {
    let mut first = None;
    for key in order.repositories.keys() {
        let asked = around.runtime.block_on(async {
            tokio::select! {
                () = around.stop.cancelled() => Err(Refusal::Request(super::terminated())),
                asked = ask(order, key) => asked,
            }
        });
        match asked {
            Ok(Some(chosen)) => return Ok(chosen),
            Ok(None) => tracing::info!("repo {key} has no such backup of stanza {}", order.stanza),
            Err(Refusal::Request(failure)) => return Err(failure),
            Err(Refusal::Repository(failure)) => {
                tracing::warn!("repo {key} cannot be used: [{}] {}", failure.code, failure.message);
                first.get_or_insert(failure);
            }
        }
    }
    Err(first.unwrap_or_else(|| nothing(order)))
}

fn nothing(order: &RestoreOrder) -> Failure {
    let message = match order.set {
        Some(label) => format!("no repository has backup {label} of stanza {}", order.stanza),
        None => format!("no repository has a backup of stanza {}", order.stanza),
    };
    Failure::new(ErrorCode::BackupSetInvalid, message)
        .hint("pgconvoy info lists the backups of each repository")
        .hint("is the stanza's name right?")
}

enum Refusal {
    /// Another repository may do better.
    Repository(Failure),
    /// None will.
    Request(Failure),
}

impl From<RepositoryError> for Refusal {
    fn from(error: RepositoryError) -> Self {
        Refusal::Repository(as_failure(error))
    }
}

async fn ask(order: &RestoreOrder, key: RepoKey) -> Result<Option<Chosen>, Refusal> {
    let stanza = &order.stanza;
    let repository = order.repositories.open(key).await?;
    let Some(record) = find(&repository, stanza, order.set).await? else { return Ok(None) };
    let clusters = repository.clusters(stanza).await?;
    let cluster = clusters.into_iter().find(|cluster| cluster.number == record.cluster).ok_or_else(|| {
        let object = layout::cluster(stanza, record.cluster);
        RepositoryError::Missing { place: repository.describe(), object }
    })?;
    let (head, plan) = read_manifest(&repository, stanza, &record, &order.target).await?;
    Ok(Some(Chosen {
        stanza: stanza.clone(),
        origin: Origin::new(repository),
        record,
        head,
        plan,
        secret: cluster.hash_secret,
        set: order.repositories.clone(),
        alternates: OnceLock::new(),
    }))
}

/// The newest entry that is no void record decides. If it cannot be read, an older one is not what was asked for.
async fn find(
    repository: &Repository,
    stanza: &StanzaName,
    set: Option<BackupLabel>,
) -> Result<Option<BackupRecord>, RepositoryError> {
    let labels = match set {
        Some(label) => vec![label],
        None => repository.catalogue_labels(stanza).await?,
    };
    for label in labels.into_iter().rev() {
        if let Some(CatalogueBody::Published(record)) = repository.catalogue_entry(stanza, label).await? {
            return Ok(Some(*record));
        }
    }
    Ok(None)
}

async fn read_manifest(
    repository: &Repository,
    stanza: &StanzaName,
    record: &BackupRecord,
    target: &RestoreTarget,
) -> Result<(ManifestHead, RestorePlan), Refusal> {
    let mut reader = ManifestReader::open(repository, stanza, record.label, &record.manifest).await?;
    let head = reader.head().clone();
    let contradiction = |reason: String| RepositoryError::Contradiction {
        place: repository.describe(),
        object: layout::manifest(stanza, record.label),
        reason,
    };
    if head.backup != record.backup {
        return Err(contradiction("its backup has another UUID".into()).into());
    }
    let mut records = 0;
    let plan = {
        let mut planner = RestorePlanner::new(&head, target).map_err(judge)?;
        while let Some(next) = reader.next_records(repository).await? {
            records += next.len() as u64;
            next.into_iter().try_for_each(|record| planner.push(record)).map_err(judge)?;
        }
        if records != head.records {
            return Err(contradiction(format!("it has {records} records instead of {}", head.records)).into());
        }
        planner.finish().map_err(judge)?
    };
    Ok((head, plan))
}

/// A map that names nothing is the user's mistake; everything else is the manifest's.
fn judge(error: RestorePlanError) -> Refusal {
    match error {
        RestorePlanError::Repeated(_) | RestorePlanError::NoControl | RestorePlanError::Format(_) => {
            Refusal::Repository(error.into())
        }
        _ => Refusal::Request(error.into()),
    }
}

impl Chosen {
    /// The other repositories that have this very backup. They are looked for when the first one fails, and once.
    pub(super) fn alternates(&self, runtime: &Handle) -> &[Arc<Origin>] {
        self.alternates.get_or_init(|| {
            let others = self.set.keys().filter(|key| *key != self.origin.key());
            others.filter_map(|key| runtime.block_on(self.alternate(key))).collect()
        })
    }

    async fn alternate(&self, key: RepoKey) -> Option<Arc<Origin>> {
        let label = self.head.label;
        let ask = async {
            let repository = self.set.open(key).await?;
            let entry = repository.catalogue_entry(&self.stanza, label).await?;
            Ok::<_, RepositoryError>((repository, entry))
        };
        match ask.await {
            Ok((repository, Some(CatalogueBody::Published(record)))) if record.backup == self.head.backup => {
                Some(Origin::new(repository))
            }
            Ok((_, Some(CatalogueBody::Published(_)))) => {
                tracing::warn!(
                    "repo {key} has another backup under the label {label}: nothing is taken from there"
                );
                None
            }
            Ok(_) => None,
            Err(error) if ObjectReader::is_absence(&error) => None,
            Err(error) => {
                tracing::warn!("repo {key} cannot help out: {error}");
                None
            }
        }
    }
}
