//! What one repository lacks of the WAL that its siblings hold.
//!
//! Not every difference is a lack: a repository never had what was archived before it knew the cluster, and what retention
//! took away is not to come back.
//!
//! Invariant: nothing is due that a retention rule could have removed.

use crate::format::catalogue::BackupRecord;
use crate::pg::{WalFileName, WalSegmentName, WalSegmentSize};
use crate::units::Timestamp;
use std::collections::BTreeSet;

/// From where on a repository should have all WAL of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// When it got to know the cluster.
    pub since: Timestamp,
    /// The segment that its oldest backup with a claim to gapless WAL starts in.
    pub from: Option<WalSegmentName>,
    pub size: WalSegmentSize,
}

/// A file in a sibling. By the sibling's clock, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub file: WalFileName,
    pub stored: Option<Timestamp>,
}

impl Due {
    /// Where `keeps_all` WAL since the oldest backup is kept, else only what follows the newest is beyond any rule.
    pub fn new<'a>(
        since: Timestamp,
        size: WalSegmentSize,
        backups: impl Iterator<Item = &'a BackupRecord>,
        keeps_all: bool,
    ) -> Due {
        let starts = backups.filter_map(|backup| backup.wal_start);
        let number = |start: &WalSegmentName| start.segment_number(size);
        let from = if keeps_all { starts.min_by_key(number) } else { starts.max_by_key(number) };
        Due { since, from, size }
    }

    fn covers(&self, held: &Held) -> bool {
        let segment = match held.file {
            WalFileName::History(_) => return true,
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => segment,
            WalFileName::BackupHistory { segment, .. } => segment,
        };
        if !segment.fits(self.size) || held.stored.is_some_and(|stored| stored < self.since) {
            return false;
        }
        let number = |segment: &WalSegmentName| segment.segment_number(self.size);
        self.from.is_none_or(|from| number(&from) <= number(&segment))
    }
}

/// What of `siblings` is due and not in `own`.
pub fn lacking(siblings: &[Held], own: &BTreeSet<WalFileName>, due: &Due) -> BTreeSet<WalFileName> {
    let lacks = |held: &&Held| !own.contains(&held.file) && due.covers(held);
    siblings.iter().filter(lacks).map(|held| held.file).collect()
}

/// The order in which files are brought: histories lead to all else, then by position, so that what is whole grows.
pub fn in_order(files: impl IntoIterator<Item = WalFileName>, size: WalSegmentSize) -> Vec<WalFileName> {
    let turn = |file: &WalFileName| match *file {
        WalFileName::History(timeline) => (0, 0, timeline),
        WalFileName::Segment(segment)
        | WalFileName::Partial(segment)
        | WalFileName::BackupHistory { segment, .. } => (1, segment.segment_number(size), segment.timeline()),
    };
    let mut files: Vec<WalFileName> = files.into_iter().collect();
    files.sort_by_key(|file| (turn(file), *file));
    files
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
    const KNOWN: Timestamp = Timestamp(1000);

    fn file(name: &str) -> WalFileName {
        name.parse().unwrap()
    }

    fn held(name: &str, stored: i64) -> Held {
        Held { file: file(name), stored: Some(Timestamp(stored)) }
    }

    fn due(from: Option<&str>) -> Due {
        Due { since: KNOWN, from: from.map(|name| name.parse().unwrap()), size: SIZE }
    }

    fn names(due: &Due, siblings: &[Held], own: &[&str]) -> Vec<String> {
        let own = own.iter().map(|name| file(name)).collect();
        in_order(lacking(siblings, &own, due), SIZE).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_sibling_has_since_the_cluster_is_known_is_due() {
        let siblings = [
            held("000000010000000000000001", 999),
            held("000000010000000000000002", 1000),
            held("000000010000000000000003", 2000),
            Held { file: file("000000010000000000000004"), stored: None },
        ];
        assert_eq!(
            names(&due(None), &siblings, &["000000010000000000000003"]),
            ["000000010000000000000002", "000000010000000000000004"]
        );
    }

    #[test]
    fn nothing_is_due_from_before_the_backup_that_wal_is_kept_for() {
        let siblings = [
            held("000000010000000000000004", 2000),
            held("000000010000000000000005", 2000),
            held("000000010000000000000005.00000028.backup", 2000),
            held("000000020000000000000004", 2000),
        ];
        assert_eq!(
            names(&due(Some("000000010000000000000005")), &siblings, &[]),
            ["000000010000000000000005", "000000010000000000000005.00000028.backup"]
        );
    }

    #[test]
    fn histories_are_always_due_and_come_first_and_the_rest_by_position() {
        let siblings = [
            held("000000010000000000000009", 2000),
            held("000000020000000000000008", 2000),
            held("000000010000000000000008", 2000),
            held("00000002.history", 1),
        ];
        assert_eq!(
            names(&due(None), &siblings, &[]),
            [
                "00000002.history",
                "000000010000000000000008",
                "000000020000000000000008",
                "000000010000000000000009"
            ]
        );
    }

    #[test]
    fn a_name_of_another_segment_size_is_left_alone() {
        assert_eq!(names(&due(None), &[held("000000010000000000000FFF", 2000)], &[]), [""; 0]);
    }
}
