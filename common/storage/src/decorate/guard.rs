//! Lets one writer create an object in a store that would let the next one replace it: whoever creates takes the lock of the key,
//! looks, and puts what is not there.
//!
//! Invariants
//! 1. Among all who share the locks one of several creators wins, and the others learn [`StorageError::AlreadyExists`].
//! 2. A lock is held until the store has answered, also when the caller has given up: a request that is under way is nobody
//!    else's surprise. Only the end of the process lets it go earlier.
//! 3. Nobody holds two locks.
//!
//! Not here: whoever does not share the locks, such as another host. Between its look and its put anything may happen, and a look
//! back afterwards would not tell either: the last of two writers always finds its own object.
//!
//! Failure story: it belongs outside of a retry, so that all tries of one put are made under one lock. Such a put overwrites, so a try
//! whose answer was lost is repeated by the very same bytes. A put that fails in the end leaves open whether the object is
//! there, as any does; the caller's next one finds it as "already exists". A request whose process was ended may still arrive,
//! and then replace what somebody else has put meanwhile.

mod persevering;

use crate::clock::Clock;
use crate::{
    Feature, Features, ListAfter, ListDepth, ListPage, LockProof, ObjectInfo, ObjectKey, Place, PutMode,
    Space, Storage, StorageError, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use persevering::Persevering;
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// A turn, until it is dropped.
pub type KeyLock = Box<dyn Any + Send>;

/// Locks of keys. Several keys may share one, and wait for each other then.
#[async_trait]
pub trait KeyLocks: Send + Sync + fmt::Debug {
    /// Waits for its turn, for a bounded time where other processes may have it.
    async fn acquire(&self, at: &Place) -> Result<KeyLock, StorageError>;
}

/// So many locks for all keys of all stores: enough for parallel writers to meet rarely.
pub const STRIPES: usize = 64;

/// Which of them is the key's. The same in every process, whatever it was built with.
pub fn stripe(at: &Place) -> usize {
    let key = at.key.as_ref().map_or("", ObjectKey::as_str);
    // No store's description holds a zero.
    let hash = xxh3_64(format!("{}\0{key}", at.store).as_bytes());
    usize::try_from(hash % STRIPES as u64).expect("a small number fits")
}

/// Turns among the tasks of a process, in the order in which they asked.
#[derive(Debug)]
pub struct Stripes(Vec<Arc<Mutex<()>>>);

impl Default for Stripes {
    fn default() -> Stripes {
        Stripes((0..STRIPES).map(|_| Arc::default()).collect())
    }
}

/// However long others take: in one process each of them has its own limits.
#[async_trait]
impl KeyLocks for Stripes {
    async fn acquire(&self, at: &Place) -> Result<KeyLock, StorageError> {
        Ok(Box::new(Arc::clone(&self.0[stripe(at)]).lock_owned().await))
    }
}

#[derive(Debug)]
pub struct GuardStorage {
    inner: Arc<dyn Storage>,
    locks: Arc<dyn KeyLocks>,
}

impl GuardStorage {
    pub fn new(inner: Arc<dyn Storage>, locks: Arc<dyn KeyLocks>) -> GuardStorage {
        GuardStorage { inner, locks }
    }

    fn creation(&self, key: &ObjectKey) -> Creation {
        Creation { inner: self.inner.clone(), locks: self.locks.clone(), key: key.clone() }
    }
}

/// One object that is to be created.
struct Creation {
    inner: Arc<dyn Storage>,
    locks: Arc<dyn KeyLocks>,
    key: ObjectKey,
}

/// What is to be created.
enum Content {
    Whole(Bytes),
    Uploaded(Box<dyn Upload>),
}

impl Creation {
    fn at(&self) -> Place {
        Place::new(self.inner.describe(), Some(&self.key))
    }

    /// Looks and puts under the lock of the key.
    async fn decide(self, content: Content) -> Result<(), StorageError> {
        let turn = match self.turn().await {
            Ok(turn) => turn,
            Err(error) => return Err(content.given_up(error).await),
        };
        Persevering::new(async move {
            if let Err(error) = self.look().await {
                drop(turn);
                return Err(content.given_up(error).await);
            }
            let put = match content {
                Content::Whole(body) => self.inner.put(&self.key, PutMode::Overwrite, body).await,
                Content::Uploaded(upload) => upload.finish().await,
            };
            drop(turn);
            put
        })
        .await
    }

    async fn turn(&self) -> Result<KeyLock, StorageError> {
        // Whoever times this times the store.
        let _waiting = Clock::current().map(|clock| clock.waiting());
        self.locks.acquire(&self.at()).await
    }

    async fn look(&self) -> Result<(), StorageError> {
        match self.inner.stat(&self.key).await? {
            Some(_) => Err(StorageError::AlreadyExists { at: self.at() }),
            None => Ok(()),
        }
    }
}

impl Content {
    /// Leaves nothing behind, as far as possible.
    async fn given_up(self, error: StorageError) -> StorageError {
        if let Content::Uploaded(upload) = self {
            upload.abort().await;
        }
        error
    }
}

#[async_trait]
impl Storage for GuardStorage {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn features(&self) -> Features {
        self.inner.features().with(Feature::CreateOnly)
    }

    fn directory(&self) -> Option<&std::path::Path> {
        self.inner.directory()
    }

    fn unguarded(&self) -> Option<&dyn Storage> {
        Some(self.inner.as_ref())
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        if mode == PutMode::Overwrite {
            return self.inner.put(key, mode, body).await;
        }
        self.creation(key).decide(Content::Whole(body)).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.inner.begin(key, PutMode::Overwrite).await?;
        Ok(match mode {
            PutMode::Overwrite => inner,
            // No look before the end: writers that expect others have looked already, and only the last look counts.
            PutMode::Create => Box::new(GuardedUpload { inner, creation: self.creation(key) }),
        })
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.inner.get(key, size_max).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.inner.get_range(key, range).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.inner.stat(key).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.inner.list(prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        self.inner.delete_many(keys).await
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        self.inner.sweep_temporary(prefix, older_than).await
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.inner.prove_lock().await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space().await
    }
}

struct GuardedUpload {
    inner: Box<dyn Upload>,
    creation: Creation,
}

#[async_trait]
impl Upload for GuardedUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        self.inner.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        let GuardedUpload { inner, creation } = *self;
        creation.decide(Content::Uploaded(inner)).await
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}

#[cfg(test)]
mod tests;
