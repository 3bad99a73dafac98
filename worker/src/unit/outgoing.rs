//! One pack on its way to one repository: sealed on the slot's thread, uploaded on the runtime, a bounded queue between.

use crate::job::JobContext;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::pack::PackBody;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::RepositoryFailure;
use pgconvoy_repository::codec::{Codec, Compressor};
use pgconvoy_repository::object::ObjectEncoder;
use pgconvoy_repository::{Repository, RepositoryError};
use pgconvoy_storage::{ObjectKey, PutMode};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Sealed frames waiting for a store. Four of at most 1 MiB keep a store busy while the next frame is compressed.
pub(super) const PIECES_IN_FLIGHT: usize = 4;

enum Piece {
    Data(Bytes),
    /// Nothing is published without it: a queue that just ends is an attempt that was given up.
    End,
}

type Uploading = JoinHandle<Result<(), RepositoryError>>;

enum State {
    Open { encoder: Box<ObjectEncoder>, queue: mpsc::Sender<Piece>, uploading: Uploading },
    /// Everything is in the queue.
    Ended { bytes: u64, uploading: Uploading },
    Failed(Failure),
}

pub(super) struct Outgoing {
    repository: RepoKey,
    context: Arc<JobContext>,
    state: State,
}

impl Outgoing {
    pub(super) fn begin(context: &Arc<JobContext>, repository: RepoKey, name: PackName) -> Outgoing {
        let state = match Self::open(context, repository, name) {
            Ok(state) => state,
            Err(failure) => State::Failed(failure),
        };
        Outgoing { repository, context: context.clone(), state }
    }

    fn open(context: &Arc<JobContext>, key: RepoKey, name: PackName) -> Result<State, Failure> {
        let repository = context.repositories.get(&key).cloned().ok_or_else(|| {
            Failure::new(ErrorCode::RepoInvalid, format!("repo {key} is not open on worker {}", context.worker))
        })?;
        let object = name.key(&context.units.stanza);
        let (encoder, header) = repository.encoder(Kind::Pack, &object)?;
        let key: ObjectKey = object.parse().expect("the layout spells valid keys only");
        let (queue, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let uploading = context.runtime.spawn(upload(repository, key, header, receiver));
        Ok(State::Open { encoder: Box::new(encoder), queue, uploading })
    }

    pub(super) fn repository(&self) -> RepoKey {
        self.repository
    }

    pub(super) fn failure(&self) -> Option<RepositoryFailure> {
        match &self.state {
            State::Failed(failure) => {
                Some(RepositoryFailure { repository: self.repository, failure: failure.clone() })
            }
            _ => None,
        }
    }

    /// Seals a compressed frame and queues it, waiting for room: this is the back-pressure.
    pub(super) fn frame(&mut self, codec: Codec, raw_bytes: u32, stored: Vec<u8>) {
        if let State::Open { encoder, .. } = &mut self.state {
            let piece = encoder.frame(codec, raw_bytes, stored).map(Piece::Data);
            self.queue(piece);
        }
    }

    /// Footer and end.
    pub(super) fn end(&mut self, body: &PackBody, compressor: &mut Compressor) {
        if let State::Open { encoder, .. } = &mut self.state {
            let piece = encoder.finish(body, compressor).map(Piece::Data);
            self.queue(piece);
            self.queue(Ok(Piece::End));
        }
        let state = std::mem::replace(&mut self.state, State::Failed(lost()));
        self.state = match state {
            State::Open { encoder, uploading, .. } => State::Ended { bytes: encoder.bytes(), uploading },
            other => other,
        };
    }

    fn queue(&mut self, piece: Result<Piece, RepositoryError>) {
        let State::Open { queue, .. } = &self.state else { return };
        let failure = match piece {
            Err(error) => Failure::from(error),
            Ok(piece) => match self.context.runtime.block_on(with_timeout(self.stall(), queue.send(piece))) {
                Ok(Ok(())) => return,
                Ok(Err(_)) => self.why_closed(),
                Err(_) => self.stalled(),
            },
        };
        self.fail(failure);
    }

    /// The upload ended before its queue did: it knows why.
    fn why_closed(&mut self) -> Failure {
        match std::mem::replace(&mut self.state, State::Failed(lost())) {
            State::Open { uploading, .. } => match self.context.runtime.block_on(uploading) {
                Ok(Err(error)) => Failure::from(error),
                _ => lost(),
            },
            State::Ended { .. } => lost(),
            State::Failed(failure) => failure,
        }
    }

    fn fail(&mut self, failure: Failure) {
        if let State::Open { uploading, .. } = std::mem::replace(&mut self.state, State::Failed(failure)) {
            uploading.abort();
        }
    }

    fn stall(&self) -> Duration {
        Duration::from_millis(self.context.units.stall_timeout_ms)
    }

    fn stalled(&self) -> Failure {
        let seconds = self.stall().as_secs();
        Failure::new(ErrorCode::FileWrite, format!("repo {} took nothing for {seconds} s", self.repository))
            .hint("is its store reachable, and is it overloaded? io-timeout sets how long it may stall")
            .retryable()
    }

    /// Bytes stored, once the pack is whole and durable there.
    pub(super) async fn settle(self) -> Result<u64, Failure> {
        let stalled = self.stalled();
        let stall = self.stall();
        match self.state {
            State::Ended { bytes, uploading } => {
                let abort = uploading.abort_handle();
                match tokio::time::timeout(stall, uploading).await {
                    Ok(Ok(Ok(()))) => Ok(bytes),
                    Ok(Ok(Err(error))) => Err(error.into()),
                    Ok(Err(_)) => Err(lost()),
                    Err(_) => {
                        abort.abort();
                        Err(stalled)
                    }
                }
            }
            State::Open { .. } => Err(lost()),
            State::Failed(failure) => Err(failure),
        }
    }
}

/// A timer needs a runtime around it when it is made, which the slot's thread has only inside of `block_on`.
async fn with_timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    tokio::time::timeout(limit, work).await
}

fn lost() -> Failure {
    Failure::new(ErrorCode::Unknown, "an upload ended without saying why")
}

async fn upload(
    repository: Arc<Repository>,
    key: ObjectKey,
    header: Bytes,
    mut queue: mpsc::Receiver<Piece>,
) -> Result<(), RepositoryError> {
    let mut upload = repository.storage().begin(&key, PutMode::Create).await?;
    upload.write(header).await?;
    loop {
        match queue.recv().await {
            Some(Piece::Data(bytes)) => upload.write(bytes).await?,
            Some(Piece::End) => return Ok(upload.finish().await?),
            None => {
                upload.abort().await;
                return Err(RepositoryError::Interrupted { what: "writing a pack" });
            }
        }
    }
}
