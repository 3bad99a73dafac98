//! Stores what a stream's machine orders, and tells what became of it in each repository.

use super::{News, Stream};
use crate::archive::{Push, PushNews};
use crate::keeper::blocking;
use bytes::Bytes;
use futures::future::join_all;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::machine::stream::{StreamOrder, StreamOutcome, StreamWork};
use pgconvoy_core::pg::{WalFileName, WalPart, WalSegmentName};
use pgconvoy_repository::wal::PackedPart;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

pub(super) struct Store<'a> {
    pub(super) stream: &'a Stream,
}

impl Store<'_> {
    /// `bytes` are those of a part.
    pub(super) async fn run(&self, order: StreamOrder, bytes: Bytes, sender: UnboundedSender<News>) {
        let StreamOrder { work, repositories } = order;
        let tell = |key, outcome, trouble| {
            // Whoever does not listen any more has ended.
            let _ = sender.send(News { key, work, outcome, trouble });
        };
        match work {
            StreamWork::Part(part) => self.part(part, bytes, &repositories, &tell).await,
            StreamWork::Whole(segment) => self.whole(segment, &repositories, &tell).await,
        }
    }

    async fn part(
        &self,
        part: WalPart,
        bytes: Bytes,
        repositories: &[RepoKey],
        tell: &(impl Fn(RepoKey, StreamOutcome, Option<Failure>) + Sync),
    ) {
        let (codec, level) = (self.stream.manner.codec, self.stream.manner.level);
        let packing = blocking(move || PackedPart::pack(part, &bytes, codec, level).map_err(Failure::from));
        let packed = packing.await;
        let packed = packed.as_ref();
        let storing = repositories.iter().map(|key| async move {
            let stored = match packed {
                Ok(packed) => self.put(*key, part.segment(), packed).await,
                Err(failure) => Err(failure.clone()),
            };
            match stored {
                Ok(()) => tell(*key, StreamOutcome::Stored, None),
                Err(failure) => {
                    self.stream.doors.forget(*key);
                    tell(*key, StreamOutcome::Failed, Some(failure));
                }
            }
        });
        join_all(storing).await;
    }

    /// The way to the part's timeline is there before the part.
    async fn put(&self, key: RepoKey, segment: WalSegmentName, packed: &PackedPart) -> Result<(), Failure> {
        let path = self.path(segment);
        let putting = async {
            let target = self.push(segment, &path, &[]).prepare(key, Some(self.stream.cluster)).await?;
            target.0.put_wal_part(self.stream.doors.stanza(), target.1, packed).await?;
            Ok(())
        };
        let stall = self.stream.manner.stall;
        timeout(stall, putting).await.unwrap_or_else(|_| {
            let message = format!("it did not take a part of a WAL segment within {} s", stall.as_secs());
            Err(Failure::new(ErrorCode::HostConnect, message).retryable())
        })
    }

    async fn whole(
        &self,
        segment: WalSegmentName,
        repositories: &[RepoKey],
        tell: &(impl Fn(RepoKey, StreamOutcome, Option<Failure>) + Sync),
    ) {
        let chosen =
            self.stream.repositories.iter().filter(|repository| repositories.contains(&repository.key));
        let chosen: Vec<_> = chosen.copied().collect();
        let path = self.path(segment);
        let mut undecided: Vec<RepoKey> = repositories.to_vec();
        let pushed = self
            .push(segment, &path, &chosen)
            .tell(|news| {
                let PushNews::Decided(key, result) = news else { return };
                undecided.retain(|other| *other != key);
                match result {
                    Ok(_) => tell(key, StreamOutcome::Stored, None),
                    Err(failure) => tell(key, StreamOutcome::Failed, Some(failure)),
                }
            })
            .await;
        let Err(failure) = pushed else { return };
        let is_gone = failure.code == ErrorCode::FileMissing;
        let judging =
            undecided.iter().map(|key| async move { (*key, is_gone && !self.has(*key, segment).await) });
        for (key, is_lost) in join_all(judging).await {
            let outcome = match (is_gone, is_lost) {
                (false, _) => StreamOutcome::Failed,
                (true, false) => StreamOutcome::Stored,
                (true, true) => StreamOutcome::Gone,
            };
            tell(key, outcome, (outcome != StreamOutcome::Stored).then(|| failure.clone()));
        }
    }

    /// Somebody else archived it.
    async fn has(&self, key: RepoKey, segment: WalSegmentName) -> bool {
        let looking = async {
            let (repository, archive) =
                self.stream.doors.target(key, Some(self.stream.cluster)).await.ok()?;
            let file = WalFileName::Segment(segment);
            repository.has_wal(self.stream.doors.stanza(), archive, &file).await.ok()
        };
        timeout(self.stream.manner.stall, looking).await.ok().flatten().unwrap_or(false)
    }

    /// Removes the parts that a work superseded. What stays is no harm, and looked for again with the next segment.
    pub(super) async fn tidy(&self, key: RepoKey, work: StreamWork) {
        let segment = match work {
            StreamWork::Part(part) => part.segment(),
            StreamWork::Whole(segment) => segment,
        };
        let tidying = async {
            let (repository, archive) = self.stream.doors.target(key, Some(self.stream.cluster)).await?;
            let stanza = self.stream.doors.stanza();
            Ok::<_, Failure>(repository.remove_superseded_parts(stanza, archive, &segment.directory()).await?)
        };
        match timeout(self.stream.manner.stall, tidying).await {
            Ok(Ok(removed)) => tracing::debug!("removed {removed} superseded parts of WAL from repo {key}"),
            Ok(Err(failure)) => tracing::info!("superseded parts of WAL stay in repo {key}: {failure}"),
            Err(_) => tracing::info!("superseded parts of WAL stay in repo {key}: it did not answer in time"),
        }
    }

    fn path(&self, segment: WalSegmentName) -> PathBuf {
        self.stream.pg_wal.join(segment.to_string())
    }

    fn push<'b>(
        &'b self,
        segment: WalSegmentName,
        path: &'b Path,
        repositories: &'b [crate::archive::PushRepository],
    ) -> Push<'b> {
        Push {
            doors: &self.stream.doors,
            repositories,
            file: WalFileName::Segment(segment),
            path,
            cluster: Some(self.stream.cluster),
            is_header_checked: self.stream.is_header_checked,
            manner: self.stream.manner.clone(),
        }
    }
}
