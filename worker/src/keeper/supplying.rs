//! Gives a repository WAL segments that it lacks, from pg_wal, where PostgreSQL keeps them until they are archived
//! everywhere. Needs neither session nor units: the segment before the start is asked for before there are any.

use super::preparing::silent;
use futures::FutureExt;
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::{WalFileName, WalSegmentName};
use pgconvoy_core::wire::SupplyOrder;
use pgconvoy_repository::codec::{Codec, Level};
use pgconvoy_repository::wal::{PushManner, Threads, WalSource, push_wal_as};
use pgconvoy_repository::{Repository, RepositorySet};
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

pub(super) struct Supply {
    pub(super) set: Arc<RepositorySet>,
    pub(super) stanza: StanzaName,
    /// pg_wal, or pg_xlog.
    pub(super) wal: PathBuf,
    pub(super) order: SupplyOrder,
}

impl Supply {
    /// A panic is a failure too: somebody waits for the answer.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let place = format!("repo {}", self.order.repository);
        let done = AssertUnwindSafe(self.supply()).catch_unwind().await;
        done.unwrap_or_else(|_| Err(Failure::new(ErrorCode::Assert, "supplying WAL panicked"))).context(place)
    }

    async fn supply(&self) -> Result<(), Failure> {
        let SupplyOrder { repository, archive, segments, compress, stall_timeout_ms } = &self.order;
        let stall = Duration::from_millis(*stall_timeout_ms);
        let codec = Codec::from_number(compress.codec)?;
        let (level, threads) = (Level::new(codec, compress.level)?, Threads::new(1));
        let manner = PushManner::alike(codec, level, threads, stall);
        let asking = async {
            let repository = self.set.open(*repository).await?;
            // What archive_command has brought meanwhile may be gone from pg_wal.
            let missing = repository.missing_wal(&self.stanza, *archive, segments).await?;
            Ok::<_, Failure>((repository, missing))
        };
        let (repository, missing) = timeout(stall, asking).await.unwrap_or_else(|_| Err(silent(stall)))?;
        for segment in missing {
            self.push(&repository, segment, &manner).await?;
        }
        Ok(())
    }

    async fn push(
        &self,
        repository: &Arc<Repository>,
        segment: WalSegmentName,
        manner: &PushManner,
    ) -> Result<(), Failure> {
        let path = self.wal.join(segment.to_string());
        let source: WalSource = {
            let path = path.clone();
            Arc::new(move || Ok(Box::new(std::fs::File::open(&path)?)))
        };
        let targets = [(repository.clone(), self.order.archive)];
        let pushed =
            push_wal_as(&targets, &self.stanza, &WalFileName::Segment(segment), source, manner).await;
        let results = pushed.map_err(|error| match error.kind() {
            ErrorKind::NotFound => absent(segment),
            _ => Failure::new(ErrorCode::FileRead, format!("cannot read {}: {error}", path.display())),
        })?;
        for result in results {
            result?;
        }
        Ok(())
    }
}

fn absent(segment: WalSegmentName) -> Failure {
    Failure::new(
        ErrorCode::ArchiveTimeout,
        format!("WAL segment {segment} is not in the archive, and pg_wal does not have it any more"),
    )
    .hint("is archive_command failing? See the server's log")
    .hint("archive_command must bring every segment to every repository")
}

#[cfg(test)]
mod tests;
