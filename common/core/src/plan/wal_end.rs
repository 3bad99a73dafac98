//! Whether streamed parts of a segment may stand in for it: only where they are the very end of an archive.
//!
//! PostgreSQL takes the end of the parts for the end of the WAL. Where anything comes after, that would lose it.

use crate::pg::{TimelineId, WalFileName, WalSegmentName};
use std::fmt;

/// Why a segment is not the end of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTheEnd {
    /// There is WAL of the same timeline behind it.
    Later(String),
    /// Another timeline began since, perhaps in this very segment.
    LaterTimeline(TimelineId),
}

impl fmt::Display for NotTheEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotTheEnd::Later(what) => write!(f, "{what} is archived, which is later"),
            NotTheEnd::LaterTimeline(timeline) => {
                write!(f, "timeline {timeline} is archived, which began later")
            }
        }
    }
}

/// Judges by the names of an archive's directories and of the files in the segment's own. What else a directory holds is
/// not looked at: one that is there at all counts.
pub fn judge_end<'a>(
    segment: WalSegmentName,
    directories: impl IntoIterator<Item = &'a str>,
    beside: impl IntoIterator<Item = WalFileName>,
) -> Result<(), NotTheEnd> {
    let own = segment.directory();
    for directory in directories {
        let timeline = directory.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match timeline.map(TimelineId) {
            Some(timeline) if timeline > segment.timeline() => {
                return Err(NotTheEnd::LaterTimeline(timeline));
            }
            Some(timeline) if timeline == segment.timeline() && directory > own.as_str() => {
                return Err(NotTheEnd::Later(directory.to_owned()));
            }
            _ => {}
        }
    }
    let later =
        beside.into_iter().find(|file| matches!(file, WalFileName::Segment(other) if *other > segment));
    later.map_or(Ok(()), |file| Err(NotTheEnd::Later(file.to_string())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SEGMENT: &str = "000000020000000300000010";

    fn judged(directories: &[&str], files: &[&str]) -> Result<(), NotTheEnd> {
        let files: Vec<WalFileName> = files.iter().map(|name| name.parse().unwrap()).collect();
        judge_end(SEGMENT.parse().unwrap(), directories.iter().copied(), files)
    }

    #[test]
    fn earlier_wal_and_the_way_to_the_timeline_do_not_matter() {
        let directories =
            ["00000001", "0000000100000003", "0000000100000004", "00000002", "0000000200000003"];
        let files = ["00000002000000030000000F", "000000020000000300000010.partial"];
        assert_eq!(judged(&directories, &files), Ok(()));
    }

    #[test]
    fn later_wal_of_the_timeline_forbids_it() {
        let later = "000000020000000300000011";
        assert_eq!(judged(&["0000000200000003"], &[later]), Err(NotTheEnd::Later(later.into())));
        assert_eq!(judged(&["0000000200000004"], &[]), Err(NotTheEnd::Later("0000000200000004".into())));
    }

    #[test]
    fn a_later_timeline_forbids_it_by_its_history_or_its_wal() {
        for directory in ["00000003", "0000000300000000"] {
            assert_eq!(judged(&[directory], &[]), Err(NotTheEnd::LaterTimeline(TimelineId(3))));
        }
    }
}
