//! Jobs that workers do by themselves: begun, locked, and seen to their end.

use super::Lead;
use crate::actors::backup::now;
use crate::errand::Errand;
use crate::jobs::RunControl;
use crate::records::JobKeeper;
use crate::shared;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{FencingToken, RepoKey, StanzaName};
use pgconvoy_core::job::{JobKind, JobState};
use pgconvoy_core::record::JobRecord;
use pgconvoy_lease::LockKind;
use std::sync::Arc;

/// What is held while such a job goes on.
type Locks = Vec<(RepoKey, FencingToken)>;

impl Lead {
    pub(super) async fn begin_errand(self: &Arc<Self>, keeper: &Arc<JobKeeper>) -> Result<(), Failure> {
        keeper
            .change(|record| {
                if !record.state.is_under_way() {
                    record.state = JobState::Running;
                }
                record.started.get_or_insert(now());
            })
            .await?;
        let record = keeper.record();
        // Whatever can fail comes before the locks: nobody would give them back.
        let set = match record.kind {
            JobKind::Restore => None,
            JobKind::Backup | JobKind::Verify | JobKind::RepoSync => {
                Some(self.deps.workshop.looked_at(record.kind, &record.stanza, &record.options)?)
            }
        };
        let (registry, runtime) = (self.registry.clone(), self.deps.runtime.clone());
        let (errand, locks) = match set {
            None => (shared::restore(registry, keeper.clone(), runtime)?, Locks::new()),
            Some(set) if record.kind == JobKind::RepoSync => {
                let locks = self.lock_what_must_stay(&record).await?;
                (shared::repo_sync(registry, keeper.clone(), set, runtime), locks)
            }
            Some(set) => (Errand::start(registry, &record, set, &runtime), Locks::new()),
        };
        if let Some(job) = self.lock().jobs.get_mut(&record.id) {
            job.control = RunControl::Errand(errand.control.clone());
            job.progress = errand.progress.clone();
        }
        self.touch();
        self.deps.runtime.spawn(Arc::clone(self).see_errand_to_its_end(keeper.clone(), errand, locks));
        Ok(())
    }

    async fn see_errand_to_its_end(
        self: Arc<Self>,
        keeper: Arc<JobKeeper>,
        mut errand: Errand,
        locks: Locks,
    ) {
        let id = keeper.record().id;
        let ended = match errand.progress.clone() {
            Some(progress) => tokio::select! {
                ended = errand.end() => ended,
                never = self.follow(id, progress) => match never {},
            },
            None => errand.end().await,
        };
        self.unlock(&keeper.record().stanza, locks).await;
        let is_cancelled = self.lock().jobs.get(&id).is_some_and(|job| job.is_cancelled);
        let (state, failure, result) = match ended {
            _ if is_cancelled => {
                (JobState::Cancelled, Some(Failure::new(ErrorCode::Term, "cancelled")), None)
            }
            Ok(end) if end.failure.is_none() => (JobState::Done, None, end.result),
            Ok(end) => (JobState::Failed, end.failure, end.result),
            Err(failure) => (JobState::Failed, Some(failure), None),
        };
        if let Err(failure) = self.conclude(&keeper, state, failure, result).await {
            tracing::warn!("the end of job {id} was not written down: {failure}");
        }
        self.lock().queue.remove(id);
        self.touch();
    }

    /// What is copied must not expire on its way, neither here nor there.
    async fn lock_what_must_stay(&self, record: &JobRecord) -> Result<Locks, Failure> {
        let mut locks = Locks::new();
        let holder = format!("{} job {}", record.kind, record.id);
        for repository in self.deps.workshop.check(record.kind, &record.stanza, &record.options)? {
            let leadership = &self.deps.leadership;
            match leadership.lock(&record.stanza, repository, LockKind::Expire, &holder).await {
                Ok(token) => locks.push((repository, token)),
                Err(failure) => {
                    self.unlock(&record.stanza, locks).await;
                    return Err(failure);
                }
            }
        }
        Ok(locks)
    }

    async fn unlock(&self, stanza: &StanzaName, locks: Locks) {
        for (repository, token) in locks {
            self.deps.leadership.unlock(stanza, repository, LockKind::Expire, token).await;
        }
    }
}
