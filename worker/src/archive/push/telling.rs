//! How one file reaches repositories that are ready at different times.
//!
//! Those that are ready together share one reading of the file; a needed one that comes later has a reading of its own.
//! What is not needed and not ready when all the others are done is left behind.

use super::{
    ClusterIdentity, Inspected, PATIENCE_MIN, Push, PushRepository, at, left_behind, source, unreadable,
};
use futures::stream::{FuturesUnordered, StreamExt};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_repository::wal::{self, Pushed, WalTarget, push_wal_telling};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};

/// How long those that are ready wait for company.
const COMPANY_WAIT: Duration = Duration::from_millis(50);

/// What is told while a file is pushed.
#[derive(Debug)]
pub enum PushNews {
    /// Nobody reads the file any more, and nobody will.
    SourceRead,
    Decided(RepoKey, Result<Pushed, Failure>),
}

/// Where one push stands.
struct Progress<'a, Tell> {
    push: &'a Push<'a>,
    tell: Tell,
    undecided: Vec<PushRepository>,
    unready: Vec<PushRepository>,
    ready: Vec<(PushRepository, WalTarget)>,
    /// When the ready ones begin without further company.
    begin_at: Option<Instant>,
    /// When the unready ones, which nobody needs then, are left behind.
    leave_at: Option<Instant>,
    readings: usize,
    is_read: bool,
}

impl Push<'_> {
    pub(super) async fn tell_inspected(
        &self,
        inspected: Inspected,
        tell: impl FnMut(PushNews) + Send,
    ) -> Result<(), Failure> {
        let mut progress = Progress::new(self, tell);
        let preparing = self.repositories.iter().map(|repository| self.ready(*repository, inspected.cluster));
        let mut preparing: FuturesUnordered<_> = preparing.collect();
        let mut storing = FuturesUnordered::new();
        let (sender, mut news) = unbounded_channel();
        loop {
            tokio::select! {
                biased;
                Some(news) = news.recv() => progress.note(news),
                Some((repository, prepared)) = preparing.next() => progress.prepared(repository, prepared),
                Some(stored) = storing.next() => stored?,
                () = at(progress.begin_at) => progress.begin_at = None,
                () = at(progress.leave_at) => {
                    preparing.clear();
                    progress.leave();
                }
            }
            if !progress.ready.is_empty() && (preparing.is_empty() || progress.begin_at.is_none()) {
                storing.push(self.store(progress.begin(), sender.clone()));
            }
            if progress.is_over() && storing.is_empty() {
                return Ok(());
            }
        }
    }

    async fn ready(
        &self,
        repository: PushRepository,
        cluster: Option<ClusterIdentity>,
    ) -> (PushRepository, Result<WalTarget, Failure>) {
        let limit = self.manner.stall;
        let silent = || {
            let message = format!("it did not answer within {} s", limit.as_secs());
            Failure::new(ErrorCode::HostConnect, message).retryable()
        };
        let prepared = timeout(limit, self.prepare(repository.key, cluster)).await;
        (repository, prepared.unwrap_or_else(|_| Err(silent())))
    }

    /// The error is the file's.
    async fn store(
        &self,
        ready: Vec<(PushRepository, WalTarget)>,
        news: UnboundedSender<PushNews>,
    ) -> Result<(), Failure> {
        let (repositories, targets): (Vec<PushRepository>, Vec<WalTarget>) = ready.into_iter().unzip();
        let tell = |told| {
            let told = match told {
                wal::PushNews::SourceRead => PushNews::SourceRead,
                wal::PushNews::Decided(at, result) => {
                    PushNews::Decided(repositories[at].key, result.map_err(Failure::from))
                }
            };
            // Whoever does not listen any more has returned.
            let _ = news.send(told);
        };
        let source = source(self.path);
        push_wal_telling(&targets, self.doors.stanza(), &self.file, source, &self.manner, tell)
            .await
            .map_err(|error| unreadable(self.path, &error))
    }
}

impl<'a, Tell: FnMut(PushNews)> Progress<'a, Tell> {
    fn new(push: &'a Push<'a>, tell: Tell) -> Self {
        Progress {
            push,
            tell,
            undecided: push.repositories.to_vec(),
            unready: push.repositories.to_vec(),
            ready: Vec::new(),
            begin_at: None,
            leave_at: None,
            readings: 0,
            is_read: false,
        }
    }

    fn prepared(&mut self, repository: PushRepository, prepared: Result<WalTarget, Failure>) {
        self.unready.retain(|unready| *unready != repository);
        match prepared {
            Ok(target) => {
                self.ready.push((repository, target));
                self.begin_at.get_or_insert_with(|| Instant::now() + COMPANY_WAIT);
            }
            Err(failure) => self.decide(repository.key, Err(failure)),
        }
    }

    fn begin(&mut self) -> Vec<(PushRepository, WalTarget)> {
        self.begin_at = None;
        self.readings += 1;
        std::mem::take(&mut self.ready)
    }

    fn note(&mut self, news: PushNews) {
        match news {
            PushNews::SourceRead => self.readings -= 1,
            PushNews::Decided(key, result) => self.decide(key, result),
        }
    }

    fn decide(&mut self, key: RepoKey, result: Result<Pushed, Failure>) {
        if result.is_err() {
            self.push.doors.forget(key);
        }
        self.undecided.retain(|repository| repository.key != key);
        (self.tell)(PushNews::Decided(key, result));
        let is_needed = |repository| self.push.is_needed(repository);
        if self.leave_at.is_none() && !self.unready.is_empty() && !self.undecided.iter().any(is_needed) {
            self.leave_at = Some(Instant::now() + PATIENCE_MIN);
        }
    }

    /// What is being stored may go on: its reading ends by itself.
    fn leave(&mut self) {
        self.leave_at = None;
        for repository in std::mem::take(&mut self.unready) {
            self.decide(repository.key, Err(left_behind()));
        }
    }

    /// Says so once when the file is not needed any more; whether everybody is decided too.
    fn is_over(&mut self) -> bool {
        if !self.is_read && self.unready.is_empty() && self.ready.is_empty() && self.readings == 0 {
            self.is_read = true;
            (self.tell)(PushNews::SourceRead);
        }
        self.is_read && self.undecided.is_empty()
    }
}
