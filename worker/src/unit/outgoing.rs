//! One pack on its way to one repository: sealed on the slot's thread, uploaded on the runtime, a bounded queue between.

use super::files::{FilePiece, Files};
use super::patience::Patience;
use super::stopwatch::timed;
use crate::job::JobContext;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::pack::PackBody;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::{RepositoryFailure, UnitOrder};
use pgconvoy_repository::codec::{Codec, Compressor};
use pgconvoy_repository::object::ObjectEncoder;
use pgconvoy_repository::plain::PlainAttempt;
use pgconvoy_repository::{Repository, RepositoryError};
use pgconvoy_storage::{ObjectKey, PutMode};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Sealed frames waiting for a store. Four of at most 1 MiB keep a store busy while the next frame is compressed.
pub(super) const PIECES_IN_FLIGHT: usize = 4;

enum Piece {
    /// Of the pack.
    Data(Bytes),
    /// Of files beside the pack.
    Files(FilePiece),
    /// Nothing is published without it: a queue that just ends is an attempt that was given up.
    End,
}

/// Ends with the bytes that were stored beside the pack.
type Uploading = JoinHandle<Result<u64, RepositoryError>>;

enum State {
    Open {
        encoder: Box<ObjectEncoder>,
        queue: mpsc::Sender<Piece>,
        uploading: Uploading,
    },
    /// Everything is in the queue.
    Ended {
        bytes: u64,
        uploading: Uploading,
    },
    Failed(Failure),
}

pub(super) struct Outgoing {
    repository: RepoKey,
    runtime: Handle,
    patience: Patience,
    /// How long the slot waited for room in the queue.
    queued: Duration,
    /// Files go as they are, and no frames.
    is_plain: bool,
    state: State,
}

impl Outgoing {
    pub(super) fn begin(
        context: &Arc<JobContext>,
        order: &Arc<UnitOrder>,
        repository: RepoKey,
        name: PackName,
    ) -> Outgoing {
        let patience = Patience::new(context, order, repository);
        let state = match patience.check().and_then(|()| Self::open(context, repository, name)) {
            Ok(state) => state,
            Err(failure) => State::Failed(failure),
        };
        let is_plain = context.repositories.get(&repository).is_some_and(|known| known.plain().is_some());
        let runtime = context.runtime.clone();
        Outgoing { repository, runtime, patience, queued: Duration::ZERO, is_plain, state }
    }

    fn open(context: &Arc<JobContext>, key: RepoKey, name: PackName) -> Result<State, Failure> {
        let repository = context.repositories.get(&key).cloned().ok_or_else(|| {
            Failure::new(
                ErrorCode::RepoInvalid,
                format!("repo {key} is not open on worker {}", context.worker),
            )
        })?;
        let object = name.key(&context.units.stanza);
        let (encoder, header) = repository.encoder(Kind::Pack, &object)?;
        let key: ObjectKey = object.parse().expect("the layout spells valid keys only");
        let (queue, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let files = repository.plain_attempt(&context.units.stanza, name);
        let uploading = context.runtime.spawn(upload(repository, key, header, files, receiver));
        Ok(State::Open { encoder: Box::new(encoder), queue, uploading })
    }

    pub(super) fn repository(&self) -> RepoKey {
        self.repository
    }

    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    pub(super) fn queued(&self) -> Duration {
        self.queued
    }

    pub(super) fn failure(&self) -> Option<RepositoryFailure> {
        match &self.state {
            State::Failed(failure) => {
                Some(RepositoryFailure { repository: self.repository, failure: failure.clone() })
            }
            _ => None,
        }
    }

    /// What the repository answers, if it does in time: one that stalls over a question has failed as over a piece.
    pub(super) fn ask<T>(&mut self, question: impl Future<Output = T>) -> Option<T> {
        let State::Open { .. } = &self.state else { return None };
        let asked = self.patience.check().and_then(|()| self.runtime.block_on(self.patience.wait(question)));
        asked.map_err(|failure| self.fail(failure)).ok()
    }

    /// Seals a compressed frame and queues it, waiting for room: this is the back-pressure.
    pub(super) fn frame(&mut self, codec: Codec, raw_bytes: u32, stored: Vec<u8>) {
        if let (State::Open { encoder, .. }, false) = (&mut self.state, self.is_plain) {
            let piece = encoder.frame(codec, raw_bytes, stored).map(Piece::Data);
            self.queue(piece);
        }
    }

    /// Bytes of a file, where files go as they are; or its end.
    pub(super) fn file(&mut self, piece: FilePiece) {
        self.queue(Ok(Piece::Files(piece)));
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
        let sent = piece.map_err(Failure::from).and_then(|piece| {
            self.patience.check()?;
            timed(&mut self.queued, || self.runtime.block_on(self.patience.wait(queue.send(piece))))
        });
        let failure = match sent {
            Ok(Ok(())) => return,
            Ok(Err(_)) => self.why_closed(),
            Err(failure) => failure,
        };
        self.fail(failure);
    }

    /// The upload ended before its queue did: it knows why.
    fn why_closed(&mut self) -> Failure {
        match std::mem::replace(&mut self.state, State::Failed(lost())) {
            State::Open { uploading, .. } => match self.runtime.block_on(uploading) {
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

    /// Bytes stored, once the pack is whole and durable there.
    pub(super) async fn settle(self) -> Result<u64, Failure> {
        let Outgoing { mut patience, state, .. } = self;
        match state {
            State::Ended { bytes, uploading } => {
                let abort = uploading.abort_handle();
                match patience.wait(uploading).await {
                    Ok(Ok(Ok(beside))) => Ok(bytes + beside),
                    Ok(Ok(Err(error))) => Err(error.into()),
                    Ok(Err(_)) => Err(lost()),
                    Err(failure) => {
                        abort.abort();
                        Err(failure)
                    }
                }
            }
            State::Open { .. } => Err(lost()),
            State::Failed(failure) => Err(failure),
        }
    }
}

fn lost() -> Failure {
    Failure::new(ErrorCode::Unknown, "an upload ended without saying why")
}

async fn upload(
    repository: Arc<Repository>,
    key: ObjectKey,
    header: Bytes,
    files: Option<PlainAttempt>,
    mut queue: mpsc::Receiver<Piece>,
) -> Result<u64, RepositoryError> {
    let mut upload = repository.storage().begin(&key, PutMode::Create).await?;
    let mut files = files.map(Files::new);
    upload.write(header).await?;
    loop {
        match (queue.recv().await, &mut files) {
            (Some(Piece::Data(bytes)), _) => upload.write(bytes).await?,
            (Some(Piece::Files(piece)), Some(files)) => files.take(piece).await?,
            // Nobody sends them where they do not belong.
            (Some(Piece::Files(_)), None) => {}
            (Some(Piece::End), _) => {
                let beside = match files {
                    Some(files) => files.finish().await?,
                    None => 0,
                };
                upload.finish().await?;
                return Ok(beside);
            }
            (None, _) => {
                upload.abort().await;
                return Err(RepositoryError::Interrupted { what: "writing a pack" });
            }
        }
    }
}
