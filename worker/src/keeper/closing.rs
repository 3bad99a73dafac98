//! Ends a backup session: the server's last word goes to every repository before the coordinator hears of it, and with it what
//! another coordinator would need that finds this worker gone.
//!
//! Failure story: a repository that cannot be given the record is named, and has no backup. A keeper that dies in between
//! leaves records that nothing refers to.

use super::preparing::silent;
use super::spool::Scan;
use super::{Keeper, Session, blocking, offline, online};
use crate::job::JobContext;
use futures::future::join_all;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::wal::{KeptSession, StopBody};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::{RepositoryFailure, SessionEnd};
use pgconvoy_repository::{RepositoryError, RepositorySet};
use pgconvoy_storage::StorageError;
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
                let record =
                    Record { context: &context, stop: self.kept(&stop), scan: self.scanned.as_ref() };
                let failed = record.write_to(&self.ground.repositories, repositories).await;
                Ok(SessionEnd { stop: Some(stop), failed })
            }
            Ok(None) => Ok(SessionEnd { stop: None, failed: Vec::new() }),
            Err(failure) => Err(failure),
        };
        self.reached.session.store(false, Ordering::Release);
        self.ended_with = Some(answer.clone());
        answer
    }

    /// With what belongs to the scan, if that was kept.
    fn kept(&self, stop: &StopBody) -> StopBody {
        let kept = self.known.as_ref().zip(self.opened_with.as_ref()).map(|(known, session)| {
            Box::new(KeptSession { preflight: known.facts.clone(), session: session.clone() })
        });
        let is_scan_kept = self.scanned.as_ref().is_some_and(Scan::is_kept);
        StopBody { kept: kept.filter(|_| is_scan_kept), ..stop.clone() }
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
            Session::Connected(_) | Session::Elsewhere(_) | Session::Standby(_) | Session::Over => {
                Err(nothing_open())
            }
        }
    }
}

struct Record<'a> {
    context: &'a JobContext,
    stop: StopBody,
    scan: Option<&'a Scan>,
}

impl Record<'_> {
    /// Those that could not be given it.
    async fn write_to(&self, set: &RepositorySet, repositories: &[RepoKey]) -> Vec<RepositoryFailure> {
        let limit = Duration::from_millis(self.context.units.stall_timeout_ms);
        let writing = repositories.iter().map(|key| async move {
            let written = timeout(limit, self.write(set, *key)).await;
            let failure = written.unwrap_or_else(|_| Err(silent(limit))).err()?;
            Some(RepositoryFailure { repository: *key, failure })
        });
        join_all(writing).await.into_iter().flatten().collect()
    }

    async fn write(&self, set: &RepositorySet, key: RepoKey) -> Result<(), Failure> {
        let repository = set.open(key).await?;
        let units = &self.context.units;
        let put = async |stop: &StopBody, pages| {
            repository.write_stop(&units.stanza, units.label, units.plan, stop, pages).await
        };
        let pages = self.scan.and_then(Scan::pages).filter(|_| self.stop.kept.is_some());
        let written = match put(&self.stop, pages).await {
            // The scan could not be read back: what the server said counts for more.
            Err(RepositoryError::Interrupted { .. }) => put(&self.bare(), None).await,
            written => written,
        };
        match written {
            // The answer to a first put may have been lost: what counts is what is there.
            Err(error @ RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {
                match repository.stop_record(&units.stanza, units.label, units.plan).await? {
                    Some(found) if found.is_same_stop(&self.stop) => Ok(()),
                    _ => Err(error.into()),
                }
            }
            written => Ok(written?),
        }
    }

    fn bare(&self) -> StopBody {
        StopBody { kept: None, ..self.stop.clone() }
    }
}

#[cfg(test)]
mod tests;
