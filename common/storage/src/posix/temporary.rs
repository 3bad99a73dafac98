//! A file on its way to become an object, and the sweeping of those that never arrived.

use super::copy::is_incapable;
use super::list::{Entry, entries};
use super::root::{Root, modified, open_directory};
use crate::{IoAction, ObjectKey, PutMode, StorageError, not_an_origin, random};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Starts with a dot, so that no key can name it.
pub(super) const TEMPORARY_PREFIX: &str = ".pgconvoy-";
/// How often a put may lose its directory to deletes that empty it, before something else must be wrong.
const LOST_DIRECTORY_MAX: usize = 16;
/// How often an empty directory may come back in the place of an object.
const OBSTACLE_MAX: usize = 4;

/// Bytes after which a file that goes on is synced: the system keeps gigabytes in its memory, and one sync of them at the end would take
/// longer than a call may. Most packs and all WAL are smaller, and synced once.
const UNSYNCED_BYTES_MAX: usize = 64 << 20;

/// As for directories: nothing for others.
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// Unlinked when dropped before it is published.
#[derive(Debug)]
pub(super) struct Temporary {
    root: Arc<Root>,
    key: ObjectKey,
    directory: OwnedFd,
    name: String,
    file: File,
    unsynced: usize,
    is_mine: bool,
}

impl Temporary {
    pub(super) fn create(root: &Arc<Root>, key: &ObjectKey) -> Result<Self, StorageError> {
        for _ in 0..LOST_DIRECTORY_MAX {
            match Self::try_create(root, key) {
                Err(StorageError::NotFound { .. }) => {}
                decided => return decided,
            }
        }
        let reason = "its directory is removed as often as it is made".to_owned();
        Err(StorageError::Unavailable { at: root.place(Some(key)), reason })
    }

    fn try_create(root: &Arc<Root>, key: &ObjectKey) -> Result<Self, StorageError> {
        let directory = root.make_parent_of(key)?;
        let name = format!("{TEMPORARY_PREFIX}{}", random::hex(|| root.place(Some(key)))?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&directory, name.as_str(), flags, FILE_MODE)
            .map_err(|errno| root.path_error(key, IoAction::Open, errno))?;
        let (root, key) = (Arc::clone(root), key.clone());
        Ok(Temporary { root, key, directory, name, file: file.into(), unsynced: 0, is_mine: true })
    }

    fn error(&self, action: IoAction, errno: Errno) -> StorageError {
        self.root.error(Some(&self.key), action, errno)
    }

    pub(super) fn append(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        self.file.write_all(chunk).map_err(|error| {
            self.error(IoAction::Write, Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        self.unsynced += chunk.len();
        if self.unsynced >= UNSYNCED_BYTES_MAX {
            self.unsynced = 0;
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        fs::fdatasync(&self.file).map_err(|errno| self.error(IoAction::Sync, errno))
    }

    /// The first bytes of another file, copied by the filesystem; how many there were.
    pub(super) fn append_file(&mut self, from: &OwnedFd, size: u64) -> Result<u64, StorageError> {
        let mut copied = 0;
        while copied < size {
            let wanted = usize::try_from(size - copied).unwrap_or(usize::MAX);
            match fs::copy_file_range(from, None, &self.file, None, wanted) {
                Ok(0) => break,
                Ok(count) => copied += u64::try_from(count).expect("a copy is no longer than a file"),
                Err(Errno::INTR) => {}
                Err(errno) if is_incapable(errno) => {
                    return Err(not_an_origin(self.root.place(Some(&self.key))));
                }
                Err(errno) => return Err(self.error(IoAction::Write, errno)),
            }
        }
        Ok(copied)
    }

    /// Syncs, gives the final name, syncs the directory. Whatever fails, fails for good.
    pub(super) fn publish(mut self, mode: PutMode) -> Result<(), StorageError> {
        self.sync()?;
        self.root.check_still_there()?;
        let named = self.give_name(mode);
        // An object in the way is reported as there, so it must be there to stay: its writer may not have got this far.
        if matches!(named, Ok(()) | Err(StorageError::AlreadyExists { .. })) {
            fs::fsync(&self.directory).map_err(|errno| self.error(IoAction::SyncPath, errno))?;
        }
        named
    }

    fn give_name(&mut self, mode: PutMode) -> Result<(), StorageError> {
        for _ in 0..OBSTACLE_MAX {
            let named = match mode {
                PutMode::Overwrite => {
                    fs::renameat(&self.directory, self.name.as_str(), &self.directory, self.key.name())
                        .inspect(|()| self.is_mine = false)
                }
                PutMode::Create => self.create_name(),
            };
            match named {
                Ok(()) => return Ok(()),
                Err(errno @ (Errno::EXIST | Errno::ISDIR)) => self.judge_obstacle(errno)?,
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) if mode == PutMode::Create => {
                    let reason =
                        "its filesystem has neither a rename that never replaces nor links".to_owned();
                    return Err(StorageError::NotSupported { at: self.root.place(Some(&self.key)), reason });
                }
                Err(errno) => return Err(self.error(IoAction::Publish, errno)),
            }
        }
        let reason = "a directory keeps appearing in its place".to_owned();
        Err(StorageError::Obstructed { at: self.root.place(Some(&self.key)), reason })
    }

    /// Something bears the final name. Fails with what it is, unless it was an empty directory, which counts as absent.
    fn judge_obstacle(&self, errno: Errno) -> Result<(), StorageError> {
        match fs::unlinkat(&self.directory, self.key.name(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY) => {
                let reason = "it is the prefix of other keys".to_owned();
                Err(StorageError::Obstructed { at: self.root.place(Some(&self.key)), reason })
            }
            Err(_) => Err(self.error(IoAction::Publish, errno)),
        }
    }

    fn create_name(&mut self) -> Result<(), Errno> {
        if self.root.has_rename_noreplace.load(Ordering::Relaxed) {
            let (old, new) = (self.name.as_str(), self.key.name());
            match fs::renameat_with(&self.directory, old, &self.directory, new, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.is_mine = false;
                    return Ok(());
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    self.root.has_rename_noreplace.store(false, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno),
            }
        }
        self.link_name()
    }

    /// The temporary name goes when `self` is dropped; a file with both names is whole under either.
    fn link_name(&self) -> Result<(), Errno> {
        let (old, new) = (self.name.as_str(), self.key.name());
        match fs::linkat(&self.directory, old, &self.directory, new, AtFlags::empty()) {
            // NFS may send the request twice and answer for the second.
            Err(Errno::EXIST) if self.bears_final_name() => Ok(()),
            answer => answer,
        }
    }

    fn bears_final_name(&self) -> bool {
        let of_name = fs::statat(&self.directory, self.key.name(), AtFlags::SYMLINK_NOFOLLOW);
        let of_file = fs::fstat(&self.file);
        matches!((of_name, of_file), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_mine {
            // What cannot be unlinked is harmless, and left to a sweep.
            let _ = fs::unlinkat(&self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Removes temporary files under `prefix` last written before `limit`, and directories that hold nothing.
pub(super) fn sweep(root: &Root, prefix: Option<&ObjectKey>, limit: SystemTime) -> Result<u64, StorageError> {
    let found = root.find_directory(prefix).map_err(|errno| root.error(prefix, IoAction::List, errno))?;
    match found {
        Some(directory) => sweep_directory(root, directory.as_fd(), prefix, limit),
        None => root.check_still_there().map(|()| 0),
    }
}

fn sweep_directory(
    root: &Root,
    directory: BorrowedFd<'_>,
    key: Option<&ObjectKey>,
    limit: SystemTime,
) -> Result<u64, StorageError> {
    let mut removed = 0;
    for Entry { name, kind } in entries(root, directory, key)? {
        let child = match key {
            Some(key) => key.join(&name),
            None => name.parse(),
        };
        let error = |errno| root.error(child.as_ref().ok().or(key), IoAction::Remove, errno);
        match (&child, kind) {
            (Ok(child), FileType::Directory) => {
                if let Some(below) = open_directory(directory, &name).map_err(error)? {
                    removed += sweep_directory(root, below.as_fd(), Some(child), limit)?;
                    // Succeeds only if it is empty.
                    let _ = fs::unlinkat(directory, name.as_str(), AtFlags::REMOVEDIR);
                }
            }
            (_, FileType::RegularFile) if name.starts_with(TEMPORARY_PREFIX) => {
                removed += sweep_file(directory, &name, limit).map_err(error)?;
            }
            _ => {}
        }
    }
    Ok(removed)
}

fn sweep_file(directory: BorrowedFd<'_>, name: &str, limit: SystemTime) -> Result<u64, Errno> {
    let removed = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).and_then(|stat| {
        if modified(&stat).is_some_and(|modified| modified <= limit) {
            fs::unlinkat(directory, name, AtFlags::empty()).map(|()| 1)
        } else {
            Ok(0)
        }
    });
    match removed {
        Err(Errno::NOENT) => Ok(0),
        other => other,
    }
}
