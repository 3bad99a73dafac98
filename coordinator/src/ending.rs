//! What repositories hold of a backup that comes to its end: the record of its stop, and what its one key says.
//!
//! Failure story: a repository that does not answer is as good as one that has nothing to tell; what it holds undecided is given
//! up by the next backup.

use crate::actors::backup::now;
use crate::prepare::has_published;
use futures::future::join_all;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::wal::{KeptSession, StopBody};
use pgconvoy_core::ids::{PlanNumber, RepoKey};
use pgconvoy_core::machine::backup::{BackupSpec, Event, Fate, RecalledSession};
use pgconvoy_core::wire::RepositoryFailure;
use pgconvoy_repository::{Repository, RepositorySet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A backup in those repositories that are to be asked.
pub(crate) struct Labelled {
    pub set: Arc<RepositorySet>,
    pub spec: BackupSpec,
    pub repositories: Vec<RepoKey>,
    pub label: BackupLabel,
}

impl Labelled {
    /// The first record that is found: all were written by one keeper. Where it is missing it is written; those that have it not
    /// are named.
    pub(crate) async fn stop(&self, plan: PlanNumber) -> (Option<StopBody>, Vec<RepositoryFailure>) {
        let answers =
            join_all(self.repositories.iter().map(|key| self.in_time(self.stop_in(*key, plan)))).await;
        let found = answers.iter().find_map(|answer| answer.as_ref().ok()?.clone());
        let Some(stop) = found else {
            for (key, answer) in self.repositories.iter().zip(answers) {
                if let Err(failure) = answer {
                    tracing::warn!("repo {key} cannot tell how {} stopped: {failure}", self.label);
                }
            }
            return (None, Vec::new());
        };
        let bare = StopBody { kept: None, ..stop.clone() };
        let giving = self.repositories.iter().zip(answers).map(|(key, answer)| {
            let bare = &bare;
            async move {
                let given = match answer {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => self.in_time(self.give_stop(*key, plan, bare)).await,
                    Err(failure) => Err(failure),
                };
                given.err().map(|failure| RepositoryFailure { repository: *key, failure })
            }
        });
        (Some(stop), join_all(giving).await.into_iter().flatten().collect())
    }

    async fn give_stop(&self, key: RepoKey, plan: PlanNumber, stop: &StopBody) -> Result<(), Failure> {
        let (repository, stanza) = (self.set.open(key).await?, &self.spec.stanza);
        Ok(repository.write_stop(stanza, self.label, plan, stop, None).await?)
    }

    async fn stop_in(&self, key: RepoKey, plan: PlanNumber) -> Result<Option<StopBody>, Failure> {
        let repository = self.set.open(key).await?;
        Ok(repository.stop_record(&self.spec.stanza, self.label, plan).await?)
    }

    /// What the source has kept for a leader that finds it gone; of the first repository that shows it whole.
    pub(crate) async fn session(&self, plan: PlanNumber) -> Option<Box<RecalledSession>> {
        for key in &self.repositories {
            let read = async {
                let repository = self.set.open(*key).await?;
                Ok::<_, Failure>(repository.kept_scan(&self.spec.stanza, self.label, plan).await?)
            };
            match read.await {
                Ok(Some((StopBody { kept: Some(kept), .. }, inventory))) => {
                    let KeptSession { preflight, session } = *kept;
                    return Some(Box::new(RecalledSession { preflight, session, inventory }));
                }
                Ok(_) => tracing::info!("repo {key} has no session of {}", self.label),
                Err(failure) => {
                    tracing::warn!("repo {key} cannot show the session of {}: {failure}", self.label);
                }
            }
        }
        None
    }

    pub(crate) async fn give_up(&self, reason: &str) -> Vec<(RepoKey, Result<Fate, Failure>)> {
        let one = |key: &RepoKey| self.in_time(self.give_up_in(*key, reason));
        let fates = join_all(self.repositories.iter().map(one)).await;
        self.repositories.iter().copied().zip(fates).collect()
    }

    async fn give_up_in(&self, key: RepoKey, reason: &str) -> Result<Fate, Failure> {
        let (repository, spec) = (self.set.open(key).await?, &self.spec);
        let record = Repository::void_record(self.label, reason, &spec.writer, now());
        if repository.give_up(&spec.stanza, record).await? {
            return Ok(Fate::Void);
        }
        if has_published(&repository, spec, self.label).await? {
            return Ok(Fate::Published);
        }
        let message = format!("another backup has the label {}", self.label);
        Err(Failure::new(ErrorCode::RepoInvalid, message))
    }

    /// A store may be silent for so long, and no longer.
    async fn in_time<T>(&self, asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let limit = Duration::from_millis(self.spec.stall_timeout_ms);
        timeout(limit, asking).await.unwrap_or_else(|_| {
            let message = format!("it did not answer for {} ms", self.spec.stall_timeout_ms);
            Err(Failure::new(ErrorCode::FileRead, message).retryable())
        })
    }
}

/// What is told where giving up broke off.
pub(crate) fn unknown(repositories: &[RepoKey]) -> impl FnOnce(Failure) -> Event + Send + 'static {
    let repositories = repositories.to_vec();
    move |failure| Event::GivenUp {
        fates: repositories.into_iter().map(|key| (key, Err(failure.clone()))).collect(),
    }
}

#[cfg(test)]
mod tests;
