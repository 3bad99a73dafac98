//! What a slot asks of a source before it needs it, so that the link is busy while the slot computes. Values only.
//!
//! Invariants
//! 1. Parts are asked for in their order, and of each exactly what the pipeline will read.
//! 2. What was asked for and not used yet is bounded in bytes and in number.
//! 3. Of a part that may be left unread in places nothing is asked for before it is known what.

use crate::serving::protocol::{AHEAD_BYTES_MAX, Ask, CHUNK_BYTES, HELPING_BYTES};
use pgconvoy_core::wire::UnitPart;
use std::collections::VecDeque;
use std::ops::Range;

/// Wishes under way: enough for a unit of small files, and few enough that nobody waits for room to send them.
const ASKS_MAX: usize = 256;

/// Wishes for small files are said together.
const ASKS_AT_ONCE: usize = 32;

/// One part, as far as asking for it goes.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) range: Range<u64>,
    /// To wherever the file ends.
    pub(super) to_the_end: bool,
    /// WAL summaries may say that some of it need not be read.
    pub(super) is_unsure: bool,
}

impl Wanted {
    pub(super) fn of(part: &UnitPart, is_unsure: bool) -> Wanted {
        let range = part.offset..part.offset + part.length;
        Wanted { range, to_the_end: !part.class.wal_protected(), is_unsure }
    }
}

#[derive(Debug)]
enum Step {
    Open,
    /// It is open, and the pipeline has yet to say what it needs.
    Unsure,
    Read(VecDeque<Range<u64>>),
    Rest,
}

/// A wish under way, and how many bytes of those allowed it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) part: usize,
    pub(super) bytes: u64,
}

pub(super) struct Ahead {
    parts: Vec<Wanted>,
    part: usize,
    step: Step,
    /// Bytes asked for and not used.
    bytes: u64,
}

impl Ahead {
    pub(super) fn new(parts: Vec<Wanted>) -> Ahead {
        Ahead { parts, part: 0, step: Step::Open, bytes: 0 }
    }

    /// Whether the part waits to be told what is needed of it.
    pub(super) fn awaits(&self, part: usize) -> bool {
        self.part == part && matches!(self.step, Step::Unsure)
    }

    /// These ranges of the part at hand will be read, in this order.
    pub(super) fn expect(&mut self, ranges: impl IntoIterator<Item = Range<u64>>) {
        let is_needed = |range: &Range<u64>| !range.is_empty();
        self.step = Step::Read(ranges.into_iter().filter(is_needed).collect());
    }

    /// So many bytes of what was asked for were used, or will not come.
    pub(super) fn used(&mut self, bytes: u64) {
        self.bytes -= bytes;
    }

    /// Whether so much may be asked for that it is worth saying: each time a source is asked wakes several of its threads.
    pub(super) fn has_room(&self, under_way: usize) -> bool {
        self.bytes + HELPING_BYTES <= AHEAD_BYTES_MAX && under_way + ASKS_AT_ONCE <= ASKS_MAX
    }

    /// What to ask for next, while so many wishes are under way.
    pub(super) fn next(&mut self, under_way: usize) -> Option<Asked> {
        loop {
            let wanted = self.parts.get(self.part)?;
            let is_full = self.bytes >= AHEAD_BYTES_MAX || under_way >= ASKS_MAX;
            match &mut self.step {
                Step::Unsure => return None,
                _ if is_full => return None,
                Step::Open => {
                    let number = u32::try_from(self.part).expect("a unit has a few thousand parts");
                    let asked = Asked { ask: Ask::Open { part: number }, part: self.part, bytes: 0 };
                    self.step = match wanted {
                        Wanted { to_the_end: true, .. } => Step::Rest,
                        Wanted { is_unsure: true, .. } => Step::Unsure,
                        Wanted { range, .. } if range.is_empty() => Step::Read(VecDeque::new()),
                        Wanted { range, .. } => Step::Read(VecDeque::from([range.clone()])),
                    };
                    return Some(asked);
                }
                Step::Rest => {
                    let bytes = (wanted.range.end - wanted.range.start).clamp(1, AHEAD_BYTES_MAX);
                    return Some(self.asked(Ask::Rest, bytes, true));
                }
                Step::Read(ranges) => {
                    let Some(range) = ranges.front_mut() else {
                        self.pass();
                        continue;
                    };
                    let length = u32::try_from(range.end - range.start).unwrap_or(u32::MAX).min(CHUNK_BYTES);
                    let ask = Ask::Read { offset: range.start, length };
                    range.start += u64::from(length);
                    if range.is_empty() {
                        ranges.pop_front();
                    }
                    return Some(self.asked(ask, u64::from(length), false));
                }
            }
        }
    }

    fn asked(&mut self, ask: Ask, bytes: u64, is_last: bool) -> Asked {
        let asked = Asked { ask, part: self.part, bytes };
        self.bytes += bytes;
        if is_last {
            self.pass();
        }
        asked
    }

    fn pass(&mut self) {
        (self.part, self.step) = (self.part + 1, Step::Open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = CHUNK_BYTES as u64;

    fn sure(range: Range<u64>) -> Wanted {
        Wanted { range, to_the_end: false, is_unsure: false }
    }

    fn all(ahead: &mut Ahead) -> Vec<Ask> {
        let mut asks = Vec::new();
        while let Some(asked) = ahead.next(asks.len()) {
            asks.push(asked.ask);
        }
        asks
    }

    #[test]
    fn a_part_is_asked_for_chunk_by_chunk_as_far_ahead_as_is_allowed() {
        let mut ahead = Ahead::new(vec![sure(CHUNK..CHUNK * 20)]);
        let read = |number: u64| Ask::Read { offset: CHUNK * number, length: CHUNK_BYTES };
        assert_eq!(all(&mut ahead), [Ask::Open { part: 0 }, read(1), read(2), read(3), read(4)]);
        assert_eq!(all(&mut ahead), []);
        ahead.used(CHUNK);
        assert_eq!(all(&mut ahead), [read(5)]);
    }

    #[test]
    fn small_files_are_asked_for_many_at_a_time() {
        let mut ahead = Ahead::new(vec![sure(0..8192); 1000]);
        let asks = all(&mut ahead);
        // A file takes two wishes.
        assert_eq!(asks.len(), 2 * usize::try_from(AHEAD_BYTES_MAX / 8192).unwrap_or_default());
        assert_eq!(asks[2..4], [Ask::Open { part: 1 }, Ask::Read { offset: 0, length: 8192 }]);
        let mut empty = Ahead::new(vec![sure(0..0); 1000]);
        assert_eq!(all(&mut empty).len(), ASKS_MAX);
    }

    #[test]
    fn a_file_that_no_wal_mends_is_asked_for_to_its_end_and_the_next_one_behind_it() {
        let to_the_end = Wanted { range: 0..10, to_the_end: true, is_unsure: false };
        let mut ahead = Ahead::new(vec![to_the_end, sure(0..5)]);
        let five = Ask::Read { offset: 0, length: 5 };
        assert_eq!(all(&mut ahead), [Ask::Open { part: 0 }, Ask::Rest, Ask::Open { part: 1 }, five]);
    }

    #[test]
    fn what_may_be_left_unread_is_asked_for_when_it_is_known() {
        let unsure = Wanted { is_unsure: true, ..sure(0..CHUNK) };
        let mut ahead = Ahead::new(vec![unsure, sure(7..9)]);
        assert_eq!(all(&mut ahead), [Ask::Open { part: 0 }]);
        assert!(ahead.awaits(0) && !ahead.awaits(1));
        ahead.expect([0..10, 50..50, 60..70]);
        let read = |offset, length| Ask::Read { offset, length };
        assert_eq!(all(&mut ahead), [read(0, 10), read(60, 10), Ask::Open { part: 1 }, read(7, 2)]);
    }
}
