#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use proptest::prelude::*;

const TIMELINE: TimelineId = TimelineId(1);
const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

fn name(text: &str) -> WalSegmentName {
    text.parse().unwrap()
}

#[test]
fn positions_read_and_print_as_postgresql_writes_them() {
    for (text, value) in [
        ("0/0", 0),
        ("0/16B6C50", 0x16B_6C50),
        ("16/B374D848", 0x16_B374_D848),
        ("FFFFFFFF/FFFFFFFF", u64::MAX),
    ] {
        assert_eq!(lsn(text), Lsn(value));
        assert_eq!(Lsn(value).to_string(), text);
    }
    assert_eq!(lsn("a/0000000b"), Lsn(0xA_0000_000B));
    for bad in ["", "/", "0", "0/", "/0", "0/0/0", "+1/0", "0/-1", "0/100000000", "0/x", " 0/0", "0/é"] {
        assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
    }
}

#[test]
fn segment_sizes_are_powers_of_two_from_1_mib_to_1_gib() {
    for shift in 20..=30 {
        assert_eq!(WalSegmentSize::new(1 << shift).unwrap().bytes(), 1 << shift);
    }
    for refused in [0, 1 << 19, 3 << 20, 1 << 31, u64::MAX] {
        assert!(WalSegmentSize::new(refused).is_err(), "{refused}");
    }
}

#[test]
fn a_start_on_a_boundary_needs_the_segment_that_begins_there() {
    let segment = |text| WalSegmentName::containing(TIMELINE, lsn(text), SIZE).to_string();
    assert_eq!(segment("0/2000000"), "000000010000000000000002");
    assert_eq!(segment("0/1FFFFFF"), "000000010000000000000001");
    assert_eq!(segment("1/0"), "000000010000000100000000");
}

#[test]
fn a_stop_on_a_boundary_needs_the_segment_before_it() {
    let segment = |text| WalSegmentName::last_before(TIMELINE, lsn(text), SIZE).to_string();
    assert_eq!(segment("0/2000000"), "000000010000000000000001");
    assert_eq!(segment("0/2000001"), "000000010000000000000002");
    assert_eq!(segment("1/0"), "0000000100000000000000FF");
    assert_eq!(segment("0/0"), "000000010000000000000000");
}

#[test]
fn the_number_of_segments_in_a_directory_follows_their_size() {
    for (bytes, last, after) in [
        (1 << 20, "000000070000000000000FFF", "000000070000000100000000"),
        (16 << 20, "0000000700000000000000FF", "000000070000000100000000"),
        (1 << 30, "000000070000000000000003", "000000070000000100000000"),
    ] {
        let size = WalSegmentSize::new(bytes).unwrap();
        assert_eq!(name(last).next(size), name(after));
        assert!(name(last).fits(size));
        assert_eq!(name(after).start_lsn(size), lsn("1/0"));
        assert_eq!(name(after).directory(), "0000000700000001");
    }
    assert!(!name("000000070000000000000100").fits(SIZE));
}

#[test]
fn a_range_names_each_segment_once_and_nothing_behind_its_end() {
    let range = |start, end| -> Vec<String> {
        WalSegmentName::range(TIMELINE, lsn(start), lsn(end), SIZE)
            .map(|segment| segment.to_string())
            .collect()
    };
    assert_eq!(range("0/2000028", "0/2000100"), ["000000010000000000000002"]);
    assert_eq!(range("0/2000028", "0/3000000"), ["000000010000000000000002"]);
    let across = ["0000000100000000000000FE", "0000000100000000000000FF", "000000010000000100000000"];
    assert_eq!(range("0/FE000028", "1/1"), across);
    assert_eq!(range("0/2000028", "0/2000028"), [""; 0]);
    assert_eq!(range("0/2000028", "0/1000000"), [""; 0]);
}

#[test]
fn names_of_wal_files_are_told_apart() {
    let segment = name("00000002000000010000000A");
    for (text, file) in [
        ("00000002000000010000000A", WalFileName::Segment(segment)),
        ("00000002000000010000000A.partial", WalFileName::Partial(segment)),
        ("00000002.history", WalFileName::History(TimelineId(2))),
        ("00000002000000010000000A.00000028.backup", WalFileName::BackupHistory { segment, offset: 0x28 }),
    ] {
        assert_eq!(text.parse::<WalFileName>().unwrap(), file);
        assert_eq!(file.to_string(), text);
    }
    for bad in [
        "",
        "RECOVERYXLOG",
        "00000002000000010000000a",
        "00000002000000010000000A.gz",
        "0000000200000001000000",
        "00000002000000010000100A",
        "00000000000000010000000A",
        "00000000.history",
        "2.history",
        ".history",
        "00000002000000010000000A.28.backup",
        "00000002000000010000000A.00000028.backup.x",
        "0000000é000000010000000A",
        "archive_status",
        "+0000002000000010000000A",
        "00000002000000010000000A ",
    ] {
        assert!(bad.parse::<WalFileName>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_very_last_segment_has_no_successor() {
    let last = WalSegmentName::containing(TIMELINE, Lsn(u64::MAX), SIZE);
    assert_eq!(last.next(SIZE), last);
    assert_eq!(WalSegmentName::range(TIMELINE, Lsn(u64::MAX - 1), Lsn(u64::MAX), SIZE).count(), 1);
}

prop_compose! {
    fn any_size()(shift in 20u32..=30) -> WalSegmentSize {
        WalSegmentSize::new(1 << shift).unwrap()
    }
}

proptest! {
    #[test]
    fn a_position_lies_in_its_segment(position: u64, timeline in 1u32.., size in any_size()) {
        let segment = WalSegmentName::containing(TimelineId(timeline), Lsn(position), size);
        let start = segment.start_lsn(size);
        prop_assert!(start.0 <= position && position - start.0 < size.bytes());
        prop_assert_eq!(segment.timeline(), TimelineId(timeline));
        prop_assert!(segment.fits(size));
        prop_assert_eq!(segment.to_string().parse::<WalSegmentName>().unwrap(), segment);
        prop_assert_eq!(Lsn(position).to_string().parse::<Lsn>().unwrap(), Lsn(position));
    }

    #[test]
    fn names_order_as_their_text_does(a: u64, b: u64, timelines in (1u32..4, 1u32..4), size in any_size()) {
        let first = WalSegmentName::containing(TimelineId(timelines.0), Lsn(a), size);
        let second = WalSegmentName::containing(TimelineId(timelines.1), Lsn(b), size);
        prop_assert_eq!(first.cmp(&second), first.to_string().cmp(&second.to_string()));
        if timelines.0 == timelines.1 {
            prop_assert!(a > b || first <= second);
        }
    }

    #[test]
    fn the_next_segment_starts_where_this_one_ends(position in 0..u64::MAX / 2, size in any_size()) {
        let segment = WalSegmentName::containing(TIMELINE, Lsn(position), size);
        let next = segment.next(size);
        prop_assert_eq!(next.start_lsn(size), Lsn(segment.start_lsn(size).0 + size.bytes()));
        prop_assert_eq!(WalSegmentName::last_before(TIMELINE, next.start_lsn(size), size), segment);
    }

    #[test]
    fn a_range_goes_from_the_segment_of_its_start_to_that_of_its_last_byte(start in 0u64..1 << 40, length in 1u64..1 << 26, size in any_size()) {
        let end = Lsn(start + length);
        let segments: Vec<WalSegmentName> = WalSegmentName::range(TIMELINE, Lsn(start), end, size).collect();
        prop_assert_eq!(segments[0], WalSegmentName::containing(TIMELINE, Lsn(start), size));
        prop_assert_eq!(*segments.last().unwrap(), WalSegmentName::last_before(TIMELINE, end, size));
        prop_assert!(segments.windows(2).all(|pair| pair[0].next(size) == pair[1]));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}|[0-9A-F]{24}\\PC{0,20}") {
        let _ = text.parse::<Lsn>();
        let _ = text.parse::<WalFileName>();
    }
}
