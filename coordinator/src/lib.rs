//! The coordinator: accepts workers, runs jobs, decides through core's machines and does what they want done.
//!
//! Code map: [`start`] is a coordinator within a command, [`fleet`] one of several, [`lead`] what it does while it leads;
//! [`running`] begins a backup and [`effects`] is the one place where an
//! effect of it becomes I/O; [`restore`] and [`errand`] are the other jobs; [`actors`] own the machines and the connections; [`registry`] knows the workers, [`leader`] holds
//! leadership and with it the right to write; [`records`] and `recall` are what one leader leaves to the next; [`prepare`] readies
//! repositories for a new backup and `announce` makes it known there; [`progress`], [`units`] and [`unit_map`] are what watchers see. [`api`] is how people and
//! programs ask over HTTPS, by the [`tokens`] that say who they are; `dashboard` is the same for people with a browser, `metrics` for Prometheus, and
//! [`survey`] is what both are told of repositories; [`revocations`] are the certificates that are refused.
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
pub mod api;
pub mod audit;
mod dashboard;
pub mod effects;
mod ending;
pub mod errand;
pub mod fleet;
pub mod jobs;
pub mod lead;
pub mod leader;
mod listing;
mod metrics;
pub mod prepare;
pub mod progress;
mod recall;
pub mod records;
pub mod registry;
pub mod revocations;
pub mod running;
pub mod shared;
pub mod start;
pub mod survey;
pub mod tokens;
pub mod unit_map;
pub mod units;
mod wal_wait;
pub mod workshop;

pub use leader::Ttls;
pub use progress::Progress;
pub use running::BackupRun;
pub use start::{Coordinator, Deps};
