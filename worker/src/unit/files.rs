//! Files of a unit on their way to a repository that keeps them as such.

use bytes::Bytes;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::plain::PlainAttempt;
use std::sync::Arc;

pub(super) enum FilePiece {
    /// The next bytes of that file.
    Bytes { path: Arc<str>, bytes: Bytes },
    /// The file is complete, and the very same as that pack has under its path.
    End { same: Option<PackName> },
}

/// Writing blocks, so it is done elsewhere than on the runtime's own threads. The attempt comes back only from a call that went well.
pub(super) struct Files(Option<PlainAttempt>);

impl Files {
    pub(super) fn new(attempt: PlainAttempt) -> Self {
        Files(Some(attempt))
    }

    pub(super) async fn take(&mut self, piece: FilePiece) -> Result<(), RepositoryError> {
        let mut attempt = self.0.take().ok_or_else(interrupted)?;
        let working = tokio::task::spawn_blocking(move || {
            match piece {
                FilePiece::Bytes { path, bytes } => attempt.append(&path, &bytes)?,
                FilePiece::End { same } => attempt.end_file(same)?,
            }
            Ok::<_, RepositoryError>(attempt)
        });
        self.0 = Some(working.await.map_err(|_| interrupted())??);
        Ok(())
    }

    /// Bytes that were stored, once all of it is on disk.
    pub(super) async fn finish(mut self) -> Result<u64, RepositoryError> {
        let attempt = self.0.take().ok_or_else(interrupted)?;
        tokio::task::spawn_blocking(move || attempt.finish()).await.map_err(|_| interrupted())?
    }
}

fn interrupted() -> RepositoryError {
    RepositoryError::Interrupted { what: "writing files of a backup" }
}
