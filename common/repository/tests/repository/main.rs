//! The repository as its users meet it: written through the real code, read, damaged, shown.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod browsing;
mod copying;
mod crafted;
mod damage;
mod golden;
mod hostile;
mod informing;
mod plain;
mod publishing;
mod sharing;
mod stopping;
mod support;
mod syncing;
mod taking_over;
mod together;
mod verifying;
