//! What a fleet's coordinator is told by whoever knows the configuration: what a job's options mean, and with what it is done.

use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{Epoch, RepoKey, StanzaName, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::machine::backup::{BackupSpec, Outcome};
use pgconvoy_core::record::JobRecord;
use pgconvoy_repository::RepositorySet;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// With what a backup is done.
pub struct Tools {
    /// All repositories of the stanza: labels count in those that take no part as well.
    pub repositories: Arc<RepositorySet>,
    /// How long WAL may take to reach a repository.
    pub archive_timeout: Duration,
}

/// A repository as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceFacts {
    pub key: RepoKey,
    /// `posix`, `s3` ..
    pub kind: String,
    /// What and where it is, for people; no secret is in it.
    pub description: String,
    pub layout: String,
    pub is_required: bool,
}

/// All that the configuration names, and the way to it.
pub struct Places {
    pub repositories: Vec<PlaceFacts>,
    pub stanzas: BTreeMap<StanzaName, Vec<RepoKey>>,
    pub set: Arc<RepositorySet>,
}

pub trait Workshop: Send + Sync {
    /// What there may be to look at. The same value until the configuration is another one: stores are opened once for each.
    fn places(&self) -> Result<Arc<Places>, Failure>;

    /// Whether the configuration gives the stanza's data to that worker.
    fn may_serve(&self, worker: &WorkerName, stanza: &StanzaName) -> Result<(), Failure>;

    /// Whether such a job makes sense here; if it does, the repositories that are its own meanwhile. What is wrong with it is for
    /// whoever submits it to read.
    fn check(
        &self,
        kind: JobKind,
        stanza: &StanzaName,
        options: &JobOptions,
    ) -> Result<Vec<RepoKey>, Failure>;

    /// The repositories of a job that one worker does by itself.
    fn looked_at(
        &self,
        kind: JobKind,
        stanza: &StanzaName,
        options: &JobOptions,
    ) -> Result<Arc<RepositorySet>, Failure>;

    /// What a backup is to do. Called once in its life.
    fn spec(&self, record: &JobRecord, epoch: Epoch) -> Result<BackupSpec, Failure>;

    fn tools(&self, stanza: &StanzaName, options: &JobOptions) -> Result<Tools, Failure>;

    /// The result that the command prints, as JSON; `None` if it came to none.
    fn result(&self, record: &JobRecord, outcome: &Outcome, took: Duration) -> Option<String>;
}
