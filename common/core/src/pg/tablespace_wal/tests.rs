//! Two pages of WAL that PostgreSQL 15 wrote while a tablespace was created, and what hostile bytes do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use proptest::prelude::*;

/// Pages 16 and 17 of segment 7 of a cluster with segments of 1 MiB; the first begins within a full-page image.
const WAL: &[u8] = include_bytes!("../../../testdata/pg/wal_15_create_tablespace");
const START: Lsn = Lsn(0x72_0000);

fn until(end: ReplayEnd) -> TablespaceFinder {
    TablespaceFinder::new(PgVersion::V15, 8192, end)
}

#[test]
fn a_tablespace_that_replay_will_create_is_found_with_its_original_path() {
    let mut finder = until(ReplayEnd::Open);
    assert_eq!(finder.pages(START, WAL), Follow::NextSegment, "the segment was switched after it");
    let expected = CreatedTablespace { oid: Oid(16389), location: "/tmp/kit/walts1".into() };
    assert_eq!(finder.found(), [expected]);
}

#[test]
fn wal_of_another_version_or_place_ends_the_look_ahead() {
    assert_eq!(TablespaceFinder::new(PgVersion::V16, 8192, ReplayEnd::Open).pages(START, WAL), Follow::Ended);
    assert_eq!(until(ReplayEnd::Open).pages(Lsn(0), WAL), Follow::Ended);
    assert_eq!(until(ReplayEnd::Open).pages(START, &WAL[..100]), Follow::Next);
}

#[test]
fn a_page_is_followed_only_by_its_continuation() {
    let mut finder = until(ReplayEnd::Open);
    let mut cut = WAL.to_vec();
    // The second page claims to continue a record, though the first ended with a whole one.
    cut[8192 + 2] |= 1;
    assert_eq!(finder.pages(START, &cut), Follow::Ended);
}

/// Resource manager, info, transaction and main data.
type Written<'a> = (u8, u8, u32, &'a [u8]);

const MINUTE: i64 = 60_000_000;
/// Milliseconds from 1970 to PostgreSQL's epoch.
const EPOCH: i64 = 946_684_800_000;

/// A page with these records, and where each of them begins.
fn page(records: &[Written<'_>]) -> (Vec<u8>, Vec<Lsn>) {
    let mut page = vec![0; 40];
    page[..2].copy_from_slice(&PgVersion::V15.wal_magic().to_le_bytes());
    page[2] = 2;
    page[8..16].copy_from_slice(&START.0.to_le_bytes());
    let mut starts = Vec::new();
    for (resource, info, transaction, data) in records {
        page.resize(page.len().next_multiple_of(8), 0);
        starts.push(Lsn(START.0 + page.len() as u64));
        page.extend(u32::try_from(24 + 2 + data.len()).unwrap().to_le_bytes());
        page.extend(transaction.to_le_bytes());
        page.extend([0; 8]);
        page.extend([*info, *resource, 0, 0, 0, 0, 0, 0]);
        page.extend([255, u8::try_from(data.len()).unwrap()]);
        page.extend(*data);
    }
    page.resize(8192, 0);
    (page, starts)
}

fn named(name: &str) -> Vec<u8> {
    [[0; 8].as_slice(), name.as_bytes(), &[0; 20]].concat()
}

/// Tablespaces 1 to 3, and between them the ends of transactions 7 and 8 in the first and second minute, each with a restore
/// point behind it.
fn ends_of(end: impl FnOnce(&[Lsn]) -> ReplayEnd) -> (Vec<u32>, Follow) {
    let minutes = [MINUTE.to_le_bytes(), (2 * MINUTE).to_le_bytes()];
    let creations = [b"\x01\0\0\0/a\0", b"\x02\0\0\0/b\0", b"\x03\0\0\0/c\0"];
    let points = [named("first"), named("second")];
    let (page, starts) = page(&[
        (5, 0, 7, creations[0]),
        (1, 0x00, 7, &minutes[0]),
        (0, 0x70, 0, &points[0]),
        (5, 0, 8, creations[1]),
        (1, 0x20, 8, &minutes[1]),
        (0, 0x70, 0, &points[1]),
        (5, 0, 9, creations[2]),
    ]);
    let mut finder = until(end(&starts));
    let follow = finder.pages(START, &page);
    assert_eq!(finder.clone().pages(START, &page), Follow::Ended, "what is over stays over");
    (finder.found().iter().map(|found| found.oid.0).collect(), follow)
}

#[test]
fn nothing_is_found_behind_the_end_of_replay() {
    let found = |end: ReplayEnd| ends_of(|_| end).0;
    let moment = |minute: i64, more: i64| Timestamp(EPOCH + minute * 60_000 + more);
    assert_eq!(found(ReplayEnd::Open), [1, 2, 3]);
    assert_eq!(found(ReplayEnd::Time(moment(1, -1))), [1]);
    assert_eq!(found(ReplayEnd::Time(moment(1, 0))), [1, 2], "who ends at the very moment is replayed");
    assert_eq!(found(ReplayEnd::Time(moment(2, 0))), [1, 2, 3]);
    assert_eq!(found(ReplayEnd::Transaction(7)), [1]);
    assert_eq!(found(ReplayEnd::Transaction(8)), [1, 2], "one that was rolled back ends too");
    assert_eq!(found(ReplayEnd::Transaction(9)), [1, 2, 3], "its end is not there");
    assert_eq!(found(ReplayEnd::Name("first".into())), [1]);
    assert_eq!(found(ReplayEnd::Name("second".into())), [1, 2]);
    assert_eq!(found(ReplayEnd::Name("secon".into())), [1, 2, 3]);
}

#[test]
fn the_record_that_begins_at_a_position_is_the_last() {
    let found = |record: usize, more: u64| ends_of(|starts| ReplayEnd::Lsn(Lsn(starts[record].0 + more))).0;
    assert_eq!(found(0, 0), [1]);
    assert_eq!(found(2, 0), [1]);
    assert_eq!(found(2, 1), [1, 2], "the next one that begins is replayed");
    assert_eq!(found(3, 0), [1, 2]);
    assert_eq!(found(6, 0), [1, 2, 3]);
    assert_eq!(found(6, 1), [1, 2, 3]);
}

proptest! {
    #[test]
    fn hostile_wal_never_panics(at in 0usize..16384, byte: u8, junk in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut finder = until(ReplayEnd::Open);
        let mut damaged = WAL.to_vec();
        damaged[at] = byte;
        let _ = finder.pages(START, &damaged);
        let mut spliced = WAL[..200].to_vec();
        spliced.extend_from_slice(&junk);
        let _ = until(ReplayEnd::Open).pages(START, &spliced);
    }
}
