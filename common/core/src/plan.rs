//! Decisions about work: facts in, plans out. A plan is a value that can be stored, printed and compared.
//!
//! Invariants
//! 1. The same input gives the same plan.
//! 2. The ranges of a backup plan cover every byte of every file exactly once.
//! 3. Nothing here holds anything per block: memory grows with files and units only. What WAL summaries say of blocks
//!    ([`summaries`]) is the exception; it has a limit of its own, and lives where PostgreSQL does.

pub mod backlog;
pub mod backup;
pub mod blocks;
pub mod homes;
pub mod incremental;
pub mod inventory;
pub mod leftover;
pub mod prior;
pub mod quickest;
pub mod recovery;
pub mod render;
pub mod restorable;
pub mod restore;
pub mod shares;
pub mod summaries;
pub mod sync;
pub mod wal_end;
