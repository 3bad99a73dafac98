//! Whether a page that was skipped could be skipped: its LSN tells when WAL last changed it.
//!
//! Bytes are not compared: hint bits change pages without WAL, and such a page is as good in the prior.

use super::{PageRanges, Window};
use crate::pg::Lsn;
use crate::pg::page::PageHeader;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Of so many skipped pages one is looked at: 2 KB of 32 MiB.
const PAGES_PER_SAMPLE: u64 = 4096;
/// From so many on (2 MiB) one is looked at for certain, below that with a chance of one in so many for each page: small
/// files are many, and one read in each would be a read for every file.
const PAGES_FOR_CERTAIN: u64 = 256;
/// Of one range of a file, however long.
const SAMPLES_MAX: u64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Fine,
    /// WAL of the window changed the page, and no summary said so.
    Wrong(Lsn),
}

/// Judges a page that was skipped. Its LSN is the *end* of the record that changed it last, so a record of the window leaves
/// one above the prior's start, and at most this start. What came later is in this backup's WAL, what came before in the prior.
/// Read a page that is wrong again before believing it: the server may have been writing it.
pub fn judge(page: &[u8], window: &Window) -> Judgement {
    match PageHeader::read(page) {
        Some(header) if !header.is_new() && header.lsn > window.prior_start && header.lsn <= window.start => {
            Judgement::Wrong(header.lsn)
        }
        _ => Judgement::Fine,
    }
}

/// Which of the skipped pages of a file to look at, ascending. The same seed gives the same ones.
pub fn sample(seed: u64, path: &str, skipped: &PageRanges) -> Vec<u32> {
    let Some(first) = skipped.nth(0) else { return Vec::new() };
    let pages = skipped.count();
    let mut random = Random(xxh3_64_with_seed(path.as_bytes(), seed) ^ u64::from(first));
    let samples = if pages < PAGES_FOR_CERTAIN {
        u64::from(random.below(PAGES_FOR_CERTAIN) < pages)
    } else {
        pages.div_ceil(PAGES_PER_SAMPLE).min(SAMPLES_MAX)
    };
    // One in each of so many stretches of equal length.
    let stretch = |index: u64| pages * index / samples.max(1);
    let indices =
        (0..samples).map(|index| stretch(index) + random.below(stretch(index + 1) - stretch(index)));
    indices.filter_map(|index| skipped.nth(index)).collect()
}

/// SplitMix64: good enough to choose by, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// 0 where there is nothing below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "sets of one range are sets")]
    use super::super::tests::window;
    use super::*;
    use proptest::prelude::*;

    fn page(lsn: u64, upper: u16) -> Vec<u8> {
        let mut page = vec![0; 8192];
        let halves = [lsn >> 32, lsn & 0xFFFF_FFFF].map(|half| u32::try_from(half).expect("32 bits"));
        page[..4].copy_from_slice(&halves[0].to_le_bytes());
        page[4..8].copy_from_slice(&halves[1].to_le_bytes());
        page[14..16].copy_from_slice(&upper.to_le_bytes());
        page
    }

    #[test]
    fn a_page_is_wrong_where_a_record_of_the_window_changed_it_last() {
        let window = Window { prior_start: Lsn(0x1_0000_1000), start: Lsn(0x2_0000_3000), ..window() };
        let judged = |lsn| judge(&page(lsn, 8000), &window);
        // Ended where the prior began: a record before it.
        for fine in [0, 0x1_0000_0FFF, 0x1_0000_1000, 0x2_0000_3001, 0x3_0000_0000] {
            assert_eq!(judged(fine), Judgement::Fine, "{fine:x}");
        }
        // Ended where this one began: a record before it, so the summaries should have had it.
        for wrong in [0x1_0000_1001, 0x1_8000_0000, 0x2_0000_3000] {
            assert_eq!(judged(wrong), Judgement::Wrong(Lsn(wrong)), "{wrong:x}");
        }
    }

    #[test]
    fn a_new_page_and_a_piece_of_one_are_fine() {
        let window = Window { prior_start: Lsn(0x1000), start: Lsn(0x3000), ..window() };
        assert_eq!(judge(&page(0x2000, 8000), &window), Judgement::Wrong(Lsn(0x2000)));
        assert_eq!(judge(&page(0x2000, 0), &window), Judgement::Fine);
        assert_eq!(judge(&[0; 8192], &window), Judgement::Fine);
        assert_eq!(judge(&page(0x2000, 8000)[..23], &window), Judgement::Fine);
        assert_eq!(judge(&[], &window), Judgement::Fine);
    }

    #[test]
    fn of_many_small_files_about_one_page_in_256_is_looked_at() {
        let looked: usize = (0..20_000)
            .map(|file| sample(7, &format!("base/5/{file}"), &PageRanges::new([0..4])).len())
            .sum();
        assert!((200..440).contains(&looked), "{looked} of 80000 pages");
    }

    proptest! {
        #[test]
        fn a_sample_is_small_of_skipped_pages_only_and_the_same_again(
            seed: u64,
            ranges in prop::collection::vec((0u32..1 << 20, 0u32..1 << 19), 0..6),
        ) {
            let skipped = PageRanges::new(ranges.into_iter().map(|(start, length)| start..start + length));
            let chosen = sample(seed, "base/5/16384", &skipped);
            prop_assert_eq!(&chosen, &sample(seed, "base/5/16384", &skipped));
            prop_assert!(chosen.is_sorted_by(|one, next| one < next));
            prop_assert!(chosen.iter().all(|page| skipped.meets(&(*page..*page + 1))));
            let (count, pages) = (chosen.len() as u64, skipped.count());
            prop_assert!(count <= SAMPLES_MAX && count <= pages.div_ceil(PAGES_PER_SAMPLE));
            prop_assert!(count >= 1 || pages < PAGES_FOR_CERTAIN);
        }

        #[test]
        fn every_page_may_be_chosen(start in 0u32..1000, length in 256u32..400, wanted in 0u32..256) {
            let skipped = PageRanges::new([start..start + length]);
            let hit = (0..20_000).any(|seed| sample(seed, "base/5/1", &skipped) == [start + wanted]);
            prop_assert!(hit);
        }
    }
}
