//! A file on its way to become an object.
//!
//! It is written in pieces over several sessions at once, each of which opens it by its temporary name, so that a long way
//! to the server costs its length and not the throughput.
//!
//! Invariants
//! 1. The final name is given after all of: every piece acknowledged, a sync through every session that wrote, the size
//!    found as written, the directories above on disk, the store's directory still there. Each is waited for: nothing rests
//!    on the order in which the server works.
//! 2. With `Create` the name is given by link(2), with `Overwrite` by rename(2). Nothing tests for a name and then renames.
//! 3. No more than [`IN_FLIGHT_BYTES_MAX`] of an upload are in memory.

use crate::failure::is_refused_with;
use crate::pool::SESSIONS_MAX;
use crate::session::{Answer, Fault, Lane, OpenFile};
use crate::tree::{FILE_MODE, Tree};
use crate::wire::{self, Attributes, Kind, Request, code, flags};
use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use pgconvoy_storage::{IoAction, ObjectKey, PutMode, StorageError, random};
use std::pin::Pin;
use std::sync::Arc;

/// Starts with a dot, so that no key can name it. The same as in local directories, so that either sweeps both.
pub(crate) const TEMPORARY_PREFIX: &str = ".pgconvoy-";
/// Bytes written and not yet acknowledged, of one upload: a worker's slot has two, within the 24 MiB that it may use for each
/// repository.
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;
/// The same of one session: what OpenSSH lets be on its way.
const STRIPE_BYTES_MAX: usize = 2 << 20;
/// Bytes after which a session syncs what it wrote, beside what goes on: a server keeps gigabytes in its memory, and one sync of them at
/// the end would take longer than a call may. Most packs and all WAL are smaller, and synced once.
const UNSYNCED_BYTES_MAX: usize = 32 << 20;
/// How often a put may lose its directory to deletes that empty it, before something else must be wrong.
const LOST_DIRECTORY_MAX: usize = 16;
/// How often an empty directory may come back in the place of an object.
const OBSTACLE_MAX: usize = 4;

/// One session's part in an upload.
struct Stripe {
    lane: Lane,
    file: OpenFile,
    outstanding: usize,
    unsynced: usize,
}

impl Stripe {
    fn new(lane: Lane, file: OpenFile) -> Stripe {
        Stripe { lane, file, outstanding: 0, unsynced: 0 }
    }
}

/// The piece that is being filled.
struct Piece {
    stripe: usize,
    request: Request,
    length: usize,
}

/// A whole upload is shared between threads while it is waited for.
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send + Sync>>;
/// Which stripe did what, to how many bytes, and how it ended.
type Done = (usize, IoAction, usize, Result<(), Fault>);

/// Removed when dropped before it is published.
pub(crate) struct Temporary {
    tree: Arc<Tree>,
    key: ObjectKey,
    path: String,
    /// The first one made the file, and takes all steps but writing; it writes only as long as it is alone.
    stripes: Vec<Stripe>,
    joining: FuturesUnordered<Pending<Result<Stripe, Fault>>>,
    /// The sessions of all stripes but the first, joined or not.
    asked: Vec<Lane>,
    /// No further session can open the file.
    is_alone: bool,
    in_flight: FuturesUnordered<Pending<Done>>,
    piece: Option<Piece>,
    length: u64,
    /// The directory, opened to be synced.
    directory: Option<Answer>,
    /// What holds the entries of new directories above, opened to be synced.
    above: Vec<(ObjectKey, Answer)>,
    is_mine: bool,
}

impl Temporary {
    pub(crate) async fn create(
        tree: &Arc<Tree>,
        key: &ObjectKey,
        mode: PutMode,
    ) -> Result<Self, StorageError> {
        let lane = tree.lane_for_steps().await?;
        let abilities = lane.abilities();
        let lacks = match mode {
            PutMode::Create if !abilities.links => {
                "hardlink@openssh.com, without which nothing decides between two writers"
            }
            PutMode::Overwrite if !abilities.renames => {
                "posix-rename@openssh.com, without which nothing can be replaced"
            }
            _ => return Self::create_on(tree, key, lane).await,
        };
        Err(StorageError::NotSupported {
            at: tree.place(Some(key)),
            reason: format!("the SFTP server does not offer {lacks}; OpenSSH does"),
        })
    }

    async fn create_on(tree: &Arc<Tree>, key: &ObjectKey, lane: Lane) -> Result<Self, StorageError> {
        let directory = key.parent();
        let name = format!("{TEMPORARY_PREFIX}{}", random::hex(|| tree.place(Some(key)))?);
        let path = tree.path_in(directory.as_ref(), &name);
        for round in 0..LOST_DIRECTORY_MAX {
            let parents = tree.ask_parents(&lane, key);
            // Where nothing was met yet, directories are likely to be missing, which is only believed of a tree that is there.
            let root = (!parents.is_empty()).then(|| tree.ask_root(&lane));
            let how = flags::WRITE | flags::CREATE | flags::EXCLUSIVE;
            let opened = lane.open(&path, how, Some(FILE_MODE)).await;
            let missing = match tree.judge_parents(parents).await {
                Ok(missing) => missing,
                Err(error) => {
                    // It was made behind a link.
                    drop(opened.map(|_| lane.send(wire::remove(&path))));
                    return Err(error);
                }
            };
            match opened {
                Ok(file) => {
                    let syncs = tree.syncs_directories();
                    let directory = syncs
                        .then(|| lane.send(wire::open(&tree.path(directory.as_ref()), flags::READ, None)));
                    let above = tree.open_above(&lane, key);
                    return Ok(Temporary {
                        tree: tree.clone(),
                        key: key.clone(),
                        path,
                        stripes: vec![Stripe::new(lane, file)],
                        joining: FuturesUnordered::new(),
                        asked: Vec::new(),
                        is_alone: false,
                        in_flight: FuturesUnordered::new(),
                        piece: None,
                        length: 0,
                        directory,
                        above,
                        is_mine: true,
                    });
                }
                Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => {
                    tree.check_still_there(root.unwrap_or_else(|| tree.ask_root(&lane))).await?;
                    // Where that was not all, something above was removed that was met before, or is no directory.
                    let missing = if round == 0 { missing } else { Vec::new() };
                    tree.make_parents(&lane, key, missing).await?;
                }
                Err(fault) => return Err(tree.write_error(&lane, key, IoAction::Open, fault).await),
            }
        }
        let reason = "its directory is removed as often as it is made".to_owned();
        Err(StorageError::Unavailable { at: tree.place(Some(key)), reason })
    }

    fn lane(&self) -> &Lane {
        &self.stripes[0].lane
    }

    async fn error(&self, action: IoAction, fault: Fault) -> StorageError {
        self.tree.write_error(self.lane(), &self.key, action, fault).await
    }

    /// Returns when the chunk is on its way, which is not yet written.
    pub(crate) async fn append(&mut self, mut chunk: &[u8]) -> Result<(), StorageError> {
        while !chunk.is_empty() {
            if self.piece.is_none() {
                self.piece = Some(self.begin_piece().await?);
            }
            let Some(piece) = &mut self.piece else { continue };
            let room = self.stripes[piece.stripe].lane.abilities().write_bytes_max - piece.length;
            let (now, later) = chunk.split_at(room.min(chunk.len()));
            piece.request.append(now);
            piece.length += now.len();
            self.length += u64::try_from(now.len()).expect("a length in memory fits 64 bits");
            if now.len() == room {
                self.send_piece();
            }
            chunk = later;
        }
        Ok(())
    }

    async fn begin_piece(&mut self) -> Result<Piece, StorageError> {
        let stripe = self.stripe_with_room().await?;
        let Stripe { lane, file, .. } = &self.stripes[stripe];
        let request = wire::write(&file.handle, self.length, lane.abilities().write_bytes_max);
        Ok(Piece { stripe, request, length: 0 })
    }

    fn send_piece(&mut self) {
        let Some(Piece { stripe, request, length }) = self.piece.take() else { return };
        let to = &mut self.stripes[stripe];
        to.outstanding += length;
        to.unsynced += length;
        let answer = to.lane.send(request);
        self.in_flight.push(Box::pin(async move { (stripe, IoAction::Write, length, answer.done().await) }));
        if to.unsynced >= UNSYNCED_BYTES_MAX && to.lane.abilities().syncs {
            to.unsynced = 0;
            let answer = to.lane.send(wire::fsync(&to.file.handle));
            self.in_flight.push(Box::pin(async move { (stripe, IoAction::Sync, 0, answer.done().await) }));
        }
    }

    async fn stripe_with_room(&mut self) -> Result<usize, StorageError> {
        loop {
            while let Some(Some(done)) = self.in_flight.next().now_or_never() {
                self.account(done).await?;
            }
            while let Some(Some(joined)) = self.joining.next().now_or_never() {
                self.join(joined);
            }
            let total: usize = self.stripes.iter().map(|stripe| stripe.outstanding).sum();
            let writers = if self.stripes.len() > 1 { 1..self.stripes.len() } else { 0..1 };
            let least = writers.min_by_key(|stripe| self.stripes[*stripe].outstanding);
            if let Some(least) = least
                && total < IN_FLIGHT_BYTES_MAX
                && self.stripes[least].outstanding < STRIPE_BYTES_MAX
            {
                return Ok(least);
            }
            if total < IN_FLIGHT_BYTES_MAX {
                self.seek_others();
            }
            self.wait().await?;
        }
    }

    /// Opens the file in all further sessions that there are, beside what goes on: one after the other would cost a journey each.
    fn seek_others(&mut self) {
        while !self.is_alone && self.asked.len() + 1 < SESSIONS_MAX {
            let used: Vec<&Lane> = self.asked.iter().chain([self.lane()]).collect();
            let Some(lane) = self.tree.pool.another(&used) else { return };
            self.asked.push(lane.clone());
            let path = self.path.clone();
            self.joining.push(Box::pin(async move {
                let file = lane.open(&path, flags::WRITE, None).await?;
                Ok(Stripe::new(lane, file))
            }));
        }
    }

    fn join(&mut self, joined: Result<Stripe, Fault>) {
        match joined {
            Ok(stripe) => self.stripes.push(stripe),
            Err(fault) => {
                tracing::debug!(?fault, "an SFTP upload goes on with the sessions it has");
                self.is_alone = true;
            }
        }
    }

    /// Until something was acknowledged or another session joined.
    async fn wait(&mut self) -> Result<(), StorageError> {
        let done = tokio::select! {
            done = self.in_flight.next() => done,
            Some(joined) = self.joining.next(), if !self.joining.is_empty() => {
                self.join(joined);
                return Ok(());
            }
        };
        match done {
            Some(done) => self.account(done).await,
            None => Ok(()),
        }
    }

    async fn account(&mut self, (stripe, action, length, result): Done) -> Result<(), StorageError> {
        self.stripes[stripe].outstanding -= length;
        match result {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.error(action, fault).await),
        }
    }

    /// Syncs, gives the final name, syncs the directory. Whatever fails, fails for good.
    pub(crate) async fn publish(mut self, mode: PutMode) -> Result<(), StorageError> {
        self.send_piece();
        self.joining.clear();
        while let Some(done) = self.in_flight.next().await {
            self.account(done).await?;
        }
        self.sync().await?;
        let named = self.give_name(mode).await;
        // An object in the way is reported as there, so it must be there to stay: its writer may not have got this far.
        if matches!(named, Ok(()) | Err(StorageError::AlreadyExists { .. })) {
            let removed = self.is_mine.then(|| self.lane().send(wire::remove(&self.path)));
            self.sync_directory().await?;
            if let Some(removed) = removed {
                // What stays of it is harmless, and left to a sweep.
                self.is_mine = removed.done().await.is_err();
            }
        }
        named
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        let above = std::mem::take(&mut self.above);
        let syncing: Vec<Answer> = if self.lane().abilities().syncs {
            self.stripes.iter().map(|stripe| stripe.lane.send(wire::fsync(&stripe.file.handle))).collect()
        } else {
            Vec::new()
        };
        let facts = self.lane().send(wire::fstat(&self.stripes[0].file.handle));
        let root = self.tree.ask_root(self.lane());
        self.tree.sync_above(self.lane(), &self.key, above).await?;
        for answer in syncing {
            if let Err(fault) = answer.done().await {
                return Err(self.error(IoAction::Sync, fault).await);
            }
        }
        let found = facts
            .attributes()
            .await
            .map_err(|fault| self.tree.error(Some(&self.key), IoAction::Sync, fault))?;
        if found.size.is_some_and(|size| size != self.length) {
            let reason = format!("{} bytes were written, and the server has {:?}", self.length, found.size);
            return Err(StorageError::Io {
                at: self.tree.place(Some(&self.key)),
                action: IoAction::Sync,
                reason,
            });
        }
        self.tree.check_still_there(root).await
    }

    async fn sync_directory(&mut self) -> Result<(), StorageError> {
        let Some(opening) = self.directory.take() else { return Ok(()) };
        let error = |fault| self.tree.error(Some(&self.key), IoAction::SyncPath, fault);
        let directory = self.lane().opened(opening).await.map_err(error)?;
        self.lane().send(wire::fsync(&directory.handle)).done().await.map_err(error)
    }

    async fn give_name(&mut self, mode: PutMode) -> Result<(), StorageError> {
        let to = self.tree.path(Some(&self.key));
        for _ in 0..OBSTACLE_MAX {
            let request = match mode {
                PutMode::Create => wire::hardlink(&self.path, &to),
                PutMode::Overwrite => wire::posix_rename(&self.path, &to),
            };
            match self.lane().send(request).done().await {
                Ok(()) => {
                    self.is_mine = mode == PutMode::Create;
                    self.tree.met().add_file(&self.key);
                    return Ok(());
                }
                Err(lost @ Fault::Lost(_)) => return Err(self.error(IoAction::Publish, lost).await),
                Err(refused) => self.judge_obstacle(mode, &to, refused).await?,
            }
        }
        let reason = "what bears its name comes and goes".to_owned();
        Err(StorageError::Obstructed { at: self.tree.place(Some(&self.key)), reason })
    }

    /// The name was refused. Fails with what bears it, unless that was an empty directory, which counts as absent.
    async fn judge_obstacle(&self, mode: PutMode, to: &str, refused: Fault) -> Result<(), StorageError> {
        let at = self.tree.place(Some(&self.key));
        match self.lane().send(wire::lstat(to)).attributes().await.map(Attributes::kind) {
            Ok(Some(Kind::Directory)) => match self.lane().send(wire::rmdir(to)).done().await {
                Ok(()) => Ok(()),
                Err(gone) if is_refused_with(&gone, code::NO_SUCH_FILE) => Ok(()),
                Err(lost @ Fault::Lost(_)) => Err(self.error(IoAction::Publish, lost).await),
                Err(_) => {
                    let reason = "it is the prefix of other keys".to_owned();
                    Err(StorageError::Obstructed { at, reason })
                }
            },
            Ok(_) if mode == PutMode::Create => Err(StorageError::AlreadyExists { at }),
            Err(lost @ Fault::Lost(_)) => Err(self.error(IoAction::Publish, lost).await),
            Err(gone)
                if is_refused_with(&gone, code::NO_SUCH_FILE)
                    && !is_refused_with(&refused, code::NO_SUCH_FILE) =>
            {
                match self.error(IoAction::Publish, refused).await {
                    // It was there, and was removed before it was looked at.
                    StorageError::Io { .. } => Ok(()),
                    error => Err(error),
                }
            }
            _ => Err(self.error(IoAction::Publish, refused).await),
        }
    }

    /// Gives up, and waits until what can be removed is.
    pub(crate) async fn abandon(mut self) {
        self.joining.clear();
        self.is_mine = false;
        // What cannot be cleaned up now is left to a sweep.
        let _ = self.lane().send(wire::remove(&self.path)).done().await;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_mine {
            return;
        }
        let lane = if self.lane().is_lost() { self.tree.pool.any() } else { Some(self.lane().clone()) };
        if let Some(lane) = lane {
            drop(lane.send(wire::remove(&self.path)));
        }
    }
}

impl std::fmt::Debug for Temporary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Temporary")
            .field("path", &self.path)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
