//! Finds in WAL when transactions ended: how late a recovery by time can land.
//!
//! Source: `access/xact.h` (`xl_xact_commit`, `xl_xact_abort`: the time comes first); the same from 9.6 to 18.

use crate::pg::wal_records::{Follow, Record, RecordKind, WalFollower};
use crate::pg::{Lsn, PgVersion};
use crate::units::Timestamp;
use std::ops::ControlFlow;

const RESOURCE_TRANSACTION: u8 = 1;
/// The bits that say what happened to a transaction; the highest says that more follows.
const OPERATION_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
/// PostgreSQL counts from 2000-01-01.
const EPOCH_MILLISECONDS: i64 = 946_684_800_000;

/// Takes the segments of one history in order.
#[derive(Debug)]
pub struct CommitFinder {
    follower: WalFollower,
    last: Option<Timestamp>,
}

impl CommitFinder {
    pub fn new(version: PgVersion, wal_page_size: u32) -> Self {
        CommitFinder { follower: WalFollower::new(version, wal_page_size, is_end), last: None }
    }

    /// When the last transaction that was seen to end did.
    pub fn last(&self) -> Option<Timestamp> {
        self.last
    }

    /// Looks through whole pages of a segment, of which the first begins at `start`.
    pub fn pages(&mut self, start: Lsn, pages: &[u8]) -> Follow {
        let last = &mut self.last;
        self.follower.pages(start, pages, |record| {
            *last = moment(record.data).or(*last);
            ControlFlow::Continue(())
        })
    }
}

/// That a transaction ended, prepared or not.
pub(super) fn is_end(kind: RecordKind) -> bool {
    kind.resource == RESOURCE_TRANSACTION
        && matches!(kind.info & OPERATION_MASK, COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED)
}

/// Whether the record is of the very transaction that ended; the end of one that was prepared is another's record.
pub(super) fn is_of_its_transaction(record: &Record<'_>) -> bool {
    is_end(record.kind) && matches!(record.kind.info & OPERATION_MASK, COMMIT | ABORT)
}

/// When it ended. Microseconds since PostgreSQL's epoch, rounded down.
pub(super) fn moment(data: &[u8]) -> Option<Timestamp> {
    let microseconds = i64::from_le_bytes(*data.first_chunk()?);
    Some(Timestamp(microseconds.div_euclid(1000).checked_add(EPOCH_MILLISECONDS)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// See the tests of `tablespace_wal`: the transaction that created the tablespace commits in these pages.
    const WAL: &[u8] = include_bytes!("../../testdata/pg/wal_15_create_tablespace");

    #[test]
    fn the_time_of_the_last_commit_is_found() {
        let mut finder = CommitFinder::new(PgVersion::V15, 8192);
        assert_eq!(finder.pages(Lsn(0x72_0000), WAL), Follow::NextSegment);
        let day = finder.last().map(|moment| moment.to_string());
        assert_eq!(day.as_deref(), Some(LAST_COMMIT));
    }

    #[test]
    fn wal_without_an_end_of_a_transaction_has_no_time() {
        let mut finder = CommitFinder::new(PgVersion::V15, 8192);
        assert_eq!(finder.pages(Lsn(0x72_0000), &WAL[..8192]), Follow::Next);
        assert_eq!(finder.last(), None);
        assert_eq!(moment(&[0; 8]), Some(Timestamp(EPOCH_MILLISECONDS)));
        assert_eq!(moment(&[0; 7]), None);
    }

    /// The moment at which these pages were made.
    const LAST_COMMIT: &str = "2026-11-23T09:49:44.960Z";
}
