//! Runs against real servers, started for each test and gone with it. Needs Debian's postgresql-15 (or any other version
//! under /usr/lib/postgresql), pgbouncer and openssl, and for WAL summaries the versions 17 and 18 that `tests/run.sh`
//! installs; without them the tests fail.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cluster;
mod connecting;
mod pooling;
mod proving;
mod replicating;
mod scanning;
mod session;
mod standing_by;
mod summarizing;
mod tablespaces;
