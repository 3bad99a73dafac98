//! Pushes what waits to be archived ahead of PostgreSQL, and brings repositories what they missed.
//!
//! One process per stanza and host does this beside the commands that PostgreSQL waits for. It looks what is ready, lets
//! core's [`PushQueue`] say which file goes where, tells in the spool what is archived, and ends when nothing was to be
//! done for a while or nothing can be done: the next command starts it again.
//!
//! A worker does the same for its stanzas, with a longer stay.
//!
//! Invariants
//! 1. A file is told to be archived after it is durable wherever it must be, and never read after that.
//! 2. What waits when the process ends has been told an error, or is pushed by the next.
//!
//! Failure story: it may be killed at any point. Statuses that were not told are found out again: a repeated push of what
//! is stored is a comparison.

mod state;

use super::backlog::{CatchUp, CaughtUp};
use super::nudge::Nudges;
use super::spool::OutSpool;
use super::{ClusterIdentity, Doors, Push, PushNews, PushRepository, Sibling, ready};
use crate::keeper::blocking;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::machine::push_queue::PushOrder;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_core::units::ByteCount;
use pgconvoy_repository::wal::PushManner;
use state::State;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

/// Between two looks at what is ready, while there is little to do.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Listing is worth a moment, not more.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);

pub struct BackgroundPush {
    pub doors: Doors,
    pub repositories: Vec<PushRepository>,
    pub siblings: Vec<Sibling>,
    pub pg_wal: PathBuf,
    /// `None`: there is no place for it.
    pub spool: Option<OutSpool>,
    /// Commands wait for statuses; else they push by themselves.
    pub is_asked: bool,
    /// Whose data directory it is, for files without a header.
    pub cluster: Option<ClusterIdentity>,
    pub is_header_checked: bool,
    pub manner: PushManner,
    /// Files at once to each repository.
    pub width: usize,
    /// `None`: whatever waits may wait.
    pub queue_max: Option<ByteCount>,
    /// The socket on which commands wake it.
    pub nudges: PathBuf,
    /// How long it stays with nothing to do: starting anew costs more than waiting for the next segment.
    pub linger: Duration,
}

/// What happened to one file.
struct News {
    file: WalFileName,
    what: PushNews,
    /// It lies with the file, whatever the repositories are like.
    is_of_file: bool,
}

impl BackgroundPush {
    pub async fn run(&self) -> Result<(), Failure> {
        let mut state = State::new(self);
        let (sender, mut news) = unbounded_channel();
        let mut pushing = FuturesUnordered::new();
        let mut catching_up = FuturesUnordered::new();
        let mut is_first = true;
        let nudges = Nudges::listen(&self.nudges);
        loop {
            if state.is_time_to_look() {
                let pg_wal = self.pg_wal.clone();
                let Some(waiting) = blocking(move || ready::waiting(&pg_wal)).await? else { return Ok(()) };
                state.look(&waiting)?;
                if std::mem::take(&mut is_first) {
                    self.note_names(&mut state, &waiting).await;
                }
            }
            while let Some(order) = state.next() {
                pushing.push(self.push(order, sender.clone()));
            }
            if catching_up.is_empty() && state.is_time_to_catch_up() {
                catching_up.push(self.catch_up());
            }
            let is_moving = !pushing.is_empty() || !catching_up.is_empty();
            if state.is_over(is_moving)? {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some(news) = news.recv() => state.note(news)?,
                Some(()) = pushing.next() => {}
                Some(told) = catching_up.next() => state.caught_up(told),
                nudge = nudges.next() => state.nudged(nudge),
                () = sleep(LOOK_PAUSE) => {}
            }
        }
    }

    /// Whatever becomes of it is told, for each repository.
    async fn push(&self, order: PushOrder, sender: UnboundedSender<News>) {
        let chosen =
            self.repositories.iter().filter(|repository| order.repositories.contains(&repository.key));
        let repositories: Vec<PushRepository> = chosen.copied().collect();
        let file = order.file;
        let path = self.pg_wal.join(file.to_string());
        let push = Push {
            doors: &self.doors,
            repositories: &repositories,
            file,
            path: &path,
            cluster: self.cluster,
            is_header_checked: self.is_header_checked,
            manner: self.manner.clone(),
        };
        let mut undecided: Vec<RepoKey> = order.repositories.clone();
        let mut is_read = false;
        let send = |what, is_of_file| {
            // Whoever does not listen any more has ended.
            let _ = sender.send(News { file, what, is_of_file });
        };
        let telling = push.tell(|what| {
            match &what {
                PushNews::SourceRead => is_read = true,
                PushNews::Decided(key, _) => undecided.retain(|other| other != key),
            }
            send(what, false);
        });
        if let Err(failure) = telling.await {
            for key in undecided {
                send(PushNews::Decided(key, Err(failure.clone())), true);
            }
            if !is_read {
                send(PushNews::SourceRead, true);
            }
        }
    }

    /// A repository that cannot be listed in time is taken to have nothing, which costs comparisons and no more.
    async fn note_names(&self, state: &mut State<'_>, waiting: &BTreeSet<WalFileName>) {
        let listing = self.repositories.iter().map(|repository| async move {
            let listed = timeout(NAMES_TIMEOUT, self.names(repository.key, waiting)).await;
            (repository.key, listed.ok().and_then(Result::ok).unwrap_or_default())
        });
        for (key, names) in join_all(listing).await {
            state.note_names(key, &names);
        }
    }

    async fn names(
        &self,
        key: RepoKey,
        waiting: &BTreeSet<WalFileName>,
    ) -> Result<Vec<WalFileName>, Failure> {
        let (repository, archive) = self.doors.target(key, self.cluster).await?;
        let segments = waiting.iter().filter_map(|file| match file {
            WalFileName::Segment(segment) => Some(segment.directory()),
            _ => None,
        });
        let directories: BTreeSet<String> = segments.collect();
        let mut names = Vec::new();
        for directory in &directories {
            let held = repository.wal_directory(self.doors.stanza(), archive, directory).await?;
            names.extend(held.iter().map(|held| held.file).filter(|file| waiting.contains(file)));
        }
        Ok(names)
    }

    fn statuses(&self) -> Option<&OutSpool> {
        self.spool.as_ref().filter(|_| self.is_asked)
    }

    async fn catch_up(&self) -> CaughtUp {
        if let Err(failure) = self.record_what_was_dropped().await {
            tracing::warn!("it could not be recorded yet which WAL was dropped: {failure}");
        }
        let catch_up = CatchUp {
            doors: &self.doors,
            siblings: &self.siblings,
            cluster: self.cluster,
            manner: self.manner.clone(),
            width: self.width,
        };
        catch_up.run().await
    }

    /// Every repository that lacks such a file is told; the spool keeps what some could not be told.
    async fn record_what_was_dropped(&self) -> Result<(), Failure> {
        let Some(spool) = &self.spool else { return Ok(()) };
        for (file, record) in spool.dropped() {
            for repository in &self.repositories {
                let (target, archive) = self.doors.target(repository.key, self.cluster).await?;
                target.record_dropped(self.doors.stanza(), archive, &file, &record).await?;
            }
            spool.forget_dropped(&file)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
