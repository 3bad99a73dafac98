//! Ends a backup session: the server's last word goes to every repository before the coordinator hears of it.
//!
//! Failure story: a repository that cannot be given the record is named, and has no backup. A keeper that dies in between
//! leaves records that nothing refers to.

use super::preparing::silent;
use super::{Keeper, Session, blocking, offline, online};
use crate::job::JobContext;
use futures::future::join_all;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::{RepositoryFailure, SessionEnd};
use pgconvoy_repository::{RepositoryError, RepositorySet};
use pgconvoy_storage::StorageError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

impl Keeper {
    /// A repeated order gets the same answer, whatever it was.
    pub(super) async fn close_session(&mut self, repositories: &[RepoKey]) -> Result<SessionEnd, Failure> {
        if let Some(answer) = &self.ended_with {
            return answer.clone();
        }
        let context = self.context.clone();
        let context =
            context.ok_or_else(|| Failure::new(ErrorCode::Assert, "a session was closed before units"))?;
        let answer = match self.stop().await {
            Ok(Some(stop)) => {
                let failed = record(&self.ground.repositories, &context, repositories, &stop).await;
                Ok(SessionEnd { stop: Some(stop), failed })
            }
            Ok(None) => Ok(SessionEnd { stop: None, failed: Vec::new() }),
            Err(failure) => Err(failure),
        };
        self.reached.session.store(false, Ordering::Release);
        self.ended_with = Some(answer.clone());
        answer
    }

    async fn stop(&mut self) -> Result<Option<StopBody>, Failure> {
        let known = self.known()?;
        let nothing_open = || Failure::new(ErrorCode::Assert, "there is no session to close");
        match std::mem::replace(&mut known.session, Session::Over) {
            Session::Online(online) => {
                let session = online.live.take().await.ok_or_else(nothing_open)?;
                Ok(Some(online::close(session).await?))
            }
            Session::Offline(before) => {
                let (directory, force) = (known.config.directory.clone(), known.options.force);
                if !force {
                    blocking(move || offline::check_untouched(&directory, &before)).await?;
                }
                Ok(None)
            }
            Session::Connected(_) | Session::Elsewhere(_) | Session::Over => Err(nothing_open()),
        }
    }
}

/// Those that could not be given the record.
async fn record(
    set: &RepositorySet,
    context: &Arc<JobContext>,
    repositories: &[RepoKey],
    stop: &StopBody,
) -> Vec<RepositoryFailure> {
    let limit = Duration::from_millis(context.units.stall_timeout_ms);
    let writing = repositories.iter().map(|key| async move {
        let written = timeout(limit, write(set, context, *key, stop)).await;
        let failure = written.unwrap_or_else(|_| Err(silent(limit))).err()?;
        Some(RepositoryFailure { repository: *key, failure })
    });
    join_all(writing).await.into_iter().flatten().collect()
}

async fn write(
    set: &RepositorySet,
    context: &JobContext,
    key: RepoKey,
    stop: &StopBody,
) -> Result<(), Failure> {
    let repository = set.open(key).await?;
    let units = &context.units;
    match repository.write_stop(&units.stanza, units.label, units.plan, stop).await {
        // The answer to a first put may have been lost: what counts is what is there.
        Err(error @ RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {
            match repository.stop_record(&units.stanza, units.label, units.plan).await? {
                Some(found) if found == *stop => Ok(()),
                _ => Err(error.into()),
            }
        }
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests;
