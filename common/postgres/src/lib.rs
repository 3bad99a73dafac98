//! A live PostgreSQL server: what it says about itself, the backup session it keeps for us, and what its directory holds.
//!
//! It is not: a client library (only the statements that a backup needs), a reader of data files, or anything that has
//! heard of repositories.
//!
//! Code map: [`connect`] opens a session that is proved to be PostgreSQL's own and not a pooler's, [`settings`] is what
//! the server says about itself and [`preflight`] judges it. [`backup`] starts, watches and stops a backup, [`wal`]
//! moves WAL on, [`replication`] receives it over a slot of [`slots`]. On the file side [`proof`] shows that a directory is the connected server's, [`roots`] remembers its
//! mounts by device and inode, [`standby`] says when a standby may be read, [`tablespaces`] asks whether one that is gone was dropped, [`control`] reads pg_control,
//! [`scan`] lists everything that a backup takes, and [`summaries`] reads what changed since the prior one.
//!
//! Invariants
//! 1. No statement waits for ever: each has the session's time limit, and one that passes it ends the session.
//! 2. A backup session that is dropped ends the backup in PostgreSQL; nothing is left to clean up.
//! 3. A file may be called vanished only while the root that it lay under is still the one recorded at the start.
//! 4. File functions block and belong on a blocking thread; everything else is async and never touches the data directory.

pub mod backup;
pub mod catalog;
pub mod clock;
pub mod connect;
pub mod control;
mod error;
mod incarnation;
mod pooler;
pub mod preflight;
pub mod proof;
pub mod replication;
pub mod roots;
pub mod scan;
mod session;
pub mod settings;
pub mod slots;
pub mod standby;
pub mod summaries;
pub mod tablespaces;
mod tls;
pub mod wal;

pub use error::PostgresError;
