//! Finds CREATE TABLESPACE in WAL.
//!
//! Replay creates a tablespace at the path that was written then, whatever a restore has mapped: on the host of the
//! original cluster that is the original's own directory. So a restore looks ahead before it lets PostgreSQL replay.
//!
//! Source: `commands/tablespace.h` (`xl_tblspc_create_rec`); the same from 9.6 to 18.

use crate::ids::Oid;
use crate::pg::commit_wal::{is_end, is_of_its_transaction, moment};
use crate::pg::wal_records::{Follow, RESOURCE_XLOG, Record, RecordKind, WalFollower};
use crate::pg::{Lsn, PgVersion};
use crate::units::Timestamp;
use std::ops::ControlFlow;

const CREATE: RecordKind = RecordKind { resource: 5, info: 0x00 };
const RESTORE_POINT: RecordKind = RecordKind { resource: RESOURCE_XLOG, info: 0x70 };
/// A restore point's name comes behind its time.
const RESTORE_POINT_NAME_AT: usize = 8;

/// A tablespace that replay will create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTablespace {
    pub oid: Oid,
    pub location: String,
}

/// By what in the WAL PostgreSQL knows that it has replayed enough. Where both are possible, the later one of the ends that an
/// inclusive and an exclusive target have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ReplayEnd {
    /// Nothing in the WAL says it.
    #[default]
    Open,
    /// The first record that begins here or later.
    Lsn(Lsn),
    /// The first end of a transaction after this moment.
    Time(Timestamp),
    /// The end of this transaction.
    Transaction(u32),
    /// The restore point of this name.
    Name(String),
}

impl ReplayEnd {
    fn wanted(&self) -> fn(RecordKind) -> bool {
        match self {
            ReplayEnd::Open | ReplayEnd::Lsn(_) => |kind| kind == CREATE,
            ReplayEnd::Time(_) | ReplayEnd::Transaction(_) => |kind| kind == CREATE || is_end(kind),
            ReplayEnd::Name(_) => |kind| kind == CREATE || kind == RESTORE_POINT,
        }
    }

    fn is(&self, record: &Record<'_>) -> bool {
        match self {
            // Counted by whoever follows the records.
            ReplayEnd::Open | ReplayEnd::Lsn(_) => false,
            ReplayEnd::Time(last) => {
                is_end(record.kind) && moment(record.data).is_some_and(|moment| moment > *last)
            }
            ReplayEnd::Transaction(number) => is_of_its_transaction(record) && record.transaction == *number,
            ReplayEnd::Name(name) => {
                let stored = record.data.get(RESTORE_POINT_NAME_AT..).unwrap_or_default();
                record.kind == RESTORE_POINT && until_zero(stored) == Some(name.as_bytes())
            }
        }
    }
}

/// Takes the segments of one history in order.
#[derive(Debug, Clone)]
pub struct TablespaceFinder {
    follower: WalFollower,
    end: ReplayEnd,
    is_over: bool,
    found: Vec<CreatedTablespace>,
}

impl TablespaceFinder {
    pub fn new(version: PgVersion, wal_page_size: u32, end: ReplayEnd) -> Self {
        let follower = WalFollower::new(version, wal_page_size, end.wanted());
        let follower = match end {
            ReplayEnd::Lsn(lsn) => follower.ending_from(lsn),
            _ => follower,
        };
        TablespaceFinder { follower, end, is_over: false, found: Vec::new() }
    }

    pub fn found(&self) -> &[CreatedTablespace] {
        &self.found
    }

    /// Looks through whole pages of a segment, of which the first begins at `start`. Nothing is found behind the end of replay.
    pub fn pages(&mut self, start: Lsn, pages: &[u8]) -> Follow {
        if self.is_over {
            return Follow::Ended;
        }
        let TablespaceFinder { follower, end, is_over, found } = self;
        follower.pages(start, pages, |record| {
            if record.kind == CREATE {
                found.extend(created(record.data));
            }
            *is_over = end.is(&record);
            if *is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}

/// Oid, then a path that ends with a zero byte.
fn created(data: &[u8]) -> Option<CreatedTablespace> {
    let oid = Oid(u32::from_le_bytes(*data.first_chunk()?));
    let path = until_zero(data.get(4..)?)?;
    Some(CreatedTablespace { oid, location: String::from_utf8_lossy(path).into_owned() })
}

/// What comes before the zero byte that ends a text.
fn until_zero(text: &[u8]) -> Option<&[u8]> {
    text.split(|byte| *byte == 0).next().filter(|before| before.len() < text.len())
}

#[cfg(test)]
mod tests;
