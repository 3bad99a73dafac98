//! The coordinator: accepts workers, runs jobs, decides through core's machines and does what they want done.
//!
//! Code map: [`start`] begins it and is the order of its parts; [`leader`] holds leadership and with it the right to write;
//! [`actors`] own the machines, one actor each; [`effects`] is the one place where an effect becomes I/O; [`prepare`] readies
//! repositories for a new backup and [`announce`] makes it known there; [`progress`] is what watchers see.
//!
//! It is not: anybody who connects to PostgreSQL or touches a data directory. Bulk bytes never pass here.
//!
//! Invariants
//! 1. Nothing is decided outside of a machine: actors translate, effects obey.
//! 2. Effects of one job take place in order; only waiting (for stores, for WAL) happens beside.
//! 3. Every write to the lease store is conditional on leadership, and every order bears its epoch.
//! 4. Whoever holds the lock of a stanza in a repository is alone in giving up and sweeping there.

pub mod actors;
mod announce;
pub mod effects;
pub mod leader;
pub mod prepare;
pub mod progress;
pub mod start;

pub use leader::Ttls;
pub use progress::Progress;
pub use start::{BackupRun, Coordinator, Deps};
