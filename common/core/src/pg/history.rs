//! Timeline history files: which timelines a cluster came from, and where it left each.
//!
//! Invariants
//! 1. Ancestors ascend, by timeline and by position, and are older than the timeline whose history it is.
//! 2. Every byte of WAL on the way to a timeline was written on exactly one timeline: [`TimelineHistory::timeline_at`].
//!
//! Source: `access/transam/timeline.c`.

use crate::pg::{Lsn, PgFormatError, TimelineId};

/// One ancestor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    pub timeline: TimelineId,
    /// Where the next timeline forked off; what `timeline` wrote from here on is not part of this history.
    pub end: Lsn,
    /// For people: `no recovery target specified`, `before 2026-...`.
    pub reason: String,
}

/// What `<timeline>.history` says, oldest ancestor first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    entries: Vec<HistoryEntry>,
}

const WHAT: &str = "timeline history";

impl TimelineHistory {
    /// Reads the history file of `timeline`.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, PgFormatError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let refuse = |reason| PgFormatError::new(WHAT, line, reason);
            let entry =
                entry(line).ok_or_else(|| refuse("a line is not a timeline, a position and a reason"))?;
            if entry.timeline >= timeline {
                return Err(refuse("an ancestor is not older than the timeline itself"));
            }
            if entries.last().is_some_and(|last| last.timeline >= entry.timeline || last.end > entry.end) {
                return Err(refuse("the ancestors do not ascend"));
            }
            entries.push(entry);
        }
        Ok(TimelineHistory { timeline, entries })
    }

    /// Timeline 1, which has no history file; or a later one whose past nobody asks for.
    pub fn without_ancestors(timeline: TimelineId) -> Self {
        TimelineHistory { timeline, entries: Vec::new() }
    }

    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// Where this history left `ancestor`; none for a timeline that is no ancestor, and for the timeline itself.
    pub fn fork_point(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.entries.iter().find(|entry| entry.timeline == ancestor).map(|entry| entry.end)
    }

    /// Whether a server that stood at `lsn` on `timeline` can follow the WAL to this timeline: it did not go past the fork,
    /// and it was not there before its timeline began.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        let place = self.entries.iter().position(|entry| entry.timeline == timeline);
        let (begin, end) = match place {
            Some(index) => (self.begin(index), Some(self.entries[index].end)),
            None if timeline == self.timeline => (self.begin(self.entries.len()), None),
            None => return false,
        };
        begin <= lsn && end.is_none_or(|end| lsn <= end)
    }

    /// The timeline on which the byte at `lsn` was written.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.entries.iter().find(|entry| lsn < entry.end).map_or(self.timeline, |entry| entry.timeline)
    }

    /// Where the timeline at this place began: at the end of the one before.
    fn begin(&self, index: usize) -> Lsn {
        index.checked_sub(1).map_or(Lsn::ZERO, |before| self.entries[before].end)
    }
}

fn entry(line: &str) -> Option<HistoryEntry> {
    let mut parts = line.splitn(3, ['\t', ' ']).map(str::trim);
    let timeline = parts.next()?.parse().ok().filter(|number| *number > 0).map(TimelineId)?;
    let end = parts.next()?.parse().ok()?;
    Some(HistoryEntry { timeline, end, reason: parts.next().unwrap_or_default().to_owned() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    /// Written by a server of 15 that was promoted twice.
    const HISTORY_3: &str = include_str!("../../testdata/pg/00000003.history");

    fn history() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(3), HISTORY_3).unwrap()
    }

    fn at(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn the_ancestors_are_read_with_their_fork_points() {
        let history = history();
        let timelines: Vec<u32> = history.entries().iter().map(|entry| entry.timeline.0).collect();
        assert_eq!(timelines, [1, 2]);
        assert_eq!(history.entries()[0].reason, "no recovery target specified");
        assert_eq!(history.fork_point(TimelineId(3)), None);
        assert_eq!(history.fork_point(TimelineId(4)), None);
    }

    #[test]
    fn a_backup_past_the_fork_is_not_on_the_way() {
        let history = history();
        let (first, second) = (history.entries()[0].end, history.entries()[1].end);
        assert!(history.contains(TimelineId(1), first));
        assert!(!history.contains(TimelineId(1), Lsn(first.0 + 1)));
        assert!(history.contains(TimelineId(2), first) && history.contains(TimelineId(2), second));
        assert!(!history.contains(TimelineId(2), Lsn(first.0 - 1)));
        assert!(history.contains(TimelineId(3), Lsn(u64::MAX)));
        assert!(!history.contains(TimelineId(3), Lsn(second.0 - 1)));
        assert!(!history.contains(TimelineId(7), first));
    }

    #[test]
    fn every_position_belongs_to_one_timeline() {
        let history = history();
        let (first, second) = (history.entries()[0].end, history.entries()[1].end);
        for (lsn, timeline) in
            [(Lsn::ZERO, 1), (Lsn(first.0 - 1), 1), (first, 2), (Lsn(second.0 - 1), 2), (second, 3)]
        {
            assert_eq!(history.timeline_at(lsn), TimelineId(timeline), "{lsn}");
        }
        assert_eq!(TimelineHistory::without_ancestors(TimelineId(1)).timeline_at(at("5/0")), TimelineId(1));
    }

    #[test]
    fn comments_are_passed_over_and_disorder_is_refused() {
        let parse = |text| TimelineHistory::parse(TimelineId(5), text);
        assert_eq!(
            parse("# a comment\n\n 1\t0/5000000\n").unwrap().fork_point(TimelineId(1)),
            Some(at("0/5000000"))
        );
        for bad in
            ["1\n", "x\t0/1\n", "1\t5\n", "0\t0/1\n", "5\t0/1\n", "2\t0/1\n1\t0/2\n", "1\t0/2\n2\t0/1\n"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "([0-9]{1,11}[\t ][0-9A-F]{1,9}/[0-9A-F]{1,9}\n|\\PC{0,9}\n?){0,5}", lsn: u64) {
            if let Ok(history) = TimelineHistory::parse(TimelineId(u32::MAX), &text) {
                let timeline = history.timeline_at(Lsn(lsn));
                prop_assert!(history.contains(timeline, Lsn(lsn)));
            }
        }
    }
}
