//! Opens the repositories of a job before its first unit. One that cannot be used is named; the others go on without it.

use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::{RepositoryFailure, UnitContext};
use pgconvoy_repository::{Repository, RepositorySet};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) repositories: BTreeMap<RepoKey, Arc<Repository>>,
    /// The same in all of them.
    pub(super) secret: HashSecret,
    pub(super) failed: Vec<RepositoryFailure>,
}

/// An error only if none is left.
pub(super) async fn open(set: &RepositorySet, units: &UnitContext) -> Result<Opened, Failure> {
    let opening =
        units.repositories.iter().map(|key| async move { (*key, open_one(set, units, *key).await) });
    let (mut repositories, mut failed) = (BTreeMap::new(), Vec::new());
    let mut secret: Option<HashSecret> = None;
    for (key, opened) in futures::future::join_all(opening).await {
        let judged = opened.and_then(|(repository, its_secret)| {
            let is_same = *secret.get_or_insert_with(|| its_secret.clone()) == its_secret;
            if is_same { Ok(repository) } else { Err(created_apart()) }
        });
        match judged {
            Ok(repository) => {
                repositories.insert(key, repository);
            }
            Err(failure) => failed.push(RepositoryFailure { repository: key, failure }),
        }
    }
    match secret {
        Some(secret) => Ok(Opened { repositories, secret, failed }),
        None => Err(failed.into_iter().next().map_or_else(
            || Failure::new(ErrorCode::Assert, "a job was prepared for no repository"),
            |first| first.failure.context(format!("repo {}", first.repository)),
        )),
    }
}

async fn open_one(
    set: &RepositorySet,
    units: &UnitContext,
    key: RepoKey,
) -> Result<(Arc<Repository>, HashSecret), Failure> {
    let limit = Duration::from_millis(units.stall_timeout_ms);
    let opening = async {
        let repository = set.open(key).await?;
        let known = units.identities.iter().find(|known| known.repository == key);
        if known.is_some_and(|known| known.identity != repository.identity()) {
            return Err(another(&repository));
        }
        let cluster = repository.cluster(&units.stanza).await?;
        if cluster.number != units.cluster {
            return Err(Failure::new(
                ErrorCode::BackupMismatch,
                format!(
                    "its newest cluster of stanza {} is {}, not {}",
                    units.stanza, cluster.number, units.cluster
                ),
            ));
        }
        Ok((repository, cluster.hash_secret))
    };
    timeout(limit, opening).await.unwrap_or_else(|_| Err(silent(limit)))
}

/// A repository that says nothing at all.
pub(super) fn silent(limit: Duration) -> Failure {
    Failure::new(ErrorCode::HostConnect, format!("its store did not answer within {} s", limit.as_secs()))
        .hint("is its store reachable, and is it overloaded? io-timeout sets how long it may stall")
        .retryable()
}

/// What is stored there would be in no repository of the job.
fn another(repository: &Repository) -> Failure {
    let message =
        format!("{} is not the repository that the coordinator knows by that number", repository.describe());
    Failure::new(ErrorCode::RepoInvalid, message)
        .hint("all hosts must reach the same repository: is it a local directory, or is its path or bucket another one here?")
}

/// The secret decides what equal blocks hash to: one unit cannot serve two of them.
fn created_apart() -> Failure {
    Failure::new(ErrorCode::RepoInvalid, "its stanza was created apart from that of the other repositories")
        .hint("backups to it alone still work with --repo")
}

#[cfg(test)]
mod tests;
