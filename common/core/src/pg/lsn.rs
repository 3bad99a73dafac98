//! Positions in the write-ahead log, and the names of the files that hold it.
//!
//! Source: PostgreSQL's `access/xlogdefs.h`, `access/xlog_internal.h`.
//!
//! Invariants
//! 1. A [`WalSegmentName`] orders by timeline, then by position, exactly as its text does.
//! 2. The segment of a *start* is the one that contains the position; of an *end*, the one that holds the byte before it:
//!    an end on a segment boundary needs nothing of the segment that begins there.

use crate::pg::PgFormatError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log, in bytes. Text form `X/Y`: the upper and lower half in hexadecimal.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position: PostgreSQL's InvalidXLogRecPtr.
    pub const ZERO: Lsn = Lsn(0);

    pub fn is_zero(self) -> bool {
        self == Lsn::ZERO
    }

    /// The distance from `earlier` in bytes; nothing when `earlier` lies ahead.
    pub fn bytes_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = PgFormatError;
    fn from_str(text: &str) -> Result<Self, PgFormatError> {
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(u64::from(hex(high)?) << 32 | u64::from(hex(low)?))))
            .ok_or_else(|| {
                PgFormatError::new("LSN", text, "it is not two hexadecimal numbers with '/' between")
            })
    }
}

/// 1 to 8 hexadecimal digits and nothing else (`from_str_radix` alone would take a sign).
fn hex(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// As [`hex`], for the fixed-width numbers of file names, which PostgreSQL writes in capitals.
fn name_hex(text: Option<&str>) -> Option<u32> {
    let text = text?;
    (text.len() == 8 && !text.bytes().any(|b| b.is_ascii_lowercase())).then(|| hex(text)).flatten()
}

/// A timeline of a cluster: 1 after initdb, a new one after every promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a cluster's WAL segments: a power of two from 1 MiB to 1 GiB, fixed by initdb and told by `pg_control`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct WalSegmentSize(u64);

impl WalSegmentSize {
    /// What initdb chooses unasked. Never assume it: read `pg_control`.
    pub const DEFAULT: WalSegmentSize = WalSegmentSize(16 << 20);

    pub fn new(bytes: u64) -> Result<Self, PgFormatError> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(WalSegmentSize(bytes))
        } else {
            let reason = "it is not a power of two from 1 MiB to 1 GiB";
            Err(PgFormatError::new("WAL segment size", &bytes.to_string(), reason))
        }
    }

    pub fn bytes(self) -> u64 {
        self.0
    }

    /// How many segments share the first 16 characters of their name.
    fn per_directory(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl TryFrom<u64> for WalSegmentSize {
    type Error = PgFormatError;
    fn try_from(bytes: u64) -> Result<Self, PgFormatError> {
        WalSegmentSize::new(bytes)
    }
}

impl From<WalSegmentSize> for u64 {
    fn from(size: WalSegmentSize) -> u64 {
        size.0
    }
}

/// The 24 digits of a WAL segment: timeline, high half and low part of its position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WalSegmentName {
    timeline: u32,
    high: u32,
    low: u32,
}

impl WalSegmentName {
    /// The segment whose bytes include the one at `lsn`.
    pub fn containing(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Self {
        Self::numbered(timeline, lsn.0 / size.bytes(), size)
    }

    /// The segment that holds the byte before `lsn`: the last one that a range ending at `lsn` needs.
    pub fn last_before(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> Self {
        Self::numbered(timeline, lsn.0.saturating_sub(1) / size.bytes(), size)
    }

    fn numbered(timeline: TimelineId, number: u64, size: WalSegmentSize) -> Self {
        let half = |value: u64| u32::try_from(value).expect("an LSN of 64 bits has two halves of 32");
        let (high, low) = (number / size.per_directory(), number % size.per_directory());
        WalSegmentName { timeline: timeline.0, high: half(high), low: half(low) }
    }

    pub fn timeline(&self) -> TimelineId {
        TimelineId(self.timeline)
    }

    /// The number of the segment, counted from position 0. Names of another segment size give numbers without meaning.
    pub fn segment_number(&self, size: WalSegmentSize) -> u64 {
        u64::from(self.high) * size.per_directory() + u64::from(self.low)
    }

    /// Whether a cluster with this segment size can have a segment of this name.
    pub fn fits(&self, size: WalSegmentSize) -> bool {
        u64::from(self.low) < size.per_directory()
    }

    pub fn start_lsn(&self, size: WalSegmentSize) -> Lsn {
        Lsn(self.segment_number(size).saturating_mul(size.bytes()))
    }

    /// The segment after this one on the same timeline; the very last one is its own successor.
    pub fn next(&self, size: WalSegmentSize) -> Self {
        let last = u64::MAX / size.bytes();
        Self::numbered(self.timeline(), self.segment_number(size).saturating_add(1).min(last), size)
    }

    /// The segment before this one on the same timeline; the very first one has none.
    pub fn previous(&self, size: WalSegmentSize) -> Option<Self> {
        let number = self.segment_number(size).checked_sub(1)?;
        Some(Self::numbered(self.timeline(), number, size))
    }

    /// The first 16 digits, by which repositories group segments.
    pub fn directory(&self) -> String {
        format!("{:08X}{:08X}", self.timeline, self.high)
    }

    /// Every segment that the WAL from `start` up to (not including) `end` lies in; none for an empty range.
    pub fn range(timeline: TimelineId, start: Lsn, end: Lsn, size: WalSegmentSize) -> WalSegments {
        let first = start.0 / size.bytes();
        let after = if end > start { (end.0 - 1) / size.bytes() + 1 } else { first };
        WalSegments { timeline, numbers: first..after, size }
    }
}

impl fmt::Display for WalSegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.high, self.low)
    }
}

impl fmt::Debug for WalSegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WalSegmentName {
    type Err = PgFormatError;
    fn from_str(text: &str) -> Result<Self, PgFormatError> {
        let parts = || {
            let (timeline, high) = (name_hex(text.get(0..8))?, name_hex(text.get(8..16))?);
            // Segments have at least 1 MiB, so 4 GiB hold no more than 4096 of them.
            let low = name_hex(text.get(16..)).filter(|low| *low < 4096)?;
            (timeline > 0).then_some(WalSegmentName { timeline, high, low })
        };
        parts().ok_or_else(|| {
            PgFormatError::new("WAL segment name", text, "it is not 24 hexadecimal digits of a segment")
        })
    }
}

impl TryFrom<String> for WalSegmentName {
    type Error = PgFormatError;
    fn try_from(text: String) -> Result<Self, PgFormatError> {
        text.parse()
    }
}

impl From<WalSegmentName> for String {
    fn from(name: WalSegmentName) -> String {
        name.to_string()
    }
}

/// See [`WalSegmentName::range`].
#[derive(Debug, Clone)]
pub struct WalSegments {
    timeline: TimelineId,
    numbers: std::ops::Range<u64>,
    size: WalSegmentSize,
}

impl Iterator for WalSegments {
    type Item = WalSegmentName;
    fn next(&mut self) -> Option<WalSegmentName> {
        self.numbers.next().map(|number| WalSegmentName::numbered(self.timeline, number, self.size))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.numbers.size_hint()
    }
}

/// A file that PostgreSQL hands to `archive_command`, or asks `restore_command` for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WalFileName {
    Segment(WalSegmentName),
    /// The last segment of a timeline that ended in its middle, `.partial`.
    Partial(WalSegmentName),
    /// `00000002.history`.
    History(TimelineId),
    /// `<segment>.<offset>.backup`: where a backup started.
    BackupHistory {
        segment: WalSegmentName,
        offset: u32,
    },
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFileName::Segment(segment) => write!(f, "{segment}"),
            WalFileName::Partial(segment) => write!(f, "{segment}.partial"),
            WalFileName::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            WalFileName::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

impl FromStr for WalFileName {
    type Err = PgFormatError;
    fn from_str(text: &str) -> Result<Self, PgFormatError> {
        let error = || {
            PgFormatError::new("WAL file name", text, "it is no segment, .partial, .history or .backup file")
        };
        let mut parts = text.split('.');
        let first = parts.next().unwrap_or_default();
        let segment = || first.parse::<WalSegmentName>().map_err(|_| error());
        match (parts.next(), parts.next(), parts.next()) {
            (None, None, None) => Ok(WalFileName::Segment(segment()?)),
            (Some("partial"), None, None) => Ok(WalFileName::Partial(segment()?)),
            (Some("history"), None, None) => name_hex(Some(first))
                .filter(|id| *id > 0)
                .map(|id| WalFileName::History(TimelineId(id)))
                .ok_or_else(error),
            (Some(offset), Some("backup"), None) => {
                let offset = name_hex(Some(offset)).ok_or_else(error)?;
                Ok(WalFileName::BackupHistory { segment: segment()?, offset })
            }
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for WalFileName {
    type Error = PgFormatError;
    fn try_from(text: String) -> Result<Self, PgFormatError> {
        text.parse()
    }
}

impl From<WalFileName> for String {
    fn from(name: WalFileName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests;
