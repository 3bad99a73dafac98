//! One object on its way into one repository, made of the pieces that come out of a queue.

use super::pipeline::Plain;
use super::{LAG_MAX, WalTarget, stalled, too_slow};
use crate::Repository;
use crate::error::RepositoryError;
use crate::object::object_key;
use bytes::Bytes;
use pgconvoy_storage::{PutMode, Upload, clock};
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

/// What cleaning up after a failed upload may take: PostgreSQL waits for the answer.
const ABORT_MAX: Duration = Duration::from_secs(5);

/// What a target gets, in order: header, frames and footer, then the end.
pub(super) enum Piece {
    /// One that could not be sealed ends the object.
    Part(Result<Bytes, RepositoryError>),
    End(Plain),
}

/// A target's queue. One that ends without an end is of a file that was given up.
pub(super) struct Pieces {
    queue: mpsc::Receiver<Piece>,
    end: Option<Plain>,
}

impl Pieces {
    pub(super) fn new(queue: mpsc::Receiver<Piece>) -> Self {
        Pieces { queue, end: None }
    }

    async fn next(&mut self) -> Option<Piece> {
        let piece = self.queue.recv().await?;
        if let Piece::End(plain) = piece {
            self.end = Some(plain);
        }
        Some(piece)
    }

    /// What the whole file is, once it was read; passes over all pieces until then.
    pub(super) async fn end(&mut self) -> Option<Plain> {
        while self.end.is_none() {
            self.next().await?;
        }
        self.end
    }
}

/// Publishes the object once all of its pieces were written.
pub(super) async fn write(
    (repository, _): &WalTarget,
    name: &str,
    pieces: &mut Pieces,
    stall: Duration,
) -> Result<(), RepositoryError> {
    let stalled = || stalled(repository, stall);
    let key = object_key(name);
    let beginning = repository.storage().begin(&key, PutMode::Create);
    let mut upload: Box<dyn Upload> = in_time(beginning, stall).await.ok_or_else(stalled)??;
    if let Err(error) = fill(repository, upload.as_mut(), pieces, stall).await {
        // A command ends right after this: what is left to the background would stay.
        let _ = in_time(upload.abort(), stall.min(ABORT_MAX)).await;
        return Err(error);
    }
    Ok(in_time(upload.finish(), stall).await.ok_or_else(stalled)??)
}

/// Writes all pieces.
async fn fill(
    repository: &Repository,
    upload: &mut dyn Upload,
    pieces: &mut Pieces,
    stall: Duration,
) -> Result<(), RepositoryError> {
    loop {
        match pieces.next().await {
            Some(Piece::Part(part)) => {
                let written = in_time(upload.write(part?), stall).await;
                written.ok_or_else(|| stalled(repository, stall))??;
            }
            Some(Piece::End(_)) => return Ok(()),
            None => {
                let reason = format!("it took no piece of a WAL file for {} s", LAG_MAX.as_secs());
                return Err(too_slow(repository, reason));
            }
        }
    }
}

/// `None`: not in time, waits for a turn not counted.
async fn in_time<T>(work: impl Future<Output = T>, limit: Duration) -> Option<T> {
    clock::within(Some(limit), None, work).await
}
