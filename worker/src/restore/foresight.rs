//! Looks through the WAL that will be replayed for tablespaces that replay would create where something is already.
//!
//! CREATE TABLESPACE replays with the path of the original, which no map of a restore reaches: on a host where that
//! path exists, rows written in the copy appear in the original.
//!
//! PostgreSQL will be given each segment by whichever repository has it, so all of them are looked through, up to where the
//! target ends replay.

mod archives;

use super::source::Chosen;
use super::{RestoreOrder, Surroundings, terminated};
use archives::{Archives, Holder, Pieces};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::{
    CreatedTablespace, Follow, Lsn, TablespaceFinder, TimelineId, WalSegmentHeader, WalSegmentName,
};
use pgconvoy_core::plan::recovery::{Reach, TargetAction, TargetTimeline};
use pgconvoy_repository::RepositoryError;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

/// Segments whose bytes are on their way while earlier ones are looked through.
const SEGMENTS_AHEAD: usize = 4;
/// So many segments take their time: who waits is told now and then.
const TOLD_EVERY: usize = 100;

/// Before anything is written.
pub(super) fn check(chosen: &Chosen, order: &RestoreOrder, around: &Surroundings) -> Result<(), Failure> {
    let looking = async {
        tokio::select! {
            () = around.stop.cancelled() => Err(terminated()),
            found = to_come(chosen, order, around) => found,
        }
    };
    for tablespace in around.runtime.block_on(looking)? {
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
                .hint("if another cluster uses that directory, it would be overwritten: restore on another host, with --type=immediate, or to a target before it was created")
                .hint("if nothing does, --force restores all the same"));
        }
    }
    Ok(())
}

async fn to_come(
    chosen: &Chosen,
    order: &RestoreOrder,
    around: &Surroundings,
) -> Result<Vec<CreatedTablespace>, Failure> {
    let Some(extent) = Extent::of(chosen, order) else { return Ok(Vec::new()) };
    if extent.reach.has_end() && order.recovery.action != Some(TargetAction::Promote) {
        tracing::info!("new tablespaces are looked for up to the target: restore again for a later one");
    }
    let archives = Archives::open(chosen).await?;
    let timelines = to_replay(&archives, &extent).await?;
    let mut found: Vec<CreatedTablespace> = Vec::new();
    for ToReplay { whole, streamed } in timelines.into_values() {
        let mut look = Look { archives: &archives, extent: &extent, around, finder: None };
        look.whole(&whole).await;
        for (segment, holders) in &streamed {
            look.streamed(*segment, holders).await;
        }
        let seen = look.finder.map_or_else(Vec::new, |finder| finder.found().to_vec());
        found.extend(seen.into_iter().filter(|one| !found.contains(one)).collect::<Vec<_>>());
    }
    Ok(found)
}

/// Which WAL may be replayed.
struct Extent {
    first: WalSegmentName,
    /// The last one that the backup needs.
    last_of_backup: Option<WalSegmentName>,
    reach: Reach,
}

impl Extent {
    /// `None`: none of the archive's.
    fn of(chosen: &Chosen, order: &RestoreOrder) -> Option<Extent> {
        let head = &chosen.head;
        let first = head.wal_start.filter(|_| order.recovery.target.uses_archive())?;
        Some(Extent { first, last_of_backup: head.wal_stop, reach: order.recovery.reach() })
    }

    /// Which timeline is followed is PostgreSQL's to decide, unless somebody said it: all that begin at the backup or later
    /// count.
    fn has(&self, segment: WalSegmentName) -> bool {
        let (timeline, own) = (segment.timeline(), self.first.timeline());
        let is_of_timeline = match self.reach.timeline {
            Some(TargetTimeline::Current) => timeline == own,
            Some(TargetTimeline::Number(number)) => timeline <= number,
            Some(TargetTimeline::Latest) | None => true,
        };
        let last = self.last_of_backup.filter(|_| self.reach.ends_with_backup);
        is_of_timeline
            && timeline >= own
            && segment.to_string()[8..] >= self.first.to_string()[8..]
            && last.is_none_or(|last| timeline == own && segment <= last)
    }
}

/// What there is of one timeline, and who has it.
#[derive(Default)]
struct ToReplay {
    whole: BTreeMap<WalSegmentName, Vec<Holder>>,
    /// There are parts of these.
    streamed: BTreeMap<WalSegmentName, Vec<Holder>>,
}

/// Fails where no archive can be listed.
async fn to_replay(archives: &Archives, extent: &Extent) -> Result<BTreeMap<TimelineId, ToReplay>, Failure> {
    let mut timelines: BTreeMap<TimelineId, ToReplay> = BTreeMap::new();
    let (mut is_any_listed, mut first_failure) = (false, None);
    for holder in archives.holders() {
        let listed = match archives.list(holder).await {
            Ok(listed) => listed,
            Err(failure) => {
                let repository = archives.repository(holder);
                tracing::warn!("WAL of repo {repository} cannot be looked at for new tablespaces: {failure}");
                first_failure.get_or_insert(failure);
                continue;
            }
        };
        is_any_listed = true;
        for segment in listed.whole.into_iter().filter(|segment| extent.has(*segment)) {
            let timeline = timelines.entry(segment.timeline()).or_default();
            timeline.whole.entry(segment).or_default().push(holder);
        }
        for segment in listed.streamed.into_iter().filter(|segment| extent.has(*segment)) {
            let timeline = timelines.entry(segment.timeline()).or_default();
            timeline.streamed.entry(segment).or_default().push(holder);
        }
    }
    for ToReplay { whole, streamed } in timelines.values_mut() {
        // The whole segment says all that its parts say.
        streamed.retain(|segment, _| !whole.contains_key(segment));
    }
    match first_failure {
        Some(failure) if !is_any_listed => Err(failure),
        _ => Ok(timelines),
    }
}

/// Follows one timeline.
struct Look<'a> {
    archives: &'a Archives,
    extent: &'a Extent,
    around: &'a Surroundings,
    finder: Option<TablespaceFinder>,
}

impl Look<'_> {
    /// A segment that no archive gives ends it: replay will not get further either.
    async fn whole(&mut self, segments: &BTreeMap<WalSegmentName, Vec<Holder>>) {
        let mut to_ask = segments.iter();
        let mut asked = VecDeque::new();
        for looked_at in 1.. {
            while asked.len() < SEGMENTS_AHEAD
                && let Some((segment, holders)) = to_ask.next()
            {
                let reading = self.archives.read(self.around, holders[0], *segment);
                asked.push_back((*segment, holders, reading));
            }
            let Some((segment, holders, reading)) = asked.pop_front() else { break };
            if self.segment(segment, holders, reading).await == Follow::Ended {
                break;
            }
            if looked_at % TOLD_EVERY == 0 {
                let of = segments.len();
                tracing::info!("looked at {looked_at} of {of} WAL segments for new tablespaces");
            }
        }
    }

    async fn segment(&mut self, segment: WalSegmentName, holders: &[Holder], first: Pieces) -> Follow {
        let mut reading = Some(first);
        for holder in holders {
            let pieces = reading.take().unwrap_or_else(|| self.archives.read(self.around, *holder, segment));
            match self.pieces(pieces).await {
                Ok((finder, follow)) => {
                    self.finder = finder;
                    return follow;
                }
                Err(error) => self.tell_unseen(&segment.to_string(), *holder, &error),
            }
        }
        Follow::Ended
    }

    /// Nothing that an archive gives counts before its checksum is proved.
    async fn pieces(
        &self,
        mut pieces: Pieces,
    ) -> Result<(Option<TablespaceFinder>, Follow), RepositoryError> {
        let (mut finder, mut follow, mut next) = (self.finder.clone(), Follow::Next, None);
        while let Some(bytes) = pieces.next().await {
            if follow != Follow::Next {
                continue;
            }
            let start = match next {
                Some(start) => start,
                None => match WalSegmentHeader::parse(&bytes) {
                    Ok(header) => {
                        finder.get_or_insert_with(|| self.new_finder(&header));
                        header.start
                    }
                    Err(_) => return Ok((finder, Follow::Ended)),
                },
            };
            next = Some(Lsn(start.0 + bytes.len() as u64));
            if let Some(finder) = &mut finder {
                follow = finder.pages(start, &bytes);
            }
        }
        pieces.prove().await?;
        Ok((finder, follow))
    }

    /// archive-get may hand it out where the archive ends. Who has most of it has what the others have.
    async fn streamed(&mut self, segment: WalSegmentName, holders: &[Holder]) {
        let mut longest = Vec::new();
        for holder in holders {
            match self.archives.streamed(*holder, segment).await {
                Ok(bytes) if bytes.len() > longest.len() => longest = bytes,
                Ok(_) => {}
                Err(error) => self.tell_unseen(&format!("what was streamed of {segment}"), *holder, &error),
            }
        }
        if let Ok(header) = WalSegmentHeader::parse(&longest) {
            let mut finder = self.finder.take().unwrap_or_else(|| self.new_finder(&header));
            finder.pages(header.start, &longest);
            self.finder = Some(finder);
        }
    }

    fn new_finder(&self, header: &WalSegmentHeader) -> TablespaceFinder {
        TablespaceFinder::new(self.archives.version(), header.wal_page_size, self.extent.reach.end.clone())
    }

    fn tell_unseen(&self, what: &str, holder: Holder, error: &RepositoryError) {
        let repository = self.archives.repository(holder);
        tracing::warn!("{what} in repo {repository} cannot be looked at for new tablespaces: {error}");
    }
}
