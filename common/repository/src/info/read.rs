//! Reads what one repository has of one stanza.

use super::{ArchiveInfo, BackupInfo, Place, RepositoryInfo, Selection, Status, StatusCode, details};
use crate::coverage::{PitrRange, WalCoverage, tell_until};
use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::{TimelineId, WalFileName, WalSegmentName};
use pgconvoy_storage::{Listing, list_children};

pub(super) async fn repository(place: &Place, stanza: &StanzaName, selection: Selection) -> RepositoryInfo {
    let (key, repository) = match place {
        (key, Ok(repository)) => (*key, repository),
        (key, Err(failure)) => return RepositoryInfo::failed(*key, failure),
    };
    let mut info = RepositoryInfo::empty(key, Some(repository.cipher()), Status::of(StatusCode::Ok));
    match fill(&mut info, repository, stanza, selection).await {
        Ok(code) => info.status = Status::of(code),
        Err(error) => info.status = Status::other(&Failure::from(error)),
    }
    info
}

async fn fill(
    info: &mut RepositoryInfo,
    repository: &Repository,
    stanza: &StanzaName,
    selection: Selection,
) -> Result<StatusCode, RepositoryError> {
    info.clusters = repository.clusters(stanza).await?;
    if info.clusters.is_empty() {
        let top = object_key(stanza.as_str());
        let found = list_children(repository.storage(), Some(&top)).await?;
        let is_there = !found.prefixes.is_empty() || !found.objects.is_empty();
        return Ok(if is_there { StatusCode::MissingStanzaData } else { StatusCode::MissingStanzaPath });
    }
    let mut first_error = None;
    let mut records = Vec::new();
    for (_, entry) in repository.backups(stanza).await? {
        match entry {
            Ok(record) => records.push(record),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    for cluster in info.clusters.clone() {
        let is_current = Some(&cluster) == info.clusters.last();
        let summary = wal_summary(repository, stanza, &cluster).await?;
        if is_current || summary.ends.is_some() {
            info.archives.push(ArchiveInfo {
                id: cluster.archive_id(),
                cluster: cluster.number,
                ends: summary.ends,
            });
        }
        let of_cluster = records.iter().filter(|record| record.cluster == cluster.number);
        let reach = of_cluster.flat_map(|record| summary.coverage.reach_of(record)).collect();
        let mut pitr = PitrRange::merge(reach);
        tell_until(repository, stanza, &cluster, &mut pitr).await;
        info.pitr.extend(pitr);
    }
    let published = records.len();
    for record in records.into_iter().filter(|record| selection.has(record)) {
        let details = match selection.label {
            Some(_) => details::read(repository, stanza, &record).await.map(Some),
            None => Ok(None),
        };
        let details = details.unwrap_or_else(|error| {
            first_error.get_or_insert(error);
            None
        });
        info.backups.push(BackupInfo { record, details });
    }
    match first_error {
        Some(error) => Err(error),
        None if published == 0 => Ok(StatusCode::NoBackups),
        None if selection.label.is_some() && info.backups.is_empty() => Ok(StatusCode::BackupMissing),
        None => Ok(StatusCode::Ok),
    }
}

struct WalSummary {
    ends: Option<(WalSegmentName, WalSegmentName)>,
    coverage: WalCoverage,
}

/// Walks the names of an archive, which come in order: runs and ends are found on the way.
async fn wal_summary(
    repository: &Repository,
    stanza: &StanzaName,
    cluster: &ClusterBody,
) -> Result<WalSummary, RepositoryError> {
    let size = cluster.wal_segment_size;
    let mut summary = WalSummary { ends: None, coverage: WalCoverage::new(size) };
    let prefix = object_key(&layout::archive(stanza, cluster.archive_id()));
    let mut listing = Listing::new(repository.storage(), Some(&prefix));
    let mut timelines = Vec::new();
    while let Some(object) = listing.next().await? {
        match object.key.name().parse::<WalFileName>() {
            Ok(WalFileName::Segment(segment)) if segment.fits(size) => {
                let first = summary.ends.map_or(segment, |(first, _)| first);
                summary.ends = Some((first, segment));
                summary.coverage.push(segment);
            }
            Ok(WalFileName::History(timeline)) => timelines.push(timeline),
            _ => {}
        }
    }
    for timeline in timelines {
        add_history(&mut summary.coverage, repository, stanza, cluster, timeline).await;
    }
    Ok(summary)
}

/// A history that cannot be read makes the known reach shorter, not the report worthless; verify tells of it.
async fn add_history(
    coverage: &mut WalCoverage,
    repository: &Repository,
    stanza: &StanzaName,
    cluster: &ClusterBody,
    timeline: TimelineId,
) {
    match repository.timeline_history(stanza, cluster.archive_id(), timeline).await {
        Ok(Some(history)) => coverage.add_history(history),
        Ok(None) => {}
        Err(error) => tracing::warn!("the history of timeline {timeline} cannot be read: {error}"),
    }
}
