//! Leases, leadership and fencing: who may do what, until when, and proof that somebody else may not.
//!
//! Code map: [`store`] is the [`LeaseStore`] contract with its values, [`keys`] spells the keys of a fleet, [`error`]
//! says what can go wrong and whether trying again helps, [`watch`] carries changes to readers, [`holder`] keeps a lease
//! alive and knows when it is lost, [`embedded`] is the store of a fleet that is one process, `etcd` (a feature) that of a
//! fleet of many. `conformance` (a feature) is the suite that every store passes, and `testing` beside it starts real
//! etcd servers for tests.
//!
//! What this is not: a transport, a queue, or a database. Records here are small and few: what is proportional to the
//! data of a backup lives in the repositories.
//!
//! Invariants
//! 1. A fencing token is a revision of the whole store: it grows from grant to grant and is never used twice, expiry and
//!    restart of a holder included.
//! 2. A key is *held* (made by `acquire`, bound to a lease, gone with it) or a *record* (made by a put, stays until it is
//!    deleted). Neither becomes the other.
//! 3. A guarded write happens in the same transaction that looks at its guard.
//! 4. Nobody judges expiry by the wall clocks of two machines: the store expires by its own clock, the holder gives
//!    itself up by its own, counted from the sending of its last confirmed keep-alive, and so never later.
//!
//! Failure story: a holder that dies loses its keys one TTL later. A holder that was frozen and wakes finds itself dead
//! before it asks anybody; should it write nevertheless, the guard refuses it. A call whose answer was lost reports
//! [`LeaseError::Unavailable`] and may have taken place: read before repeating it.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod holder;
pub mod keys;
pub mod store;
#[cfg(any(test, feature = "conformance"))]
pub mod testing;
pub mod watch;

pub use embedded::EmbeddedStore;
pub use error::LeaseError;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdStore};
pub use holder::KeepAlive;
pub use keys::{FleetKeys, Key, LockKind, Prefix};
pub use store::{
    Acquire, Claim, Entry, Expected, Guard, LeaseId, LeaseStore, Listing, Release, Revision, Write,
};
pub use watch::{Change, Watch};
