//! Waits for WAL to reach a repository.

use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::WalSegmentName;
use pgconvoy_repository::RepositorySet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How soon WAL is looked for again, at first and at most.
const WAL_POLL_FIRST: Duration = Duration::from_millis(50);
const WAL_POLL_MAX: Duration = Duration::from_secs(1);

/// Looks for WAL in one repository until it is there or no more of it has come for the archive timeout.
pub(crate) struct WalWait {
    pub set: Arc<RepositorySet>,
    pub stanza: StanzaName,
    pub repository: RepoKey,
    pub archive: ArchiveId,
    pub timeout: Duration,
}

impl WalWait {
    /// What is still missing at the end.
    pub(crate) async fn run(&self, mut missing: Vec<WalSegmentName>) -> Result<Vec<WalSegmentName>, Failure> {
        let opened = self.set.open(self.repository).await?;
        let (mut progressed, mut pause) = (Instant::now(), WAL_POLL_FIRST);
        loop {
            let still = opened.missing_wal(&self.stanza, self.archive, &missing).await?;
            if still.is_empty() {
                return Ok(still);
            }
            if still.len() < missing.len() {
                (progressed, pause) = (Instant::now(), WAL_POLL_FIRST);
            } else if progressed.elapsed() >= self.timeout {
                return Ok(still);
            }
            missing = still;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(WAL_POLL_MAX);
        }
    }
}
