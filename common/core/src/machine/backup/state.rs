//! The machine's small questions to itself, and how a job's end is told.

use super::contents::RepositoryState;
use super::{BackupMachine, Effect, Outcome, Status};
use crate::failure::{ErrorCode, Failure};
use crate::format::BackupLabel;
use crate::format::catalogue::RepositoryOutcome;
use crate::format::cluster::ClusterBody;
use crate::format::layout::ArchiveId;
use crate::ids::{RepoKey, WorkerName};
use crate::machine::backup::event::RepositoryResult;
use crate::pg::WalSegmentSize;
use crate::wire::{Order, OrderBody, RepositorySeen};

impl BackupMachine {
    /// Repositories still in the job.
    pub(super) fn alive(&self) -> Vec<RepoKey> {
        let alive = |(key, state): (&RepoKey, &RepositoryState)| state.failure.is_none().then_some(*key);
        self.repositories.iter().filter_map(alive).collect()
    }

    /// Every repository of the job: bytes of the packs that were accepted, and why it takes no more part, if it does not.
    pub fn stored_so_far(&self) -> Vec<(RepoKey, u64, Option<&Failure>)> {
        let all = self.repositories.iter();
        all.map(|(key, state)| (*key, self.board.stored(*key), state.failure.as_ref())).collect()
    }

    /// What those are, by their own word.
    pub(super) fn identities(&self) -> Vec<RepositorySeen> {
        let seen = |repository: RepoKey| {
            let identity = self.repositories[&repository].facts.as_ref()?.identity;
            Some(RepositorySeen { repository, identity })
        };
        self.alive().into_iter().filter_map(seen).collect()
    }

    /// Takes a repository's answer: an error drops it from the job.
    pub(super) fn settle(
        &mut self,
        repository: RepoKey,
        result: Result<impl Sized, Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match result {
            Ok(_) => Ok(()),
            Err(failure) => self.drop_repository(repository, failure, effects),
        }
    }

    /// The same, but where somebody else backs up the stanza the whole job ends.
    pub(super) fn settle_or_yield(
        &mut self,
        repository: RepoKey,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match result {
            Err(failure) if failure.code == ErrorCode::LockAcquire => Err(failure),
            result => self.settle(repository, result, effects),
        }
    }

    /// The job goes on while one repository is left; the failure of the last is the job's.
    pub(super) fn drop_repository(
        &mut self,
        repository: RepoKey,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        self.awaited.remove(&repository);
        self.awaited_before.remove(&repository);
        let Some(state) = self.repositories.get_mut(&repository) else { return Ok(()) };
        if state.failure.is_none() {
            state.failure = Some(failure.clone());
            effects.push(Effect::Dropped { repository, failure: failure.clone() });
            self.review_suspects();
        }
        let settled = self.repositories.values().any(|state| state.failure.is_none());
        if settled { Ok(()) } else { Err(failure.context(format!("repo {repository}"))) }
    }

    pub(super) fn warn(&mut self, warnings: impl IntoIterator<Item = String>, effects: &mut Vec<Effect>) {
        for warning in warnings {
            effects.push(Effect::Warn(warning.clone()));
            self.warnings.push(warning);
        }
    }

    pub(super) fn wrap(&self, body: OrderBody) -> Order {
        Order { epoch: self.spec.epoch, job: self.spec.job, body }
    }

    /// To the worker that keeps the session.
    pub(super) fn order(&self, body: OrderBody) -> Effect {
        self.order_to(&self.source, body)
    }

    pub(super) fn order_to(&self, worker: &WorkerName, body: OrderBody) -> Effect {
        Effect::Send { worker: worker.clone(), order: self.wrap(body) }
    }

    /// To everybody who may have anything of the job.
    pub(super) fn order_end(&self, effects: &mut Vec<Effect>) {
        effects.push(self.order(OrderBody::End));
        for worker in self.readers.keys().filter(|worker| **worker != self.source) {
            effects.push(self.order_to(worker, OrderBody::End));
        }
    }

    pub(super) fn known_cluster(&self) -> Result<&ClusterBody, Failure> {
        self.cluster.as_ref().ok_or_else(|| Failure::new(ErrorCode::Assert, "no repository told the cluster"))
    }

    pub(super) fn known_label(&self) -> Result<BackupLabel, Failure> {
        self.label.ok_or_else(|| Failure::new(ErrorCode::Assert, "a plan was announced without a label"))
    }

    pub(super) fn archive(&self) -> Result<ArchiveId, Failure> {
        self.known_cluster().map(ClusterBody::archive_id)
    }

    pub(super) fn segment_size(&self) -> Result<WalSegmentSize, Failure> {
        self.facts
            .as_ref()
            .map(|facts| facts.wal_segment_size)
            .ok_or_else(|| Failure::new(ErrorCode::Assert, "no preflight told the segment size"))
    }

    pub(super) fn page_size(&self) -> u32 {
        self.facts.as_ref().map_or(8192, |facts| facts.page_size)
    }

    pub(super) fn repository_outcomes(&self) -> Vec<RepositoryOutcome> {
        let outcome = |(key, state): (&RepoKey, &RepositoryState)| RepositoryOutcome {
            key: *key,
            identity: state.facts.as_ref().map(|facts| facts.identity),
            expected: state.failure.is_none(),
        };
        self.repositories.iter().map(outcome).collect()
    }

    pub(super) fn outcome(&self, failure: Option<Failure>) -> Outcome {
        let not_reached = || {
            failure.clone().unwrap_or_else(|| {
                Failure::new(ErrorCode::Assert, "the job ended before the repository was served")
            })
        };
        let repositories: Vec<RepositoryResult> = self
            .repositories
            .iter()
            .map(|(key, state)| RepositoryResult {
                repository: *key,
                required: self.spec.required.contains(key),
                stored: self.board.stored(*key),
                failure: (!state.published).then(|| state.failure.clone().unwrap_or_else(not_reached)),
            })
            .collect();
        let have = repositories.iter().filter(|result| result.failure.is_none()).count();
        let status = match have {
            0 => Status::Error,
            all if all == repositories.len() => Status::Ok,
            _ => Status::Partial,
        };
        let contents = self.contents.clone();
        let bad_pages = contents.as_ref().map_or_else(Vec::new, |contents| contents.told_bad_pages());
        Outcome {
            status,
            label: self.label.or(self.recovered.announced.as_ref().map(|announced| announced.label)),
            failure: failure.filter(|_| have == 0),
            repositories,
            bytes_database: contents
                .as_ref()
                .map_or_else(|| self.inventory.bytes(), |contents| contents.head.bytes),
            bytes_read: self.board.read(),
            bytes_changed: self.board.changed(),
            bytes_skipped: self.board.skipped(),
            units_total: self.board.total(),
            units_retried: self.board.retried(),
            units_resumed: self.board.resumed(),
            pages_checked: contents.as_ref().map_or(0, |contents| contents.pages.checked),
            bad_pages,
            workers: self.board.shares(),
            contents,
            warnings: self.warnings.clone(),
        }
    }
}

impl Outcome {
    /// What the command exits with: nothing is wrong, a required repository lacks the backup, or the cause's own code.
    pub fn verdict(&self) -> Result<(), Failure> {
        match self.status {
            Status::Ok => Ok(()),
            Status::Error => Err(self.failure.clone().unwrap_or_else(|| self.first_failure())),
            Status::Partial => self.missing_in_required(),
        }
    }

    fn missing_in_required(&self) -> Result<(), Failure> {
        let required = self.repositories.iter().filter(|result| result.required);
        let missing: Vec<(RepoKey, &Failure)> =
            required.filter_map(|result| Some((result.repository, result.failure.as_ref()?))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let tell = |(key, failure): &(RepoKey, &Failure)| format!("repo {key}: [{}] {failure}", failure.code);
        let told: Vec<String> = missing.iter().map(tell).collect();
        let mut verdict =
            Failure::new(ErrorCode::Command, format!("the backup is missing in {}", told.join("; ")))
                .hint("the other repositories have it and can restore it");
        verdict.hints.extend(missing.into_iter().flat_map(|(_, failure)| failure.hints.iter().cloned()));
        Err(verdict)
    }

    fn first_failure(&self) -> Failure {
        let failure_of = |result: &RepositoryResult| {
            result.failure.clone().map(|failure| failure.context(format!("repo {}", result.repository)))
        };
        let first = self.repositories.iter().find_map(failure_of);
        first.unwrap_or_else(|| Failure::new(ErrorCode::Assert, "the backup ended without a result"))
    }
}
