//! A directory of this host, or one mounted on it, as a store. Linux only.
//!
//! A key is the path of a file below the root. A put writes a file with a temporary name beside its final one, syncs
//! it, gives it its name and syncs the directory. Files have mode 0640 and directories 0750, less what the umask takes.
//!
//! Invariants
//! 1. Nothing outside the root is reached. Keys have no `..`, each part is opened relative to the one above it, and no
//!    symbolic link below the root is followed, wherever it points: a link is an error, never an absence. The root
//!    itself may be a link, and other filesystems may be mounted below it.
//! 2. Create-only is decided by the filesystem: `renameat2(RENAME_NOREPLACE)`, or `link` where that is missing. No code
//!    tests for a name and then renames onto it.
//! 3. Nothing is created in a directory before that directory's own entry is on disk. Therefore a directory that holds
//!    anything is durable, an empty one has its parent synced first, and nobody needs to remember which is which.
//! 4. A failed sync ends the put: the same descriptor is never synced again.
//! 5. "Does not exist" is said only while the root's path still leads to the directory that was opened, so that a lost
//!    mount is no empty store.
//! 6. Empty directories count as absent; `delete` removes those it empties. A put that loses its directory to that
//!    begins anew.
//!
//! Which filesystems: local ones (ext4, xfs, btrfs, zfs) and tmpfs have the rename. NFS has `link`, where an answer that
//! was lost is recognised by the inode. CIFS and FUSE are as good as their `link`; one with neither is refused for
//! `Create` with [`StorageError::NotSupported`], and [`prove_create_only`](crate::prove_create_only) tells in time.
//!
//! Copies: between directories of one filesystem its own `copy_file_range`, where XFS and btrfs share blocks and a server of NFS copies by
//! itself. Shared blocks are one place on the disk: damage there is in both.
//!
//! Failure story: a process that dies leaves a file named `.pgconvoy-<random>`, which no listing shows and
//! [`Storage::sweep_temporary`] removes by its age, and perhaps empty directories. If the directory's sync fails, the
//! object is visible and the put still an error: nobody may rely on it.

mod copy;
mod list;
mod root;
mod temporary;

#[cfg(test)]
mod tests;

use crate::{
    Feature, Features, IoAction, LIST_PAGE_MAX, ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey,
    Origin, PutMode, Space, Storage, StorageError, Upload, not_an_origin,
};
use async_trait::async_trait;
use bytes::Bytes;
use root::Root;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use temporary::Temporary;

#[derive(Debug, Clone)]
pub struct PosixStorage {
    root: Arc<Root>,
}

impl PosixStorage {
    /// Opens an existing directory. It blocks for a few system calls.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Ok(PosixStorage { root: Arc::new(Root::open(path)?) })
    }

    /// Creates the directory and those above it as far as they are missing, durably, and opens it.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        root::create_directories(path)?;
        Self::open(path)
    }

    /// Runs what blocks where blocking is allowed. Dropping the future lets the work run to its end.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Root>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let root = Arc::clone(&self.root);
        match tokio::task::spawn_blocking(move || work(&root)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {
                let reason = "the process is shutting down".to_owned();
                Err(StorageError::Unavailable { at: self.root.place(None), reason })
            }
        }
    }
}

#[async_trait]
impl Storage for PosixStorage {
    fn describe(&self) -> String {
        self.root.name().to_owned()
    }

    fn features(&self) -> Features {
        Features::NONE
            .with(Feature::CreateOnly)
            .with(Feature::RangedReads)
            .with(Feature::DurablePut)
            .with(Feature::SweepsUploads)
            .with(Feature::ModifiedTime)
            .with(Feature::PlainFiles)
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.root.path())
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let key = key.clone();
        self.blocking(move |root| {
            let mut temporary = Temporary::create(root, &key)?;
            temporary.append(&body)?;
            temporary.publish(mode)
        })
        .await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let wanted = key.clone();
        let temporary = self.blocking(move |root| Temporary::create(root, &wanted)).await?;
        let upload =
            PosixUpload { storage: self.clone(), key: key.clone(), mode, temporary: Some(temporary) };
        Ok(Box::new(upload))
    }

    fn origin(&self) -> Option<&Origin> {
        Some(self)
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        let origin = origin.downcast_ref::<PosixStorage>()?;
        self.root.is_beside(&origin.root).then_some(u64::MAX)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        let Some(origin) = origin.downcast_ref::<PosixStorage>() else {
            return Err(not_an_origin(self.root.place(Some(key))));
        };
        let (source, object, key) = (Arc::clone(&origin.root), object.clone(), key.clone());
        self.blocking(move |root| copy::copy(root, &source, &object, &key)).await
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        let key = key.clone();
        self.blocking(move |root| {
            let (file, size) = root.open_object(&key)?;
            if size > size_max {
                return Err(StorageError::TooLarge { at: root.place(Some(&key)), size, size_max });
            }
            root.read(&key, &file, 0..size)
        })
        .await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        let key = key.clone();
        self.blocking(move |root| {
            let (file, size) = root.open_object(&key)?;
            let wanted = range.end.max(range.start);
            if wanted > size {
                return Err(StorageError::Truncated { at: root.place(Some(&key)), size, wanted });
            }
            root.read(&key, &file, range)
        })
        .await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let key = key.clone();
        self.blocking(move |root| match root.stat_object(&key) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let (prefix, after) = (prefix.cloned(), after.cloned());
        let limit = limit.clamp(1, LIST_PAGE_MAX);
        self.blocking(move |root| list::page(root, prefix.as_ref(), depth, after.as_ref(), limit)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let key = key.clone();
        self.blocking(move |root| root.delete(&key)).await
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        let prefix = prefix.cloned();
        // A span longer than the clock's whole past leaves everything in place.
        let limit = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        self.blocking(move |root| temporary::sweep(root, prefix.as_ref(), limit)).await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.blocking(|root| root.space().map(Some)).await
    }
}

/// The temporary file leaves the struct for each call and comes back only from a call that went well.
#[derive(Debug)]
struct PosixUpload {
    storage: PosixStorage,
    key: ObjectKey,
    mode: PutMode,
    temporary: Option<Temporary>,
}

impl PosixUpload {
    fn take(&mut self, action: IoAction) -> Result<Temporary, StorageError> {
        self.temporary.take().ok_or_else(|| StorageError::Io {
            at: self.storage.root.place(Some(&self.key)),
            action,
            reason: "the upload has failed or was interrupted before".to_owned(),
        })
    }
}

#[async_trait]
impl Upload for PosixUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        let mut temporary = self.take(IoAction::Write)?;
        let written = self.storage.blocking(move |_| temporary.append(&chunk).map(|()| temporary)).await?;
        self.temporary = Some(written);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        let temporary = self.take(IoAction::Publish)?;
        let mode = self.mode;
        self.storage.blocking(move |_| temporary.publish(mode)).await
    }

    async fn abort(mut self: Box<Self>) {
        let temporary = self.temporary.take();
        // What cannot be cleaned up now is left to a sweep.
        let _ = self
            .storage
            .blocking(move |_| {
                drop(temporary);
                Ok(())
            })
            .await;
    }
}
