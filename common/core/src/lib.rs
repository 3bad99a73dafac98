//! What pgconvoy knows and decides, as functions from values to values.
//!
//! Code map: [`pg`] is PostgreSQL's on-disk knowledge, [`config`] turns text into settings, [`plan`] turns facts into
//! work, [`machine`] holds the state machines that actors own, [`format`] is the repository on disk and [`wire`] the
//! messages between coordinator and worker. [`record`] is what a fleet keeps of its work, [`job`] its words, [`fence`] tells a holder of a lease how long it may act. [`ids`], [`units`] and
//! [`failure`] are the words that all of them share.
//!
//! Invariants (mostly absences)
//! 1. No runtime, no files, no clock, no randomness, no environment: whatever is needed arrives as an argument.
//! 2. The same input gives the same output, byte for byte. Maps are ordered.
//! 3. Bytes from outside (a repository, a server, a peer) end in a value or an error, never in a panic, and allocate
//!    no more than a small multiple of their own length.

pub mod config;
pub mod failure;
pub mod fence;
pub mod format;
pub mod ids;
pub mod job;
pub mod machine;
pub mod pg;
pub mod plan;
pub mod record;
pub mod ticket;
pub mod units;
pub mod wire;
