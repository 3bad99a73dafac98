//! Puts one WAL file into several repositories: read once, compressed once, sealed and written for each. Repositories that have
//! it compressed otherwise are a push of their own beside the others'.
//!
//! ```text
//!                                   +--> [pieces] --> target 1: look, begin, write, finish
//! read, hash, compress --> seal ----+--> [pieces] --> target 2
//! ```
//!
//! Invariants
//! 1. A file that is there already is compared by size and SHA-1: identical is success, different is an error for ever.
//! 2. Targets are on their own: one that fails, stalls or is slow costs the others nothing, up to the pieces that wait for
//!    it and a moment of [`LAG_MAX`] for each further one.
//! 3. An object that lacks a piece is never finished; an error of the source ends all of them, unpublished.
//!
//! Failure story: a put whose answer was lost is an error here. The next push of the same file finds it identical.

mod outgoing;
mod pipeline;
mod threads;

pub use threads::Threads;

use crate::codec::{Codec, Level};
use crate::error::RepositoryError;
use crate::open::Repository;
use futures::future::{join_all, try_join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use outgoing::{Piece, Pieces};
use pgconvoy_core::format::layout::{self, ArchiveId};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::WalFileName;
use pgconvoy_storage::{Place, StorageError};
use pipeline::Plain;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OnceCell, mpsc};
use tokio::time::timeout;

/// Pieces on their way from the compressing threads to the targets' queues.
const PIECES_IN_FLIGHT: usize = 4;
/// Pieces that may wait for one target: a segment of the usual 16 MiB as a whole, and its header and footer.
const PIECES_WAITING: usize = 20;
/// How long a target whose queue is full may keep the others from their next piece.
const LAG_MAX: Duration = Duration::from_secs(5);
/// Of them, the one that reads, hashes and seals; more wait for it.
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
#[derive(Debug, Clone)]
pub struct PushManner {
    pub codec: Codec,
    pub level: Level,
    /// Of repositories that have it otherwise.
    pub own: BTreeMap<RepoKey, (Codec, Level)>,
    /// Those that compress, the one that reads among them: from 1 to 4 for one file.
    pub threads: Threads,
    pub stall: Duration,
}

impl PushManner {
    /// The same for all repositories.
    pub fn alike(codec: Codec, level: Level, threads: Threads, stall: Duration) -> Self {
        PushManner { codec, level, own: BTreeMap::new(), threads, stall }
    }

    /// Targets by their places, those together that have a file compressed in one way.
    fn groups(&self, targets: &[WalTarget]) -> Vec<(PushManner, Vec<usize>)> {
        let mut groups: Vec<(PushManner, Vec<usize>)> = Vec::new();
        for (place, (repository, _)) in targets.iter().enumerate() {
            let usual = (self.codec, self.level);
            let (codec, level) = self.own.get(&repository.number()).copied().unwrap_or(usual);
            match groups.iter_mut().find(|(of, _)| (of.codec, of.level) == (codec, level)) {
                Some((_, places)) => places.push(place),
                None => groups
                    .push((PushManner { codec, level, own: BTreeMap::new(), ..self.clone() }, vec![place])),
            }
        }
        groups
    }
}

/// Where the plain file comes from; opened anew for each read.
pub type WalSource = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// One of the repositories, with the archive of this cluster there.
pub type WalTarget = (Arc<Repository>, ArchiveId);

pub type PushResult = Result<Pushed, RepositoryError>;

/// What is told while a file is pushed, as soon as it is known.
#[derive(Debug)]
pub enum PushNews {
    /// Nobody reads the source any more: what happens to it now cannot reach any repository.
    SourceRead,
    /// What became of one target, by its place among them.
    Decided(usize, PushResult),
}

/// Pushes on one thread, beside other work.
pub async fn push_wal(
    targets: &[WalTarget],
    stanza: &StanzaName,
    file: &WalFileName,
    source: WalSource,
    codec: Codec,
    level: Level,
) -> io::Result<Vec<PushResult>> {
    let manner = PushManner::alike(codec, level, Threads::new(1), STALL_DEFAULT);
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
    let mut results: Vec<Option<PushResult>> = targets.iter().map(|_| None).collect();
    push_wal_telling(targets, stanza, file, source, manner, |news| {
        if let PushNews::Decided(at, result) = news {
            results[at] = Some(result);
        }
    })
    .await?;
    Ok(results.into_iter().map(|result| result.expect("every target was decided")).collect())
}

/// As [`push_wal_as`], for who must not wait for the slowest.
pub async fn push_wal_telling(
    targets: &[WalTarget],
    stanza: &StanzaName,
    file: &WalFileName,
    source: WalSource,
    manner: &PushManner,
    mut tell: impl FnMut(PushNews) + Send,
) -> io::Result<()> {
    let groups = manner.groups(targets);
    if groups.is_empty() {
        tell(PushNews::SourceRead);
        return Ok(());
    }
    let teller = &Mutex::new(Teller { tell, reading: groups.len() });
    let pushing = groups.into_iter().map(|(manner, places)| {
        let source = source.clone();
        async move {
            let targets: Vec<WalTarget> = places.iter().map(|place| targets[*place].clone()).collect();
            let tell = |news| teller.lock().unwrap_or_else(PoisonError::into_inner).pass(news, &places);
            push_alike(&targets, stanza, file, source, &manner, tell).await
        }
    });
    try_join_all(pushing).await.map(drop)
}

/// Passes on what pushes of several groups tell, as if they were one.
struct Teller<T> {
    tell: T,
    /// Pushes that still read the source.
    reading: usize,
}

impl<T: FnMut(PushNews)> Teller<T> {
    fn pass(&mut self, news: PushNews, places: &[usize]) {
        match news {
            PushNews::SourceRead => {
                self.reading -= 1;
                if self.reading == 0 {
                    (self.tell)(PushNews::SourceRead);
                }
            }
            PushNews::Decided(at, result) => (self.tell)(PushNews::Decided(places[at], result)),
        }
    }
}

/// To targets that have the file compressed in one way.
async fn push_alike(
    targets: &[WalTarget],
    stanza: &StanzaName,
    file: &WalFileName,
    source: WalSource,
    manner: &PushManner,
    mut tell: impl FnMut(PushNews) + Send,
) -> io::Result<()> {
    let push = &Push::new(stanza, file, source, manner);
    let (senders, queues): (Vec<_>, Vec<_>) = targets.iter().map(|_| mpsc::channel(PIECES_WAITING)).unzip();
    let targets_and_queues = targets.iter().zip(queues).enumerate();
    let mut running: FuturesUnordered<_> = targets_and_queues
        .map(|(at, (target, queue))| async move { (at, push.to_target(target, Pieces::new(queue)).await) })
        .collect();
    let mut supplying = pin!(push.supply(targets, senders));
    let (mut is_supplied, mut is_told) = (false, false);
    loop {
        tokio::select! {
            biased;
            supplied = &mut supplying, if !is_supplied => {
                supplied?;
                is_supplied = true;
            }
            ended = running.next() => match ended {
                Some((at, result)) => tell(PushNews::Decided(at, result?)),
                None => break,
            },
        }
        if is_supplied && push.digests_running.load(Ordering::Acquire) == 0 && !is_told {
            is_told = true;
            tell(PushNews::SourceRead);
        }
    }
    if !is_told {
        tell(PushNews::SourceRead);
    }
    Ok(())
}

struct Push<'a> {
    stanza: &'a StanzaName,
    file: &'a WalFileName,
    source: WalSource,
    manner: &'a PushManner,
    /// Some target needs the file.
    is_wanted: Notify,
    /// The file is being read for all targets.
    is_supplied: AtomicBool,
    /// Of the file, where it was read only to be compared.
    digest: OnceCell<Plain>,
    digests_running: AtomicUsize,
}

impl<'a> Push<'a> {
    fn new(stanza: &'a StanzaName, file: &'a WalFileName, source: WalSource, manner: &'a PushManner) -> Self {
        Push {
            stanza,
            file,
            source,
            manner,
            is_wanted: Notify::new(),
            is_supplied: AtomicBool::new(false),
            digest: OnceCell::new(),
            digests_running: AtomicUsize::new(0),
        }
    }

    /// The outer error is the source's.
    async fn to_target(&self, target: &WalTarget, mut pieces: Pieces) -> io::Result<PushResult> {
        match self.stored(target).await {
            Ok(None) => {}
            Ok(Some(stored)) => return Ok(self.judge(target, stored, self.plain(&mut pieces).await?)),
            Err(error) => return Ok(Err(error)),
        }
        self.is_wanted.notify_one();
        match outgoing::write(target, &self.name(target), &mut pieces, self.manner.stall).await {
            Ok(()) => Ok(Ok(Pushed::New)),
            // Somebody else put it there meanwhile, or our own first try did and its answer was lost.
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {
                let plain = self.plain(&mut pieces).await?;
                Ok(match self.stored(target).await {
                    Ok(Some(stored)) => self.judge(target, stored, plain),
                    Ok(None) => Err(RepositoryError::Interrupted { what: "comparing a WAL file" }),
                    Err(error) => Err(error),
                })
            }
            Err(error) => Ok(Err(error)),
        }
    }

    fn name(&self, (_, archive): &WalTarget) -> String {
        layout::wal_file(self.stanza, *archive, self.file)
    }

    /// What the target has under this name.
    async fn stored(&self, (repository, archive): &WalTarget) -> Result<Option<Plain>, RepositoryError> {
        let opened = timeout(self.manner.stall, repository.open_wal(self.stanza, *archive, self.file)).await;
        let opened = opened.unwrap_or_else(|_| Err(stalled(repository, self.manner.stall)))?;
        Ok(opened.map(|stored| Plain { size: stored.body.size, sha1: stored.body.sha1 }))
    }

    fn judge(&self, (repository, _): &WalTarget, stored: Plain, plain: Plain) -> PushResult {
        if stored == plain {
            return Ok(Pushed::Identical);
        }
        Err(RepositoryError::Duplicate { place: repository.describe(), name: self.file.to_string() })
    }

    /// What the source holds: from the reading that goes on for others anyway, else from one of its own.
    async fn plain(&self, pieces: &mut Pieces) -> io::Result<Plain> {
        if self.is_supplied.load(Ordering::Acquire)
            && let Some(plain) = pieces.end().await
        {
            return Ok(plain);
        }
        let digesting = || async {
            self.digests_running.fetch_add(1, Ordering::AcqRel);
            let source = self.source.clone();
            let digest = tokio::task::spawn_blocking(move || pipeline::digest(&source)).await;
            self.digests_running.fetch_sub(1, Ordering::AcqRel);
            digest.map_err(io::Error::other)?
        };
        self.digest.get_or_try_init(digesting).await.copied()
    }

    /// Reads the source once some target wants it, and gives every target its pieces. The error is the source's.
    async fn supply(&self, targets: &[WalTarget], senders: Vec<mpsc::Sender<Piece>>) -> io::Result<()> {
        self.is_wanted.notified().await;
        self.is_supplied.store(true, Ordering::Release);
        let mut senders: Vec<Option<mpsc::Sender<Piece>>> = senders.into_iter().map(Some).collect();
        let mut encoders = Vec::new();
        let mut headers = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            let header = target.0.encoder(Kind::Wal, &self.name(target));
            let header = header.map(|(encoder, header)| {
                encoders.push((at, encoder));
                header
            });
            headers.push((at, Piece::Part(header)));
        }
        let (sender, mut receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let (source, name, manner) = (self.source.clone(), self.file.to_string(), self.manner.clone());
        let compressing = tokio::task::spawn_blocking(move || {
            pipeline::compress(&source, name, encoders, &manner, &sender)
        });
        hand_out(&mut senders, headers).await;
        while let Some(pieces) = receiver.recv().await {
            let pieces = pieces.into_iter().map(|(at, piece)| (at, Piece::Part(piece))).collect();
            hand_out(&mut senders, pieces).await;
        }
        let plain = compressing.await.map_err(io::Error::other)??;
        let ends = (0..targets.len()).map(|at| (at, Piece::End(plain))).collect();
        hand_out(&mut senders, ends).await;
        Ok(())
    }
}

/// Gives each target its piece. One that is done gets none; one that is too far behind gets no more.
async fn hand_out(senders: &mut [Option<mpsc::Sender<Piece>>], pieces: Vec<(usize, Piece)>) {
    let sending = pieces.into_iter().filter_map(|(at, piece)| {
        let sender = senders[at].clone()?;
        Some(async move { (at, matches!(timeout(LAG_MAX, sender.send(piece)).await, Ok(Ok(())))) })
    });
    for (at, is_given) in join_all(sending).await {
        if !is_given {
            senders[at] = None;
        }
    }
}

fn stalled(repository: &Repository, stall: Duration) -> RepositoryError {
    too_slow(repository, format!("nothing came for {} s", stall.as_secs()))
}

fn too_slow(repository: &Repository, reason: String) -> RepositoryError {
    StorageError::Timeout { at: Place::new(repository.describe(), None), reason }.into()
}

#[cfg(test)]
mod tests;
