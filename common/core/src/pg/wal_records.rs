//! Follows the records of WAL by their lengths and hands out those of the kinds that are asked for.
//!
//! What it is not: a WAL decoder. It checks no CRC: what it cannot follow ends the look, as it would end recovery.
//!
//! Source: `access/xlog_internal.h` (page headers), `access/xlogrecord.h` (record header); the same from 9.6 to 18.

use crate::pg::bytes::{u16_at, u32_at, u64_at};
use crate::pg::{Lsn, PgVersion};
use std::ops::ControlFlow;

const SHORT_PAGE_HEADER: usize = 24;
const LONG_PAGE_HEADER: usize = 40;
const LONG_HEADER_FLAG: u16 = 0x0002;
const FIRST_IS_CONTINUATION: u16 = 0x0001;
const RECORD_HEADER: usize = 24;
/// Records begin at multiples of this.
const RECORD_ALIGNMENT: usize = 8;
/// PostgreSQL refuses to write longer ones.
const RECORD_BYTES_MAX: u32 = 1020 << 20;
/// Of a record's body, this much is kept: a path and some headers, or the beginning of a long list.
const BODY_BYTES_MAX: usize = 8 << 10;

pub(super) const RESOURCE_XLOG: u8 = 0;
const INFO_MASK: u8 = 0xF0;
const XLOG_SWITCH: u8 = 0x40;

const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_TRANSACTION: u8 = 252;

/// Whether more WAL can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    Next,
    /// What follows in this segment is no WAL; the next segment may be.
    NextSegment,
    /// The records end here, or cannot be followed any further.
    Ended,
}

/// What a record is: its resource manager, and what that one says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordKind {
    pub(super) resource: u8,
    pub(super) info: u8,
}

/// A record of a kind that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) kind: RecordKind,
    /// Zero: it belongs to none.
    pub(super) transaction: u32,
    /// Its main data, cut if that is long.
    pub(super) data: &'a [u8],
}

/// Takes the segments of one history in order.
#[derive(Debug, Clone)]
pub(super) struct WalFollower {
    version: PgVersion,
    page_size: usize,
    wanted: fn(RecordKind) -> bool,
    /// The first record that begins here or later is the last that is followed.
    last_from: Option<Lsn>,
    is_last: bool,
    /// Bytes of the current record that are still to come.
    left: usize,
    header: Vec<u8>,
    /// The current record's body, if it is of a kind that is wanted.
    body: Option<Vec<u8>>,
    is_switch: bool,
    /// Whether any record was followed: before that, the rest of an earlier one may come first.
    has_begun: bool,
}

impl WalFollower {
    pub(super) fn new(version: PgVersion, wal_page_size: u32, wanted: fn(RecordKind) -> bool) -> Self {
        WalFollower {
            version,
            page_size: wal_page_size as usize,
            wanted,
            last_from: None,
            is_last: false,
            left: 0,
            header: Vec::with_capacity(RECORD_HEADER),
            body: None,
            is_switch: false,
            has_begun: false,
        }
    }

    /// Follows the first record that begins there or later, and none behind it.
    pub(super) fn ending_from(self, lsn: Lsn) -> Self {
        WalFollower { last_from: Some(lsn), ..self }
    }

    /// Looks through whole pages of a segment, of which the first begins at `start`. The very first may begin within a
    /// record, whose rest is passed over. `found` is given each wanted record, and may end it all there.
    pub(super) fn pages(
        &mut self,
        start: Lsn,
        pages: &[u8],
        mut found: impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Follow {
        for (number, page) in pages.chunks(self.page_size).enumerate() {
            let address = start.0 + (number * self.page_size) as u64;
            let Some(data) = self.page_data(address, page) else {
                return Follow::Ended;
            };
            match self.page(Lsn(address + (page.len() - data.len()) as u64), data, &mut found) {
                Step::Page => {}
                Step::Switch => return Follow::NextSegment,
                Step::End => return Follow::Ended,
            }
        }
        Follow::Next
    }

    /// The page behind its header, and behind the rest of a record whose beginning was not seen.
    fn page_data<'a>(&self, address: u64, page: &'a [u8]) -> Option<&'a [u8]> {
        if page.len() < LONG_PAGE_HEADER
            || u16_at(page, 0) != self.version.wal_magic()
            || u64_at(page, 8) != address
        {
            return None;
        }
        let info = u16_at(page, 2);
        let header = if info & LONG_HEADER_FLAG != 0 { LONG_PAGE_HEADER } else { SHORT_PAGE_HEADER };
        let data = &page[header..];
        let continued = info & FIRST_IS_CONTINUATION != 0;
        let expected = self.left > 0 || !self.header.is_empty();
        match (continued, expected) {
            (true, false) if !self.has_begun => {
                let rest = (u32_at(page, 16) as usize).next_multiple_of(RECORD_ALIGNMENT);
                // A record that fills the page goes on in the next, which says so again.
                Some(data.get(rest..).unwrap_or_default())
            }
            (true, false) | (false, true) => None,
            _ => Some(data),
        }
    }

    fn page(
        &mut self,
        address: Lsn,
        data: &[u8],
        found: &mut impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Step {
        let mut at = 0;
        while at < data.len() {
            if self.left == 0 {
                if self.header.is_empty() {
                    if self.is_last {
                        return Step::End;
                    }
                    self.is_last = self.last_from.is_some_and(|last| address.0 + at as u64 >= last.0);
                }
                let wanted = RECORD_HEADER - self.header.len();
                let taken = wanted.min(data.len() - at);
                self.header.extend_from_slice(&data[at..at + taken]);
                at += taken;
                if self.header.len() == RECORD_HEADER && !self.begin_record() {
                    return Step::End;
                }
            }
            if self.header.len() == RECORD_HEADER {
                let taken = self.left.min(data.len() - at);
                if let Some(body) = &mut self.body {
                    let kept = taken.min(BODY_BYTES_MAX - body.len());
                    body.extend_from_slice(&data[at..at + kept]);
                }
                at += taken;
                self.left -= taken;
                if self.left == 0 {
                    if self.end_record(found).is_break() {
                        return Step::End;
                    }
                    if self.is_switch {
                        return Step::Switch;
                    }
                    // Page headers are multiples of the alignment, so positions within the data align as those of the page do.
                    at = at.next_multiple_of(RECORD_ALIGNMENT);
                }
            }
        }
        Step::Page
    }

    /// `false`: there is no record.
    fn begin_record(&mut self) -> bool {
        let total = u32_at(&self.header, 0);
        if (total as usize) < RECORD_HEADER || total > RECORD_BYTES_MAX {
            return false;
        }
        let kind = self.kind();
        self.has_begun = true;
        self.left = total as usize - RECORD_HEADER;
        self.is_switch = kind == RecordKind { resource: RESOURCE_XLOG, info: XLOG_SWITCH };
        self.body = (self.wanted)(kind).then(|| Vec::with_capacity(self.left.min(BODY_BYTES_MAX)));
        true
    }

    fn kind(&self) -> RecordKind {
        RecordKind { resource: self.header[17], info: self.header[16] & INFO_MASK }
    }

    fn end_record(&mut self, found: &mut impl FnMut(Record<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let (kind, transaction) = (self.kind(), u32_at(&self.header, 4));
        self.header.clear();
        match self.body.take() {
            Some(body) => main_data(&body)
                .map_or(ControlFlow::Continue(()), |data| found(Record { kind, transaction, data })),
            None => ControlFlow::Continue(()),
        }
    }
}

enum Step {
    Page,
    Switch,
    End,
}

/// The main data of a record without blocks, as far as the body goes.
fn main_data(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    loop {
        let (id, after) = rest.split_first()?;
        rest = match *id {
            DATA_SHORT => {
                let (length, data) = after.split_first()?;
                return Some(&data[..usize::from(*length).min(data.len())]);
            }
            DATA_LONG => {
                let length = u32::from_le_bytes(*after.first_chunk()?) as usize;
                let data = after.get(4..)?;
                return Some(&data[..length.min(data.len())]);
            }
            ORIGIN => after.get(2..)?,
            TOP_TRANSACTION => after.get(4..)?,
            _ => return None,
        };
    }
}
