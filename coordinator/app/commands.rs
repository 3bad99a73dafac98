//! One verb, one file: what a user types is the name of the module that does it.

mod archive;

pub mod archive_get;
pub mod archive_push;
pub mod backup;
pub mod cert;
pub mod check;
pub mod completions;
pub mod config;
pub mod coordinator;
pub mod help;
pub mod info;
pub mod job;
pub mod man;
pub mod manifest;
pub mod repo_get;
pub mod repo_key;
pub mod repo_ls;
pub mod repo_sync;
pub mod restore;
pub mod stanza_create;
pub mod token;
pub mod verify;
pub mod version;
pub mod worker;
pub mod workers;
