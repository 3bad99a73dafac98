//! Puts one WAL file into several repositories: read once, compressed once, sealed and written for each.
//!
//! Invariants
//! 1. A file that is there already is compared by size and SHA-1: identical is success, different is an error for ever.
//! 2. A repository that fails or stalls is left behind for this file while the others go on.
//! 3. An object that lacks a piece is never finished; an error of the source ends all of them, unpublished.
//!
//! Failure story: a put whose answer was lost is an error here. The next push of the same file finds it identical.

mod pipeline;

use crate::codec::{Codec, Level};
use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use bytes::Bytes;
use futures::future::join_all;
use pgconvoy_core::format::layout::{self, ArchiveId};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_storage::{Place, PutMode, StorageError, Upload};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Pieces on their way from the compressing threads to the stores.
const PIECES_IN_FLIGHT: usize = 4;
/// More threads than this wait for the one that reads, hashes and seals.
const THREADS_MAX: usize = 4;
/// Longer than any store takes to answer, when nobody says how long to wait.
const STALL_DEFAULT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    New,
    /// It was there, byte for byte.
    Identical,
}

/// How a file is compressed, and how long a repository may take for one piece of it.
#[derive(Debug, Clone, Copy)]
pub struct PushManner {
    pub codec: Codec,
    pub level: Level,
    /// Threads that compress; from 1 to 4.
    pub threads: usize,
    pub stall: Duration,
}

/// Where the plain file comes from; opened anew for each read.
pub type WalSource = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// One of the repositories, with the archive of this cluster there.
pub type WalTarget = (Arc<Repository>, ArchiveId);

pub type PushResult = Result<Pushed, RepositoryError>;

/// Pushes on one thread, beside other work.
pub async fn push_wal(
    targets: &[WalTarget],
    stanza: &StanzaName,
    file: &WalFileName,
    source: WalSource,
    codec: Codec,
    level: Level,
) -> io::Result<Vec<PushResult>> {
    let manner = PushManner { codec, level, threads: 1, stall: STALL_DEFAULT };
    push_wal_as(targets, stanza, file, source, &manner).await
}

/// One result per target, in order. The outer error is the source's: the file could not be read.
pub async fn push_wal_as(
    targets: &[WalTarget],
    stanza: &StanzaName,
    file: &WalFileName,
    source: WalSource,
    manner: &PushManner,
) -> io::Result<Vec<PushResult>> {
    let push = Push { stanza, file, source: &source, manner };
    let mut results = push.compare(targets).await?;
    let absent: Vec<usize> = (0..targets.len()).filter(|at| results[*at].is_none()).collect();
    if absent.is_empty() {
        return Ok(results.into_iter().flatten().collect());
    }
    let chosen: Vec<WalTarget> = absent.iter().map(|at| targets[*at].clone()).collect();
    let written = push.write(&chosen).await?;
    for (at, result) in absent.into_iter().zip(written) {
        results[at] = Some(match result {
            // Somebody else put it there meanwhile, or our own first try did and its answer was lost.
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {
                let compared = push.compare(&targets[at..=at]).await?.pop().flatten();
                compared.unwrap_or(Err(RepositoryError::Interrupted { what: "comparing a WAL file" }))
            }
            other => other.map(|()| Pushed::New),
        });
    }
    Ok(results.into_iter().map(|result| result.expect("every target was compared or written")).collect())
}

struct Push<'a> {
    stanza: &'a StanzaName,
    file: &'a WalFileName,
    source: &'a WalSource,
    manner: &'a PushManner,
}

impl Push<'_> {
    /// `None` where the file is not there. The source is read only if it is there somewhere.
    async fn compare(&self, targets: &[WalTarget]) -> io::Result<Vec<Option<PushResult>>> {
        let opening = targets.iter().map(|(repository, archive)| async move {
            let opened = repository.open_wal(self.stanza, *archive, self.file);
            let opened = timeout(self.manner.stall, opened).await;
            opened.unwrap_or_else(|_| Err(stalled(repository, self.manner.stall)))
        });
        let opened = join_all(opening).await;
        let mut plain = None;
        if opened.iter().any(|found| matches!(found, Ok(Some(_)))) {
            let source = self.source.clone();
            let digest = tokio::task::spawn_blocking(move || pipeline::digest(&source));
            plain = Some(digest.await.map_err(io::Error::other)??);
        }
        let judge = |((repository, _), found): (&WalTarget, Result<Option<super::WalReader>, _>)| match found
        {
            Ok(None) => None,
            Ok(Some(stored)) if plain == Some((stored.body.size, stored.body.sha1)) => {
                Some(Ok(Pushed::Identical))
            }
            Ok(Some(_)) => Some(Err(RepositoryError::Duplicate {
                place: repository.describe(),
                name: self.file.to_string(),
            })),
            Err(error) => Some(Err(error)),
        };
        Ok(targets.iter().zip(opened).map(judge).collect())
    }

    async fn write(&self, targets: &[WalTarget]) -> io::Result<Vec<Result<(), RepositoryError>>> {
        let mut encoders = Vec::new();
        let mut headers = Vec::new();
        for (at, (repository, archive)) in targets.iter().enumerate() {
            let name = layout::wal_file(self.stanza, *archive, self.file);
            headers.push(repository.encoder(Kind::Wal, &name).map(|(encoder, header)| {
                encoders.push((at, encoder));
                (name, header)
            }));
        }
        let (sender, mut receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let (source, name, manner) = (self.source.clone(), self.file.to_string(), *self.manner);
        let compressing = tokio::task::spawn_blocking(move || {
            pipeline::compress(&source, name, encoders, &manner, &sender)
        });
        let beginning = targets.iter().zip(headers).map(|((repository, _), header)| async move {
            match header {
                Ok((name, header)) => Outgoing::begin(repository, &name, header, self.manner.stall).await,
                Err(error) => Outgoing::failed(repository, self.manner.stall, error),
            }
        });
        let mut uploads = join_all(beginning).await;
        while let Some(pieces) = receiver.recv().await {
            let mut pieces = pieces.into_iter().peekable();
            let writing = uploads.iter_mut().enumerate().filter_map(|(at, upload)| {
                let (_, piece) = pieces.next_if(|(of, _)| *of == at)?;
                Some(upload.write(piece))
            });
            join_all(writing).await;
        }
        // An error of the source drops all uploads here, unpublished.
        compressing.await.map_err(io::Error::other)??;
        Ok(join_all(uploads.into_iter().map(Outgoing::finish)).await)
    }
}

fn stalled(repository: &Repository, stall: Duration) -> RepositoryError {
    let reason = format!("nothing came for {} s", stall.as_secs());
    StorageError::Timeout { at: Place::new(repository.describe(), None), reason }.into()
}

/// The object in one repository; an error ends it and is kept.
struct Outgoing {
    repository: Arc<Repository>,
    stall: Duration,
    state: Result<Box<dyn Upload>, RepositoryError>,
}

impl Outgoing {
    fn failed(repository: &Arc<Repository>, stall: Duration, error: RepositoryError) -> Outgoing {
        Outgoing { repository: repository.clone(), stall, state: Err(error) }
    }

    async fn begin(repository: &Arc<Repository>, name: &str, header: Bytes, stall: Duration) -> Outgoing {
        let key = object_key(name);
        let begun = timeout(stall, repository.storage().begin(&key, PutMode::Create)).await;
        let state = match begun {
            Ok(begun) => begun.map_err(RepositoryError::from),
            Err(_) => Err(stalled(repository, stall)),
        };
        let mut outgoing = Outgoing { repository: repository.clone(), stall, state };
        outgoing.write(Ok(header)).await;
        outgoing
    }

    /// A piece that could not be sealed ends the upload: what lacks a piece is never finished.
    async fn write(&mut self, piece: Result<Bytes, RepositoryError>) {
        let Ok(upload) = &mut self.state else { return };
        let written = match piece {
            Ok(piece) => match timeout(self.stall, upload.write(piece)).await {
                Ok(written) => written.map_err(RepositoryError::from),
                Err(_) => Err(stalled(&self.repository, self.stall)),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.state = Err(error);
        }
    }

    async fn finish(self) -> Result<(), RepositoryError> {
        match timeout(self.stall, self.state?.finish()).await {
            Ok(finished) => Ok(finished?),
            Err(_) => Err(stalled(&self.repository, self.stall)),
        }
    }
}

#[cfg(test)]
mod tests;
