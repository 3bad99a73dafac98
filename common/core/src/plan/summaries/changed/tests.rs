#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::single_range_in_vec_init, reason = "sets of one range are sets")]
use super::*;
use crate::pg::SummaryDecoder;
use crate::pg::wal_summary::encoder::{Table, encode};
use proptest::prelude::*;

/// Small, so that a few numbers reach several files.
const SEGMENT_PAGES: u32 = 100_000;
const GEOMETRY: Geometry = Geometry { page_size: PageSize::DEFAULT, segment_pages: SEGMENT_PAGES };
const MAIN: u32 = 0;
const VM: u32 = 2;

fn merge(changed: &mut ChangedBlocks, table: &Table) {
    let mut decoder = SummaryDecoder::default();
    let mut merging = changed.merge();
    decoder.feed(&encode(table), |piece| merging.take(piece)).unwrap();
    decoder.finish().unwrap();
}

fn merged(tables: &[Table]) -> ChangedBlocks {
    let mut changed = ChangedBlocks::default();
    for table in tables {
        merge(&mut changed, table);
    }
    changed
}

fn entry(key: [u32; 4], limit: Option<u32>, blocks: impl IntoIterator<Item = u32>) -> Table {
    Table::from([(key, (limit, blocks.into_iter().collect()))])
}

fn read(changed: &ChangedBlocks, path: &str, prior_pages: u32, pages: Range<u32>) -> ToRead {
    changed.to_read(GEOMETRY, path, Some(u64::from(prior_pages) * 8192), pages)
}

fn pages(ranges: impl IntoIterator<Item = Range<u32>>) -> ToRead {
    ToRead::Pages(PageRanges::new(ranges))
}

#[test]
fn only_pages_that_some_summary_names_are_read() {
    let key = [1663, 5, 16384, MAIN];
    let changed = merged(&[entry(key, None, [3, 4, 900]), entry(key, None, [4, 7, 90_000])]);
    assert_eq!(read(&changed, "base/5/16384", 95_000, 0..1_000), pages([3..5, 7..8, 900..901]));
    assert_eq!(read(&changed, "base/5/16384", 95_000, 4..7), pages([4..5]));
    assert_eq!(read(&changed, "base/5/16384", 95_000, 80_000..95_000), pages([90_000..90_001]));
    assert_eq!(read(&changed, "base/5/16384", 95_000, 5..5), pages([]));
}

#[test]
fn a_relation_without_an_entry_is_not_read_at_all() {
    let changed = merged(&[entry([1663, 5, 16384, MAIN], None, [3])]);
    for path in ["base/5/16385", "base/6/16384", "global/16384", "pg_tblspc/99/PG_17_202406281/5/16384"] {
        assert_eq!(read(&changed, path, 50, 0..50), pages([]), "{path}");
    }
}

#[test]
fn entries_belong_to_the_tablespace_and_database_of_the_path() {
    let place = |tablespace, database| entry([tablespace, database, 7, MAIN], None, [1]);
    let changed = merged(&[place(1664, 0), place(99, 5)]);
    assert_eq!(read(&changed, "global/7", 9, 0..9), pages([1..2]));
    assert_eq!(read(&changed, "pg_tblspc/99/PG_17_202406281/5/7", 9, 0..9), pages([1..2]));
    assert_eq!(read(&changed, "base/5/7", 9, 0..9), pages([]));
}

#[test]
fn blocks_of_later_files_count_on_from_those_before() {
    let changed = merged(&[entry([1663, 5, 7, MAIN], None, [0, 99_999, 100_000, 200_003])]);
    assert_eq!(read(&changed, "base/5/7", 100_000, 50..100_000), pages([99_999..100_000]));
    assert_eq!(read(&changed, "base/5/7.1", 100_000, 0..100_000), pages([0..1]));
    assert_eq!(read(&changed, "base/5/7.2", 10, 0..10), pages([3..4]));
    assert_eq!(read(&changed, "base/5/7.3", 10, 0..10), pages([]));
}

#[test]
fn what_the_prior_does_not_have_is_read() {
    let changed = merged(&[entry([1663, 5, 7, MAIN], None, [2])]);
    assert_eq!(read(&changed, "base/5/7", 10, 0..15), pages([2..3, 10..15]));
    assert_eq!(read(&changed, "base/5/8", 10, 0..15), pages([10..15]));
    assert_eq!(read(&changed, "base/5/8", 10, 12..15), pages([12..15]));
    assert_eq!(read(&changed, "base/5/8", 0, 0..15), pages([0..15]));
    let absent = changed.to_read(GEOMETRY, "base/5/7", None, 0..15);
    assert_eq!(absent, ToRead::Unknown(Unknown::NotInPrior));
}

#[test]
fn from_the_limit_on_everything_is_read_whichever_summary_has_it() {
    let key = [1663, 5, 7, MAIN];
    let before = entry(key, None, [1, 30, 70_000]);
    let cut = entry(key, Some(20), [2, 25]);
    let later = entry(key, Some(40), [3]);
    for order in [[&before, &cut, &later], [&later, &cut, &before], [&cut, &before, &later]] {
        let changed = merged(&order.map(Clone::clone));
        assert_eq!(read(&changed, "base/5/7", 50, 0..50), pages([1..4, 20..50]));
        assert_eq!(read(&changed, "base/5/7", 10, 0..10), pages([1..4]));
        assert_eq!(read(&changed, "base/5/7.1", 50, 0..50), ToRead::Unknown(Unknown::Cut));
    }
}

#[test]
fn a_relation_that_was_created_or_dropped_is_read_whole() {
    let changed = merged(&[entry([1663, 5, 7, MAIN], Some(0), [])]);
    assert_eq!(read(&changed, "base/5/7", 50, 0..50), ToRead::Unknown(Unknown::Cut));
    // Cut exactly where a file begins, and behind it.
    let changed = merged(&[entry([1663, 5, 7, MAIN], Some(100_000), [])]);
    assert_eq!(read(&changed, "base/5/7", 100_000, 0..100_000), pages([]));
    assert_eq!(read(&changed, "base/5/7.1", 50, 0..50), ToRead::Unknown(Unknown::Cut));
}

#[test]
fn all_of_a_database_that_was_created_or_dropped_is_read() {
    let changed = merged(&[entry([1663, 5, 0, MAIN], Some(0), [])]);
    assert_eq!(read(&changed, "base/5/7", 50, 0..50), ToRead::Unknown(Unknown::Database));
    // In this tablespace only.
    assert_eq!(read(&changed, "pg_tblspc/99/PG_17_202406281/5/7", 50, 0..50), pages([]));
    assert_eq!(read(&changed, "base/6/7", 50, 0..50), pages([]));
}

#[test]
fn all_but_main_forks_are_read_whatever_the_summaries_say() {
    let changed = merged(&[entry([1663, 5, 7, VM], None, [0])]);
    assert_eq!(read(&changed, "base/5/7", 50, 0..50), pages([]));
    for path in [
        "base/5/7_vm",
        "base/5/7_fsm",
        "base/5/7_init",
        "base/5/7_vm.1",
        "base/5/pg_filenode.map",
        "base/5/PG_VERSION",
        "pg_xact/0000",
        "global/pg_control",
        "base/5/t3_7",
        "base/pgsql_tmp/7",
        "pg_tblspc/99/x/5/7",
        "7",
    ] {
        assert_eq!(read(&changed, path, 50, 0..50), ToRead::Unknown(Unknown::NotMainFork), "{path}");
    }
}

#[test]
fn files_of_odd_sizes_are_read_whole() {
    let changed = merged(&[]);
    let odd = |prior_size, pages| changed.to_read(GEOMETRY, "base/5/7", Some(prior_size), pages);
    assert_eq!(odd(8193, 0..1), ToRead::Unknown(Unknown::OddSize));
    assert_eq!(odd(8192 * 100_001, 0..1), ToRead::Unknown(Unknown::OddSize));
    assert_eq!(odd(8192, 0..100_001), ToRead::Unknown(Unknown::OddSize));
    assert_eq!(odd(u64::MAX, 0..1), ToRead::Unknown(Unknown::OddSize));
    #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
    let reversed = odd(8192, 5..4);
    assert_eq!(reversed, ToRead::Unknown(Unknown::OddSize));
    let segment = format!("base/5/7.{}", u32::MAX);
    assert_eq!(read(&changed, &segment, 1, 0..1), ToRead::Unknown(Unknown::OddSize));
}

#[test]
fn a_terabyte_of_which_one_block_in_a_hundred_changed_takes_few_megabytes() {
    let mut changed = ChangedBlocks::default();
    // 128 relations of 8 GiB.
    for relation in 0..128 {
        let blocks = (0..10_485).map(|index| index * 100 + relation % 100);
        merge(&mut changed, &entry([1663, 5, 16384 + relation, MAIN], None, blocks));
    }
    let (relations, bytes) = changed.extent();
    assert_eq!(relations, 128);
    assert!(bytes < 3 << 20, "{bytes}");
}

#[test]
fn a_chunk_of_which_most_changed_is_read_whole_and_takes_nothing() {
    let key = [1663, 5, 7, MAIN];
    let changed = merged(&[entry(key, None, (0..60_000).filter(|block| block % 9 > 0))]);
    assert_eq!(changed.extent(), (1, 0));
    assert_eq!(read(&changed, "base/5/7", 70_000, 0..70_000), pages([0..65_536]));
}

#[test]
fn where_memory_ends_the_fullest_chunks_count_as_changed() {
    let mut changed = ChangedBlocks::with_limit(20_000);
    let mut expected = Vec::new();
    for relation in 1..=40u32 {
        let blocks: Vec<u32> = (0..relation * 40).map(|index| index * 9).collect();
        merge(&mut changed, &entry([1663, 5, relation, MAIN], None, blocks.clone()));
        assert!(changed.extent().1 <= 20_000);
        expected.push(blocks);
    }
    let of = |relation: usize| match read(&changed, &format!("base/5/{relation}"), 65_536, 0..65_536) {
        ToRead::Pages(pages) => pages,
        ToRead::Unknown(unknown) => panic!("{unknown:?}"),
    };
    assert_eq!(of(1).count(), 40);
    assert_eq!(of(40).count(), 65_536);
    for (relation, blocks) in (1..).zip(&expected) {
        assert!(blocks.iter().all(|block| of(relation).meets(&(*block..*block + 1))), "{relation}");
    }
}

fn tables() -> impl Strategy<Value = Table> {
    let key = (1u32..3, 0u32..3, prop_oneof![Just(MAIN), Just(VM)])
        .prop_map(|(db, relation, fork)| [1663, db, relation, fork]);
    let dense = (0u32..200_000, 1u32..9_000).prop_map(|(first, count)| (first..first + count).collect());
    let blocks = prop_oneof![dense, prop::collection::btree_set(0u32..250_000, 0..20)];
    prop::collection::btree_map(key, (prop::option::weighted(0.3, 0u32..250_000), blocks), 0..5)
}

proptest! {
    /// Against the rules, one page at a time.
    #[test]
    fn a_page_is_read_exactly_where_the_rules_say_so(
        all in prop::collection::vec(tables(), 0..4),
        segment in 0u32..3, prior_pages in 0u32..SEGMENT_PAGES, from in 0u32..SEGMENT_PAGES, length in 0u32..3_000,
    ) {
        let range = from..(from + length).min(SEGMENT_PAGES);
        let path = if segment == 0 { "base/1/1".to_owned() } else { format!("base/1/1.{segment}") };
        let first = segment * SEGMENT_PAGES;
        let is_database = all.iter().any(|table| table.keys().any(|key| key[..3] == [1663, 1, 0]));
        let entries: Vec<_> = all.iter().filter_map(|table| table.get(&[1663, 1, 1, MAIN])).collect();
        let limit = entries.iter().filter_map(|(limit, _)| *limit).min().unwrap_or(u32::MAX);
        let must_read = |page: &u32| {
            *page >= prior_pages || first + page >= limit
                || entries.iter().any(|(_, blocks)| blocks.contains(&(first + page)))
        };
        let expected = if is_database {
            ToRead::Unknown(Unknown::Database)
        } else if limit <= first {
            ToRead::Unknown(Unknown::Cut)
        } else {
            pages(range.clone().filter(must_read).map(|page| page..page + 1))
        };
        prop_assert_eq!(read(&merged(&all), &path, prior_pages, range), expected);
    }
}
