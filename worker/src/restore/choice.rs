//! Which backup a restore begins with: the newest in any repository that fits the recovery target.
//!
//! Invariant: an entry that no repository can read ends the search. An older backup is not what was asked for.

use super::RestoreOrder;
use super::error::as_failure;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody};
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::ids::SystemId;
use pgconvoy_core::pg::{PgVersion, TimelineId};
use pgconvoy_core::plan::recovery::{Misfit, NeededTimeline, Timelines, misfit, needed_timeline};
use pgconvoy_repository::{Repository, RepositoryError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A backup as one repository lists it.
pub(super) struct Place {
    pub(super) repository: Arc<Repository>,
    pub(super) record: BackupRecord,
}

pub(super) struct Choice {
    /// The repositories that have the backup, in the order in which they are asked; at least one.
    pub(super) places: Vec<Place>,
    /// All that could be opened.
    pub(super) repositories: Vec<Arc<Repository>>,
}

pub(super) async fn find(order: &RestoreOrder) -> Result<Choice, Failure> {
    let mut search = Search::open(order).await;
    let mut passed_over: Option<(BackupLabel, Misfit)> = None;
    while let Some((label, repositories)) = search.labels.pop_last() {
        let places = search.places(label, repositories).await?;
        let Some(first) = places.first() else { continue };
        let Some(misfit) = search.judge(&first.record).await else {
            return Ok(Choice { places, repositories: search.repositories });
        };
        if order.set.is_some() {
            return Err(unfit(label, &misfit).hint("without --set the newest backup that fits is chosen"));
        }
        tracing::info!("backup {label} is passed over: {misfit}");
        passed_over.get_or_insert((label, misfit));
    }
    Err(match (search.unusable, passed_over) {
        (Some(failure), _) => failure,
        (None, Some((label, misfit))) => no_fit(order, label, &misfit),
        (None, None) => nothing(order),
    })
}

fn unfit(label: BackupLabel, misfit: &Misfit) -> Failure {
    let code = match misfit {
        Misfit::TooLate { .. } => ErrorCode::BackupSetInvalid,
        Misfit::UnknownTimeline(_) | Misfit::OtherBranch { .. } => ErrorCode::DbMismatch,
    };
    let failure =
        Failure::new(code, format!("recovery to the target cannot begin with backup {label}: {misfit}"));
    match misfit {
        Misfit::TooLate { .. } => failure,
        _ => failure.hint("--target-timeline says at which timeline recovery is to arrive"),
    }
}

fn no_fit(order: &RestoreOrder, newest: BackupLabel, misfit: &Misfit) -> Failure {
    let reason = unfit(newest, misfit);
    let message =
        format!("no backup of stanza {} fits the recovery target: {}", order.stanza, reason.message);
    Failure { message, ..reason }.hint("pgconvoy info lists the backups of each repository")
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

struct Search<'a> {
    order: &'a RestoreOrder,
    /// Those that could be opened.
    repositories: Vec<Arc<Repository>>,
    /// Labels that have not been looked at, each with the repositories that list it.
    labels: BTreeMap<BackupLabel, Vec<Arc<Repository>>>,
    timelines: BTreeMap<(SystemId, PgVersion), Known>,
    /// Why the first of the repositories that cannot be used cannot.
    unusable: Option<Failure>,
}

#[derive(Default)]
struct Known {
    timelines: Timelines,
    asked: BTreeSet<TimelineId>,
}

impl<'a> Search<'a> {
    async fn open(order: &'a RestoreOrder) -> Search<'a> {
        let mut search = Search {
            order,
            repositories: Vec::new(),
            labels: BTreeMap::new(),
            timelines: BTreeMap::new(),
            unusable: None,
        };
        for key in order.repositories.keys() {
            let listed = async {
                let repository = order.repositories.open(key).await?;
                let labels = match order.set {
                    Some(label) => vec![label],
                    None => repository.catalogue_labels(&order.stanza).await?,
                };
                Ok::<_, RepositoryError>((repository, labels))
            };
            match listed.await {
                Ok((repository, labels)) => {
                    for label in labels {
                        search.labels.entry(label).or_default().push(repository.clone());
                    }
                    search.repositories.push(repository);
                }
                Err(error) => {
                    let failure = as_failure(error);
                    tracing::warn!("repo {key} cannot be used: [{}] {}", failure.code, failure.message);
                    search.unusable.get_or_insert(failure);
                }
            }
        }
        search
    }

    /// Where the backup is published. One repository's backup decides which it is, by UUID.
    async fn places(
        &self,
        label: BackupLabel,
        repositories: Vec<Arc<Repository>>,
    ) -> Result<Vec<Place>, Failure> {
        let (mut places, mut unread) = (Vec::<Place>::new(), None);
        for repository in repositories {
            let number = repository.number();
            match repository.catalogue_entry(&self.order.stanza, label).await {
                Ok(Some(CatalogueBody::Published(record))) => {
                    if places.first().is_some_and(|first| first.record.backup != record.backup) {
                        tracing::warn!("repo {number} has another backup under the label {label}");
                        continue;
                    }
                    places.push(Place { repository, record: *record });
                }
                Ok(Some(CatalogueBody::Void(_)) | None) => {
                    tracing::debug!("repo {number} has no backup {label} of stanza {}", self.order.stanza);
                }
                Err(error) => {
                    let failure = as_failure(error);
                    tracing::warn!("repo {number} cannot be used: [{}] {}", failure.code, failure.message);
                    unread.get_or_insert(failure);
                }
            }
        }
        match unread {
            Some(failure) if places.is_empty() => Err(failure),
            _ => Ok(places),
        }
    }

    async fn judge(&mut self, record: &BackupRecord) -> Option<Misfit> {
        let of = (record.system_id, record.version);
        let mut known = self.timelines.remove(&of).unwrap_or_default();
        match needed_timeline(record, &self.order.recovery) {
            NeededTimeline::Own => {}
            NeededTimeline::This(timeline) => drop(self.learn(record, timeline, &mut known).await),
            NeededTimeline::AllAfter(own) => {
                let mut next = own.0;
                while let Some(number) = next.checked_add(1) {
                    if !self.learn(record, TimelineId(number), &mut known).await {
                        break;
                    }
                    next = number;
                }
            }
        }
        let misfit = misfit(record, &self.order.recovery, &known.timelines);
        self.timelines.insert(of, known);
        misfit
    }

    /// Whether some repository has the history of that timeline.
    async fn learn(&self, record: &BackupRecord, timeline: TimelineId, known: &mut Known) -> bool {
        if !known.asked.insert(timeline) {
            return known.timelines.0.contains_key(&timeline);
        }
        for repository in &self.repositories {
            let asked = async {
                let clusters = repository.clusters(&self.order.stanza).await?;
                let same = clusters.into_iter().find(|cluster| {
                    cluster.system_id == record.system_id && cluster.version == record.version
                });
                let Some(cluster) = same else { return Ok(None) };
                let archive = ArchiveId { version: record.version, number: cluster.number };
                repository.timeline_history(&self.order.stanza, archive, timeline).await
            };
            match asked.await {
                Ok(Some(history)) => {
                    known.timelines.0.insert(timeline, history);
                    return true;
                }
                Ok(None) => {}
                Err(error) => {
                    let number = repository.number();
                    tracing::warn!("repo {number} does not tell the history of timeline {timeline}: {error}");
                }
            }
        }
        false
    }
}
