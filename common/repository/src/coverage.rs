//! Which WAL an archive holds, as runs without a gap, and how far a backup can be recovered with it.
//!
//! It is arithmetic on names: whether the files are any good is for [`crate::verify`] to say.
//!
//! Invariants
//! 1. Memory is proportional to the gaps, not to the segments.
//! 2. A timeline is followed over its forks as PostgreSQL does: from the segment that holds the fork on, the file of the
//!    newer timeline is taken.

mod moments;

pub(crate) use moments::tell_until;

use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::pg::{Lsn, TimelineHistory, TimelineId, WalSegmentName, WalSegmentSize};
use pgconvoy_core::units::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Segments of one timeline, one after another, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalRange {
    pub first: WalSegmentName,
    pub last: WalSegmentName,
}

/// A backup can be recovered to any position from `from` to `to`, along this timeline's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PitrRange {
    pub timeline: TimelineId,
    pub from: Lsn,
    pub to: Lsn,
    /// When the backup was whole that recovery begins with.
    pub since: Option<Timestamp>,
    /// When the last transaction ended that can be recovered, where that is known.
    pub until: Option<Timestamp>,
}

impl PitrRange {
    /// As reports show it.
    pub fn to_json(&self) -> Value {
        let moment = |moment: Option<Timestamp>| moment.map(|moment| moment.to_string());
        json!({
            "timeline": self.timeline,
            "from": self.from.to_string(),
            "to": self.to.to_string(),
            "from-time": moment(self.since),
            "to-time": moment(self.until),
        })
    }

    /// The same positions, told once.
    pub fn merge(mut ranges: Vec<PitrRange>) -> Vec<PitrRange> {
        ranges.sort_unstable();
        let mut merged: Vec<PitrRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.timeline == range.timeline && range.from <= last.to => {
                    last.to = last.to.max(range.to);
                    last.since = last.since.min(range.since);
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalCoverage {
    size: WalSegmentSize,
    /// In order; neither overlapping nor touching.
    ranges: Vec<WalRange>,
    histories: BTreeMap<TimelineId, TimelineHistory>,
}

impl WalCoverage {
    pub fn new(size: WalSegmentSize) -> Self {
        WalCoverage { size, ranges: Vec::new(), histories: BTreeMap::new() }
    }

    /// Takes the next segment. They come in ascending order.
    pub fn push(&mut self, segment: WalSegmentName) {
        match self.ranges.last_mut() {
            Some(range) if range.last == segment || range.last.next(self.size) == segment => {
                range.last = segment
            }
            _ => self.ranges.push(WalRange { first: segment, last: segment }),
        }
    }

    pub fn add_history(&mut self, history: TimelineHistory) {
        self.histories.insert(history.timeline(), history);
    }

    pub fn ranges(&self) -> &[WalRange] {
        &self.ranges
    }

    /// The first segment from `first` to `last` that is not there.
    pub fn first_missing(&self, first: WalSegmentName, last: WalSegmentName) -> Option<WalSegmentName> {
        match self.run_from(first) {
            None => Some(first),
            Some(end) if end < last => Some(end.next(self.size)),
            Some(_) => None,
        }
    }

    /// How far a published backup can be recovered, if the WAL that it needs itself is whole.
    pub fn reach_of(&self, record: &BackupRecord) -> Vec<PitrRange> {
        let (Some(first), Some(last), Some(stop)) = (record.wal_start, record.wal_stop, record.lsn_stop)
        else {
            return Vec::new();
        };
        if self.first_missing(first, last).is_some() {
            return Vec::new();
        }
        let reach = self.reach(record.timeline, stop).into_iter();
        reach.map(|range| PitrRange { since: Some(record.stopped), ..range }).collect()
    }

    /// How far a backup that ended at `stop` can be recovered: on its own timeline, and on each that forked off later.
    pub fn reach(&self, timeline: TimelineId, stop: Lsn) -> Vec<PitrRange> {
        let descendants = self
            .histories
            .values()
            .filter(|history| history.timeline() != timeline && history.contains(timeline, stop))
            .filter_map(|history| self.end_of(&self.path(timeline, history), stop));
        let own = self.end_of(&[(timeline, 0)], stop);
        own.into_iter()
            .chain(descendants)
            .map(|(timeline, to)| PitrRange { timeline, from: stop, to, since: None, until: None })
            .collect()
    }

    /// The timelines from `timeline` to the history's own, each with the segment from which on it is read.
    fn path(&self, timeline: TimelineId, history: &TimelineHistory) -> Vec<(TimelineId, u64)> {
        let later = history.entries().iter().skip_while(|entry| entry.timeline != timeline);
        let forks: Vec<_> = later.map(|entry| (entry.timeline, entry.end.0 / self.size.bytes())).collect();
        let after = forks.iter().skip(1).map(|(timeline, _)| *timeline).chain([history.timeline()]);
        let begins = after.zip(&forks).map(|(next, (_, fork))| (next, *fork));
        [(timeline, 0)].into_iter().chain(begins).collect()
    }

    /// Where the WAL along the path ends, if it is whole up to the path's last timeline.
    fn end_of(&self, path: &[(TimelineId, u64)], stop: Lsn) -> Option<(TimelineId, Lsn)> {
        let stop_segment = Lsn(stop.0.saturating_sub(1)).0 / self.size.bytes();
        for (at, (timeline, begin)) in path.iter().enumerate() {
            let begin = stop_segment.max(*begin);
            let next = path.get(at + 1).map(|(_, next)| *next);
            if next.is_some_and(|next| next <= begin) {
                continue;
            }
            let start = Lsn(begin.saturating_mul(self.size.bytes()));
            let end = self.run_from(WalSegmentName::containing(*timeline, start, self.size))?;
            let after = end.segment_number(self.size) + 1;
            match next {
                None => return Some((*timeline, Lsn(after.saturating_mul(self.size.bytes())))),
                Some(next) if after < next => return None,
                Some(_) => {}
            }
        }
        None
    }

    /// The last segment of the run that `segment` is in.
    fn run_from(&self, segment: WalSegmentName) -> Option<WalSegmentName> {
        let after = self.ranges.partition_point(|range| range.first <= segment);
        let range = self.ranges[..after].last()?;
        (range.last >= segment && range.last.timeline() == segment.timeline()).then_some(range.last)
    }
}

#[cfg(test)]
mod tests;
