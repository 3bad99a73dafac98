//! The archives that PostgreSQL will be given WAL from: those of the backup's cluster, in whatever repositories can be used.

use super::super::Surroundings;
use super::super::error::as_failure;
use super::super::source::Chosen;
use crate::archive::{self, ClusterIdentity};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::layout;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::{PgVersion, WalFileName, WalSegmentName, WalSegmentSize};
use pgconvoy_repository::wal::{WalReader, WalTarget};
use pgconvoy_repository::{Repository, RepositoryError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces of one segment that may wait to be looked at.
const PIECES_WAITING: usize = 8;

/// The plain bytes of one segment, which are read on their own a few pieces ahead of who takes them.
pub(super) struct Pieces {
    waiting: mpsc::Receiver<Vec<u8>>,
    reading: JoinHandle<Result<(), RepositoryError>>,
}

impl Pieces {
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        self.waiting.recv().await
    }

    /// Whether all came, and is what was archived.
    pub(super) async fn prove(self) -> Result<(), RepositoryError> {
        let interrupted = |_| RepositoryError::Interrupted { what: "looking at a WAL file" };
        self.reading.await.map_err(interrupted)?
    }
}

/// One of the archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder(usize);

pub(super) struct Archives {
    stanza: StanzaName,
    version: PgVersion,
    targets: Vec<(WalTarget, WalSegmentSize)>,
}

/// What an archive has.
pub(super) struct Listed {
    pub(super) whole: Vec<WalSegmentName>,
    /// The last segment of each timeline, where there are parts of it.
    pub(super) streamed: Vec<WalSegmentName>,
}

impl Archives {
    /// Fails where no repository knows the cluster.
    pub(super) async fn open(chosen: &Chosen) -> Result<Archives, Failure> {
        let identity = ClusterIdentity { system_id: chosen.record.system_id, version: chosen.record.version };
        let (mut targets, mut first_failure) = (Vec::new(), None);
        for repository in &chosen.repositories {
            match archive::clusters(repository, &chosen.stanza, Some(identity)).await {
                Ok(clusters) => {
                    targets.extend(clusters.into_iter().map(|cluster| {
                        ((repository.clone(), cluster.archive_id()), cluster.wal_segment_size)
                    }))
                }
                Err(failure) => {
                    let number = repository.number();
                    tracing::warn!("WAL of repo {number} cannot be looked at for new tablespaces: {failure}");
                    first_failure.get_or_insert(failure);
                }
            }
        }
        match first_failure {
            Some(failure) if targets.is_empty() => Err(failure),
            _ => Ok(Archives { stanza: chosen.stanza.clone(), version: identity.version, targets }),
        }
    }

    pub(super) fn version(&self) -> PgVersion {
        self.version
    }

    pub(super) fn holders(&self) -> impl Iterator<Item = Holder> + use<> {
        (0..self.targets.len()).map(Holder)
    }

    pub(super) fn repository(&self, holder: Holder) -> RepoKey {
        self.targets[holder.0].0.0.number()
    }

    pub(super) async fn list(&self, holder: Holder) -> Result<Listed, Failure> {
        let ((repository, archive), _) = &self.targets[holder.0];
        let files = repository.wal_files(&self.stanza, *archive).await.map_err(as_failure)?;
        let segment = |file| match file {
            WalFileName::Segment(segment) => Some(segment),
            _ => None,
        };
        let streamed = repository.streamed_ends(&self.stanza, *archive).await.map_err(as_failure)?;
        Ok(Listed { whole: files.into_iter().filter_map(segment).collect(), streamed })
    }

    pub(super) fn read(&self, around: &Surroundings, holder: Holder, segment: WalSegmentName) -> Pieces {
        let (sender, waiting) = mpsc::channel(PIECES_WAITING);
        let ((repository, archive), _) = self.targets[holder.0].clone();
        let stanza = self.stanza.clone();
        let reading = around.runtime.spawn(async move {
            let name = WalFileName::Segment(segment);
            let opened = repository.open_wal(&stanza, archive, &name).await?;
            let absent = || {
                let object = layout::wal_file(&stanza, archive, &name);
                RepositoryError::Missing { place: repository.describe(), object }
            };
            send(&repository, &opened.ok_or_else(absent)?, &sender).await
        });
        Pieces { waiting, reading }
    }

    /// What was streamed of a segment.
    pub(super) async fn streamed(
        &self,
        holder: Holder,
        segment: WalSegmentName,
    ) -> Result<Vec<u8>, RepositoryError> {
        let ((repository, archive), size) = &self.targets[holder.0];
        let chain = repository.wal_parts(&self.stanza, *archive, segment, *size).await?;
        let mut bytes = Vec::new();
        let take = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        repository.read_wal_parts(&self.stanza, *archive, &chain, take).await?;
        Ok(bytes)
    }
}

async fn send(
    repository: &Repository,
    reader: &WalReader,
    sender: &mpsc::Sender<Vec<u8>>,
) -> Result<(), RepositoryError> {
    let mut pieces = reader.pieces(repository);
    loop {
        let mut piece = Vec::new();
        // Whoever does not listen any more has seen enough.
        if !pieces.next(&mut piece).await? || sender.send(piece).await.is_err() {
            return Ok(());
        }
    }
}
