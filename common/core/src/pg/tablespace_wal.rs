//! Finds CREATE TABLESPACE in WAL.
//!
//! Replay creates a tablespace at the path that was written then, whatever a restore has mapped: on the host of the
//! original cluster that is the original's own directory. So a restore looks ahead before it lets PostgreSQL replay.
//!
//! What it is not: a WAL decoder. It follows records by their lengths, looks into those of one kind, and checks no CRC:
//! what it cannot follow ends the look ahead, as it would end recovery.
//!
//! Source: `access/xlog_internal.h` (page headers), `access/xlogrecord.h` (record header), `commands/tablespace.h`
//! (`xl_tblspc_create_rec`); the same from 9.6 to 18.

use crate::ids::Oid;
use crate::pg::bytes::{u16_at, u32_at, u64_at};
use crate::pg::{Lsn, PgVersion};

const SHORT_PAGE_HEADER: usize = 24;
const LONG_PAGE_HEADER: usize = 40;
const LONG_HEADER_FLAG: u16 = 0x0002;
const FIRST_IS_CONTINUATION: u16 = 0x0001;
const RECORD_HEADER: usize = 24;
/// Records begin at multiples of this.
const RECORD_ALIGNMENT: usize = 8;
/// PostgreSQL refuses to write longer ones.
const RECORD_BYTES_MAX: u32 = 1020 << 20;
/// A path and some headers: longer records of this kind are not ours.
const CREATE_BYTES_MAX: usize = 8 << 10;

const RESOURCE_XLOG: u8 = 0;
const RESOURCE_TABLESPACE: u8 = 5;
const INFO_MASK: u8 = 0xF0;
const XLOG_SWITCH: u8 = 0x40;
const TABLESPACE_CREATE: u8 = 0x00;

const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOP_TRANSACTION: u8 = 252;

/// A tablespace that replay will create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTablespace {
    pub oid: Oid,
    pub location: String,
}

/// Whether more WAL can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    Next,
    /// What follows in this segment is no WAL; the next segment may be.
    NextSegment,
    /// The records end here, or cannot be followed any further.
    Ended,
}

/// Takes the segments of one history in order.
#[derive(Debug)]
pub struct TablespaceFinder {
    version: PgVersion,
    page_size: usize,
    /// Bytes of the current record that are still to come.
    left: usize,
    header: Vec<u8>,
    /// The current record's body, if it is of the kind looked for.
    body: Option<Vec<u8>>,
    is_switch: bool,
    /// Whether any record was followed: before that, the rest of an earlier one may come first.
    has_begun: bool,
    found: Vec<CreatedTablespace>,
}

impl TablespaceFinder {
    pub fn new(version: PgVersion, wal_page_size: u32) -> Self {
        TablespaceFinder {
            version,
            page_size: wal_page_size as usize,
            left: 0,
            header: Vec::with_capacity(RECORD_HEADER),
            body: None,
            is_switch: false,
            has_begun: false,
            found: Vec::new(),
        }
    }

    pub fn found(&self) -> &[CreatedTablespace] {
        &self.found
    }

    /// Looks through whole pages of a segment, of which the first begins at `start`. The very first may begin within a
    /// record, whose rest is passed over.
    pub fn pages(&mut self, start: Lsn, pages: &[u8]) -> Follow {
        for (number, page) in pages.chunks(self.page_size).enumerate() {
            let Some(data) = self.page_data(start.0 + (number * self.page_size) as u64, page) else {
                return Follow::Ended;
            };
            match self.page(data) {
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

    fn page(&mut self, data: &[u8]) -> Step {
        let mut at = 0;
        while at < data.len() {
            if self.left == 0 {
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
                    body.extend_from_slice(&data[at..at + taken]);
                }
                at += taken;
                self.left -= taken;
                if self.left == 0 {
                    self.end_record();
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
        let (info, resource) = (self.header[16] & INFO_MASK, self.header[17]);
        self.has_begun = true;
        self.left = total as usize - RECORD_HEADER;
        self.is_switch = resource == RESOURCE_XLOG && info == XLOG_SWITCH;
        let is_wanted =
            resource == RESOURCE_TABLESPACE && info == TABLESPACE_CREATE && self.left <= CREATE_BYTES_MAX;
        self.body = is_wanted.then(|| Vec::with_capacity(self.left));
        true
    }

    fn end_record(&mut self) {
        self.header.clear();
        if let Some(body) = self.body.take() {
            self.found.extend(created(&body));
        }
    }
}

enum Step {
    Page,
    Switch,
    End,
}

/// The main data of a record without blocks: Oid, then a path that ends with a zero byte.
fn created(body: &[u8]) -> Option<CreatedTablespace> {
    let mut rest = body;
    let data = loop {
        let (id, after) = rest.split_first()?;
        rest = match *id {
            DATA_SHORT => {
                let (length, data) = after.split_first()?;
                break data.get(..usize::from(*length))?;
            }
            DATA_LONG => {
                let length = u32::from_le_bytes(*after.first_chunk()?) as usize;
                break after.get(4..)?.get(..length)?;
            }
            ORIGIN => after.get(2..)?,
            TOP_TRANSACTION => after.get(4..)?,
            _ => return None,
        };
    };
    let oid = Oid(u32::from_le_bytes(*data.first_chunk()?));
    let path = data.get(4..)?.split(|byte| *byte == 0).next()?;
    Some(CreatedTablespace { oid, location: String::from_utf8_lossy(path).into_owned() })
}

#[cfg(test)]
mod tests;
