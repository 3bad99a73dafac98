//! Stores one WAL file in every repository of its stanza.
//!
//! The header of a segment says whose WAL it is. A repository that fails is left behind for this file; the others get it,
//! and if it was needed the push fails all the same, so that PostgreSQL keeps the file and tries again.
//!
//! Invariants
//! 1. Before a segment of a later timeline is stored, the history of that timeline is in the archive, if the server has
//!    it: without the history nobody finds the way to the segment.
//! 2. After [`PushNews::SourceRead`] nobody looks at the file any more: PostgreSQL may do with it what it likes.
//! 3. A repository that nobody needs gets a moment more than the others, and no more.

mod telling;

pub use telling::PushNews;

use super::steady::SteadyFile;
use super::{ClusterIdentity, Doors, joined};
use crate::keeper::blocking;
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::pg::wal_header::WAL_SEGMENT_HEADER_SIZE;
use pgconvoy_core::pg::{TimelineId, WalFileName, WalSegmentHeader, WalSegmentSize};
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::wal::{PushManner, Pushed, WalSource, WalTarget, push_wal_as};
use std::fs::File;
use std::future::pending;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// A timeline that began without a history file.
const FIRST_TIMELINE: TimelineId = TimelineId(1);
/// Repositories that nobody needs get as long again as the others took, or this if that was less.
const PATIENCE_MIN: Duration = Duration::from_millis(250);
/// Every so many segments it is time to compare what repositories have, whether or not anything was noticed.
const CATCH_UP_EVERY: u64 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushRepository {
    pub key: RepoKey,
    /// Without it the push is no success.
    pub is_required: bool,
}

/// One WAL file to be stored.
pub struct Push<'a> {
    pub doors: &'a Doors,
    pub repositories: &'a [PushRepository],
    pub file: WalFileName,
    pub path: &'a Path,
    /// Whose data directory the file lies in, for files without a header. `None`: nobody knows; the stanza's newest.
    pub cluster: Option<ClusterIdentity>,
    /// Whether a segment's own header is asked whose it is.
    pub is_header_checked: bool,
    pub manner: PushManner,
}

/// A push that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushReport {
    pub stored: Vec<(RepoKey, Pushed)>,
    /// Repositories that are not required and do not have it.
    pub missed: Vec<(RepoKey, Failure)>,
    /// Some repository may lack what others have: it is time to look.
    pub is_catch_up_due: bool,
}

/// What became of each repository.
type Results = Vec<(PushRepository, Result<Pushed, Failure>)>;

/// Whose a file is, and how large segments are there, as far as it tells.
#[derive(Debug, Clone, Copy)]
struct Inspected {
    cluster: Option<ClusterIdentity>,
    segment_size: Option<WalSegmentSize>,
}

impl Push<'_> {
    /// Returns when every needed repository is decided, and a moment later for the others.
    pub async fn run(&self) -> Result<PushReport, Failure> {
        let inspected = self.inspect().await?;
        let begun = Instant::now();
        let (sender, mut news) = mpsc::unbounded_channel();
        let mut telling = pin!(self.tell_inspected(inspected, |news| {
            // Whoever does not listen any more has returned.
            let _ = sender.send(news);
        }));
        let mut looking = pin!(self.lacks_predecessor(inspected));
        let mut results: Results = Vec::new();
        let (mut is_lagging, mut has_looked, mut end) = (false, false, None);
        loop {
            tokio::select! {
                biased;
                Some(news) = news.recv() => self.note(news, &mut results),
                ended = &mut telling => {
                    ended?;
                    break;
                }
                lacks = &mut looking, if !has_looked => (has_looked, is_lagging) = (true, lacks),
                () = at(end) => {
                    is_lagging = true;
                    break;
                }
            }
            if end.is_none() && self.is_decided(&results) {
                end = Some(Instant::now() + begun.elapsed().max(PATIENCE_MIN));
            }
        }
        while let Ok(news) = news.try_recv() {
            self.note(news, &mut results);
        }
        self.note_the_silent(&mut results);
        is_lagging |= results.iter().any(|(_, result)| *result == Err(left_behind()));
        if !is_lagging && !has_looked {
            is_lagging = timeout(PATIENCE_MIN, looking).await.unwrap_or_default();
        }
        results.sort_by_key(|(repository, _)| repository.key);
        let mut report = judge(&self.file, results)?;
        report.is_catch_up_due = self.repositories.len() > 1 && (is_lagging || self.is_turn(inspected));
        Ok(report)
    }

    /// Tells what becomes of each repository as soon as it is known, to the last one.
    pub async fn tell(&self, tell: impl FnMut(PushNews) + Send) -> Result<(), Failure> {
        self.tell_inspected(self.inspect().await?, tell).await
    }

    fn note(&self, news: PushNews, results: &mut Results) {
        let PushNews::Decided(key, result) = news else { return };
        let repository = self.repositories.iter().find(|repository| repository.key == key);
        results.extend(repository.map(|repository| (*repository, result)));
    }

    fn note_the_silent(&self, results: &mut Results) {
        let is_silent = |repository: &&PushRepository| results.iter().all(|(told, _)| told != *repository);
        let silent: Vec<PushRepository> = self.repositories.iter().filter(is_silent).copied().collect();
        results.extend(silent.into_iter().map(|repository| (repository, Err(left_behind()))));
    }

    /// Whether waiting for this repository is worth PostgreSQL's time. Where nobody is required, everybody is.
    fn is_needed(&self, repository: &PushRepository) -> bool {
        repository.is_required || self.repositories.iter().all(|other| !other.is_required)
    }

    fn is_decided(&self, results: &Results) -> bool {
        let mut needed = self.repositories.iter().filter(|repository| self.is_needed(repository));
        needed.all(|repository| results.iter().any(|(decided, _)| decided == repository))
    }

    /// Whose WAL it is, by the file itself where it can say so.
    async fn inspect(&self) -> Result<Inspected, Failure> {
        let is_segment = matches!(self.file, WalFileName::Segment(_) | WalFileName::Partial(_));
        if !is_segment || !self.is_header_checked {
            return Ok(Inspected { cluster: self.cluster, segment_size: None });
        }
        let path = self.path.to_owned();
        let header = blocking(move || segment_header(&path)).await?;
        let cluster = ClusterIdentity { system_id: header.system_id, version: header.version };
        Ok(Inspected { cluster: Some(cluster), segment_size: Some(header.segment_size) })
    }

    /// Opens a repository and sees to it that the way to the file is there before the file.
    pub(super) async fn prepare(
        &self,
        key: RepoKey,
        cluster: Option<ClusterIdentity>,
    ) -> Result<WalTarget, Failure> {
        let target = self.doors.target(key, cluster).await?;
        if let Some(timeline) = self.later_timeline()
            && !self.doors.has_history(key, cluster, timeline)
        {
            self.ensure_history(timeline, &target).await?;
            self.doors.note_history(key, cluster, timeline);
        }
        Ok(target)
    }

    fn later_timeline(&self) -> Option<TimelineId> {
        match self.file {
            WalFileName::Segment(segment) => {
                Some(segment.timeline()).filter(|timeline| *timeline > FIRST_TIMELINE)
            }
            _ => None,
        }
    }

    /// A cluster that was restored or cloned on this timeline may never have had the file: then nobody can demand it.
    async fn ensure_history(&self, timeline: TimelineId, target: &WalTarget) -> Result<(), Failure> {
        let history = WalFileName::History(timeline);
        let path = self.path.with_file_name(history.to_string());
        let (repository, archive) = target;
        if repository.has_wal(self.doors.stanza(), *archive, &history).await? || !path.exists() {
            return Ok(());
        }
        let targets = std::slice::from_ref(target);
        let stored = push_wal_as(targets, self.doors.stanza(), &history, source(&path), &self.manner).await;
        for result in stored.map_err(|error| unreadable(&path, &error))? {
            result?;
        }
        Ok(())
    }

    /// Whether some repository has the segment before this one and another has not.
    async fn lacks_predecessor(&self, inspected: Inspected) -> bool {
        if self.repositories.len() < 2 {
            return false;
        }
        let (WalFileName::Segment(segment), Some(size)) = (self.file, inspected.segment_size) else {
            return false;
        };
        let Some(previous) = segment.previous(size).map(WalFileName::Segment) else { return false };
        let looking = self.repositories.iter().map(|repository| async move {
            let (repository, archive) = self.doors.target(repository.key, inspected.cluster).await.ok()?;
            repository.has_wal(self.doors.stanza(), archive, &previous).await.ok()
        });
        let found = futures::future::join_all(looking).await;
        found.contains(&Some(true)) && found.contains(&Some(false))
    }

    fn is_turn(&self, inspected: Inspected) -> bool {
        match (self.file, inspected.segment_size) {
            (WalFileName::Segment(segment), Some(size)) => {
                segment.segment_number(size).is_multiple_of(CATCH_UP_EVERY)
            }
            _ => false,
        }
    }
}

/// Never, where there is no such moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

fn left_behind() -> Failure {
    Failure::new(ErrorCode::HostConnect, "it was too slow and is left behind").retryable()
}

/// The header of a file that is a segment as a whole.
fn segment_header(path: &Path) -> Result<WalSegmentHeader, Failure> {
    let read = || {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut header = Vec::new();
        file.take(WAL_SEGMENT_HEADER_SIZE as u64).read_to_end(&mut header)?;
        Ok((size, header))
    };
    let (size, header) = read().map_err(|error| unreadable(path, &error))?;
    let header = WalSegmentHeader::parse(&header)
        .context(path.display())
        .map_err(|failure| failure.hint("--no-archive-header-check pushes it unseen"))?;
    if size != header.segment_size.bytes() {
        let expected = header.segment_size.bytes();
        let message = format!("'{}' has {size} bytes, its header says {expected}", path.display());
        return Err(
            Failure::new(ErrorCode::FileInvalid, message).hint("is something else writing to pg_wal?")
        );
    }
    Ok(header)
}

pub(super) fn source(path: &Path) -> WalSource {
    let path: PathBuf = path.to_owned();
    Arc::new(move || Ok(Box::new(SteadyFile::open(&path)?) as Box<dyn Read + Send>))
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let code = if error.kind() == ErrorKind::NotFound { ErrorCode::FileMissing } else { ErrorCode::FileRead };
    Failure::new(code, format!("cannot read WAL file '{}': {error}", path.display()))
        .hint("archive_command must pass %p, and run in the data directory")
}

/// What all repositories together make of a push.
fn judge(file: &WalFileName, results: Results) -> Result<PushReport, Failure> {
    let mut report = PushReport { stored: Vec::new(), missed: Vec::new(), is_catch_up_due: false };
    let mut is_required_missing = false;
    for (repository, result) in results {
        match result {
            Ok(pushed) => report.stored.push((repository.key, pushed)),
            Err(failure) => {
                is_required_missing |= repository.is_required;
                report.missed.push((repository.key, failure));
            }
        }
    }
    if !is_required_missing && !report.stored.is_empty() {
        return Ok(report);
    }
    let mut failure = joined(&format!("cannot push {file}"), report.missed)
        .unwrap_or_else(|| RepositoryError::Interrupted { what: "a push without repositories" }.into());
    if !report.stored.is_empty() {
        let stored: Vec<String> = report.stored.iter().map(|(key, _)| format!("repo {key}")).collect();
        failure.code = ErrorCode::Command;
        failure.message = format!("{}; it is in {}", failure.message, stored.join(", "));
    }
    Err(failure)
}

#[cfg(test)]
mod tests;
