//! Looks through the WAL that will be replayed for tablespaces that replay would create where something is already.
//!
//! CREATE TABLESPACE replays with the path of the original, which no map of a restore reaches: on a host where that
//! path exists, rows written in the copy appear in the original.

use super::source::Chosen;
use super::{RestoreOrder, Surroundings, stop_if_asked};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::pg::{
    CreatedTablespace, Follow, Lsn, TablespaceFinder, TimelineId, WalFileName, WalSegmentHeader,
    WalSegmentName, WalSegmentSize,
};
use pgconvoy_core::plan::recovery::RecoveryTarget;
use pgconvoy_repository::{Repository, RepositoryError};
use std::collections::BTreeMap;
use std::path::Path;

/// Before anything is written.
pub(super) fn check(chosen: &Chosen, order: &RestoreOrder, around: &Surroundings) -> Result<(), Failure> {
    for tablespace in to_come(chosen, order, around)? {
        let CreatedTablespace { oid, location } = &tablespace;
        if !Path::new(location).exists() {
            tracing::info!("replay will create tablespace {oid} at {location}");
        } else if order.replay_into_existing {
            tracing::warn!("replay will use {location} for tablespace {oid}, though it exists on this host");
        } else {
            let message = format!(
                "replay of the archived WAL would use '{location}' for tablespace {oid}, and that exists on this host"
            );
            return Err(Failure::new(ErrorCode::TablespaceMap, message)
                .hint("if another cluster uses that directory, it would be overwritten: restore on another host, or with --type=immediate")
                .hint("if nothing does, --force restores all the same"));
        }
    }
    Ok(())
}

fn to_come(
    chosen: &Chosen,
    order: &RestoreOrder,
    around: &Surroundings,
) -> Result<Vec<CreatedTablespace>, Failure> {
    let Some(first) = chosen.head.wal_start.filter(|_| order.recovery.target.uses_archive()) else {
        return Ok(Vec::new());
    };
    let last = chosen.head.wal_stop.filter(|_| order.recovery.target == RecoveryTarget::Immediate);
    let archive = ArchiveId { version: chosen.record.version, number: chosen.record.cluster };
    let repository = chosen.origin.repository();
    let files = around.runtime.block_on(repository.wal_files(&order.stanza, archive))?;
    let streamed = around.runtime.block_on(repository.streamed_ends(&order.stanza, archive))?;
    // Which timeline is followed is PostgreSQL's to decide: all that begin at the backup or later are looked at.
    let mut timelines: BTreeMap<TimelineId, ToReplay> = BTreeMap::new();
    let is_to_come = |segment: WalSegmentName| {
        segment.timeline() >= first.timeline()
            && segment.to_string()[8..] >= first.to_string()[8..]
            && last.is_none_or(|last| segment.timeline() == first.timeline() && segment <= last)
    };
    for file in files {
        if let WalFileName::Segment(segment) = file
            && is_to_come(segment)
        {
            timelines.entry(segment.timeline()).or_default().whole.push(segment);
        }
    }
    for segment in streamed.into_iter().filter(|segment| is_to_come(*segment)) {
        timelines.entry(segment.timeline()).or_default().streamed = Some(segment);
    }
    let mut found: Vec<CreatedTablespace> = Vec::new();
    let mut size = None;
    for ToReplay { whole, streamed } in timelines.into_values() {
        let mut look = Look { repository, order, archive, finder: None, size };
        for segment in whole {
            stop_if_asked(around)?;
            match around.runtime.block_on(look.segment(segment)) {
                Ok(Follow::Ended) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("WAL segment {segment} cannot be looked at for new tablespaces: {error}");
                    break;
                }
            }
        }
        if let Some(segment) = streamed
            && let Err(error) = around.runtime.block_on(look.streamed(segment))
        {
            tracing::warn!("what was streamed of {segment} cannot be looked at for new tablespaces: {error}");
        }
        size = look.size;
        let seen = look.finder.map_or_else(Vec::new, |finder| finder.found().to_vec());
        found.extend(seen.into_iter().filter(|one| !found.contains(one)).collect::<Vec<_>>());
    }
    Ok(found)
}

/// What there is of one timeline.
#[derive(Default)]
struct ToReplay {
    whole: Vec<WalSegmentName>,
    /// There are parts of it.
    streamed: Option<WalSegmentName>,
}

/// Follows one timeline.
struct Look<'a> {
    repository: &'a Repository,
    order: &'a RestoreOrder,
    archive: ArchiveId,
    finder: Option<TablespaceFinder>,
    size: Option<WalSegmentSize>,
}

impl Look<'_> {
    async fn segment(&mut self, segment: WalSegmentName) -> Result<Follow, RepositoryError> {
        let name = WalFileName::Segment(segment);
        let Some(stored) = self.repository.open_wal(&self.order.stanza, self.archive, &name).await? else {
            return Ok(Follow::Ended);
        };
        let (mut follow, mut at) = (Follow::Next, None);
        let version = self.archive.version;
        stored
            .read(self.repository, |bytes| {
                if follow != Follow::Next {
                    return Ok(());
                }
                if at.is_none() {
                    let Ok(header) = WalSegmentHeader::parse(bytes) else {
                        follow = Follow::Ended;
                        return Ok(());
                    };
                    at = Some(header.start);
                    self.size = Some(header.segment_size);
                    self.finder.get_or_insert_with(|| TablespaceFinder::new(version, header.wal_page_size));
                }
                if let (Some(start), Some(finder)) = (&mut at, &mut self.finder) {
                    follow = finder.pages(*start, bytes);
                    *start = Lsn(start.0 + bytes.len() as u64);
                }
                Ok(())
            })
            .await?;
        Ok(follow)
    }

    /// archive-get may hand it out where the archive ends.
    async fn streamed(&mut self, segment: WalSegmentName) -> Result<(), RepositoryError> {
        let (Some(size), stanza) = (self.size, &self.order.stanza) else { return Ok(()) };
        let chain = self.repository.wal_parts(stanza, self.archive, segment, size).await?;
        let mut bytes = Vec::new();
        let take = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        self.repository.read_wal_parts(stanza, self.archive, &chain, take).await?;
        if let Ok(header) = WalSegmentHeader::parse(&bytes) {
            let begin = || TablespaceFinder::new(self.archive.version, header.wal_page_size);
            self.finder.get_or_insert_with(begin).pages(header.start, &bytes);
        }
        Ok(())
    }
}
