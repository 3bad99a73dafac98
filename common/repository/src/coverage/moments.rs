//! Until when a recovery can go: the last transaction that the archive has the end of.

use super::PitrRange;
use crate::error::RepositoryError;
use crate::open::Repository;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::{CommitFinder, Follow, Lsn, WalFileName, WalSegmentHeader, WalSegmentName};
use pgconvoy_core::units::Timestamp;

/// Segments that are looked through, from the last one back, before it is left open: a server that is idle for hours ends
/// segments without any transaction in them.
const SEGMENTS_MAX: usize = 4;

/// Fills in until when each range goes, as far as that can be told. Nothing that fails here makes a range shorter.
pub(crate) async fn tell_until(
    repository: &Repository,
    stanza: &StanzaName,
    cluster: &ClusterBody,
    ranges: &mut [PitrRange],
) {
    for range in ranges {
        match last_end(repository, stanza, cluster, range).await {
            Ok(until) => range.until = until,
            Err(error) => tracing::warn!("until when recovery can go is not known: {error}"),
        }
    }
}

async fn last_end(
    repository: &Repository,
    stanza: &StanzaName,
    cluster: &ClusterBody,
    range: &PitrRange,
) -> Result<Option<Timestamp>, RepositoryError> {
    let size = cluster.wal_segment_size;
    let mut end = range.to;
    for _ in 0..SEGMENTS_MAX {
        let segment = WalSegmentName::last_before(range.timeline, end, size);
        end = segment.start_lsn(size);
        if end.0 + size.bytes() <= range.from.0 || end.is_zero() {
            break;
        }
        let found = last_end_in(repository, stanza, cluster, segment).await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn last_end_in(
    repository: &Repository,
    stanza: &StanzaName,
    cluster: &ClusterBody,
    segment: WalSegmentName,
) -> Result<Option<Timestamp>, RepositoryError> {
    let name = WalFileName::Segment(segment);
    let Some(stored) = repository.open_wal(stanza, cluster.archive_id(), &name).await? else {
        return Ok(None);
    };
    let mut begun: Option<(CommitFinder, Lsn)> = None;
    let mut follow = Follow::Next;
    stored
        .read(repository, |bytes| {
            if begun.is_none()
                && let Ok(header) = WalSegmentHeader::parse(bytes)
            {
                begun = Some((CommitFinder::new(cluster.version, header.wal_page_size), header.start));
            }
            if let (Some((finder, at)), Follow::Next) = (&mut begun, follow) {
                follow = finder.pages(*at, bytes);
                *at = Lsn(at.0 + bytes.len() as u64);
            }
            Ok(())
        })
        .await?;
    Ok(begun.and_then(|(finder, _)| finder.last()))
}
