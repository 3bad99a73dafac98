//! Real servers for tests, of this package and of those above it.

#![allow(clippy::unwrap_used, reason = "this is test code: a failed unwrap fails the test")]

pub mod etcd;
