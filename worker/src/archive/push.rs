//! Stores one WAL file in every repository of its stanza.
//!
//! The header of a segment says whose WAL it is. A repository that fails is left behind for this file; the others get it,
//! and then the push fails all the same, so that PostgreSQL keeps the file and tries again.
//!
//! Invariant: before a segment of a later timeline is reported, the history of that timeline is in the archive, if the
//! server has it: without the history nobody finds the way to the segment.

use super::{ClusterIdentity, Connect, archives, joined, open};
use crate::keeper::blocking;
use futures::future::join_all;
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::wal_header::WAL_SEGMENT_HEADER_SIZE;
use pgconvoy_core::pg::{TimelineId, WalFileName, WalSegmentHeader};
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::wal::{PushManner, Pushed, WalSource, WalTarget, push_wal_as};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A timeline that began without a history file.
const FIRST_TIMELINE: TimelineId = TimelineId(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushRepository {
    pub key: RepoKey,
    /// Without it the push is no success.
    pub is_required: bool,
}

/// One WAL file to be stored.
pub struct Push<'a> {
    pub connect: &'a Connect,
    pub repositories: &'a [PushRepository],
    pub stanza: &'a StanzaName,
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
}

type Results = Vec<(PushRepository, Result<Pushed, Failure>)>;

impl Push<'_> {
    pub async fn run(&self) -> Result<PushReport, Failure> {
        let cluster = self.inspect().await?;
        let opening = self.repositories.iter().map(|repository| self.target(repository.key, cluster));
        let opened = join_all(opening).await;
        let mut results: Results = Vec::new();
        let mut ready = Vec::new();
        for (repository, opened) in self.repositories.iter().zip(opened) {
            match opened {
                Ok(target) => ready.push((*repository, target)),
                Err(failure) => results.push((*repository, Err(failure))),
            }
        }
        if let Some(timeline) = self.later_timeline() {
            let unready = self.ensure_history(timeline, &mut ready).await?;
            results.extend(unready.into_iter().map(|(repository, failure)| (repository, Err(failure))));
        }
        results.extend(self.store(&self.file, self.path, ready).await?);
        results.sort_by_key(|(repository, _)| repository.key);
        judge(&self.file, results)
    }

    /// Whose WAL it is, by the file itself where it can say so.
    async fn inspect(&self) -> Result<Option<ClusterIdentity>, Failure> {
        let is_segment = matches!(self.file, WalFileName::Segment(_) | WalFileName::Partial(_));
        if !is_segment || !self.is_header_checked {
            return Ok(self.cluster);
        }
        let path = self.path.to_owned();
        let header = blocking(move || segment_header(&path)).await?;
        Ok(Some(ClusterIdentity { system_id: header.system_id, version: header.version }))
    }

    async fn target(&self, key: RepoKey, cluster: Option<ClusterIdentity>) -> Result<WalTarget, Failure> {
        let repository = open(self.connect, key).await?;
        let newest = archives(&repository, self.stanza, cluster).await?.into_iter().next();
        let archive = newest.expect("archives fails where there is none");
        Ok((repository, archive))
    }

    fn later_timeline(&self) -> Option<TimelineId> {
        match self.file {
            WalFileName::Segment(segment) => {
                Some(segment.timeline()).filter(|timeline| *timeline > FIRST_TIMELINE)
            }
            _ => None,
        }
    }

    /// Puts the timeline's history where it is missing. Repositories that do not get it leave `ready`.
    async fn ensure_history(
        &self,
        timeline: TimelineId,
        ready: &mut Vec<(PushRepository, WalTarget)>,
    ) -> Result<Vec<(PushRepository, Failure)>, Failure> {
        let history = WalFileName::History(timeline);
        let path = self.path.with_file_name(history.to_string());
        let looking = ready
            .iter()
            .map(|(_, (repository, archive))| repository.has_wal(self.stanza, *archive, &history));
        let found = join_all(looking).await;
        let mut unready = Vec::new();
        let mut lacking = Vec::new();
        let mut complete = Vec::new();
        for ((repository, target), found) in ready.drain(..).zip(found) {
            match found {
                Ok(true) => complete.push((repository, target)),
                Ok(false) => lacking.push((repository, target)),
                Err(error) => unready.push((repository, error.into())),
            }
        }
        // A cluster that was restored or cloned on this timeline may never have had the file.
        if lacking.is_empty() || !path.exists() {
            complete.append(&mut lacking);
        } else {
            let stored = self.store(&history, &path, lacking.clone()).await?;
            for (target, (repository, result)) in lacking.into_iter().zip(stored) {
                match result {
                    Ok(_) => complete.push(target),
                    Err(failure) => unready.push((repository, failure)),
                }
            }
        }
        *ready = complete;
        Ok(unready)
    }

    /// One result per repository, in order.
    async fn store(
        &self,
        file: &WalFileName,
        path: &Path,
        ready: Vec<(PushRepository, WalTarget)>,
    ) -> Result<Results, Failure> {
        let (repositories, targets): (Vec<PushRepository>, Vec<WalTarget>) = ready.into_iter().unzip();
        let results = push_wal_as(&targets, self.stanza, file, source(path), &self.manner).await;
        let results = results.map_err(|error| unreadable(path, &error))?;
        Ok(repositories
            .into_iter()
            .zip(results.into_iter().map(|result| result.map_err(Failure::from)))
            .collect())
    }
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

fn source(path: &Path) -> WalSource {
    let path: PathBuf = path.to_owned();
    Arc::new(move || Ok(Box::new(File::open(&path)?) as Box<dyn Read + Send>))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let code = if error.kind() == ErrorKind::NotFound { ErrorCode::FileMissing } else { ErrorCode::FileRead };
    Failure::new(code, format!("cannot read WAL file '{}': {error}", path.display()))
        .hint("archive_command must pass %p, and run in the data directory")
}

/// What all repositories together make of a push.
fn judge(file: &WalFileName, results: Results) -> Result<PushReport, Failure> {
    let mut report = PushReport { stored: Vec::new(), missed: Vec::new() };
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
