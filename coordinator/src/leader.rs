//! Leadership: held through the lease store, proved by a token, spoken as an epoch.

use bytes::Bytes;
use pgconvoy_core::failure::{Classify, ErrorCode, Failure, Retry};
use pgconvoy_core::ids::{Epoch, FencingToken, RepoKey, StanzaName};
use pgconvoy_lease::keys::Shard;
use pgconvoy_lease::store::{Claim, LeaseId, Listing, Write};
use pgconvoy_lease::{Acquire, FleetKeys, Guard, KeepAlive, LeaseError, LeaseStore, LockKind, Prefix};
use std::sync::Arc;
use std::time::Duration;

/// Before a lease store that did not answer is asked again. One without a quorum answers late by itself.
const PAUSE_BETWEEN_TRIES: Duration = Duration::from_millis(250);

/// How long silence is borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttls {
    pub leader: Duration,
    /// At least three times the leader's, so that a change of leader expires no worker.
    pub worker: Duration,
}

impl Ttls {
    /// After a leader's loss progress is back within 15 s; a third of that is for its lease to expire.
    pub const FLEET: Ttls = Ttls { leader: Duration::from_secs(5), worker: Duration::from_secs(15) };
    /// In one process there is nobody who could take over: a process that was stopped for an hour goes on.
    pub const ONE_PROCESS: Ttls =
        Ttls { leader: Duration::from_secs(24 * 3600), worker: Duration::from_secs(3 * 24 * 3600) };
}

pub struct Leadership {
    pub leases: Arc<dyn LeaseStore>,
    pub keys: FleetKeys,
    keep_alive: KeepAlive,
    guard: Guard,
}

impl Leadership {
    /// Takes the leadership, which must be free.
    pub async fn acquire(
        leases: Arc<dyn LeaseStore>,
        keys: FleetKeys,
        name: &str,
        ttl: Duration,
    ) -> Result<Leadership, Failure> {
        let value = Bytes::copy_from_slice(name.as_bytes());
        let leadership = Leadership::campaign(leases, keys, value, ttl).await?;
        leadership.ok_or_else(|| Failure::new(ErrorCode::LockAcquire, "another process leads already"))
    }

    /// Takes the leadership if it is free. `value` is what others read of the leader.
    pub async fn campaign(
        leases: Arc<dyn LeaseStore>,
        keys: FleetKeys,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Option<Leadership>, Failure> {
        let keep_alive = KeepAlive::start(leases.clone(), ttl).await?;
        let key = keys.leader(Shard(0));
        match leases.acquire(key.clone(), value, keep_alive.lease(), None).await? {
            Acquire::Granted(token) => {
                Ok(Some(Leadership { leases, keys, keep_alive, guard: Guard { key, token } }))
            }
            Acquire::Held(_) => {
                keep_alive.stop().await?;
                Ok(None)
            }
        }
    }

    /// Lets another one lead at once.
    pub async fn resign(&self) {
        self.keep_alive.give_up();
        if let Err(error) = self.leases.revoke(self.keep_alive.lease()).await {
            tracing::debug!("the leadership was not given back, and expires by itself: {error}");
        }
    }

    /// Whether this process may act as leader. Ask right before acting.
    pub fn is_alive(&self) -> bool {
        self.keep_alive.is_alive()
    }

    /// Resolves when it may not any more.
    pub async fn lost(&self) {
        self.keep_alive.lost().await;
    }

    /// Carries out writes as the leader. A store that does not answer is asked again for as long as this process leads: the
    /// same writes once more change nothing.
    pub(crate) async fn commit(&self, writes: Vec<Write>) -> Result<(), LeaseError> {
        loop {
            match self.leases.commit(writes.clone(), Some(&self.guard)).await {
                Err(error) if self.may_ask_again(&error).await => {}
                answer => return answer.map(|_| ()),
            }
        }
    }

    /// As [`Leadership::commit`]. What was granted before the answer was lost comes back as held by the same lease.
    pub(crate) async fn acquire_each(
        &self,
        claims: Vec<Claim>,
        lease: LeaseId,
    ) -> Result<Vec<Acquire>, LeaseError> {
        loop {
            match self.leases.acquire_each(claims.clone(), lease, Some(&self.guard)).await {
                Err(error) if self.may_ask_again(&error).await => {}
                answer => return answer,
            }
        }
    }

    /// Everything under a prefix.
    pub(crate) async fn list(&self, prefix: &Prefix) -> Result<Listing, LeaseError> {
        loop {
            match self.leases.list(prefix).await {
                Err(error) if self.may_ask_again(&error).await => {}
                answer => return answer,
            }
        }
    }

    async fn may_ask_again(&self, error: &LeaseError) -> bool {
        if matches!(error, LeaseError::Fenced { key, .. } if *key == self.guard.key) {
            // The store knows better: somebody else leads, and nothing more may be said in this leadership's name.
            self.keep_alive.give_up();
        }
        if error.retry() != Retry::MayHelp || !self.is_alive() {
            return false;
        }
        tracing::debug!("the lease store is asked again: {error}");
        tokio::time::sleep(PAUSE_BETWEEN_TRIES).await;
        true
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.guard.token.0)
    }

    /// For writes that only a leader may make.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Locks a stanza in a repository for as long as this leadership lasts, or until the lock is released.
    pub async fn lock(
        &self,
        stanza: &StanzaName,
        repository: RepoKey,
        kind: LockKind,
        holder: &str,
    ) -> Result<FencingToken, Failure> {
        let key = self.keys.lock(stanza, repository, kind);
        let value = Bytes::copy_from_slice(holder.as_bytes());
        let claim = Claim { key, value: value.clone() };
        let answers = self.acquire_each(vec![claim], self.keep_alive.lease()).await?;
        match answers.into_iter().next().expect("one claim has one answer") {
            Acquire::Granted(token) => Ok(token),
            // Granted already, and the answer was lost.
            Acquire::Held(entry) if entry.value == value && entry.lease == Some(self.keep_alive.lease()) => {
                Ok(entry.token)
            }
            Acquire::Held(entry) => Err(Failure::new(
                ErrorCode::LockAcquire,
                format!(
                    "stanza {stanza} in repo {repository} is locked for {} by {}",
                    kind.name(),
                    String::from_utf8_lossy(&entry.value)
                ),
            )
            .hint("wait for it, or cancel it")),
        }
    }

    pub async fn unlock(
        &self,
        stanza: &StanzaName,
        repository: RepoKey,
        kind: LockKind,
        token: FencingToken,
    ) {
        let key = self.keys.lock(stanza, repository, kind);
        loop {
            match self.leases.release(key.clone(), token).await {
                Err(error) if self.may_ask_again(&error).await => {}
                Err(error) => {
                    return tracing::debug!("a lock was not released, and expires with its lease: {error}");
                }
                Ok(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use pgconvoy_lease::EmbeddedStore;
    use pgconvoy_lease::store::Expected;

    async fn leading(leases: &Arc<EmbeddedStore>) -> Leadership {
        let keys = FleetKeys::new("blue").unwrap();
        Leadership::acquire(leases.clone(), keys, "one", Duration::from_secs(60)).await.unwrap()
    }

    #[tokio::test]
    async fn a_leader_that_the_store_does_not_know_any_more_acts_no_more() {
        let leases = Arc::new(EmbeddedStore::start());
        let leadership = leading(&leases).await;
        let key = leadership.keys.job("1").unwrap().spec();
        let put = || Write::Put { key: key.clone(), value: Bytes::new(), expected: Expected::Anything };
        leadership.commit(vec![put()]).await.unwrap();
        assert!(leadership.is_alive());
        leases.delete(leadership.guard.key.clone(), None).await.unwrap();
        assert!(matches!(leadership.commit(vec![put()]).await, Err(LeaseError::Fenced { .. })));
        assert!(!leadership.is_alive());
    }

    #[tokio::test]
    async fn a_lock_is_held_by_one_job_and_found_again_by_the_same() {
        let leases = Arc::new(EmbeddedStore::start());
        let leadership = leading(&leases).await;
        let (stanza, repository) = ("main".parse().unwrap(), RepoKey(1));
        let lock = async |holder: &str| leadership.lock(&stanza, repository, LockKind::Backup, holder).await;
        let token = lock("job 1").await.unwrap();
        assert_eq!(lock("job 1").await.unwrap(), token, "the answer may have been lost");
        assert_eq!(lock("job 2").await.unwrap_err().code, ErrorCode::LockAcquire);
        leadership.unlock(&stanza, repository, LockKind::Backup, token).await;
        assert!(lock("job 2").await.is_ok());
    }
}
