//! Which jobs run: highest priority first, oldest first among equals, within limits.
//!
//! Properties
//! 1. Two backups of one stanza never run at once, nor do more than the limit of jobs on one repository or one source's host; nor
//!    two copies between repositories, if they have a repository of one stanza in common.
//! 2. A backup that cannot run now holds up only jobs that want the same stanza and are behind it; a copy only copies.
//! 3. The same queue and the same workers give the same answer.

use crate::ids::{RepoKey, StanzaName, WorkerName};
use crate::job::JobKind;
use crate::units::Timestamp;
use crate::wire::JobId;
use std::collections::{BTreeMap, BTreeSet};

/// Backups that write to one repository at a time: more only wait for each other's uploads.
pub const JOBS_PER_REPOSITORY: usize = 8;
/// Jobs that read on one source's host at a time: each has all its slots.
pub const JOBS_PER_SOURCE: usize = 1;

/// A job as far as the queue is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    pub id: JobId,
    pub kind: JobKind,
    pub stanza: StanzaName,
    pub repositories: Vec<RepoKey>,
    pub priority: i32,
    pub created: Timestamp,
}

/// A job that runs, with its source if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningJob {
    pub job: QueuedJob,
    pub source: Option<WorkerName>,
}

/// A job that can begin now, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub id: JobId,
    pub source: Option<WorkerName>,
}

#[derive(Debug, Default)]
pub struct JobQueue {
    waiting: BTreeMap<JobId, QueuedJob>,
    running: BTreeMap<JobId, RunningJob>,
}

impl JobQueue {
    pub fn submit(&mut self, job: QueuedJob) {
        self.waiting.insert(job.id, job);
    }

    /// A job that an earlier leader had begun.
    pub fn adopt(&mut self, job: QueuedJob, source: Option<WorkerName>) {
        self.running.insert(job.id, RunningJob { job, source });
    }

    /// Takes it out, wherever it is. `false`: it is nowhere.
    pub fn remove(&mut self, id: JobId) -> bool {
        self.waiting.remove(&id).is_some() | self.running.remove(&id).is_some()
    }

    pub fn is_waiting(&self, id: JobId) -> bool {
        self.waiting.contains_key(&id)
    }

    pub fn set_priority(&mut self, id: JobId, priority: i32) {
        if let Some(job) = self.waiting.get_mut(&id) {
            job.priority = priority;
        }
    }

    /// What can begin now; from here on it runs. `sources` tells the workers that see a stanza's data, best first; `host` on which
    /// machine a worker is.
    pub fn start(
        &mut self,
        sources: impl Fn(&StanzaName) -> Vec<WorkerName>,
        host: impl Fn(&WorkerName) -> String,
    ) -> Vec<Start> {
        let mut order: Vec<QueuedJob> = self.waiting.values().cloned().collect();
        order.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.created, job.id));
        let mut passed_over: BTreeSet<StanzaName> = BTreeSet::new();
        let mut copies_passed_over: BTreeSet<StanzaName> = BTreeSet::new();
        let mut starts = Vec::new();
        for job in order {
            let is_copy = job.kind == JobKind::RepoSync;
            if passed_over.contains(&job.stanza) || is_copy && copies_passed_over.contains(&job.stanza) {
                continue;
            }
            match self.place(&job, &sources, &host) {
                Some(source) => {
                    self.waiting.remove(&job.id);
                    starts.push(Start { id: job.id, source: source.clone() });
                    self.running.insert(job.id, RunningJob { job, source });
                }
                None if is_copy => {
                    copies_passed_over.insert(job.stanza);
                }
                None => {
                    passed_over.insert(job.stanza);
                }
            }
        }
        starts
    }

    /// Where the job can run now, if it can.
    fn place(
        &self,
        job: &QueuedJob,
        sources: &impl Fn(&StanzaName) -> Vec<WorkerName>,
        host: &impl Fn(&WorkerName) -> String,
    ) -> Option<Option<WorkerName>> {
        let running = || self.running.values();
        if job.kind == JobKind::RepoSync {
            return (!running().any(|other| is_in_the_way(&other.job, job))).then_some(None);
        }
        if job.kind != JobKind::Backup {
            return Some(None);
        }
        let same_stanza =
            running().any(|other| other.job.kind == JobKind::Backup && other.job.stanza == job.stanza);
        let is_full = |repository: &RepoKey| {
            running().filter(|other| other.job.repositories.contains(repository)).count()
                >= JOBS_PER_REPOSITORY
        };
        if same_stanza || job.repositories.iter().any(is_full) {
            return None;
        }
        let is_free = |source: &WorkerName| {
            let place = host(source);
            let there =
                running().filter(|other| other.source.as_ref().is_some_and(|other| host(other) == place));
            there.count() < JOBS_PER_SOURCE
        };
        sources(&job.stanza).into_iter().find(is_free).map(Some)
    }
}

/// Copies lock both their repositories for the stanza.
fn is_in_the_way(running: &QueuedJob, job: &QueuedJob) -> bool {
    running.kind == JobKind::RepoSync
        && running.stanza == job.stanza
        && running.repositories.iter().any(|repository| job.repositories.contains(repository))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use crate::ids::Identity;

    fn id(number: u8) -> JobId {
        JobId(Identity::from_random_bytes([number; 16]))
    }

    fn job(number: u8, stanza: &str) -> QueuedJob {
        QueuedJob {
            id: id(number),
            kind: JobKind::Backup,
            stanza: stanza.parse().unwrap(),
            repositories: vec![RepoKey(1)],
            priority: 0,
            created: Timestamp(i64::from(number)),
        }
    }

    /// Every stanza has a worker of its own name.
    fn each_its_own(stanza: &StanzaName) -> Vec<WorkerName> {
        vec![stanza.as_str().parse().unwrap()]
    }

    fn ids(starts: &[Start]) -> Vec<JobId> {
        starts.iter().map(|start| start.id).collect()
    }

    #[test]
    fn the_oldest_goes_first_unless_another_is_more_important() {
        let mut queue = JobQueue::default();
        queue.submit(job(1, "a"));
        queue.submit(job(2, "a"));
        queue.set_priority(id(2), 5);
        assert_eq!(ids(&queue.start(each_its_own, WorkerName::to_string)), [id(2)]);
        assert!(
            queue.start(each_its_own, WorkerName::to_string).is_empty(),
            "one backup of a stanza at a time"
        );
        assert!(queue.remove(id(2)));
        assert_eq!(ids(&queue.start(each_its_own, WorkerName::to_string)), [id(1)]);
    }

    #[test]
    fn a_job_without_a_worker_waits_and_holds_nobody_else_up() {
        let mut queue = JobQueue::default();
        queue.submit(job(1, "a"));
        queue.submit(job(2, "b"));
        let only_b =
            |stanza: &StanzaName| if stanza.as_str() == "b" { each_its_own(stanza) } else { Vec::new() };
        assert_eq!(ids(&queue.start(only_b, WorkerName::to_string)), [id(2)]);
        assert!(queue.is_waiting(id(1)));
    }

    #[test]
    fn a_source_does_one_job_at_a_time_and_a_repository_takes_so_many() {
        let mut queue = JobQueue::default();
        for number in 0..20 {
            queue.submit(job(number, &format!("s{number}")));
        }
        let one_host = |_: &StanzaName| vec!["host".parse().unwrap()];
        assert_eq!(queue.start(one_host, WorkerName::to_string).len(), JOBS_PER_SOURCE);
        assert_eq!(
            queue.start(each_its_own, WorkerName::to_string).len(),
            JOBS_PER_REPOSITORY - JOBS_PER_SOURCE
        );
    }

    #[test]
    fn workers_on_one_machine_share_its_limit() {
        let mut queue = JobQueue::default();
        queue.submit(job(1, "a"));
        queue.submit(job(2, "b"));
        let one_machine = |_: &WorkerName| "machine".to_owned();
        assert_eq!(ids(&queue.start(each_its_own, one_machine)), [id(1)]);
        assert!(queue.remove(id(1)));
        assert_eq!(ids(&queue.start(each_its_own, one_machine)), [id(2)]);
    }

    #[test]
    fn jobs_of_an_earlier_leader_count() {
        let mut queue = JobQueue::default();
        queue.adopt(job(1, "a"), Some("a".parse().unwrap()));
        queue.submit(job(2, "a"));
        assert!(queue.start(each_its_own, WorkerName::to_string).is_empty());
        assert!(queue.remove(id(1)) && !queue.remove(id(1)));
        assert_eq!(queue.start(each_its_own, WorkerName::to_string).len(), 1);
    }

    fn copy(number: u8, stanza: &str, repositories: [u16; 2]) -> QueuedJob {
        let repositories = repositories.map(RepoKey).to_vec();
        QueuedJob { kind: JobKind::RepoSync, repositories, ..job(number, stanza) }
    }

    #[test]
    fn copies_between_the_same_repositories_wait_for_each_other_and_hold_up_no_backup() {
        let mut queue = JobQueue::default();
        queue.submit(copy(1, "a", [1, 2]));
        queue.submit(copy(2, "a", [2, 3]));
        queue.submit(copy(3, "a", [3, 4]));
        queue.submit(copy(4, "b", [1, 2]));
        queue.submit(job(5, "a"));
        assert_eq!(ids(&queue.start(each_its_own, WorkerName::to_string)), [id(1), id(4), id(5)]);
        assert!(queue.start(each_its_own, WorkerName::to_string).is_empty(), "3 is behind 2");
        assert!(queue.remove(id(1)));
        assert_eq!(ids(&queue.start(each_its_own, WorkerName::to_string)), [id(2)]);
        assert!(queue.remove(id(2)));
        assert_eq!(ids(&queue.start(each_its_own, WorkerName::to_string)), [id(3)]);
    }
}
