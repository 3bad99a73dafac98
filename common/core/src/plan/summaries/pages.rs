//! A set of pages of one file, as ranges: what is to be read of it, or what is not.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Ranges of page numbers within a file: ascending, none empty, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct PageRanges(Vec<Range<u32>>);

impl PageRanges {
    /// From ranges in any order, which may overlap.
    pub fn new(ranges: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut ranges: Vec<Range<u32>> = ranges.into_iter().collect();
        ranges.sort_by_key(|range| range.start);
        let mut set = PageRanges::default();
        for range in ranges {
            set.push(range);
        }
        set
    }

    /// Adds what begins no earlier than anything before it.
    pub(super) fn push(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => self.0.push(range),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.0.iter().cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many pages.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.end - range.start)).sum()
    }

    /// Whether any of these pages is in the set.
    pub fn meets(&self, pages: &Range<u32>) -> bool {
        let next = self.0.partition_point(|range| range.end <= pages.start);
        !pages.is_empty() && self.0.get(next).is_some_and(|range| range.start < pages.end)
    }

    /// Those of `pages` that are not in the set.
    pub fn without(&self, pages: &Range<u32>) -> PageRanges {
        let mut rest = PageRanges::default();
        let mut from = pages.start;
        for range in self.0.iter().skip_while(|range| range.end <= pages.start) {
            rest.push(from..range.start.min(pages.end));
            from = from.max(range.end);
        }
        rest.push(from..pages.end);
        rest
    }

    pub fn union(&self, other: &PageRanges) -> PageRanges {
        PageRanges::new(self.iter().chain(other.iter()))
    }

    /// The page with so many of the set before it.
    pub(super) fn nth(&self, mut index: u64) -> Option<u32> {
        for range in &self.0 {
            let length = u64::from(range.end - range.start);
            if index < length {
                return Some(range.start + u32::try_from(index).expect("below the length, which is a u32"));
            }
            index -= length;
        }
        None
    }
}

impl From<PageRanges> for Vec<(u32, u32)> {
    fn from(set: PageRanges) -> Self {
        set.0.into_iter().map(|range| (range.start, range.end)).collect()
    }
}

impl TryFrom<Vec<(u32, u32)>> for PageRanges {
    type Error = &'static str;
    fn try_from(pairs: Vec<(u32, u32)>) -> Result<Self, Self::Error> {
        let ascend = pairs.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !ascend || pairs.iter().any(|(start, end)| start >= end) {
            return Err("ranges of pages are empty, overlap or do not ascend");
        }
        Ok(PageRanges(pairs.into_iter().map(|(start, end)| start..end).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ranges() -> impl Strategy<Value = Vec<Range<u32>>> {
        prop::collection::vec((0u32..60, 0u32..9).prop_map(|(start, length)| start..start + length), 0..8)
    }

    fn numbers(set: &PageRanges) -> Vec<u32> {
        set.iter().flatten().collect()
    }

    proptest! {
        #[test]
        fn ranges_are_a_set_of_numbers(one in ranges(), other in ranges(), pages in (0u32..70, 0u32..70)) {
            let (set, second) = (PageRanges::new(one.clone()), PageRanges::new(other.clone()));
            let plain: BTreeSet<u32> = one.into_iter().flatten().collect();
            prop_assert_eq!(numbers(&set), plain.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count(), plain.len() as u64);
            let pages = pages.0..pages.1;
            prop_assert_eq!(set.meets(&pages), pages.clone().any(|page| plain.contains(&page)));
            let rest: Vec<u32> = pages.clone().filter(|page| !plain.contains(page)).collect();
            prop_assert_eq!(numbers(&set.without(&pages)), rest);
            for (index, page) in plain.iter().enumerate() {
                prop_assert_eq!(set.nth(index as u64), Some(*page));
            }
            prop_assert_eq!(set.nth(set.count()), None);
            let both: BTreeSet<u32> = plain.into_iter().chain(other.into_iter().flatten()).collect();
            prop_assert_eq!(numbers(&set.union(&second)), both.into_iter().collect::<Vec<_>>());
            let pairs: Vec<(u32, u32)> = set.clone().into();
            prop_assert_eq!(PageRanges::try_from(pairs), Ok(set));
        }
    }

    #[test]
    fn a_message_with_disorder_is_refused() {
        for bad in [vec![(1, 1)], vec![(2, 1)], vec![(1, 2), (2, 3)], vec![(5, 6), (1, 2)]] {
            assert!(PageRanges::try_from(bad.clone()).is_err(), "{bad:?}");
            let bytes = rmp_serde::to_vec(&bad).unwrap();
            assert!(rmp_serde::from_slice::<PageRanges>(&bytes).is_err(), "{bad:?}");
        }
    }
}
