//! Hands out what was streamed of a segment that nobody archived as a whole, where that is the end of the archive.
//!
//! PostgreSQL replays it up to the zeros behind it and takes that for the end of the WAL, as it does with what
//! pg_receivewal leaves.
//!
//! Invariants
//! 1. Every repository that is asked was looked at, and none has WAL behind the segment or a later timeline
//!    ([`judge_end`]): then nothing archived can be lost by ending here.
//! 2. What leads furthest is handed out, or nothing: something shorter would lose what is known to be there.
//! 3. A part counts only in a chain from the beginning of the segment on, its checksum proved.
//!
//! Failure story: parts go when their segment comes. Whoever finds one gone asks for the segment again.

use super::destination::Destination;
use super::{ClusterIdentity, Connect, archives, joined, open};
use futures::future::join_all;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::{Lsn, WalPart, WalSegmentName, WalSegmentSize};
use pgconvoy_core::plan::wal_end::{NotTheEnd, judge_end};
use pgconvoy_repository::{Repository, RepositoryError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// For one repository: listings, or a segment's parts.
const TRY_MAX: Duration = Duration::from_secs(60);
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A segment that is known to be absent everywhere.
pub struct EndOfArchive<'a> {
    pub connect: &'a Connect,
    pub repositories: &'a [RepoKey],
    pub stanza: &'a StanzaName,
    pub segment: WalSegmentName,
    pub size: WalSegmentSize,
    pub destination: &'a Path,
    pub cluster: ClusterIdentity,
}

/// What recovery will end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOut {
    pub from: RepoKey,
    pub end: Lsn,
}

/// What one archive has of the segment.
struct Seen {
    key: RepoKey,
    repository: Arc<Repository>,
    archive: ArchiveId,
    chain: Vec<WalPart>,
    verdict: Result<(), NotTheEnd>,
}

impl Seen {
    fn end(&self) -> Option<Lsn> {
        self.chain.last().map(WalPart::end)
    }
}

impl EndOfArchive<'_> {
    /// `None`: nothing was streamed of it, or it is not the end.
    pub async fn run(&self) -> Result<Option<HandedOut>, Failure> {
        let looking =
            self.repositories.iter().map(|key| async move { (*key, in_time(self.look(*key)).await) });
        let (mut seen, mut failures) = (Vec::new(), Vec::new());
        for (key, looked) in join_all(looking).await {
            match looked {
                Ok(found) => seen.extend(found),
                Err(failure) => failures.push((key, failure)),
            }
        }
        if let Some(failure) =
            joined(&format!("cannot tell whether the archive ends in {}", self.segment), failures)
        {
            return Err(failure);
        }
        let Some(end) = seen.iter().filter_map(Seen::end).max() else { return Ok(None) };
        if let Some(why) = seen.iter().find_map(|seen| seen.verdict.as_ref().err()) {
            tracing::warn!("what was streamed of {} is not handed out: {why}", self.segment);
            return Ok(None);
        }
        self.fetch_any(seen.iter().filter(|seen| seen.end() == Some(end)), end).await.map(Some)
    }

    async fn look(&self, key: RepoKey) -> Result<Vec<Seen>, Failure> {
        let repository = open(self.connect, key).await?;
        let mut seen = Vec::new();
        for archive in archives(&repository, self.stanza, Some(self.cluster)).await? {
            let chain = repository.wal_parts(self.stanza, archive, self.segment, self.size).await?;
            let directories = repository.wal_directories(self.stanza, archive).await?;
            let beside = repository.wal_directory(self.stanza, archive, &self.segment.directory()).await?;
            let names = directories.iter().map(String::as_str);
            let verdict = judge_end(self.segment, names, beside.iter().map(|held| held.file));
            seen.push(Seen { key, repository: repository.clone(), archive, chain, verdict });
        }
        Ok(seen)
    }

    /// All of these lead equally far.
    async fn fetch_any<'b>(
        &self,
        candidates: impl Iterator<Item = &'b Seen>,
        end: Lsn,
    ) -> Result<HandedOut, Failure> {
        let mut failures = Vec::new();
        for seen in candidates {
            match in_time(self.fetch(seen)).await {
                Ok(()) => return Ok(HandedOut { from: seen.key, end }),
                Err(failure) => {
                    tracing::warn!(
                        "repo {} could not deliver what was streamed of {}: {failure}",
                        seen.key,
                        self.segment
                    );
                    failures.push((seen.key, failure));
                }
            }
        }
        let failure = joined(&format!("{} was streamed, but cannot be read", self.segment), failures);
        Err(failure.expect("there was a candidate, and it failed"))
    }

    async fn fetch(&self, seen: &Seen) -> Result<(), Failure> {
        let mut destination = Destination::create(self.destination)?;
        let (mut written, mut unwritten) = (0, None);
        let read = seen.repository.read_wal_parts(self.stanza, seen.archive, &seen.chain, |bytes| {
            written += bytes.len() as u64;
            destination.write(bytes).map_err(|failure| {
                unwritten = Some(failure);
                RepositoryError::Interrupted { what: "writing a WAL file" }
            })
        });
        let read = read.await;
        if let Some(failure) = unwritten {
            return Err(failure);
        }
        read?;
        let mut left = self.size.bytes().saturating_sub(written);
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            destination.write(&ZEROS[..piece])?;
            left -= piece as u64;
        }
        destination.publish()
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(TRY_MAX, work).await.unwrap_or_else(|_| {
        Err(Failure::new(ErrorCode::HostConnect, "it did not answer in time").retryable())
    })
}

#[cfg(test)]
mod tests;
