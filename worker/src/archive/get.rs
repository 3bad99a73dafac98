//! Fetches one WAL file from whichever repository has it.
//!
//! All repositories are asked at once. One that has the file is enough to deliver it, after those that answer in time were
//! compared; one that cannot be asked is enough to not know of its absence. The file comes from whoever answered first.
//!
//! Failure story: "cannot tell" is tried again until the patience ends, connections and all. A file whose content is
//! damaged or slow to come in one repository comes from the next.

use super::destination::Destination;
use super::{ClusterIdentity, Connect, archives, joined, open};
use futures::stream::{FuturesUnordered, StreamExt};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::WalFileName;
use pgconvoy_repository::wal::WalReader;
use pgconvoy_repository::{Repository, RepositoryError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// The wait after the first vain try; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// One try may take this long however short the patience is: opening a repository far away takes several round trips.
const TRY_MIN: Duration = Duration::from_secs(5);
/// Once a repository has the file, the only use of the others is to agree: they get so many times as long as it took,
/// within these limits. A repository that hangs costs this much for every segment.
const STRAGGLER_FACTOR: u32 = 4;
const STRAGGLER_GRACE_MIN: Duration = Duration::from_millis(200);
const STRAGGLER_GRACE_MAX: Duration = Duration::from_secs(2);
/// A repository that needs longer for a whole file gives way to the next that has it.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    From(RepoKey),
    /// Every repository was asked, and none has it.
    Absent,
}

/// One WAL file that is wanted.
pub struct Get<'a> {
    pub connect: &'a Connect,
    pub repositories: &'a [RepoKey],
    pub stanza: &'a StanzaName,
    pub file: WalFileName,
    pub destination: &'a Path,
    /// `None`: nobody knows; the stanza's newest.
    pub cluster: Option<ClusterIdentity>,
    /// How long "cannot tell" is tried again.
    pub patience: Duration,
    /// The file stays at its destination until somebody comes for it.
    pub is_kept: bool,
}

/// The file in one archive of one repository.
struct Stored {
    key: RepoKey,
    repository: Arc<Repository>,
    reader: WalReader,
}

type Answer = Result<Vec<Stored>, Failure>;

enum Trouble {
    /// Another try may find out.
    CannotTell(Failure),
    /// No try will change it.
    Settled(Failure),
}

impl Get<'_> {
    pub async fn run(&self) -> Result<Fetched, Failure> {
        let deadline = Instant::now() + self.patience;
        let mut pause = PAUSE_FIRST;
        loop {
            let begun = Instant::now();
            let failure = match self.attempt(deadline.max(begun + TRY_MIN)).await {
                Ok(fetched) => return Ok(fetched),
                Err(Trouble::Settled(failure)) => return Err(failure),
                Err(Trouble::CannotTell(failure)) => failure,
            };
            let now = Instant::now();
            if now >= deadline {
                return Err(failure);
            }
            tracing::debug!("{failure}; trying again");
            sleep_until(deadline.min(now + pause)).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn attempt(&self, until: Instant) -> Result<Fetched, Trouble> {
        let mut stored = Vec::new();
        let mut failures = Vec::new();
        for (key, answer) in self.ask_all(until).await {
            match answer {
                Ok(found) => stored.extend(found),
                Err(failure) => failures.push((key, failure)),
            }
        }
        failures.sort_by_key(|(key, _)| *key);
        if stored.is_empty() {
            return match joined(&format!("cannot tell whether {} is archived", self.file), failures) {
                Some(failure) => Err(Trouble::CannotTell(failure)),
                None => Ok(Fetched::Absent),
            };
        }
        for (key, failure) in &failures {
            tracing::warn!("repo {key} could not be asked for {}: {failure}", self.file);
        }
        refuse_disagreement(&stored).map_err(Trouble::Settled)?;
        self.fetch(&stored).await
    }

    /// In the order in which they answered.
    async fn ask_all(&self, mut until: Instant) -> Vec<(RepoKey, Answer)> {
        let begun = Instant::now();
        let asking = self.repositories.iter().map(|key| async move { (*key, self.ask(*key).await) });
        let mut asking: FuturesUnordered<_> = asking.collect();
        let mut answers: Vec<(RepoKey, Answer)> = Vec::new();
        while let Ok(Some((key, answer))) = timeout_at(until, asking.next()).await {
            if answer.as_ref().is_ok_and(|found| !found.is_empty()) {
                let grace = begun.elapsed() * STRAGGLER_FACTOR;
                until = until.min(Instant::now() + grace.clamp(STRAGGLER_GRACE_MIN, STRAGGLER_GRACE_MAX));
            }
            answers.push((key, answer));
        }
        let silent =
            self.repositories.iter().filter(|key| answers.iter().all(|(answered, _)| answered != *key));
        let silent: Vec<RepoKey> = silent.copied().collect();
        let timed_out = || Failure::new(ErrorCode::HostConnect, "it did not answer in time").retryable();
        answers.extend(silent.into_iter().map(|key| (key, Err(timed_out()))));
        answers
    }

    /// An empty answer is known absence: the repository is open and knows the cluster.
    async fn ask(&self, key: RepoKey) -> Answer {
        let repository = open(self.connect, key).await?;
        let mut stored = Vec::new();
        for archive in archives(&repository, self.stanza, self.cluster).await? {
            if let Some(reader) = repository.open_wal(self.stanza, archive, &self.file).await? {
                stored.push(Stored { key, repository: repository.clone(), reader });
            }
        }
        Ok(stored)
    }

    async fn fetch(&self, stored: &[Stored]) -> Result<Fetched, Trouble> {
        let mut failures = Vec::new();
        for (at, one) in stored.iter().enumerate() {
            let fetching = self.fetch_from(one);
            let fetched = match stored.get(at + 1) {
                None => fetching.await,
                Some(_) => timeout(DELIVERY_MAX, fetching).await.unwrap_or_else(|_| Err(too_slow())),
            };
            match fetched {
                Ok(()) => return Ok(Fetched::From(one.key)),
                Err(Trouble::Settled(failure)) => return Err(Trouble::Settled(failure)),
                Err(Trouble::CannotTell(failure)) => {
                    tracing::warn!("repo {} could not deliver {}: {failure}", one.key, self.file);
                    failures.push((one.key, failure));
                }
            }
        }
        let failure = joined(&format!("{} is archived, but cannot be read", self.file), failures);
        Err(Trouble::CannotTell(failure.expect("every repository that has it failed")))
    }

    async fn fetch_from(&self, stored: &Stored) -> Result<(), Trouble> {
        let mut destination = Destination::create(self.destination).map_err(Trouble::Settled)?;
        let mut unwritten = None;
        let write = |bytes: &[u8]| {
            destination.write(bytes).map_err(|failure| {
                unwritten = Some(failure);
                RepositoryError::Interrupted { what: "writing a WAL file" }
            })
        };
        let read = stored.reader.read(&stored.repository, write).await;
        match (unwritten, read) {
            (Some(failure), _) => Err(Trouble::Settled(failure)),
            (None, Err(error)) => Err(Trouble::CannotTell(error.into())),
            (None, Ok(())) if self.is_kept => destination.publish_synced().map_err(Trouble::Settled),
            (None, Ok(())) => destination.publish().map_err(Trouble::Settled),
        }
    }
}

fn too_slow() -> Trouble {
    let message = format!("it did not deliver within {} s", DELIVERY_MAX.as_secs());
    Trouble::CannotTell(Failure::new(ErrorCode::HostConnect, message).retryable())
}

/// Two truths about one name: whichever PostgreSQL replayed could be the wrong one.
fn refuse_disagreement(stored: &[Stored]) -> Result<(), Failure> {
    let Some((first, others)) = stored.split_first() else { return Ok(()) };
    let content = |stored: &Stored| (stored.reader.body.size, stored.reader.body.sha1);
    let Some(other) = others.iter().find(|other| content(other) != content(first)) else { return Ok(()) };
    let message = format!(
        "repo {} and repo {} have different contents of {}",
        first.key, other.key, first.reader.body.name
    );
    Err(Failure::new(ErrorCode::ArchiveDuplicate, message)
        .hint("two clusters with the same system identifier have archived to this stanza")
        .hint("find out which is right, then ask that repository alone with --repo=N"))
}

#[cfg(test)]
mod tests;
