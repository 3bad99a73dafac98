//! What pgconvoy knows of PostgreSQL's files: their names, their bytes and which of them belong in a backup.
//!
//! Code map: [`version`] is the one table of what differs between major versions; [`lsn`] holds log positions and the names
//! of WAL files, [`wal_header`] the first page of a segment, [`wal_part`] the names of its streamed parts, [`wal_summary`] what changed in it; [`control`], [`page`], [`filenode_map`] and [`relation`] are
//! the binary forms of a data directory; [`backup_label`], [`tablespace_map`], [`history`] and [`postmaster_pid`] its text
//! files; [`bad_pages`] says which pages fail their checksums; [`tablespace_wal`] and [`commit_wal`] look for WAL records of one kind; [`path`], [`datadir`] and [`file_class`] say what a data directory holds, what of it a backup needs and how each
//! file is read; [`backup_manifest`] renders PostgreSQL's own manifest.
//!
//! Not here: reading any of it (`common/postgres`), and deciding what to do with it (`plan`).
//!
//! Invariants
//! 1. A version that is not in the table is refused with its number; nothing is guessed from a neighbour.
//! 2. Binary files are accepted only with a checksum that holds, where PostgreSQL wrote one.
//! 3. Any byte string ends in a value or an error. Servers write little-endian here; a big-endian file is named as such.

pub mod backup_label;
pub mod backup_manifest;
pub mod bad_pages;
mod bytes;
pub mod commit_wal;
pub mod control;
pub mod datadir;
pub mod error;
pub mod file_class;
pub mod filenode_map;
pub mod history;
pub mod lsn;
pub mod page;
pub mod path;
pub mod postmaster_pid;
pub mod relation;
pub mod tablespace_map;
pub mod tablespace_wal;
pub mod version;
pub mod wal_header;
pub mod wal_part;
mod wal_records;
pub mod wal_summary;

pub use backup_label::BackupLabelFile;
pub use commit_wal::CommitFinder;
pub use control::{ClusterState, ControlError, ControlFile};
pub use datadir::{DirectoryDecision, LeftOut, Rules, unlogged_main_forks};
pub use error::PgFormatError;
pub use file_class::FileClass;
pub use filenode_map::validate_filenode_map;
pub use history::TimelineHistory;
pub use lsn::{Lsn, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
pub use page::{PageSize, check_pages};
pub use path::RelativePath;
pub use postmaster_pid::PostmasterPid;
pub use relation::{Fork, RelationFileName};
pub use tablespace_map::TablespaceMap;
pub use tablespace_wal::{CreatedTablespace, ReplayEnd, TablespaceFinder};
pub use version::PgVersion;
pub use wal_header::WalSegmentHeader;
pub use wal_part::WalPart;
pub use wal_records::Follow;
pub use wal_summary::{SummaryDecoder, WalSummaryName};
