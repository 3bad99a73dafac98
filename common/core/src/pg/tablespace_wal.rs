//! Finds CREATE TABLESPACE in WAL.
//!
//! Replay creates a tablespace at the path that was written then, whatever a restore has mapped: on the host of the
//! original cluster that is the original's own directory. So a restore looks ahead before it lets PostgreSQL replay.
//!
//! Source: `commands/tablespace.h` (`xl_tblspc_create_rec`); the same from 9.6 to 18.

use crate::ids::Oid;
use crate::pg::wal_records::{Follow, RecordKind, WalFollower};
use crate::pg::{Lsn, PgVersion};

const CREATE: RecordKind = RecordKind { resource: 5, info: 0x00 };

/// A tablespace that replay will create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTablespace {
    pub oid: Oid,
    pub location: String,
}

/// Takes the segments of one history in order.
#[derive(Debug)]
pub struct TablespaceFinder {
    follower: WalFollower,
    found: Vec<CreatedTablespace>,
}

impl TablespaceFinder {
    pub fn new(version: PgVersion, wal_page_size: u32) -> Self {
        let follower = WalFollower::new(version, wal_page_size, |kind| kind == CREATE);
        TablespaceFinder { follower, found: Vec::new() }
    }

    pub fn found(&self) -> &[CreatedTablespace] {
        &self.found
    }

    /// Looks through whole pages of a segment, of which the first begins at `start`.
    pub fn pages(&mut self, start: Lsn, pages: &[u8]) -> Follow {
        let found = &mut self.found;
        self.follower.pages(start, pages, |_, data| found.extend(created(data)))
    }
}

/// Oid, then a path that ends with a zero byte.
fn created(data: &[u8]) -> Option<CreatedTablespace> {
    let oid = Oid(u32::from_le_bytes(*data.first_chunk()?));
    let (path, _) = data.get(4..)?.split_at_checked(data[4..].iter().position(|byte| *byte == 0)?)?;
    Some(CreatedTablespace { oid, location: String::from_utf8_lossy(path).into_owned() })
}

#[cfg(test)]
mod tests;
