//! The lease store of a fleet: etcd, one node or a cluster, version 3.4 or newer.
//!
//! What this is not: a cache. Every read is confirmed by a quorum, every call of the contract is one transaction, and
//! nothing that etcd knows is remembered here, save the token of a login and which member answered last.
//!
//! Code map: `transaction` says what is compared and done, as values; `wire` spells that in etcd's protocol; `members`
//! finds a member that answers; `verdict` says what an error proves; `keeping` and `following` are the two things that
//! last: streams of keep-alives, and watches.
//!
//! Invariants
//! 1. A write is never sent twice unless it is certain that the first one was not carried out: see `verdict`.
//! 2. A token is the revision that created the key; a key is held exactly if a lease is bound to it.
//! 3. Every call ends within [`CALL_TIMEOUT`]; a keep-alive, or a claim that was granted nothing, may need a second.
//! 4. Watches run on the runtime that [`EtcdStore::connect`] was called in. Dropping the store ends them;
//!    [`EtcdStore::close`] also waits for them.
//!
//! Failure story: one lost member of several is passed over; an election is waited for. A restarted etcd has forgotten
//! its tokens: the next call logs in again. Without a quorum calls are `Unavailable`, leases keep running out by etcd's
//! own clock once it has one again, and watches go on where they were.

mod backoff;
mod following;
mod keeping;
mod members;
mod options;
mod transaction;
mod verdict;
mod wire;

pub use members::CALL_TIMEOUT;
pub use options::{CONNECT_TIMEOUT, EtcdIdentity, EtcdLogin, EtcdOptions};

use crate::error::LeaseError;
use crate::keys::{Key, Prefix};
use crate::store::{
    Acquire, Claim, Entry, Guard, LeaseId, LeaseStore, Listing, Revision, Write, check_batch, check_value,
};
use crate::watch::Watch;
use async_trait::async_trait;
use etcd_client::GetOptions;
use keeping::Keeping;
use members::{FIRST, LEASE, Members, READ, WRITE};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use transaction::{Outcome, Transaction};
use verdict::Verdict;

/// etcd's own limit, about 285 years.
const TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// A key outside of every fleet, which nobody writes: reading it tells whether a cluster answers.
const PROBE: &str = "/pgconvoy/";

/// See the module. Clone an `Arc` of it, not the store.
pub struct EtcdStore {
    members: Arc<Members>,
    keeping: Keeping,
    runtime: Handle,
    watches: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl EtcdStore {
    /// Connects, and makes sure that the cluster answers. Must be called inside a tokio runtime.
    ///
    /// [`LeaseError::Options`], [`LeaseError::Denied`] (wrong password) or [`LeaseError::Unavailable`] after every
    /// endpoint was tried once.
    pub async fn connect(options: EtcdOptions) -> Result<EtcdStore, LeaseError> {
        let members = Members::new(&options).await?;
        let probe = |services: members::Services| async move {
            let mut kv = services.kv;
            kv.get(PROBE, None).await
        };
        match members.call(FIRST, probe).await {
            Ok(_) => {}
            // A role that may only see its own fleet: the cluster has answered.
            Err(Verdict::Denied(reason)) if reason == verdict::PERMISSION_DENIED => {}
            Err(verdict) => return Err(verdict.error()),
        }
        let stop = CancellationToken::new();
        Ok(EtcdStore {
            members: Arc::new(members),
            keeping: Keeping::default(),
            runtime: Handle::current(),
            watches: TaskTracker::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Ends every watch and waits for it, and closes the streams of keep-alives. Leases run on.
    pub async fn close(&self) {
        self.stop.cancel();
        self.watches.close();
        self.watches.wait().await;
        self.keeping.clear();
    }

    /// One transaction, sent once.
    async fn transact(&self, transaction: Transaction) -> Result<Outcome, Verdict> {
        let txn = wire::txn(transaction);
        let call = |services: members::Services| {
            let (mut kv, txn) = (services.kv, txn.clone());
            async move { kv.txn(txn).await }
        };
        let response = self.members.call(WRITE, call).await?;
        wire::outcome(&response).map_err(|error| Verdict::Unknown(error.to_string()))
    }

    /// Whether a lease lives that was not asked to hold anything: in that case etcd has not looked at it.
    async fn check_lease(&self, lease: LeaseId) -> Result<(), LeaseError> {
        let call = |services: members::Services| async move {
            let mut client = services.lease;
            client.time_to_live(lease.0, None).await
        };
        // Asked twice, for the reason that keep-alives are.
        for wait in [Duration::ZERO, keeping::CATCH_UP] {
            tokio::time::sleep(wait).await;
            match self.members.call(LEASE, call).await {
                Ok(answer) if answer.ttl() >= 0 => return Ok(()),
                Ok(_) | Err(Verdict::LeaseNotFound) => {}
                Err(verdict) => return Err(verdict.error()),
            }
        }
        Err(LeaseError::Lost { lease })
    }
}

/// Whole seconds, rounded up.
fn ttl_seconds(ttl: Duration) -> i64 {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    i64::try_from(seconds).unwrap_or(i64::MAX).clamp(1, TTL_SECONDS_MAX)
}

#[async_trait]
impl LeaseStore for EtcdStore {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, LeaseError> {
        let call = |services: members::Services| async move {
            let mut client = services.lease;
            client.grant(ttl_seconds(ttl), None).await
        };
        let granted = self.members.call(LEASE, call).await.map_err(Verdict::error)?;
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, LeaseError> {
        self.keeping.keep_alive(&self.members, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.keeping.forget(lease);
        let call = |services: members::Services| async move {
            let mut client = services.lease;
            client.revoke(lease.0).await
        };
        match self.members.call(LEASE, call).await {
            Ok(_) | Err(Verdict::LeaseNotFound) => Ok(()),
            Err(verdict) => Err(verdict.error()),
        }
    }

    async fn acquire_each(
        &self,
        claims: Vec<Claim>,
        lease: LeaseId,
        guard: Option<&Guard>,
    ) -> Result<Vec<Acquire>, LeaseError> {
        check_batch(claims.iter().map(|claim| &claim.key))?;
        for claim in &claims {
            check_value(&claim.key, &claim.value)?;
        }
        let outcome = self.transact(transaction::acquire_each(claims, lease, guard)).await;
        let answers = transaction::acquired(outcome.map_err(|verdict| verdict.error_with(lease))?, guard)?;
        if !answers.iter().any(|answer| matches!(answer, Acquire::Granted(_))) {
            self.check_lease(lease).await?;
        }
        Ok(answers)
    }

    async fn commit(&self, writes: Vec<Write>, guard: Option<&Guard>) -> Result<Revision, LeaseError> {
        check_batch(writes.iter().map(Write::key))?;
        for write in &writes {
            if let Write::Put { key, value, .. } = write {
                check_value(key, value)?;
            }
        }
        let outcome = self.transact(transaction::commit(&writes, guard)).await.map_err(Verdict::error)?;
        transaction::committed(outcome, &writes, guard)
    }

    async fn delete_prefix(&self, prefix: &Prefix, guard: Option<&Guard>) -> Result<u64, LeaseError> {
        let outcome = self.transact(transaction::delete_prefix(prefix, guard)).await;
        transaction::deleted(&outcome.map_err(Verdict::error)?, guard)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, LeaseError> {
        let call = |services: members::Services| async move {
            let mut kv = services.kv;
            kv.get(key.as_str(), None).await
        };
        let found = self.members.call(READ, call).await.map_err(Verdict::error)?;
        found.kvs().first().map(wire::entry).transpose()
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, LeaseError> {
        let call = |services: members::Services| async move {
            let mut kv = services.kv;
            kv.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await
        };
        let found = self.members.call(READ, call).await.map_err(Verdict::error)?;
        let entries = found.kvs().iter().map(wire::entry).collect::<Result<_, _>>()?;
        Ok(Listing { entries, revision: wire::revision_of(found.header())? })
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, LeaseError> {
        let opened = following::open(&self.members, prefix, None).await.map_err(Verdict::error)?;
        let (feed, watch) = Watch::channel(prefix.clone());
        let (members, stop) = (Arc::clone(&self.members), self.stop.clone());
        let following = following::follow(members, prefix.clone(), opened, feed, stop);
        self.watches.spawn_on(following, &self.runtime);
        Ok(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_rounded_up_to_whole_seconds() {
        let seconds = [0, 1, 1_000, 1_001, 2_500].map(|ms| ttl_seconds(Duration::from_millis(ms)));
        assert_eq!(seconds, [1, 1, 1, 2, 3]);
        assert_eq!(ttl_seconds(Duration::MAX), TTL_SECONDS_MAX);
    }
}
