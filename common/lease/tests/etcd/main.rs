//! The etcd store against real etcd: the suite that every store passes, and what only a store far away goes through.
//!
//! Each test starts servers of its own, of Debian's package etcd-server.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod conformance;
mod faults;
mod proxy;
mod quorum;
mod security;
mod support;
mod watching;
