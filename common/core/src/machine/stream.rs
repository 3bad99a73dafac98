//! What of a stream of WAL goes to which repository next, and what the server need not keep any more.
//!
//! Each repository has a lane of its own, in which one thing is under way at a time: the whole segment where it is
//! complete, else what came of it since the last part. Lanes in step get the same order, so that they share one reading;
//! one that is slow or away falls behind alone, and goes on from the server's own files.
//!
//! Not here: bytes, and telling the time. Moments come in as spans since the start.
//!
//! Invariants
//! 1. The parts of a segment in one repository lead from its beginning on without a gap.
//! 2. A lane goes on to a segment only after the one before it is whole there.
//! 3. What is confirmed is durable in every required repository; where none is required, in every one.

use crate::ids::RepoKey;
use crate::pg::{Lsn, TimelineId, WalPart, WalSegmentName, WalSegmentSize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between the beginnings of two parts: what may be lost with a host.
const PART_PAUSE: Duration = Duration::from_secs(1);
/// A part gets no larger; as much makes one due.
const PART_BYTES_MAX: u64 = 16 << 20;
/// Parts of one segment, after which all of it so far becomes one: a segment can take hours.
const PARTS_MAX: u32 = 60;
/// Bytes of an unfinished segment that are kept at hand.
const WINDOW_BYTES_MAX: u64 = 32 << 20;
/// After a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long a server may wait for an answer that a repository holds back: one that shuts down does nothing else.
const QUESTION_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamWork {
    /// Out of the bytes at hand.
    Part(WalPart),
    /// Out of the server's file, which holds all of it.
    Whole(WalSegmentName),
}

/// Something to store, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOrder {
    pub work: StreamWork,
    pub repositories: Vec<RepoKey>,
}

/// What became of it in one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamOutcome {
    Stored,
    /// It may be stored at another time.
    Failed,
    /// Neither the repository nor the server has it. One that is needed waits all the same: the server keeps its WAL for it.
    Gone,
}

/// The stream goes on at another place than it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("WAL goes on at {found} where {expected} comes next")]
pub struct StreamGap {
    pub expected: Lsn,
    pub found: Lsn,
}

#[derive(Debug)]
pub struct StreamMachine {
    timeline: TimelineId,
    size: WalSegmentSize,
    lanes: BTreeMap<RepoKey, Lane>,
    received: Lsn,
    /// How far the server says that it is.
    server_end: Lsn,
    /// Up to here nothing waits for its second.
    hurried: Lsn,
    asked_at: Option<Duration>,
}

#[derive(Debug)]
struct Lane {
    is_required: bool,
    /// The repository has everything up to here.
    durable: Lsn,
    is_busy: bool,
    /// Of the segment that `durable` lies in. At first there may be some of an earlier stream.
    parts: u32,
    part_begun: Option<Duration>,
    paused_until: Option<Duration>,
}

impl Lane {
    /// Whether parts are superseded by it.
    fn note_stored(&mut self, work: StreamWork, segment_start: Lsn) -> bool {
        match work {
            StreamWork::Whole(_) => std::mem::take(&mut self.parts) > 0,
            StreamWork::Part(part) if part.start() == segment_start => {
                std::mem::replace(&mut self.parts, 1) > 0
            }
            StreamWork::Part(_) => {
                self.parts += 1;
                false
            }
        }
    }
}

impl StreamMachine {
    /// `begin` is where a segment begins; `lanes` says who is required.
    pub fn new(
        timeline: TimelineId,
        begin: Lsn,
        size: WalSegmentSize,
        lanes: impl IntoIterator<Item = (RepoKey, bool)>,
    ) -> StreamMachine {
        let lane = |(key, is_required)| {
            let lane = Lane {
                is_required,
                durable: begin,
                is_busy: false,
                parts: 1,
                part_begun: None,
                paused_until: None,
            };
            (key, lane)
        };
        let lanes = lanes.into_iter().map(lane).collect();
        StreamMachine {
            timeline,
            size,
            lanes,
            received: begin,
            server_end: begin,
            hurried: begin,
            asked_at: None,
        }
    }

    pub fn received(&self) -> Lsn {
        self.received
    }

    /// The bytes from here to [`StreamMachine::received`] are to be at hand.
    pub fn window_start(&self) -> Lsn {
        let segment = self.segment_start(self.received);
        segment.max(Lsn(self.received.0.saturating_sub(WINDOW_BYTES_MAX)))
    }

    pub fn receive(&mut self, start: Lsn, bytes: u64) -> Result<(), StreamGap> {
        if start != self.received {
            return Err(StreamGap { expected: self.received, found: start });
        }
        self.received = Lsn(start.0 + bytes);
        self.note_server_end(self.received);
        Ok(())
    }

    pub fn note_server_end(&mut self, end: Lsn) {
        self.server_end = self.server_end.max(end);
    }

    /// The server asks how far we are.
    pub fn note_question(&mut self, now: Duration) {
        if self.confirmed() < self.received {
            self.hurried = self.received;
            self.asked_at.get_or_insert(now);
        }
    }

    /// Whether the server asks in vain, perhaps because it wants to shut down.
    pub fn is_in_the_way(&self, now: Duration) -> bool {
        self.asked_at.is_some_and(|asked| now >= asked + QUESTION_PATIENCE)
    }

    /// What is to begin now.
    pub fn next(&mut self, now: Duration) -> Option<StreamOrder> {
        let works = self.lanes.iter().map(|(key, lane)| (*key, self.work_of(lane, now)));
        let works: Vec<(RepoKey, Option<StreamWork>)> = works.collect();
        let work = works.iter().find_map(|(_, work)| *work)?;
        let same = works.iter().filter(|(_, other)| *other == Some(work));
        let repositories: Vec<RepoKey> = same.map(|(key, _)| *key).collect();
        for key in &repositories {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.is_busy = true;
                if matches!(work, StreamWork::Part(_)) {
                    lane.part_begun = Some(now);
                }
            }
        }
        Some(StreamOrder { work, repositories })
    }

    /// What became of it in one repository. True: that repository may now have parts that are superseded.
    pub fn settle(&mut self, now: Duration, key: RepoKey, work: StreamWork, outcome: StreamOutcome) -> bool {
        let end = match (outcome, work) {
            // Where the stream is, there is a segment that the server has.
            (StreamOutcome::Gone, _) => self.segment_start(self.received),
            (_, StreamWork::Part(part)) => part.end(),
            (_, StreamWork::Whole(segment)) => Lsn(segment.start_lsn(self.size).0 + self.size.bytes()),
        };
        let segment_start = self.segment_start(Lsn(end.0 - 1));
        let is_any_required = self.is_any_required();
        let Some(lane) = self.lanes.get_mut(&key) else { return false };
        lane.is_busy = false;
        let is_needed = lane.is_required || !is_any_required;
        if outcome == StreamOutcome::Failed || (outcome == StreamOutcome::Gone && is_needed) {
            lane.paused_until = Some(now + RETRY_PAUSE);
            return false;
        }
        lane.paused_until = None;
        lane.durable = lane.durable.max(end);
        let is_superseding = lane.note_stored(work, segment_start);
        if self.confirmed() >= self.hurried {
            self.asked_at = None;
        }
        is_superseding
    }

    pub fn confirmed(&self) -> Lsn {
        let is_any_required = self.is_any_required();
        let needed = self.lanes.values().filter(|lane| lane.is_required || !is_any_required);
        needed.map(|lane| lane.durable).min().unwrap_or(self.received)
    }

    /// What the server keeps for us.
    pub fn retained_bytes(&self) -> u64 {
        self.server_end.0.saturating_sub(self.confirmed().0)
    }

    fn is_any_required(&self) -> bool {
        self.lanes.values().any(|lane| lane.is_required)
    }

    fn work_of(&self, lane: &Lane, now: Duration) -> Option<StreamWork> {
        if lane.is_busy || lane.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let segment = WalSegmentName::containing(self.timeline, lane.durable, self.size);
        let segment_start = segment.start_lsn(self.size);
        if self.received.0 >= segment_start.0 + self.size.bytes() {
            return Some(StreamWork::Whole(segment));
        }
        let waiting = self.received.0 - lane.durable.0;
        let is_due = lane.part_begun.is_none_or(|begun| now >= begun + PART_PAUSE)
            || waiting >= PART_BYTES_MAX
            || lane.durable < self.hurried;
        if !is_due || lane.durable < self.window_start() {
            return None;
        }
        let is_merge_possible =
            self.window_start() <= segment_start && self.received.0 - segment_start.0 <= PART_BYTES_MAX;
        let is_merge = lane.parts >= PARTS_MAX && is_merge_possible;
        let start = if is_merge { segment_start } else { lane.durable };
        let end = self.received.min(Lsn(start.0 + PART_BYTES_MAX));
        WalPart::new(self.timeline, start, end, self.size)
            .filter(|part| part.end() > lane.durable)
            .map(StreamWork::Part)
    }

    fn segment_start(&self, lsn: Lsn) -> Lsn {
        WalSegmentName::containing(self.timeline, lsn, self.size).start_lsn(self.size)
    }
}

#[cfg(test)]
mod tests;
