#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use proptest::prelude::*;

/// The first three pages of a table, and its visibility map, as a server of 15 with checksums wrote them.
const RELATION: &[u8] = include_bytes!("../../../testdata/pg/relation_15");
const VISIBILITY_MAP: &[u8] = include_bytes!("../../../testdata/pg/relation_15_vm");

fn bad(buffer: &[u8], first_block: u32) -> Vec<u32> {
    check_pages(buffer, first_block, PageSize::DEFAULT).bad_blocks
}

#[test]
fn pages_that_a_server_wrote_verify() {
    for (pages, count) in [(RELATION, 3), (VISIBILITY_MAP, 1)] {
        assert_eq!(pages.len(), count * 8192);
        assert_eq!(check_pages(pages, 0, PageSize::DEFAULT), PageCheck::default());
        let header = PageHeader::read(pages).unwrap();
        assert!(!header.is_new() && header.checksum != 0 && header.lsn > Lsn::ZERO);
    }
}

#[test]
fn a_page_in_the_wrong_place_does_not_verify() {
    assert_eq!(bad(RELATION, 1), [1, 2, 3]);
    assert_eq!(bad(&RELATION[8192..], 1), [0u32; 0]);
}

#[test]
fn every_damaged_page_is_named_by_its_block_in_the_relation() {
    let mut pages = RELATION.to_vec();
    pages[8192 + 5000] ^= 1;
    assert_eq!(bad(&pages, 0), [1]);
    assert_eq!(bad(&pages[8192..], 1), [1]);
    // The checksum itself.
    pages[2 * 8192 + 8] ^= 1;
    assert_eq!(bad(&pages, 0), [1, 2]);
}

#[test]
fn a_page_of_zeros_is_good_and_one_that_only_looks_new_is_not() {
    let mut pages = [RELATION, &[0; 2 * 8192]].concat();
    assert_eq!(bad(&pages, 0), [0u32; 0]);
    *pages.last_mut().unwrap() = 1;
    assert_eq!(bad(&pages, 0), [4]);
}

#[test]
fn a_torn_last_page_is_reported_and_not_judged() {
    let check = check_pages(&RELATION[..2 * 8192 + 512], 0, PageSize::DEFAULT);
    assert_eq!(check, PageCheck { bad_blocks: Vec::new(), partial_bytes: 512 });
    assert_eq!(check_pages(&[1; 100], 7, PageSize::DEFAULT).partial_bytes, 100);
}

#[test]
fn page_sizes_are_powers_of_two_from_1_to_32_kib() {
    for kib in [1, 2, 4, 8, 16, 32] {
        assert_eq!(PageSize::new(kib << 10).unwrap().bytes(), kib << 10);
    }
    for refused in [0, 512, 3000, 64 << 10] {
        assert!(PageSize::new(refused).is_err(), "{refused}");
    }
}

/// The definition, one word after the other, to hold the fast form against.
fn checksum_by_definition(page: &[u8], block: u32) -> u16 {
    let mut page = page.to_vec();
    page[8..10].fill(0);
    let mut sums = LANE_SEEDS;
    let mix = |sum: u32, word: u32| (sum ^ word).wrapping_mul(FNV_PRIME) ^ ((sum ^ word) >> 17);
    for (index, word) in page.chunks(4).enumerate() {
        sums[index % 32] = mix(sums[index % 32], u32::from_le_bytes(word.try_into().unwrap()));
    }
    let last = sums.iter().map(|sum| mix(mix(*sum, 0), 0)).fold(block, |folded, sum| folded ^ sum);
    u16::try_from(last % 65_535 + 1).unwrap()
}

proptest! {
    #[test]
    fn the_fast_checksum_is_the_defined_one(seed: u64, block: u32, shift in 10u32..16) {
        let mut state = seed | 1;
        let mut byte = || { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); state.to_le_bytes()[5] };
        let page: Vec<u8> = (0..1usize << shift).map(|_| byte()).collect();
        prop_assert_eq!(page_checksum(&page, block), checksum_by_definition(&page, block));
    }

    #[test]
    fn no_bytes_make_the_check_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000), first: u32) {
        let check = check_pages(&bytes, first, PageSize::new(1024).unwrap());
        prop_assert!(check.bad_blocks.len() <= 4);
        let _ = PageHeader::read(&bytes);
    }
}
