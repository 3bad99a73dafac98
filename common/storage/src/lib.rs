//! Bytes by key: one contract, a reference in memory, POSIX directories, and decorators around any of them.
//!
//! It is a place for whole objects under `/`-separated keys, as object stores have it: put, get, range, stat, list,
//! delete. It is not a filesystem (no rename, append, modes or links), and it knows nothing of what it stores.
//!
//! Code map: [`key`] names objects, [`error`] says what went wrong and whether to try again, [`feature`] how stores
//! differ; [`memory`] and [`posix`] are backends; [`decorate`] holds retry, fault and metrics; [`listing`] walks pages, [`lock`] is what
//! keeps objects from being removed, [`proof`] tests a store's word; [`parts`], [`pace`], [`renewed`] and `http` are what back ends over a network share; [`versions`] and [`as_of`]
//! look into the past; `conformance` is the suite that every backend passes.
//!
//! Invariants
//! 1. An object is there as a whole or not at all: nothing is visible under a key before its put has all bytes.
//! 2. A put with [`PutMode::Create`] never replaces: of any number of writers one wins, the others learn
//!    [`StorageError::AlreadyExists`], and what they learn of is as durable as their own put would have been.
//! 3. A put that answered "done" survives a loss of power, as far as the store has [`Feature::DurablePut`].
//! 4. What cannot be read is an error, never an absence: not in `get`, not in `stat`, not in `list`.
//! 5. A read allocates what the object holds and the caller allowed, whatever the store claims.
//! 6. A copy that the store makes by itself is create-only like a put, of the very object that was looked at, and kept as the target's
//!    configuration says: where a store's copy cannot be all of that, it has none.
//! 7. A key is never also the prefix of another key. Object stores would take both, directories cannot; the backends
//!    that notice answer [`StorageError::Obstructed`].
//!
//! Failure story: an error of `put` or `finish` whose [`retry`](pgconvoy_core::failure::Classify::retry) is `MayHelp`
//! leaves open whether the object is there ("the answer was lost"); so does dropping such a future. Trying again is
//! safe: the same bytes under [`PutMode::Overwrite`], or under `Create` with a comparison when the store then says
//! `AlreadyExists`, which [`decorate::retry`] does for puts. A process that dies leaves complete objects and perhaps
//! unlisted leftovers, which [`Storage::sweep_temporary`] removes.

pub mod as_of;
pub mod bandwidth;
pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod decorate;
pub mod error;
pub mod feature;
#[cfg(feature = "http")]
pub mod http;
pub mod key;
pub mod listing;
pub mod lock;
pub mod memory;
pub mod pace;
pub mod parts;
pub mod posix;
pub mod proof;
pub mod random;
pub mod renewed;
#[cfg(any(test, feature = "conformance"))]
pub mod scripted;
pub mod versions;

pub use as_of::AsOf;
pub use error::{IoAction, Place, Shortage, StorageError};
pub use feature::{Feature, Features};
pub use key::{KeyError, ObjectKey};
pub use listing::{LIST_PAGE_MAX, ListAfter, Listing, list_all, list_children};
pub use lock::{Lock, LockMode, LockProof};
pub use memory::MemoryStorage;
pub use posix::PosixStorage;
pub use proof::{CreateOnly, prove_create_only};

use async_trait::async_trait;
use bytes::Bytes;
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What a put does with a key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Fails with [`StorageError::AlreadyExists`]; whoever creates first wins.
    Create,
    /// Replaces it as a whole; a reader sees the old or the new object, never a mixture.
    Overwrite,
}

/// What a store tells of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: ObjectKey,
    pub size: u64,
    /// By the store's clock; `None` where the store has none.
    pub modified: Option<SystemTime>,
    /// Entity tag: another one as soon as anything else lies under the key, so that a copy is of what was read. Listings do not tell it, nor do
    /// stores that copy nothing.
    pub etag: Option<Arc<str>>,
}

impl ObjectInfo {
    /// What a store that copies compares with.
    pub fn known_etag(&self, at: impl FnOnce() -> Place) -> Result<&str, StorageError> {
        self.etag.as_deref().ok_or_else(|| {
            let reason = "what a copy is to be of is not known by its entity tag".to_owned();
            StorageError::NotSupported { at: at(), reason }
        })
    }
}

/// A store as another one of its kind sees it, which may copy from there by itself.
pub type Origin = dyn Any + Send + Sync;

/// Whoever asks for a copy has not looked at [`Storage::copies_from`].
pub fn not_an_origin(at: Place) -> StorageError {
    StorageError::NotSupported { at, reason: "it copies nothing by itself from there".to_owned() }
}

/// How far below the prefix a listing looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListDepth {
    /// Objects directly under the prefix, and the prefixes directly under it that hold any.
    Children,
    /// All objects under the prefix.
    Recursive,
}

/// One page of a listing, in the order that [`listing`] defines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    pub objects: Vec<ObjectInfo>,
    /// Only for [`ListDepth::Children`].
    pub prefixes: Vec<ObjectKey>,
    /// What to pass as `after` for the next page; `None` on the last page.
    pub more: Option<ListAfter>,
}

/// A place for objects. Calls are independent and may run side by side.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// What and where it is, for people: `posix:/var/lib/pgconvoy`. Never holds a secret.
    fn describe(&self) -> String;

    fn features(&self) -> Features;

    /// The directory that the store is, where there is one: whoever keeps files as such beside the objects needs it.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// What is behind a [guard](decorate::guard) of creations, where there is one: for who asks what the store does by itself.
    fn unguarded(&self) -> Option<&dyn Storage> {
        None
    }

    /// Stores a whole object, for bodies that are in memory anyway.
    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError>;

    /// Starts a put whose body arrives in chunks. Nothing is visible under the key until [`Upload::finish`].
    ///
    /// A `Create` may notice an existing key here, or only in `finish`.
    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError>;

    /// What other stores may copy from, below all that is around it. `None`: nobody but a reader gets anything out of it.
    fn origin(&self) -> Option<&Origin> {
        None
    }

    /// Up to how many bytes an object of `origin` may have that [`copy`](Storage::copy) brings here; `None`: it brings none. Decided by what
    /// both are configured to be: one server, one account. Nothing is asked.
    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        let _ = origin;
        None
    }

    /// Has the store itself make `key` of an object of `origin`, so that no byte of it comes by here: create-only, kept as a put would be, and
    /// of the size that `object`, which [`stat`](Storage::stat) told of, has.
    ///
    /// [`StorageError::Changed`]: the object is not what it was then. Passing faults are tried again by the store itself.
    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        let _ = (origin, object);
        Err(not_an_origin(Place::new(self.describe(), Some(key))))
    }

    /// Reads a whole object of at most `size_max` bytes. A larger one is [`StorageError::TooLarge`], before any
    /// allocation.
    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError>;

    /// Reads exactly the range; an object that ends before it is [`StorageError::Truncated`].
    ///
    /// An empty range of an existing object is empty. The caller bounds the length of the range.
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError>;

    /// `None` is known absence.
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError>;

    /// Lists what lies under `prefix` (`None`: everything) and comes after `after`.
    ///
    /// For `Children`, `after` is a child itself.
    /// `prefix` is a whole key, not the start of a name: `a/b` covers `a/b/c`, neither `a/b` nor `a/bc`. A page has
    /// at most `limit` objects and prefixes together, and never more than [`LIST_PAGE_MAX`].
    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError>;

    /// Deleting what is not there is success. A delete is as durable as a put.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError>;

    /// Deletes all of them, in any order. What a retention keeps holds up nothing else, and is the error in the end. After any
    /// other error some are gone; trying again is safe.
    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let mut kept = Ok(());
        for key in keys {
            match self.delete(key).await {
                Err(error) if error.is_kept() => kept = kept.and(Err(error)),
                other => other?,
            }
        }
        kept
    }

    /// Removes what abandoned uploads under `prefix` left behind at least `older_than` ago, and says how many.
    ///
    /// An upload that is still running and older than that fails. Stores without [`Feature::SweepsUploads`] have
    /// nothing to sweep.
    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        let _ = (prefix, older_than);
        Ok(0)
    }

    /// Whether the place can keep the [`Lock`]s that it is asked for. One that cannot is an error with a hint.
    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        Ok(LockProof::NotAsked)
    }

    /// How much room is left; `None`: the store knows no limit.
    async fn space(&self) -> Result<Option<Space>, StorageError> {
        Ok(None)
    }
}

/// Bytes of the place that objects are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// For whoever asks: what is kept back for others is not in it.
    pub free: u64,
    pub total: u64,
}

/// A put in progress. Dropping it without [`finish`](Upload::finish) publishes nothing.
///
/// After an error of `write` the upload is dead: every later call fails.
#[async_trait]
pub trait Upload: Send {
    /// Appends a chunk of any size. Cancelling this future kills the upload.
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError>;

    /// Makes the object durable and visible. It cannot be tried again: after an error a new upload must be begun.
    async fn finish(self: Box<Self>) -> Result<(), StorageError>;

    /// Gives up and cleans up as far as possible now; dropping does the same when nobody can wait.
    async fn abort(self: Box<Self>);
}
