//! An SFTP server as a store, over one to a few SSH connections, for servers that have OpenSSH's extensions.
//!
//! A key is the path of a file below the store's directory. A put writes a file with a temporary name beside its final
//! one, syncs it, gives it its name and syncs the directory, as in a local directory; here by requests of SFTP version 3,
//! many of them on their way at once.
//!
//! Code map: [`options`](SftpOptions) say where; `trust` and `login` who is who; `connect` makes connections and sessions,
//! `session` sends requests and `wire` writes and reads them; `pool` has the sessions of a store; `tree`, `directories`,
//! `read`, `list`, `sweep` and `temporary` are what a store does; `kept` has files that stay open between reads.
//!
//! Invariants
//! 1. Nothing is sent to a server whose host key was not proved to be the one that the configuration names.
//! 2. Create-only is decided by the server's file system: `hardlink@openssh.com` is link(2). Replacing is rename(2) by
//!    `posix-rename@openssh.com`. A server without them is refused for such puts with
//!    [`StorageError::NotSupported`], before anything is written.
//! 3. A put is durable by `fsync@openssh.com`, on the file and on the directories. A server that cannot do either is used
//!    with a warning, and the store lacks [`Feature::DurablePut`].
//! 4. Nothing rests on a server working in the order of requests.
//! 5. "Does not exist" is said only while the directory is there, in the file system in which it was found first.
//! 6. No link below the directory is followed, as far as SFTP can tell: names are looked at before they are used, so who
//!    can write to the directory can win a race. (A local store cannot lose it.)
//!
//! Failure story: a connection that is lost ends the calls on it with [`StorageError::Unavailable`]; the next call
//! connects anew. What an upload left behind is named `.pgconvoy-<random>`, no listing shows it, and
//! [`Storage::sweep_temporary`] removes it by its age on the server's clock.

mod connect;
mod directories;
mod failure;
mod kept;
mod list;
mod login;
mod options;
mod pool;
mod read;
mod session;
mod sweep;
mod temporary;
mod tree;
mod trust;
mod wire;

pub use options::SftpOptions;

use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_storage::{
    Feature, Features, IoAction, LIST_PAGE_MAX, ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey,
    PutMode, Space, Storage, StorageError, Upload,
};
use read::Wanted;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use temporary::Temporary;
use tree::Tree;

#[derive(Debug, Clone)]
pub struct SftpStorage {
    tree: Arc<Tree>,
}

impl SftpStorage {
    /// Connects when it is first used, from within a runtime.
    pub fn new(options: SftpOptions) -> Self {
        SftpStorage { tree: Arc::new(Tree::new(options)) }
    }
}

#[async_trait]
impl Storage for SftpStorage {
    fn describe(&self) -> String {
        self.tree.name().to_owned()
    }

    /// Before the first call it is what OpenSSH has; then what the server was found to have.
    fn features(&self) -> Features {
        let all = Features::NONE
            .with(Feature::CreateOnly)
            .with(Feature::RangedReads)
            .with(Feature::DurablePut)
            .with(Feature::SweepsUploads)
            .with(Feature::ModifiedTime);
        let Some(facts) = self.tree.facts() else { return all };
        let all = if facts.syncs_directories { all } else { all.without(Feature::DurablePut) };
        if facts.abilities.links { all } else { all.without(Feature::CreateOnly) }
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let mut temporary = Temporary::create(&self.tree, key, mode).await?;
        temporary.append(&body).await?;
        temporary.publish(mode).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let temporary = Temporary::create(&self.tree, key, mode).await?;
        let upload =
            SftpUpload { tree: self.tree.clone(), key: key.clone(), mode, temporary: Some(temporary) };
        Ok(Box::new(upload))
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.tree.read(key, Wanted::Whole(size_max)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.tree.read(key, Wanted::Range(range)).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.tree.stat(key).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.tree.list(prefix, depth, after, limit.clamp(1, LIST_PAGE_MAX)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.tree.delete(key).await
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        self.tree.sweep(prefix, older_than).await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.tree.space().await
    }
}

/// The temporary file leaves the struct for each call and comes back only from a call that went well.
#[derive(Debug)]
struct SftpUpload {
    tree: Arc<Tree>,
    key: ObjectKey,
    mode: PutMode,
    temporary: Option<Temporary>,
}

impl SftpUpload {
    fn take(&mut self, action: IoAction) -> Result<Temporary, StorageError> {
        self.temporary.take().ok_or_else(|| StorageError::Io {
            at: self.tree.place(Some(&self.key)),
            action,
            reason: "the upload has failed or was interrupted before".to_owned(),
        })
    }
}

#[async_trait]
impl Upload for SftpUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        let mut temporary = self.take(IoAction::Write)?;
        temporary.append(&chunk).await?;
        self.temporary = Some(temporary);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        let temporary = self.take(IoAction::Publish)?;
        temporary.publish(self.mode).await
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(temporary) = self.temporary.take() {
            temporary.abandon().await;
        }
    }
}
