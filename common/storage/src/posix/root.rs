//! The root directory and the paths below it: resolving, reading, deleting.

use crate::{IoAction, ObjectInfo, ObjectKey, Place, Space, StorageError};
use bytes::Bytes;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

/// Others than the owner's group have no business in backups.
pub(super) const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);

/// Every directory is opened so: for reading (a sync needs it) and never through a link.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A FIFO in an object's place must not make the open wait for a writer.
const OBJECT: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Room for a few names; whether there is any is all that is asked.
const PEEK_BUFFER_BYTES: usize = 1024;

pub(super) struct Root {
    path: PathBuf,
    name: Arc<str>,
    fd: OwnedFd,
    /// Device and inode of `fd`.
    identity: (u64, u64),
    /// Cleared when the filesystem turns out to lack `renameat2(RENAME_NOREPLACE)`.
    pub(super) has_rename_noreplace: AtomicBool,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        let name: Arc<str> = format!("posix:{}", path.display()).into();
        let error = |errno| StorageError::from_errno(Place::new(name.clone(), None), IoAction::Open, errno);
        let path =
            std::path::absolute(path).map_err(|e| error(Errno::from_io_error(&e).unwrap_or(Errno::INVAL)))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(CWD, &path, flags, Mode::empty()).map_err(error)?;
        let identity = identity(&fs::fstat(&fd).map_err(error)?);
        Ok(Root { path, fd, identity, has_rename_noreplace: AtomicBool::new(true), name: name.clone() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn place(&self, key: Option<&ObjectKey>) -> Place {
        Place::new(Arc::clone(&self.name), key)
    }

    pub(super) fn error(&self, key: Option<&ObjectKey>, action: IoAction, errno: Errno) -> StorageError {
        StorageError::from_errno(self.place(key), action, errno)
    }

    /// Fails unless the root's path still leads to the directory that was opened.
    pub(super) fn check_still_there(&self) -> Result<(), StorageError> {
        let reason = match fs::stat(&self.path) {
            Ok(stat) if identity(&stat) == self.identity => return Ok(()),
            Ok(_) => "its path leads to another directory than when it was opened",
            Err(Errno::NOENT | Errno::NOTDIR) => "its directory is gone",
            Err(errno) => return Err(self.error(None, IoAction::Open, errno)),
        };
        Err(StorageError::Unavailable { at: self.place(None), reason: reason.to_owned() })
    }

    /// In one filesystem.
    pub(super) fn is_beside(&self, other: &Root) -> bool {
        self.identity.0 == other.identity.0
    }

    /// Of the filesystem; what it keeps back for root is not free.
    pub(super) fn space(&self) -> Result<Space, StorageError> {
        let found = fs::fstatvfs(&self.fd).map_err(|errno| self.error(None, IoAction::Open, errno))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    /// `NotFound`, if the root can vouch for it.
    fn absent(&self, key: &ObjectKey) -> StorageError {
        match self.check_still_there() {
            Ok(()) => StorageError::NotFound { at: self.place(Some(key)) },
            Err(error) => error,
        }
    }

    fn top(&self) -> Result<OwnedFd, Errno> {
        fs::openat(&self.fd, ".", DIRECTORY, Mode::empty())
    }

    /// The directory that `key` (`None`: the root) names; `None` if there is none.
    pub(super) fn find_directory(&self, key: Option<&ObjectKey>) -> Result<Option<OwnedFd>, Errno> {
        let mut directory = self.top()?;
        for part in key.into_iter().flat_map(ObjectKey::parts) {
            match open_directory(directory.as_fd(), part)? {
                Some(next) => directory = next,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// The directory that `key` is to lie in, made durable on the way (invariant 3 of the module above).
    ///
    /// `NotFound` says that a directory was removed meanwhile.
    pub(super) fn make_parent_of(&self, key: &ObjectKey) -> Result<OwnedFd, StorageError> {
        let parent = key.parent();
        let error = |errno| self.path_error(key, IoAction::CreatePath, errno);
        let mut directory = self.top().map_err(error)?;
        for part in parent.iter().flat_map(ObjectKey::parts) {
            let next = enter_or_make(directory.as_fd(), part).map_err(error)?;
            if is_empty(next.as_fd()).map_err(error)?
                && let Err(errno) = fs::fsync(&directory)
            {
                // Whoever comes next must not find it and think that it is there to stay.
                let _ = fs::unlinkat(&directory, part, AtFlags::REMOVEDIR);
                return Err(self.error(Some(key), IoAction::SyncPath, errno));
            }
            directory = next;
        }
        Ok(directory)
    }

    /// As [`error`](Self::error), for steps where a missing directory means that somebody removed it.
    pub(super) fn path_error(&self, key: &ObjectKey, action: IoAction, errno: Errno) -> StorageError {
        if errno == Errno::NOENT { self.absent(key) } else { self.error(Some(key), action, errno) }
    }

    /// An object's file and size. A directory in its place is a prefix, which is no object.
    pub(super) fn open_object(&self, key: &ObjectKey) -> Result<(OwnedFd, u64), StorageError> {
        let error = |errno| self.error(Some(key), IoAction::Open, errno);
        let Some(directory) = self.find_directory(key.parent().as_ref()).map_err(error)? else {
            return Err(self.absent(key));
        };
        let file = match fs::openat(&directory, key.name(), OBJECT, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(self.absent(key)),
            Err(errno) => return Err(error(errno)),
        };
        let info = self.info(key, &fs::fstat(&file).map_err(error)?)?;
        Ok((file, info.size))
    }

    pub(super) fn stat_object(&self, key: &ObjectKey) -> Result<ObjectInfo, StorageError> {
        let error = |errno| self.error(Some(key), IoAction::Open, errno);
        let Some(directory) = self.find_directory(key.parent().as_ref()).map_err(error)? else {
            return Err(self.absent(key));
        };
        match fs::statat(&directory, key.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(ObjectInfo { etag: Some(etag(&stat).into()), ..self.info(key, &stat)? }),
            Err(Errno::NOENT) => Err(self.absent(key)),
            Err(errno) => Err(error(errno)),
        }
    }

    /// What the system tells of a regular file, as of an object.
    pub(super) fn info(&self, key: &ObjectKey, stat: &Stat) -> Result<ObjectInfo, StorageError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(self.absent(key)),
            other => return Err(self.not_an_object(key, other)),
        }
        let size = u64::try_from(stat.st_size).expect("the size of a regular file is not negative");
        Ok(ObjectInfo { key: key.clone(), size, modified: modified(stat), etag: None })
    }

    pub(super) fn not_an_object(&self, key: &ObjectKey, kind: FileType) -> StorageError {
        let what = match kind {
            FileType::Symlink => "a symbolic link",
            FileType::Fifo => "a named pipe",
            FileType::Socket => "a socket",
            _ => "a device or something unknown",
        };
        StorageError::Obstructed { at: self.place(Some(key)), reason: format!("{what} is in its place") }
    }

    /// Reads a range that the object is known to hold, into memory that is not cleared first.
    pub(super) fn read(
        &self,
        key: &ObjectKey,
        file: &OwnedFd,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let size = range.end.saturating_sub(range.start);
        let Ok(length) = usize::try_from(size) else {
            return Err(StorageError::TooLarge { at: self.place(Some(key)), size, size_max: u64::MAX >> 1 });
        };
        let mut body = Vec::with_capacity(length);
        let mut offset = range.start;
        while body.len() < length {
            match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut body), offset) {
                Ok(0) => {
                    let at = self.place(Some(key));
                    return Err(StorageError::Truncated { at, size: offset, wanted: range.end });
                }
                Ok(count) => offset += u64::try_from(count).expect("a read is no longer than a file"),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error(Some(key), IoAction::Read, errno)),
            }
        }
        // The allocator may have given more room than asked for, and the read have used it.
        body.truncate(length);
        Ok(body.into())
    }

    /// Durable, because what is deleted later must not go first: entries before manifests before packs.
    pub(super) fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let error = |errno| self.error(Some(key), IoAction::Remove, errno);
        let Some(directory) = self.find_directory(key.parent().as_ref()).map_err(error)? else {
            return self.check_still_there();
        };
        match fs::unlinkat(&directory, key.name(), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::ISDIR) => return self.check_still_there(),
            Err(errno) => return Err(error(errno)),
        }
        fs::fsync(&directory).map_err(|errno| self.error(Some(key), IoAction::SyncPath, errno))?;
        self.prune_above(key);
        Ok(())
    }

    /// Removes the directories above `key` that are empty now. A courtesy: whatever fails ends it.
    fn prune_above(&self, key: &ObjectKey) {
        let mut empty = key.parent();
        while let Some(directory) = empty {
            let above = directory.parent();
            let Ok(Some(holder)) = self.find_directory(above.as_ref()) else { return };
            if fs::unlinkat(&holder, directory.name(), AtFlags::REMOVEDIR).is_err() {
                return;
            }
            empty = above;
        }
    }
}

/// Opens a directory within another; `None` if it is not there, or is a file and so the prefix of nothing.
pub(super) fn open_directory(directory: BorrowedFd<'_>, name: &str) -> Result<Option<OwnedFd>, Errno> {
    match fs::openat(directory, name, DIRECTORY, Mode::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR) => match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(None),
            Err(Errno::NOENT) => Ok(None),
            Ok(_) => Err(Errno::LOOP),
            Err(errno) => Err(errno),
        },
        Err(errno) => Err(errno),
    }
}

fn enter_or_make(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let enter = || fs::openat(directory, name, DIRECTORY, Mode::empty());
    match enter() {
        Err(Errno::NOENT) => match fs::mkdirat(directory, name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => enter(),
            Err(errno) => Err(errno),
        },
        other => other,
    }
}

fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buffer = [MaybeUninit::uninit(); PEEK_BUFFER_BYTES];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Other bytes are another file, or make its times others.
pub(super) fn etag(stat: &Stat) -> String {
    let Stat { st_dev, st_ino, st_size, st_mtime, st_mtime_nsec, st_ctime, st_ctime_nsec, .. } = stat;
    format!("{st_dev:x}-{st_ino:x}-{st_size:x}-{st_mtime:x}.{st_mtime_nsec:x}-{st_ctime:x}.{st_ctime_nsec:x}")
}

pub(super) fn modified(stat: &Stat) -> Option<SystemTime> {
    let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).ok()?);
    let nanoseconds = Duration::from_nanos(stat.st_mtime_nsec);
    SystemTime::UNIX_EPOCH.checked_add(seconds)?.checked_add(nanoseconds)
}

/// Creates a directory and all above it that are missing; each is on disk before the next is made in it.
pub(super) fn create_directories(path: &Path) -> Result<(), StorageError> {
    let place = || Place::new(format!("posix:{}", path.display()), None);
    let error = |action, errno| StorageError::from_errno(place(), action, errno);
    let path = std::path::absolute(path)
        .map_err(|e| error(IoAction::CreatePath, Errno::from_io_error(&e).unwrap_or(Errno::INVAL)))?;
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    for pair in ancestors.windows(2) {
        let is_new = match fs::mkdirat(CWD, pair[1], DIRECTORY_MODE) {
            Ok(()) => true,
            // Perhaps its maker died before it was on disk. One that holds something is, or is not ours.
            Err(_) if pair[1].is_dir() => {
                std::fs::read_dir(pair[1]).is_ok_and(|mut names| names.next().is_none())
            }
            Err(errno) => return Err(error(IoAction::CreatePath, errno)),
        };
        if is_new {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above = fs::openat(CWD, pair[0], flags, Mode::empty());
            above.and_then(fs::fsync).map_err(|errno| error(IoAction::SyncPath, errno))?;
        }
    }
    Ok(())
}
