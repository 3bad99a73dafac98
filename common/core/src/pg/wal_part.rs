//! Names of streamed parts: WAL of a segment that was not whole yet, in objects beside the segments.
//!
//! PostgreSQL never sees these names. They are no WAL file's, so that no listing of WAL takes a part for one.
//!
//! Invariant: a part has at least one byte, and lies in one segment (which only the size of segments can prove).

use crate::pg::{Lsn, PgFormatError, TimelineId, WalSegmentName, WalSegmentSize};
use std::fmt;
use std::str::FromStr;

const INFIX: &str = ".partial-";

/// The bytes of a segment from `start` up to (not including) `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalPart {
    segment: WalSegmentName,
    start: Lsn,
    end: Lsn,
}

impl WalPart {
    /// `None`: there is nothing between these, or it lies in several segments.
    pub fn new(timeline: TimelineId, start: Lsn, end: Lsn, size: WalSegmentSize) -> Option<WalPart> {
        let segment = WalSegmentName::containing(timeline, start, size);
        let part = WalPart { segment, start, end };
        (start < end && part.fits(size)).then_some(part)
    }

    pub fn segment(&self) -> WalSegmentName {
        self.segment
    }

    pub fn start(&self) -> Lsn {
        self.start
    }

    pub fn end(&self) -> Lsn {
        self.end
    }

    pub fn bytes(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether a cluster with this segment size can have a part of this name.
    pub fn fits(&self, size: WalSegmentSize) -> bool {
        let timeline = self.segment.timeline();
        WalSegmentName::containing(timeline, self.start, size) == self.segment
            && WalSegmentName::last_before(timeline, self.end, size) == self.segment
    }

    fn is_within(&self, other: &WalPart) -> bool {
        self.segment == other.segment && self.start >= other.start && self.end <= other.end
    }
}

impl fmt::Display for WalPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{INFIX}{:016X}-{:016X}", self.segment, self.start.0, self.end.0)
    }
}

impl FromStr for WalPart {
    type Err = PgFormatError;
    fn from_str(text: &str) -> Result<Self, PgFormatError> {
        let parts = || {
            let (segment, range) = text.split_once(INFIX)?;
            let (start, end) = range.split_once('-')?;
            let part =
                WalPart { segment: segment.parse().ok()?, start: position(start)?, end: position(end)? };
            (part.start < part.end).then_some(part)
        };
        parts().ok_or_else(|| {
            PgFormatError::new(
                "name of a part of a WAL segment",
                text,
                "it is no segment and two positions in it",
            )
        })
    }
}

/// 16 digits in capitals, and no other way to write the same.
fn position(text: &str) -> Option<Lsn> {
    let is_exact = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    is_exact.then(|| u64::from_str_radix(text, 16).ok().map(Lsn)).flatten()
}

/// The parts that lead furthest from the beginning of the segment without a gap, in order. They may overlap.
pub fn chain(parts: &[WalPart], segment: WalSegmentName, size: WalSegmentSize) -> Vec<WalPart> {
    let mut reached = segment.start_lsn(size);
    let mut chain = Vec::new();
    let of_segment = |part: &&WalPart| part.segment == segment && part.fits(size);
    while let Some(next) = parts
        .iter()
        .filter(of_segment)
        .filter(|part| part.start <= reached && part.end > reached)
        .max_by_key(|part| part.end)
    {
        reached = next.end;
        chain.push(*next);
    }
    chain
}

/// The parts that nobody needs: their segment is whole, or another part has all that they have.
pub fn superseded(parts: &[WalPart], is_whole: impl Fn(WalSegmentName) -> bool) -> Vec<WalPart> {
    let is_superseded = |part: &&WalPart| {
        is_whole(part.segment) || parts.iter().any(|other| other != *part && part.is_within(other))
    };
    parts.iter().filter(is_superseded).copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
    const START: u64 = 5 << 24;

    fn part(from: u64, to: u64) -> WalPart {
        WalPart::new(TimelineId(1), Lsn(START + from), Lsn(START + to), SIZE).unwrap()
    }

    fn segment() -> WalSegmentName {
        WalSegmentName::containing(TimelineId(1), Lsn(START), SIZE)
    }

    #[test]
    fn a_name_comes_back_and_is_no_wal_files() {
        let part = part(0, 8192);
        assert_eq!(part.to_string(), "000000010000000000000005.partial-0000000005000000-0000000005002000");
        assert_eq!(part.to_string().parse(), Ok(part));
        assert!(part.to_string().parse::<crate::pg::WalFileName>().is_err());
    }

    #[test]
    fn what_is_no_part_of_one_segment_is_refused() {
        let new = |from: u64, to: u64| WalPart::new(TimelineId(1), Lsn(from), Lsn(to), SIZE);
        assert_eq!(new(START, START), None);
        assert_eq!(new(START, START + SIZE.bytes() + 1), None);
        assert!(new(START, START + SIZE.bytes()).is_some());
        for name in [
            "000000010000000000000005.partial",
            "000000010000000000000005.partial-0000000005002000-0000000005000000",
            "000000010000000000000005.partial-0000000005000000-000000000500200a",
            "000000010000000000000005.partial-+000000005000000-0000000005002000",
            "000000010000000000000005.partial-0000000005000000",
        ] {
            assert!(name.parse::<WalPart>().is_err(), "{name}");
        }
        let elsewhere: WalPart =
            "000000010000000000000006.partial-0000000005000000-0000000005002000".parse().unwrap();
        assert!(!elsewhere.fits(SIZE));
        assert!(chain(&[elsewhere], elsewhere.segment(), SIZE).is_empty());
    }

    #[test]
    fn a_chain_begins_with_the_segment_and_ends_before_the_first_gap() {
        let parts = [part(0, 10), part(5, 40), part(10, 20), part(20, 30), part(41, 50)];
        assert_eq!(chain(&parts, segment(), SIZE), [part(0, 10), part(5, 40)]);
        assert!(chain(&parts[1..], segment(), SIZE).is_empty());
    }

    #[test]
    fn a_part_is_superseded_by_its_segment_or_by_one_that_has_it_all() {
        let parts = [part(0, 10), part(10, 20), part(0, 20), part(15, 30)];
        assert_eq!(superseded(&parts, |_| false), [part(0, 10), part(10, 20)]);
        assert_eq!(superseded(&parts, |whole| whole == segment()), parts);
    }
}
