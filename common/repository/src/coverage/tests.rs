//! Runs, gaps and forks.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

const MIB_16: u64 = 16 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::DEFAULT
}

fn segment(timeline: u32, number: u64) -> WalSegmentName {
    WalSegmentName::containing(TimelineId(timeline), Lsn(number * MIB_16), size())
}

fn coverage(segments: &[(u32, u64)]) -> WalCoverage {
    let mut coverage = WalCoverage::new(size());
    segments.iter().for_each(|(timeline, number)| coverage.push(segment(*timeline, *number)));
    coverage
}

fn reach(timeline: u32, to: u64, from: u64) -> PitrRange {
    PitrRange {
        timeline: TimelineId(timeline),
        from: Lsn(from),
        to: Lsn(to * MIB_16),
        since: None,
        until: None,
    }
}

#[test]
fn a_million_segments_without_a_gap_are_one_range() {
    let mut whole = WalCoverage::new(size());
    (0..1_000_000).for_each(|number| whole.push(segment(1, number)));
    assert_eq!(whole.ranges(), [WalRange { first: segment(1, 0), last: segment(1, 999_999) }]);
}

#[test]
fn a_gap_is_named_by_the_first_segment_in_it() {
    let gap = coverage(&[(1, 2), (1, 3), (1, 5), (2, 5)]);
    assert_eq!(gap.ranges().len(), 3);
    assert_eq!(gap.first_missing(segment(1, 2), segment(1, 3)), None);
    assert_eq!(gap.first_missing(segment(1, 2), segment(1, 5)), Some(segment(1, 4)));
    assert_eq!(gap.first_missing(segment(1, 1), segment(1, 3)), Some(segment(1, 1)));
    assert_eq!(gap.first_missing(segment(2, 6), segment(2, 6)), Some(segment(2, 6)));
}

#[test]
fn a_backup_is_recovered_up_to_the_first_gap() {
    let gap = coverage(&[(1, 2), (1, 3), (1, 5)]);
    let stop = 2 * MIB_16 + 100;
    assert_eq!(gap.reach(TimelineId(1), Lsn(stop)), [reach(1, 4, stop)]);
}

#[test]
fn a_stop_on_a_boundary_needs_nothing_of_the_segment_that_begins_there() {
    let whole = coverage(&[(1, 2)]);
    assert_eq!(whole.reach(TimelineId(1), Lsn(3 * MIB_16)), [reach(1, 3, 3 * MIB_16)]);
}

#[test]
fn recovery_follows_a_promotion_from_the_segment_of_the_fork_on() {
    let history = |text: &str, timeline| TimelineHistory::parse(TimelineId(timeline), text).unwrap();
    let stop = 2 * MIB_16 + 100;
    let mut forked = coverage(&[(1, 2), (1, 3), (2, 4), (2, 5)]);
    forked.add_history(history("1\t0/4000100\tpromoted\n", 2));
    assert_eq!(forked.reach(TimelineId(1), Lsn(stop)), [reach(1, 4, stop), reach(2, 6, stop)]);
    let mut twice = coverage(&[(1, 2), (1, 3), (2, 4), (3, 5), (3, 6)]);
    twice.add_history(history("1\t0/4000100\tpromoted\n2\t0/5000100\tagain\n", 3));
    assert_eq!(twice.reach(TimelineId(1), Lsn(stop)), [reach(1, 4, stop), reach(3, 7, stop)]);
    let mut broken = coverage(&[(1, 2), (2, 4), (2, 5)]);
    broken.add_history(history("1\t0/4000100\tpromoted\n", 2));
    assert_eq!(
        broken.reach(TimelineId(1), Lsn(stop)),
        [reach(1, 3, stop)],
        "segment 3 is missing before the fork"
    );
    let mut earlier = coverage(&[(1, 2), (1, 3), (2, 2), (2, 3)]);
    earlier.add_history(history("1\t0/2000000\tpromoted\n", 2));
    assert_eq!(
        earlier.reach(TimelineId(1), Lsn(stop)),
        [reach(1, 4, stop)],
        "the fork lies before the backup"
    );
}

#[test]
fn overlapping_ranges_of_one_timeline_are_told_once() {
    let range = |timeline, from, to| PitrRange {
        timeline: TimelineId(timeline),
        from: Lsn(from),
        to: Lsn(to),
        since: None,
        until: None,
    };
    let merged = PitrRange::merge(vec![range(2, 5, 9), range(1, 4, 8), range(1, 1, 5), range(1, 9, 10)]);
    assert_eq!(merged, [range(1, 1, 8), range(1, 9, 10), range(2, 5, 9)]);
}
