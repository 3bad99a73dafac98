//! A worker: obeys a coordinator's orders about backups, and restores.
//!
//! Code map: [`worker`] speaks with the coordinator, [`outbox`] remembers what must still be said, [`lease`] how long it may
//! act, [`keeper`] holds the backup session and knows the data directory, [`slots`] are the threads that do units,
//! [`unit`] is the pipeline itself; with [`serving`] and [`fetching`] others compute what this one sees, and the other way
//! round; [`restore`] is the way back, [`archive`] moves WAL.
//!
//! It is not: a planner, or anybody who decides what a receipt is worth. It never talks to the lease store.
//!
//! Invariants
//! 1. Files are opened only after the directory was proved to be the connected server's.
//! 2. A report of success follows the deed: durable, in every repository that it names.
//! 3. Work that is not under a current order is dropped without a trace that anybody would believe.

pub mod archive;
pub mod check;
pub mod copying;
pub mod desk;
pub mod errand;
pub mod fetching;
mod holdings;
pub mod job;
pub mod keeper;
mod lease;
mod outbox;
mod random;
pub mod restore;
pub mod serving;
pub mod slots;
pub mod sources;
pub mod stanza;
pub mod unit;
pub mod worker;

pub use worker::{Dial, Worker, WorkerDeps, WorkerHandle};
