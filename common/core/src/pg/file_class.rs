//! The kinds of files in a data directory, and how a backup must read each.
//!
//! Not here: which files a backup takes at all (`datadir`).
//!
//! Invariants
//! 1. Only what WAL replay repairs page by page may be split, cut at its planned size, or read on a standby.
//! 2. Every kind that is not named is `Other`: whole, to its end, from the primary, and its absence is an error.

use crate::pg::Fork;
use serde::{Deserialize, Serialize};

/// What a file is to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FileClass {
    /// `global/pg_control`.
    Control,
    /// `global/pg_filenode.map`.
    FilenodeMap,
    /// The `pg_filenode.map` of one database.
    DatabaseFilenodeMap,
    /// `PG_VERSION` of the cluster.
    Version,
    /// The `PG_VERSION` of one database.
    DatabaseVersion,
    /// One segment of one fork of a relation.
    Relation { fork: Fork, segment: u32 },
    /// `pg_xact` and `pg_multixact`.
    Slru,
    /// `pg_commit_ts`: an SLRU too, but one that a standby may lack.
    CommitTimestamps,
    /// `pg_twophase`: prepared transactions.
    TwoPhase,
    /// `pg_stat`.
    Stats,
    /// `pg_logical/snapshots` and `pg_logical/mappings`: of use to replication slots only, which no backup holds.
    LogicalDecoding,
    /// `log`, `pg_log`, `current_logfiles`: what the server told people.
    ServerLog,
    /// WAL in an offline backup.
    Wal,
    /// Configuration, and whatever else lies in the directory.
    Other,
}

impl FileClass {
    /// Whether ranges of the file may be read apart, by different readers.
    pub fn splittable(self) -> bool {
        matches!(self, FileClass::Relation { .. })
    }

    /// Whether replay brings back what was written after the inventory, so that the file is read up to its planned size.
    /// Any other file is read to its end.
    pub fn wal_protected(self) -> bool {
        matches!(self, FileClass::Relation { .. } | FileClass::Slru | FileClass::CommitTimestamps)
    }

    /// Whether the server may remove the file during a backup. ENOENT still means so only while the root the file lies
    /// under is the one that the session began with.
    pub fn may_vanish(self) -> bool {
        matches!(
            self,
            FileClass::Relation { .. }
                | FileClass::Slru
                | FileClass::CommitTimestamps
                | FileClass::TwoPhase
                | FileClass::Stats
                | FileClass::LogicalDecoding
                | FileClass::ServerLog
        )
    }

    /// Whether the file goes only when the directory it lies in goes too, as in DROP DATABASE: ENOENT is then "vanished" if
    /// the directory is gone as well.
    pub fn vanishes_with_its_directory(self) -> bool {
        matches!(self, FileClass::DatabaseFilenodeMap | FileClass::DatabaseVersion)
    }

    /// Whether the file consists of pages that bear checksums, where the cluster has them.
    pub fn page_checksummed(self) -> bool {
        matches!(self, FileClass::Relation { .. })
    }

    /// Whether a standby's copy would not do.
    pub fn primary_only(self) -> bool {
        !matches!(self, FileClass::Relation { .. } | FileClass::Slru)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [FileClass; 14] = [
        FileClass::Control,
        FileClass::FilenodeMap,
        FileClass::DatabaseFilenodeMap,
        FileClass::Version,
        FileClass::DatabaseVersion,
        FileClass::Relation { fork: Fork::Main, segment: 0 },
        FileClass::Slru,
        FileClass::CommitTimestamps,
        FileClass::TwoPhase,
        FileClass::Stats,
        FileClass::LogicalDecoding,
        FileClass::ServerLog,
        FileClass::Wal,
        FileClass::Other,
    ];

    #[test]
    fn what_is_split_or_read_on_a_standby_is_repaired_by_wal() {
        for class in ALL {
            assert!(!class.splittable() || class.wal_protected(), "{class:?}");
            assert!(class.primary_only() || class.wal_protected(), "{class:?}");
            assert!(!class.page_checksummed() || class.splittable(), "{class:?}");
        }
    }

    #[test]
    fn no_file_that_a_restore_cannot_do_without_may_vanish() {
        for class in [ALL[0], ALL[1], ALL[3], FileClass::Wal, FileClass::Other] {
            assert!(!class.may_vanish() && !class.vanishes_with_its_directory(), "{class:?}");
        }
    }
}
