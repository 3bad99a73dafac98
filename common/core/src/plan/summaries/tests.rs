#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use crate::plan::restore::tests::head;
use proptest::prelude::*;

/// A prior from 100 to 200 and a backup at 1000, all on timeline 1.
pub(super) fn window() -> Window {
    Window {
        prior_timeline: TimelineId(1),
        prior_start: Lsn(0x100),
        prior_stop: Lsn(0x200),
        timeline: TimelineId(1),
        start: Lsn(0x1000),
    }
}

fn summary(timeline: u32, start: u64, end: u64) -> WalSummaryName {
    WalSummaryName::new(TimelineId(timeline), Lsn(start), Lsn(end)).unwrap()
}

fn summaries(all: &[(u32, u64, u64)]) -> Vec<WalSummaryName> {
    all.iter().map(|(timeline, start, end)| summary(*timeline, *start, *end)).collect()
}

fn one_timeline() -> TimelineHistory {
    TimelineHistory::without_ancestors(TimelineId(1))
}

/// Timeline 1 left at 400, 2 at 600; on to 1000 on timeline 3.
fn promoted() -> (Window, TimelineHistory) {
    let history = TimelineHistory::parse(TimelineId(3), "1\t0/400\tx\n2\t0/600\tx\n").unwrap();
    (Window { timeline: TimelineId(3), ..window() }, history)
}

#[test]
fn summaries_that_follow_each_other_over_the_window_are_all_needed() {
    let all = summaries(&[(1, 0x50, 0x100), (1, 0x100, 0x300), (1, 0x300, 0x1000), (1, 0x1000, 0x2000)]);
    assert_eq!(coverage(&all, &window(), &one_timeline()).unwrap(), all[1..3]);
}

#[test]
fn the_order_of_a_listing_overlaps_and_what_reaches_beyond_do_not_matter() {
    let all = summaries(&[(1, 0x280, 0x1100), (1, 0x80, 0x300), (1, 0x90, 0x200)]);
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(coverage(&all, &window(), &one_timeline()).unwrap(), sorted);
}

#[test]
fn a_hole_is_a_gap_wherever_it_is() {
    let gap = |all: &[(u32, u64, u64)]| coverage(&summaries(all), &window(), &one_timeline()).unwrap_err();
    let expected = |from, to| NoSummaries::Gap { timeline: TimelineId(1), from: Lsn(from), to: Lsn(to) };
    // The prior's own WAL counts from its start.
    assert_eq!(gap(&[(1, 0x101, 0x1000)]), expected(0x100, 0x101));
    assert_eq!(gap(&[(1, 0x100, 0x500), (1, 0x501, 0x1000)]), expected(0x500, 0x501));
    assert_eq!(gap(&[(1, 0x100, 0x500), (1, 0x2000, 0x3000)]), expected(0x500, 0x1000));
    // Of another timeline, though it has the positions.
    assert!(matches!(gap(&[(2, 0x100, 0x1000)]), NoSummaries::Behind { .. }));
}

#[test]
fn summaries_that_have_not_come_so_far_yet_are_behind() {
    let behind =
        |reached| NoSummaries::Behind { timeline: TimelineId(1), reached: Lsn(reached), start: Lsn(0x1000) };
    for (all, reached) in [(vec![], 0x100), (vec![(1, 0x80, 0x100)], 0x100), (vec![(1, 0x80, 0xFFF)], 0xFFF)]
    {
        assert_eq!(coverage(&summaries(&all), &window(), &one_timeline()), Err(behind(reached)));
    }
}

#[test]
fn each_timeline_on_the_way_is_covered_up_to_where_it_was_left() {
    let (window, history) = promoted();
    let all = [(1, 0x100, 0x400), (2, 0x400, 0x600), (3, 0x600, 0x1000)];
    assert_eq!(coverage(&summaries(&all), &window, &history).unwrap(), summaries(&all));
    // What timeline 1 wrote beyond the fork is of no use for what 2 wrote there.
    let short = [(1, 0x100, 0x700), (2, 0x401, 0x600), (3, 0x600, 0x1000)];
    let gap = NoSummaries::Gap { timeline: TimelineId(2), from: Lsn(0x400), to: Lsn(0x401) };
    assert_eq!(coverage(&summaries(&short), &window, &history), Err(gap));
    let unfinished = [(1, 0x100, 0x3FF), (2, 0x400, 0x600), (3, 0x600, 0x1000)];
    let gap = NoSummaries::Gap { timeline: TimelineId(1), from: Lsn(0x3FF), to: Lsn(0x400) };
    assert_eq!(coverage(&summaries(&unfinished), &window, &history), Err(gap));
    let last = coverage(&summaries(&all[..2]), &window, &history).unwrap_err();
    assert_eq!(
        last,
        NoSummaries::Behind { timeline: TimelineId(3), reached: Lsn(0x600), start: Lsn(0x1000) }
    );
}

#[test]
fn a_prior_on_a_later_timeline_needs_nothing_of_those_before() {
    let (window, history) = promoted();
    let window =
        Window { prior_timeline: TimelineId(2), prior_start: Lsn(0x400), prior_stop: Lsn(0x500), ..window };
    let all = summaries(&[(2, 0x400, 0x600), (3, 0x600, 0x1000)]);
    assert_eq!(coverage(&all, &window, &history).unwrap(), all);
}

#[test]
fn a_timeline_that_was_left_where_it_began_needs_no_summary() {
    let history = TimelineHistory::parse(TimelineId(3), "1\t0/400\tx\n2\t0/400\tx\n").unwrap();
    let window = Window { timeline: TimelineId(3), ..window() };
    let all = summaries(&[(1, 0x100, 0x400), (3, 0x400, 0x1000)]);
    assert_eq!(coverage(&all, &window, &history).unwrap(), all);
}

#[test]
fn a_prior_that_went_past_the_fork_is_of_another_branch() {
    let (window, history) = promoted();
    let all = summaries(&[(1, 0x100, 0x700), (2, 0x400, 0x600), (3, 0x600, 0x1000)]);
    let judged = |window: Window| coverage(&all, &window, &history);
    assert!(judged(window).is_ok());
    assert!(judged(Window { prior_stop: Lsn(0x400), ..window }).is_ok());
    // Its start is in the past, but its last pages are not.
    let other =
        |stop, timeline| Err(NoSummaries::OtherBranch { timeline: TimelineId(timeline), stop: Lsn(stop) });
    assert_eq!(judged(Window { prior_stop: Lsn(0x401), ..window }), other(0x401, 1));
    assert_eq!(judged(Window { prior_timeline: TimelineId(4), ..window }), other(0x200, 4));
    // Timeline 2 had not begun.
    assert_eq!(judged(Window { prior_timeline: TimelineId(2), ..window }), other(0x200, 2));
    // A history that nobody kept.
    let unknown = TimelineHistory::without_ancestors(TimelineId(3));
    assert_eq!(coverage(&all, &window, &unknown), other(0x200, 1));
    assert!(coverage(&all, &window, &one_timeline()).is_err());
}

#[test]
fn a_prior_that_ends_after_this_start_is_refused() {
    let all = summaries(&[(1, 0x100, 0x2000)]);
    let overlap = Window { prior_stop: Lsn(0x1001), ..window() };
    assert!(matches!(coverage(&all, &overlap, &one_timeline()), Err(NoSummaries::Overlap { .. })));
    let backwards = Window { prior_start: Lsn(0x300), ..window() };
    assert!(matches!(coverage(&all, &backwards, &one_timeline()), Err(NoSummaries::Overlap { .. })));
}

#[test]
fn what_wal_does_not_tell_of_must_be_as_it_was() {
    let now = ClusterShape {
        version: PgVersion::V17,
        catalog_version: 202_406_281,
        checksums: true,
        page_size: 8192,
    };
    assert_eq!(same_shape(now, now), Ok(()));
    // Offline pg_checksums changes every page and writes no WAL.
    for prior in [
        ClusterShape { checksums: false, ..now },
        ClusterShape { page_size: 4096, ..now },
        ClusterShape { version: PgVersion::V16, ..now },
        ClusterShape { catalog_version: 1, ..now },
    ] {
        assert!(matches!(same_shape(prior, now), Err(NoSummaries::Changed { .. })), "{prior:?}");
    }
    let old = ClusterShape { version: PgVersion::V16, ..now };
    assert_eq!(same_shape(old, old), Err(NoSummaries::Version(PgVersion::V16)));
}

#[test]
fn the_prior_is_what_its_manifest_says_of_itself() {
    let prior = ManifestHead { lsn_start: Some(Lsn(0x100)), lsn_stop: Some(Lsn(0x200)), ..head() };
    assert_eq!(Window::since(&prior, TimelineId(1), Lsn(0x1000)), Ok(window()));
    for offline in [
        ManifestHead { online: false, ..prior.clone() },
        ManifestHead { lsn_start: None, ..prior.clone() },
        ManifestHead { lsn_stop: None, ..prior.clone() },
    ] {
        let since = Window::since(&offline, TimelineId(1), Lsn(0x1000));
        assert_eq!(since, Err(NoSummaries::PriorOffline));
    }
    let control = include_bytes!("../../../testdata/pg/pg_control_17");
    let now = ClusterShape::of(&ControlFile::parse(control).unwrap());
    let prior =
        ManifestHead { version: PgVersion::V17, catalog_version: PgVersion::V17.catalog_version(), ..prior };
    assert_eq!(same_shape(ClusterShape::of_prior(&prior), now), Ok(()));
    let without = ClusterShape::of_prior(&ManifestHead { checksums: false, ..prior });
    assert!(same_shape(without, now).is_err());
}

proptest! {
    /// Against the definition: each position of the way is in some summary of its own timeline.
    #[test]
    fn coverage_is_found_exactly_where_every_position_is_summarized(
        all in prop::collection::vec((1u32..4, 0u64..40, 1u64..20), 0..9),
        prior_start in 0u64..20, prior_length in 0u64..10, start in 0u64..40,
    ) {
        let history = TimelineHistory::parse(TimelineId(3), "1\t0/A\tx\n2\t0/14\tx\n").unwrap();
        let (prior_start, prior_stop) = (Lsn(prior_start), Lsn(prior_start + prior_length));
        let prior_timeline = history.timeline_at(prior_start);
        let window = Window {
            prior_timeline, prior_start, prior_stop, timeline: TimelineId(3), start: Lsn(start + 20),
        };
        let all: Vec<_> = all.into_iter().map(|(t, from, length)| summary(t, from, from + length)).collect();
        let is_past = prior_stop <= window.start && history.contains(prior_timeline, prior_stop);
        let told = |lsn: u64| all.iter().any(|name| {
            name.timeline() == history.timeline_at(Lsn(lsn)) && name.start().0 <= lsn && lsn < name.end().0
        });
        let covered = is_past && (prior_start.0..window.start.0).all(told);
        let found = coverage(&all, &window, &history);
        prop_assert_eq!(found.is_ok(), covered, "{:?}", found);
    }
}
