//! WAL summaries: which blocks of which relations the WAL between two positions changed (`summarize_wal`, PostgreSQL 17).
//!
//! Not here: which summaries a backup needs, and what they allow it to leave unread (`plan::summaries`).
//!
//! A file is a magic number, entries in ascending order, an entry of zeros, and a CRC-32C of all that. An entry is a fork of a
//! relation with its *limit*, the shortest length that it had in between (0 where it was created or removed), and the
//! blocks that changed, in chunks of 65,536: up to 4,095 of them one by one, more as a bitmap.
//!
//! Invariants
//! 1. What a decoder hands out is true only if [`SummaryDecoder::finish`] then finds the file whole and its CRC right.
//! 2. Any bytes end in a value or an error. A decoder keeps no more than it was fed in one piece, and 136 KiB.
//!
//! Source: `common/blkreftable.c`, `backup/walsummary.c`; 17 and 18 write the same.

use crate::ids::Oid;
use crate::pg::bytes::{array_at, u16_at, u32_at};
use crate::pg::{Fork, Lsn, PgFormatError, TimelineId};
use std::fmt;
use std::str::FromStr;

/// Where a server keeps them, in the data directory.
pub const SUMMARY_DIRECTORY: &str = "pg_wal/summaries";
/// So many blocks share a chunk.
pub const CHUNK_BLOCKS: u32 = 1 << 16;

const SUFFIX: &str = ".summary";
const MAGIC: u32 = 0x652b_137b;
const ENTRY_SIZE: usize = 24;
const CRC_SIZE: usize = 4;
/// Block numbers have 32 bits.
const CHUNKS_MAX: u32 = 1 << 16;
/// A chunk with so many 16-bit words is a bitmap; with fewer, each is the offset of a block.
const BITMAP_WORDS: u16 = 4096;
/// PostgreSQL's InvalidBlockNumber: the fork was never cut.
const NO_LIMIT: u32 = u32::MAX;

/// The name of a summary: 40 digits for its timeline and the positions from (included) and to (not included) which it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalSummaryName {
    timeline: TimelineId,
    start: Lsn,
    end: Lsn,
}

impl WalSummaryName {
    /// `None`: no server writes a summary of nothing.
    pub fn new(timeline: TimelineId, start: Lsn, end: Lsn) -> Option<Self> {
        (timeline.0 > 0 && start < end).then_some(WalSummaryName { timeline, start, end })
    }

    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    pub fn start(&self) -> Lsn {
        self.start
    }

    pub fn end(&self) -> Lsn {
        self.end
    }
}

impl fmt::Display for WalSummaryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:016X}{:016X}{SUFFIX}", self.timeline.0, self.start.0, self.end.0)
    }
}

impl FromStr for WalSummaryName {
    type Err = PgFormatError;
    fn from_str(text: &str) -> Result<Self, PgFormatError> {
        let parse = || {
            let digits = text.strip_suffix(SUFFIX)?;
            let is_exact =
                digits.len() == 40 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
            let number = |part: &str| u64::from_str_radix(part, 16).ok();
            let (timeline, positions) = is_exact.then(|| digits.split_at(8))?;
            let (start, end) = positions.split_at(16);
            let timeline = TimelineId(u32::from_str_radix(timeline, 16).ok()?);
            WalSummaryName::new(timeline, Lsn(number(start)?), Lsn(number(end)?))
        };
        parse().ok_or_else(|| {
            PgFormatError::new("name of a WAL summary", text, "it is no timeline and two ascending positions")
        })
    }
}

/// What a summary says of one fork, but for its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkSummary {
    pub tablespace: Oid,
    /// 0 for relations of all databases.
    pub database: Oid,
    /// 0 stands for all relations of the database in the tablespace: it was created or dropped.
    pub relation: u32,
    pub fork: Fork,
    /// The fork had only so many blocks at some moment.
    pub limit: Option<u32>,
}

/// The changed blocks of one chunk, as offsets from its first block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummaryChunk<'a> {
    /// The first block is this times [`CHUNK_BLOCKS`].
    pub number: u16,
    words: &'a [u8],
}

impl SummaryChunk<'_> {
    /// Whether the offsets come ascending, out of a bitmap; else in the order in which they were written down.
    fn is_bitmap(&self) -> bool {
        self.words.len() == usize::from(BITMAP_WORDS) * 2
    }

    pub fn offsets(&self) -> impl Iterator<Item = u16> + '_ {
        let is_bitmap = self.is_bitmap();
        (0u16..).zip(self.words.as_chunks::<2>().0).flat_map(move |(index, word)| {
            let word = u16::from_le_bytes(*word);
            let bits = if is_bitmap { word } else { 0 };
            let listed = (!is_bitmap).then_some(word);
            let set = (0..16u16).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| index * 16 + bit);
            set.chain(listed)
        })
    }
}

/// What a decoder hands out: a fork, then its chunks in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SummaryPiece<'a> {
    Fork(ForkSummary),
    Chunk(SummaryChunk<'a>),
}

/// Why the bytes are no WAL summary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SummaryError {
    #[error("it begins with {0:08x}, which is no WAL summary's magic number")]
    Magic(u32),
    #[error("it was written with another byte order")]
    ByteOrder,
    #[error("it has an entry for fork number {0}")]
    Fork(u32),
    #[error("its entries do not ascend")]
    Order,
    #[error("it has an entry of {0} chunks, {CHUNKS_MAX} are the most")]
    Chunks(u32),
    #[error("it has a chunk of {0} words, {BITMAP_WORDS} are the most")]
    ChunkSize(u16),
    #[error("it has checksum {stored:08x}, but its bytes give {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("it ends too early")]
    Truncated,
    #[error("there are bytes behind its end")]
    Trailing,
}

#[derive(Debug)]
enum State {
    Magic,
    Entry,
    Usages { chunks: usize },
    Chunk { next: usize },
    Checksum,
    End,
}

/// Takes the bytes of a file in pieces of any size.
#[derive(Debug)]
pub struct SummaryDecoder {
    state: State,
    /// Fed and not yet taken.
    pending: Vec<u8>,
    /// Words of each chunk of the entry at hand.
    usages: Vec<u16>,
    /// Tablespace, database, relation and fork of the entry at hand: the order of entries.
    last: Option<[u32; 4]>,
    crc: u32,
}

impl Default for SummaryDecoder {
    fn default() -> Self {
        SummaryDecoder { state: State::Magic, pending: Vec::new(), usages: Vec::new(), last: None, crc: 0 }
    }
}

impl SummaryDecoder {
    /// Hands out what is complete with these bytes.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(SummaryPiece<'_>)) -> Result<(), SummaryError> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while let Some((part, behind)) = self.wanted().and_then(|wanted| rest.split_at_checked(wanted)) {
            rest = behind;
            if !matches!(self.state, State::Checksum) {
                self.crc = crc32c::crc32c_append(self.crc, part);
            }
            self.state = self.step(part, &mut take)?;
        }
        if matches!(self.state, State::End) && !rest.is_empty() {
            return Err(SummaryError::Trailing);
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    /// Says whether all that was handed out is to be believed.
    pub fn finish(self) -> Result<(), SummaryError> {
        if matches!(self.state, State::End) { Ok(()) } else { Err(SummaryError::Truncated) }
    }

    /// How many bytes the next step needs.
    fn wanted(&self) -> Option<usize> {
        Some(match self.state {
            State::Magic => 4,
            State::Entry => ENTRY_SIZE,
            State::Usages { chunks } => chunks * 2,
            State::Chunk { next } => usize::from(self.usages[next]) * 2,
            State::Checksum => CRC_SIZE,
            State::End => return None,
        })
    }

    fn step(&mut self, part: &[u8], take: &mut impl FnMut(SummaryPiece<'_>)) -> Result<State, SummaryError> {
        match self.state {
            State::Magic => match u32_at(part, 0) {
                MAGIC => Ok(State::Entry),
                swapped if swapped == MAGIC.swap_bytes() => Err(SummaryError::ByteOrder),
                other => Err(SummaryError::Magic(other)),
            },
            State::Entry => self.entry(part, take),
            State::Usages { .. } => {
                self.usages.clear();
                self.usages.extend((0..part.len() / 2).map(|index| u16_at(part, index * 2)));
                match self.usages.iter().find(|words| **words > BITMAP_WORDS) {
                    Some(words) => Err(SummaryError::ChunkSize(*words)),
                    None => Ok(self.chunk_or_entry(0)),
                }
            }
            State::Chunk { next } => {
                let number = u16::try_from(next).expect("there are at most 65536 chunks");
                take(SummaryPiece::Chunk(SummaryChunk { number, words: part }));
                Ok(self.chunk_or_entry(next + 1))
            }
            State::Checksum => {
                let (stored, computed) = (u32_at(part, 0), self.crc);
                if stored == computed {
                    Ok(State::End)
                } else {
                    Err(SummaryError::Checksum { stored, computed })
                }
            }
            State::End => Err(SummaryError::Trailing),
        }
    }

    fn entry(&mut self, part: &[u8], take: &mut impl FnMut(SummaryPiece<'_>)) -> Result<State, SummaryError> {
        if array_at::<ENTRY_SIZE>(part, 0) == [0; ENTRY_SIZE] {
            return Ok(State::Checksum);
        }
        let [tablespace, database, relation, fork, limit, chunks] =
            std::array::from_fn(|index| u32_at(part, index * 4));
        let key = [tablespace, database, relation, fork];
        if self.last.replace(key).is_some_and(|last| last >= key) {
            return Err(SummaryError::Order);
        }
        if chunks > CHUNKS_MAX {
            return Err(SummaryError::Chunks(chunks));
        }
        let fork = fork_of_number(fork).ok_or(SummaryError::Fork(fork))?;
        let limit = (limit != NO_LIMIT).then_some(limit);
        let (tablespace, database) = (Oid(tablespace), Oid(database));
        take(SummaryPiece::Fork(ForkSummary { tablespace, database, relation, fork, limit }));
        Ok(match usize::try_from(chunks).expect("65536 fits") {
            0 => State::Entry,
            chunks => State::Usages { chunks },
        })
    }

    /// The next chunk that has anything, from this one on; else the next entry.
    fn chunk_or_entry(&self, from: usize) -> State {
        let found = self.usages.iter().skip(from).position(|words| *words > 0);
        found.map_or(State::Entry, |distance| State::Chunk { next: from + distance })
    }
}

fn fork_of_number(number: u32) -> Option<Fork> {
    [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init].get(usize::try_from(number).ok()?).copied()
}

#[cfg(test)]
pub(crate) mod encoder;
#[cfg(test)]
mod tests;
