//! What the black-box tests share: a scratch folder, a real PostgreSQL, a configuration and the `pgconvoy` binary.
//!
//! It is not a second implementation: nothing here reads the repository format, everything asks the binary or
//! PostgreSQL's own tools, except [`damage`] and [`repository`], which know where objects lie and not what they hold.
//!
//! Invariants
//! 1. PostgreSQL and `pgconvoy` never run as root: [`user`] says who they run as.
//! 2. Every wait has a limit, and what runs out of it fails with the output so far.
//! 3. Whatever a test started or mounted is gone when its value is dropped: processes by their id, mounts before the
//!    folder that holds them.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "every test binary compiles this and uses a part of it"
)]

pub mod api;
pub mod bad_disk;
pub mod browser;
pub mod checks;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod damage;
pub mod data;
pub mod files;
pub mod fleet;
pub mod guarded_etcd;
pub mod limits;
pub mod middle;
pub mod network;
pub mod offload;
pub mod outage;
pub mod pgconvoy;
pub mod ports;
pub mod process;
pub mod random;
pub mod repository;
pub mod scratch;
pub mod site;
pub mod stores;
pub mod tmpfs;
pub mod tools;
pub mod units;
pub mod user;
pub mod wal;

pub use anyhow::{Context, Result, anyhow, bail, ensure};
pub use checks::{assert_refused, assert_refused_with_one_of, labels, same_data};
pub use cluster::{Cluster, ClusterOptions};
pub use config::{Config, Repo};
pub use pgconvoy::Pgconvoy;
pub use process::{Finished, Program, Running};
pub use random::Random;
pub use scratch::Scratch;
pub use serde_json::Value as Json;
pub use site::{Site, SiteOptions};
pub use wal::FakeArchiver;

/// A line for whoever reads the output of a test that failed: seeds, moments, what a round did.
#[allow(clippy::print_stderr, reason = "the harness shows it only when the test fails")]
pub fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}
