//! WAL on its way into the repositories and back: what `archive_command` and `restore_command` do.
//!
//! Code map: [`push`] and [`get`] are the two ways of one file; [`background`] and [`ahead`] go both ways before anybody
//! waits, [`spool`] is where they and the commands meet; [`backlog`] brings repositories what they missed; [`stream`] stores WAL
//! before its segment is whole, and [`end`] hands that out where an archive ends; [`doors`] keeps
//! repositories open; [`data_directory`] and [`ready`] are what is looked at on the server's side.
//!
//! It is not: a process. Exit codes, signals and the runtime belong to the command line.
//!
//! Invariants
//! 1. Success of a push means: durable in every repository that had to have it.
//! 2. Absence is said only when every repository was opened, knows the cluster, and does not have the file. All else is an
//!    error: PostgreSQL promotes where it believes that a segment does not exist.
//! 3. A destination is there as a whole, its checksum proved, or not at all.
//!
//! Failure story: both start from nothing each time and may be killed at any point. PostgreSQL repeats what it got no
//! success for; a repeated push finds what the first one stored.

pub mod ahead;
mod background;
mod backlog;
pub mod data_directory;
mod destination;
mod doors;
mod end;
mod get;
mod nudge;
mod push;
pub mod ready;
pub mod spool;
mod steady;
mod stream;

pub use background::BackgroundPush;
pub use backlog::Sibling;
pub use doors::Doors;
pub use end::{EndOfArchive, HandedOut};
pub use get::{Fetched, Get};
pub use nudge::Nudge;
pub use push::{Push, PushNews, PushReport, PushRepository};
pub use stream::Stream;

use crate::keeper::blocking;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::ids::{RepoKey, StanzaName, SystemId};
use pgconvoy_core::pg::PgVersion;
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::fmt;
use std::sync::Arc;

/// Reaches a repository anew at each call, so that a mount which came back is found. May block for a few system calls.
pub type Connect = Arc<dyn Fn(RepoKey) -> Result<Arc<RepositorySet>, Failure> + Send + Sync>;

/// Whose WAL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterIdentity {
    pub system_id: SystemId,
    pub version: PgVersion,
}

impl ClusterIdentity {
    fn is_of(&self, cluster: &ClusterBody) -> bool {
        self.system_id == cluster.system_id && self.version == cluster.version
    }
}

impl fmt::Display for ClusterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {} with system identifier {}", self.version, self.system_id)
    }
}

async fn open(connect: &Connect, key: RepoKey) -> Result<Arc<Repository>, Failure> {
    let connect = connect.clone();
    let set = blocking(move || connect(key)).await?;
    Ok(set.open(key).await?)
}

/// Archives of the stanza that belong to a cluster, the newest first; of the newest cluster when nobody knows which it is.
async fn archives(
    repository: &Repository,
    stanza: &StanzaName,
    wanted: Option<ClusterIdentity>,
) -> Result<Vec<ArchiveId>, Failure> {
    let clusters = clusters(repository, stanza, wanted).await?;
    Ok(clusters.iter().map(ClusterBody::archive_id).collect())
}

/// The same, with all that is known of the cluster.
pub(crate) async fn clusters(
    repository: &Repository,
    stanza: &StanzaName,
    wanted: Option<ClusterIdentity>,
) -> Result<Vec<ClusterBody>, Failure> {
    let mut clusters = repository.clusters(stanza).await?;
    let Some(newest) = clusters.pop() else {
        return Err(RepositoryError::NoStanza { place: repository.describe(), stanza: stanza.clone() }.into());
    };
    let Some(wanted) = wanted else { return Ok(vec![newest]) };
    clusters.push(newest.clone());
    clusters.reverse();
    clusters.retain(|cluster| wanted.is_of(cluster));
    if clusters.is_empty() {
        let stored = ClusterIdentity { system_id: newest.system_id, version: newest.version };
        return Err(Failure::new(
            ErrorCode::ArchiveMismatch,
            format!(
                "this is WAL of {wanted}, but stanza {stanza} in {} is of {stored}",
                repository.describe()
            ),
        )
        .hint("is this the right stanza for the cluster?")
        .hint("after an upgrade of PostgreSQL, run stanza-upgrade"));
    }
    Ok(clusters)
}

/// Several repositories failed: the first gives the code, all are named.
fn joined(what: &str, failures: Vec<(RepoKey, Failure)>) -> Option<Failure> {
    let mut failures = failures.into_iter().map(|(key, failure)| failure.context(format!("repo {key}")));
    let mut whole = failures.next()?;
    for failure in failures {
        whole.message = format!("{}; {}", whole.message, failure.message);
        let new = failure.hints.into_iter().filter(|hint| !whole.hints.contains(hint));
        let new: Vec<String> = new.collect();
        whole.hints.extend(new);
    }
    Some(whole.context(what))
}

#[cfg(test)]
mod tests;
