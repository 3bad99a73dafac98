//! The contract of a lease store, spelled so that one etcd transaction can carry out each call.
//!
//! Everything that a decision rests on is compared inside the call that acts on it; there is no "look, then write".

use crate::error::LeaseError;
use crate::keys::{Key, Prefix};
use crate::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_core::ids::FencingToken;
use std::fmt;
use std::time::Duration;

/// Keys in one transaction. etcd allows 128 comparisons in one: two for each key (which incarnation, held or not), and two
/// for the guard.
pub const BATCH_KEYS_MAX: usize = 63;

/// Bytes of one value. etcd refuses requests over 1.5 MiB; a batch of ordinary records must fit as well.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// The store's name for a lease. Means nothing outside the store that granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Counts the store's transactions. An entry bears the one that wrote it last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with what is stored there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// The transaction that created the key: the fencing token, if the key is held.
    pub token: FencingToken,
    /// The transaction that wrote it last.
    pub revision: Revision,
    /// The lease that the key dies with; a record has none.
    pub lease: Option<LeaseId>,
}

/// Everything under a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The state of the store that was listed: a watched change at or below it is already in the entries.
    pub revision: Revision,
}

/// "Only while I still hold this": the write happens only if the key is held with exactly this token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub key: Key,
    pub token: FencingToken,
}

/// One key to acquire, and what its holder wants to be known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub key: Key,
    pub value: Bytes,
}

/// The answer to one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquire {
    Granted(FencingToken),
    /// Somebody was first; perhaps the caller itself, whose earlier answer was lost: then the entry bears its lease.
    Held(Entry),
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Freed,
    /// Free already, or held by somebody else: nothing was touched.
    NotHolder,
}

/// What a put wants to find at its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Anything,
    Absent,
    At(Revision),
}

/// One change in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Writes a record; refused with [`LeaseError::Held`] where a lease holds the key, and with
    /// [`LeaseError::Conflict`] where something else is found than expected.
    Put { key: Key, value: Bytes, expected: Expected },
    /// Removes a record, or takes a held key from its holder. Nothing there is no error.
    Delete { key: Key },
    /// Gives up a held key; refuses the whole transaction with [`LeaseError::Fenced`] if the token is not current.
    Release { key: Key, token: FencingToken },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { key, .. } | Write::Delete { key } | Write::Release { key, .. } => key,
        }
    }
}

/// A store of leases, held keys and records. See the crate's invariants.
///
/// Every call may fail with [`LeaseError::Unavailable`], and then may or may not have taken place. None holds a lock
/// across a wait; dropping a call's future is the same as losing its answer.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// A new lease, alive for at least `ttl` from now. Stores with coarse clocks round up.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, LeaseError>;

    /// Prolongs a lease by its full TTL, and answers with how long it lives now: counted from the moment the store
    /// handled the call, so a caller counts from the moment of sending. [`LeaseError::Lost`] if it is over.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, LeaseError>;

    /// Ends a lease and frees what is bound to it. A lease that is over already is no error.
    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError>;

    /// Claims several keys in one transaction, each for itself: those that are free are created and bound to the lease,
    /// the others are reported as held. Answers come in the order of the claims. The keys that one call was granted
    /// share a token.
    ///
    /// [`LeaseError::Fenced`] or [`LeaseError::Lost`]: none was granted.
    async fn acquire_each(
        &self,
        claims: Vec<Claim>,
        lease: LeaseId,
        guard: Option<&Guard>,
    ) -> Result<Vec<Acquire>, LeaseError>;

    /// Carries out all writes in one transaction, or none. The answer is the revision that all of them bear.
    async fn commit(&self, writes: Vec<Write>, guard: Option<&Guard>) -> Result<Revision, LeaseError>;

    /// Removes everything under a prefix, held keys included, in one transaction. Answers how many there were.
    async fn delete_prefix(&self, prefix: &Prefix, guard: Option<&Guard>) -> Result<u64, LeaseError>;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, LeaseError>;

    /// Everything under a prefix, as of one revision.
    async fn list(&self, prefix: &Prefix) -> Result<Listing, LeaseError>;

    /// Every change under a prefix from now on, in order. To miss nothing and repeat nothing: open the watch, then list,
    /// then skip changes at or below the listing's revision.
    async fn watch(&self, prefix: &Prefix) -> Result<Watch, LeaseError>;

    /// Claims one key.
    async fn acquire(
        &self,
        key: Key,
        value: Bytes,
        lease: LeaseId,
        guard: Option<&Guard>,
    ) -> Result<Acquire, LeaseError> {
        let answers = self.acquire_each(vec![Claim { key, value }], lease, guard).await?;
        Ok(answers.into_iter().next().expect("one claim has one answer"))
    }

    /// Gives up a held key, if it is still held with this token.
    async fn release(&self, key: Key, token: FencingToken) -> Result<Release, LeaseError> {
        match self.commit(vec![Write::Release { key, token }], None).await {
            Ok(_) => Ok(Release::Freed),
            Err(LeaseError::Fenced { .. }) => Ok(Release::NotHolder),
            Err(error) => Err(error),
        }
    }

    /// Who holds a key; a record has no holder.
    async fn holder(&self, key: &Key) -> Result<Option<Entry>, LeaseError> {
        Ok(self.get(key).await?.filter(|entry| entry.lease.is_some()))
    }

    /// Writes one record.
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expected: Expected,
        guard: Option<&Guard>,
    ) -> Result<Revision, LeaseError> {
        self.commit(vec![Write::Put { key, value, expected }], guard).await
    }

    /// Removes one key.
    async fn delete(&self, key: Key, guard: Option<&Guard>) -> Result<(), LeaseError> {
        self.commit(vec![Write::Delete { key }], guard).await.map(|_| ())
    }
}

/// The limits that every store checks before it sends anything.
pub fn check_batch<'a>(keys: impl ExactSizeIterator<Item = &'a Key>) -> Result<(), LeaseError> {
    let count = keys.len();
    if count > BATCH_KEYS_MAX {
        return Err(LeaseError::TooMany { count, max: BATCH_KEYS_MAX });
    }
    let mut seen = std::collections::BTreeSet::new();
    for key in keys {
        if !seen.insert(key) {
            return Err(LeaseError::Repeated { key: key.clone() });
        }
    }
    Ok(())
}

/// As [`check_batch`], for one value.
pub fn check_value(key: &Key, value: &Bytes) -> Result<(), LeaseError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(LeaseError::TooLarge { key: key.clone(), bytes: value.len(), max: VALUE_BYTES_MAX });
    }
    Ok(())
}
