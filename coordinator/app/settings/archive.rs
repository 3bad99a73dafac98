//! Requests of archive-push and archive-get.

use crate::args::{ArchiveGetArgs, ArchivePushArgs};
use crate::context::Context;
use pgconvoy_core::config::{BackupOptions, RepoConfig};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::StanzaName;
use std::path::{Path, PathBuf};

const PG_WAL: &str = "pg_wal";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePushRequest {
    pub stanza: StanzaName,
    /// Relative paths start at the current directory, which is PostgreSQL's data directory.
    pub path: PathBuf,
    pub pg_path: Option<PathBuf>,
    pub repos: Vec<RepoConfig>,
    pub options: BackupOptions,
    /// This is the process that works ahead of the commands.
    pub is_background: bool,
}

impl ArchivePushRequest {
    pub fn new(context: &Context, args: &ArchivePushArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_named()?;
        Ok(ArchivePushRequest {
            path: below(args.pg_path.as_deref(), &args.path),
            pg_path: args.pg_path.clone(),
            repos: context.repositories(Some(&stanza), &[])?,
            options: context.policy(Some(&stanza))?,
            is_background: args.background,
            stanza,
        })
    }
}

impl ArchivePushRequest {
    /// What a worker does for a stanza whose data directory it sees.
    pub fn of_worker(context: &Context, stanza: &StanzaName, data: &Path) -> Result<Self, Failure> {
        Ok(ArchivePushRequest {
            // Any name in that directory.
            path: data.join(PG_WAL).join("-"),
            pg_path: Some(data.to_owned()),
            repos: context.repositories(Some(stanza), &[])?,
            options: context.policy(Some(stanza))?,
            is_background: true,
            stanza: stanza.clone(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveGetRequest {
    pub stanza: StanzaName,
    /// A name of a WAL or history file; not yet looked at.
    pub file: String,
    pub destination: PathBuf,
    /// The data directory of the server that recovers; `None`: the current directory.
    pub pg_path: Option<PathBuf>,
    pub repos: Vec<RepoConfig>,
    pub options: BackupOptions,
    /// This is the process that works ahead of the commands.
    pub is_background: bool,
}

impl ArchiveGetRequest {
    pub fn new(context: &Context, args: &ArchiveGetArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_named()?;
        Ok(ArchiveGetRequest {
            file: args.file.clone(),
            destination: below(args.pg_path.as_deref(), &args.destination),
            pg_path: args.pg_path.clone(),
            repos: context.repositories_seen(Some(&stanza), args.repo, args.repo_target_time.as_deref())?,
            options: context.policy(Some(&stanza))?,
            is_background: args.background,
            stanza,
        })
    }
}

/// PostgreSQL names files relative to its data directory.
fn below(pg_path: Option<&Path>, path: &Path) -> PathBuf {
    pg_path.map_or_else(|| path.to_owned(), |directory| directory.join(path))
}
