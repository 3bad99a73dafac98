//! The store's directory on the server: what is where, what is absent, what can be said of it.

use crate::directories::Met;
use crate::failure::{self, is_refused_with};
use crate::kept::KeptFiles;
use crate::options::SftpOptions;
use crate::pool::Pool;
use crate::session::{Abilities, Answer, Fault, Lane, Session};
use crate::wire::{self, Attributes, FileSystem, Kind, code, flags};
use pgconvoy_storage::{IoAction, ObjectInfo, ObjectKey, Place, Space, StorageError};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::OnceCell;

/// As with a local directory: others than the owner's group have no business in backups.
pub(crate) const DIRECTORY_MODE: u32 = 0o750;
pub(crate) const FILE_MODE: u32 = 0o640;

/// What the first session found out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Of the file system that the directory lies in, where the server tells it.
    file_system: Option<u64>,
    /// Whether the entry of a name in a directory can be made durable.
    pub(crate) syncs_directories: bool,
    pub(crate) abilities: Abilities,
}

pub(crate) struct Tree {
    pub(crate) pool: Arc<Pool>,
    options: Arc<SftpOptions>,
    name: Arc<str>,
    facts: OnceCell<Facts>,
    met: Mutex<Met>,
    kept: Mutex<KeptFiles>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Tree {
    pub(crate) fn new(options: SftpOptions) -> Self {
        let (name, options): (Arc<str>, _) = (options.describe().into(), Arc::new(options));
        let pool = Pool::new(options.clone(), Place::new(name.clone(), None));
        Tree { pool, options, name, facts: OnceCell::new(), met: Mutex::default(), kept: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn place(&self, key: Option<&ObjectKey>) -> Place {
        Place::new(self.name.clone(), key)
    }

    /// On the server; `None`: the store's own directory.
    pub(crate) fn path(&self, key: Option<&ObjectKey>) -> String {
        let root = &self.options.path;
        match key {
            Some(key) if root == "/" => format!("/{key}"),
            Some(key) => format!("{root}/{key}"),
            None => root.clone(),
        }
    }

    /// A name that is no key, in the directory of `key`.
    pub(crate) fn path_in(&self, directory: Option<&ObjectKey>, name: &str) -> String {
        let directory = self.path(directory);
        if directory == "/" { format!("/{name}") } else { format!("{directory}/{name}") }
    }

    pub(crate) fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, KeptFiles> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn error(&self, key: Option<&ObjectKey>, action: IoAction, fault: Fault) -> StorageError {
        failure::error(self.place(key), action, fault)
    }

    /// As [`error`](Self::error), for what writes: a bare "failure" is looked into.
    pub(crate) async fn write_error(
        &self,
        lane: &Session,
        key: &ObjectKey,
        action: IoAction,
        fault: Fault,
    ) -> StorageError {
        let error = self.error(Some(key), action, fault);
        if !matches!(error, StorageError::Io { .. }) || !lane.abilities().tells_space {
            return error;
        }
        let found = lane.send(wire::statvfs(&self.path(None))).file_system().await;
        failure::explain(error, found.ok())
    }

    /// A session to work on; the first one looks at the directory first.
    pub(crate) async fn lane(&self) -> Result<Lane, StorageError> {
        let lane = self.pool.lane().await?;
        self.facts.get_or_try_init(|| self.look(&lane)).await?;
        Ok(lane)
    }

    /// The same for the steps of an upload.
    pub(crate) async fn lane_for_steps(&self) -> Result<Lane, StorageError> {
        let lane = self.pool.lane_for_steps().await?;
        self.facts.get_or_try_init(|| self.look(&lane)).await?;
        Ok(lane)
    }

    /// `None` before the first session.
    pub(crate) fn facts(&self) -> Option<Facts> {
        self.facts.get().copied()
    }

    pub(crate) fn syncs_directories(&self) -> bool {
        self.facts().is_some_and(|facts| facts.syncs_directories)
    }

    async fn look(&self, lane: &Lane) -> Result<Facts, StorageError> {
        let path = self.path(None);
        let error = |fault| self.error(None, IoAction::Open, fault);
        let abilities = lane.abilities();
        let ask = || {
            let space = abilities.tells_space.then(|| lane.send(wire::statvfs(&path)));
            let opening = abilities.syncs.then(|| lane.send(wire::open(&path, flags::READ, None)));
            (lane.send(wire::stat(&path)), space, opening)
        };
        let (facts, mut space, mut opening) = ask();
        let found = match facts.attributes().await {
            Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) && self.options.creates_path => {
                self.make_root(lane).await?;
                let facts;
                (facts, space, opening) = ask();
                facts.attributes().await
            }
            found => found,
        };
        if found.map_err(error)?.kind().is_some_and(|kind| kind != Kind::Directory) {
            let reason = "its path leads to something that is no directory".to_owned();
            return Err(StorageError::Obstructed { at: self.place(None), reason });
        }
        let file_system = match space {
            Some(space) => space.file_system().await.ok().map(|found| found.id),
            None => None,
        };
        let syncs_directories = match opening {
            Some(opening) => self.sync_opened(lane, opening).await.is_ok(),
            None => false,
        };
        if !syncs_directories {
            let lacks = if abilities.syncs { "syncs no directories" } else { "has no fsync@openssh.com" };
            tracing::warn!(store = %self.name, "the SFTP server {lacks}: what it stored last may be lost with its power");
        }
        Ok(Facts { file_system, syncs_directories, abilities })
    }

    /// All that is missing of the directory's own path.
    async fn make_root(&self, lane: &Lane) -> Result<(), StorageError> {
        let path = self.path(None);
        let ends = path.match_indices('/').map(|(end, _)| end).skip(1).chain([path.len()]);
        let mut refused = None;
        for end in ends {
            match lane.send(wire::mkdir(&path[..end], DIRECTORY_MODE)).done().await {
                Ok(()) => {
                    let above = path[..end].rsplit_once('/').map_or("/", |(above, _)| above);
                    let above = if above.is_empty() { "/" } else { above };
                    // A directory that this user may write to but not read is rare, and not worth a refusal.
                    if let Err(fault) = self.sync_directory(lane, above).await {
                        tracing::debug!(?fault, above, "unable to sync a directory on the SFTP server");
                    }
                }
                Err(lost @ Fault::Lost(_)) => return Err(self.error(None, IoAction::CreatePath, lost)),
                // It may be there already.
                Err(fault) => refused = Some(fault),
            }
        }
        match (lane.send(wire::stat(&path)).attributes().await, refused) {
            (Err(_), Some(fault)) => Err(self.error(None, IoAction::CreatePath, fault)),
            _ => Ok(()),
        }
    }

    /// An open directory can be synced like a file, at least by OpenSSH.
    pub(crate) async fn sync_directory(&self, lane: &Lane, path: &str) -> Result<(), Fault> {
        self.sync_opened(lane, lane.send(wire::open(path, flags::READ, None))).await
    }

    async fn sync_opened(&self, lane: &Lane, opening: Answer) -> Result<(), Fault> {
        let directory = lane.opened(opening).await?;
        lane.send(wire::fsync(&directory.handle)).done().await
    }

    /// Asks whether the directory is still the one that was found first.
    pub(crate) fn ask_root(&self, lane: &Lane) -> RootAnswer {
        let path = self.path(None);
        match self.facts().and_then(|facts| facts.file_system) {
            Some(expected) => RootAnswer::FileSystem(expected, lane.send(wire::statvfs(&path))),
            None => RootAnswer::Attributes(lane.send(wire::stat(&path))),
        }
    }

    pub(crate) async fn check_still_there(&self, answer: RootAnswer) -> Result<(), StorageError> {
        let found = match answer {
            RootAnswer::FileSystem(expected, answer) => {
                answer.file_system().await.map(|found| found.id == expected)
            }
            RootAnswer::Attributes(answer) => answer.attributes().await.map(|_| true),
        };
        let reason = match found {
            Ok(true) => return Ok(()),
            Ok(false) => "its path leads to another file system than when it was opened",
            Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => "its directory is gone",
            Err(fault) => return Err(self.error(None, IoAction::Open, fault)),
        };
        Err(StorageError::Unavailable { at: self.place(None), reason: reason.to_owned() })
    }

    /// `NotFound`, if the root can vouch for it and no link is in between.
    pub(crate) async fn absent(&self, lane: &Lane, key: &ObjectKey) -> StorageError {
        let root = self.ask_root(lane);
        let parents = self.ask_parents(lane, key);
        let itself = lane.send(wire::lstat(&self.path(Some(key))));
        if let Err(error) = self.check_still_there(root).await {
            return error;
        }
        if let Err(error) = self.judge_parents(parents).await {
            return error;
        }
        match itself.attributes().await.map(Attributes::kind) {
            Ok(Some(kind @ (Kind::Link | Kind::Other))) => self.not_an_object(key, kind),
            Err(lost @ Fault::Lost(_)) => self.error(Some(key), IoAction::Open, lost),
            _ => StorageError::NotFound { at: self.place(Some(key)) },
        }
    }

    pub(crate) fn not_an_object(&self, key: &ObjectKey, kind: Kind) -> StorageError {
        let what = match kind {
            Kind::Link => "a symbolic link",
            Kind::Directory => "a directory",
            Kind::File => "a file",
            Kind::Other => "a device, a pipe or a socket",
        };
        StorageError::Obstructed { at: self.place(Some(key)), reason: format!("{what} is in its place") }
    }

    /// What the server tells of a regular file, as of an object; `None`: a directory, which is none.
    pub(crate) fn info(
        &self,
        key: &ObjectKey,
        found: Attributes,
    ) -> Result<Option<ObjectInfo>, StorageError> {
        match found.kind() {
            Some(Kind::File) | None => {}
            Some(Kind::Directory) => return Ok(None),
            Some(kind) => return Err(self.not_an_object(key, kind)),
        }
        let Some(size) = found.size else {
            let reason = "the server does not tell the sizes of files".to_owned();
            return Err(StorageError::NotSupported { at: self.place(Some(key)), reason });
        };
        Ok(Some(ObjectInfo { key: key.clone(), size, modified: found.modified.map(time), etag: None }))
    }

    pub(crate) async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let lane = self.lane().await?;
        let parents = self.ask_parents(&lane, key);
        let answer = lane.send(wire::lstat(&self.path(Some(key))));
        self.judge_parents(parents).await?;
        let found = match answer.attributes().await {
            Ok(found) => self.info(key, found)?,
            Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => None,
            Err(fault) => return Err(self.error(Some(key), IoAction::Open, fault)),
        };
        match found {
            Some(_) => self.met().add_file(key),
            None => self.check_still_there(self.ask_root(&lane)).await?,
        }
        Ok(found)
    }

    pub(crate) async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let lane = self.lane().await?;
        self.judge_parents(self.ask_parents(&lane, key)).await?;
        let path = self.path(Some(key));
        self.met().forget_file(key);
        self.kept().forget(key);
        let holder = self.path(key.parent().as_ref());
        let opening = self.syncs_directories().then(|| lane.send(wire::open(&holder, flags::READ, None)));
        match lane.send(wire::remove(&path)).done().await {
            Ok(()) => {}
            Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => {
                return self.check_still_there(self.ask_root(&lane)).await;
            }
            Err(fault) => match lane.send(wire::lstat(&path)).attributes().await.map(Attributes::kind) {
                // Not an object, or gone meanwhile.
                Ok(Some(Kind::Directory)) => return self.check_still_there(self.ask_root(&lane)).await,
                Err(gone) if is_refused_with(&gone, code::NO_SUCH_FILE) => {}
                _ => return Err(self.write_error(&lane, key, IoAction::Remove, fault).await),
            },
        }
        let syncing = async {
            match opening {
                Some(opening) => self.sync_opened(&lane, opening).await,
                None => Ok(()),
            }
        };
        match tokio::join!(syncing, self.prune_above(&lane, key)).0 {
            // Removed by somebody else, with all that was in it.
            Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => Ok(()),
            synced => synced.map_err(|fault| self.error(Some(key), IoAction::SyncPath, fault)),
        }
    }

    /// Removes the directories above `key` that are empty now. A courtesy: whatever fails ends it, and where a server works in another
    /// order an empty one stays.
    async fn prune_above(&self, lane: &Lane, key: &ObjectKey) {
        let above: Vec<ObjectKey> = std::iter::successors(key.parent(), ObjectKey::parent).collect();
        let asked: Vec<Answer> =
            above.iter().map(|directory| lane.send(wire::rmdir(&self.path(Some(directory))))).collect();
        for (directory, answer) in above.iter().zip(asked) {
            if answer.done().await.is_ok() {
                self.met().forget_directory(directory);
            }
        }
    }

    pub(crate) async fn space(&self) -> Result<Option<Space>, StorageError> {
        let lane = self.lane().await?;
        if !lane.abilities().tells_space {
            return Ok(None);
        }
        let found = lane.send(wire::statvfs(&self.path(None))).file_system().await;
        let FileSystem { block_bytes, blocks, blocks_available, .. } =
            found.map_err(|fault| self.error(None, IoAction::Open, fault))?;
        let bytes = |blocks: u64| blocks.saturating_mul(block_bytes);
        Ok(Some(Space { free: bytes(blocks_available), total: bytes(blocks) }))
    }
}

/// What will tell whether the directory is still there.
pub(crate) enum RootAnswer {
    FileSystem(u64, Answer),
    Attributes(Answer),
}

pub(crate) fn time(seconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into())
}
