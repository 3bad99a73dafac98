//! Two pages of WAL that PostgreSQL 15 wrote while a tablespace was created, and what hostile bytes do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use proptest::prelude::*;

/// Pages 16 and 17 of segment 7 of a cluster with segments of 1 MiB; the first begins within a full-page image.
const WAL: &[u8] = include_bytes!("../../../testdata/pg/wal_15_create_tablespace");
const START: Lsn = Lsn(0x72_0000);

#[test]
fn a_tablespace_that_replay_will_create_is_found_with_its_original_path() {
    let mut finder = TablespaceFinder::new(PgVersion::V15, 8192);
    assert_eq!(finder.pages(START, WAL), Follow::NextSegment, "the segment was switched after it");
    let expected = CreatedTablespace { oid: Oid(16389), location: "/tmp/kit/walts1".into() };
    assert_eq!(finder.found(), [expected]);
}

#[test]
fn wal_of_another_version_or_place_ends_the_look_ahead() {
    assert_eq!(TablespaceFinder::new(PgVersion::V16, 8192).pages(START, WAL), Follow::Ended);
    assert_eq!(TablespaceFinder::new(PgVersion::V15, 8192).pages(Lsn(0), WAL), Follow::Ended);
    assert_eq!(TablespaceFinder::new(PgVersion::V15, 8192).pages(START, &WAL[..100]), Follow::Next);
}

#[test]
fn a_page_is_followed_only_by_its_continuation() {
    let mut finder = TablespaceFinder::new(PgVersion::V15, 8192);
    let mut cut = WAL.to_vec();
    // The second page claims to continue a record, though the first ended with a whole one.
    cut[8192 + 2] |= 1;
    assert_eq!(finder.pages(START, &cut), Follow::Ended);
}

proptest! {
    #[test]
    fn hostile_wal_never_panics(at in 0usize..16384, byte: u8, junk in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut finder = TablespaceFinder::new(PgVersion::V15, 8192);
        let mut damaged = WAL.to_vec();
        damaged[at] = byte;
        let _ = finder.pages(START, &damaged);
        let mut spliced = WAL[..200].to_vec();
        spliced.extend_from_slice(&junk);
        let _ = TablespaceFinder::new(PgVersion::V15, 8192).pages(START, &spliced);
    }
}
