//! Finds the backup: which repository gives the manifest, and which others may give what is damaged there.

use super::RestoreOrder;
use super::Surroundings;
use super::choice::{self, Choice, Place};
use super::error::as_failure;
use super::origin::{Origin, Others};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::manifest::ManifestHead;
use pgconvoy_core::format::{HashSecret, layout};
use pgconvoy_core::ids::{Identity, StanzaName};
use pgconvoy_core::plan::restore::{RestorePlan, RestorePlanError, RestorePlanner, RestoreTarget};
use pgconvoy_repository::manifest::ManifestReader;
use pgconvoy_repository::{Repository, RepositoryError};
use std::sync::Arc;

/// The backup that is restored.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) stanza: StanzaName,
    pub(super) origin: Arc<Origin>,
    pub(super) record: BackupRecord,
    pub(super) head: ManifestHead,
    pub(super) plan: RestorePlan,
    pub(super) secret: HashSecret,
    pub(super) others: Arc<Others>,
    /// All that could be opened, whether they have the backup or not.
    pub(super) repositories: Vec<Arc<Repository>>,
}

impl Chosen {
    /// Whose pack it must be: packs of earlier labels are of backups that this one does not name.
    pub(super) fn backup_of(&self, pack: PackName) -> Option<Identity> {
        (pack.label == self.head.label).then_some(self.head.backup)
    }
}

/// Which backup, and its manifest from the first repository that can give it.
pub(super) fn choose(order: &RestoreOrder, around: &Surroundings) -> Result<Chosen, Failure> {
    around.runtime.block_on(async {
        tokio::select! {
            () = around.stop.cancelled() => Err(super::terminated()),
            chosen = choose_and_read(order) => chosen,
        }
    })
}

async fn choose_and_read(order: &RestoreOrder) -> Result<Chosen, Failure> {
    let mut first = None;
    let Choice { places, repositories } = choice::find(order).await?;
    for place in places {
        let key = place.repository.number();
        match read(order, place, &repositories).await {
            Ok(chosen) => return Ok(chosen),
            Err(Refusal::Request(failure)) => return Err(failure),
            Err(Refusal::Repository(failure)) => {
                tracing::warn!("repo {key} cannot be used: [{}] {}", failure.code, failure.message);
                first.get_or_insert(failure);
            }
        }
    }
    let nowhere = || Failure::new(ErrorCode::Assert, "a backup was found in no repository");
    Err(first.unwrap_or_else(nowhere))
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

async fn read(
    order: &RestoreOrder,
    Place { repository, record }: Place,
    repositories: &[Arc<Repository>],
) -> Result<Chosen, Refusal> {
    let stanza = &order.stanza;
    let clusters = repository.clusters(stanza).await?;
    let cluster = clusters.into_iter().find(|cluster| cluster.number == record.cluster).ok_or_else(|| {
        let object = layout::cluster(stanza, record.cluster);
        RepositoryError::Missing { place: repository.describe(), object }
    })?;
    let (head, plan) = read_manifest(&repository, stanza, &record, &order.target).await?;
    Ok(Chosen {
        stanza: stanza.clone(),
        others: Others::new(order.repositories.clone(), stanza.clone(), &head, repository.number()),
        origin: Origin::new(repository),
        record,
        head,
        plan,
        secret: cluster.hash_secret,
        repositories: repositories.to_vec(),
    })
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
