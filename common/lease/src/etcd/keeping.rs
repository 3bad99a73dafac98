//! Keep-alives: one stream for each lease that is being kept, opened again when it breaks.
//!
//! Invariants
//! 1. A stream has at most one keep-alive under way. A caller that goes away takes the stream with it, so that a late
//!    answer to an old keep-alive never confirms a new one.
//! 2. "The lease is over" is believed when it is said twice: a member may have granted a lease that the leader, who
//!    answers for all, has not come to yet (etcd before 3.5.2).
//! 3. A stream that nobody used for the TTL of its lease is closed.
//!
//! Failure story: a leader that has just lost its quorum confirms keep-alives until it notices, an election time-out (one
//! second) later. That is no danger: the next leader begins by giving every lease its full TTL again.

use super::members::{LEASE, Members, Services};
use super::verdict::{LEASE_OVER, Verdict, verdict};
use crate::error::LeaseError;
use crate::store::LeaseId;
use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long an open stream may take before another is opened, perhaps at another member.
const STREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// What the leader needs to catch up with a follower: applying what is committed takes milliseconds.
pub(super) const CATCH_UP: Duration = Duration::from_millis(200);

struct Stream {
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Stream {
    async fn open(services: Services, lease: LeaseId) -> Result<Stream, etcd_client::Error> {
        let mut client = services.lease;
        let (keeper, answers) = client.keep_alive(lease.0).await?;
        Ok(Stream { keeper, answers })
    }

    async fn renew(&mut self) -> Result<Duration, etcd_client::Error> {
        self.keeper.keep_alive().await?;
        match self.answers.message().await? {
            Some(answer) => match u64::try_from(answer.ttl()) {
                Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
                _ => Err(etcd_client::Error::LeaseKeepAliveError(LEASE_OVER.to_owned())),
            },
            None => Err(etcd_client::Error::LeaseKeepAliveError("the stream has ended".to_owned())),
        }
    }
}

struct Idle {
    stream: Stream,
    until: Instant,
}

#[derive(Default)]
pub(super) struct Keeping {
    idle: Mutex<BTreeMap<LeaseId, Idle>>,
}

impl Keeping {
    pub(super) async fn keep_alive(&self, members: &Members, lease: LeaseId) -> Result<Duration, LeaseError> {
        if let Some(ttl) = self.renew_at_hand(lease).await {
            return Ok(ttl);
        }
        match self.renew_anew(members, lease).await {
            Err(Verdict::LeaseNotFound) => {
                tokio::time::sleep(CATCH_UP).await;
                self.renew_anew(members, lease).await.map_err(|verdict| verdict.error_with(lease))
            }
            answer => answer.map_err(|verdict| verdict.error_with(lease)),
        }
    }

    /// By the stream that is open, if it works.
    async fn renew_at_hand(&self, lease: LeaseId) -> Option<Duration> {
        let mut stream = self.lock().remove(&lease)?.stream;
        match timeout(STREAM_TIMEOUT, stream.renew()).await {
            Ok(Ok(ttl)) => {
                self.put_back(lease, stream, ttl);
                Some(ttl)
            }
            Ok(Err(error)) => {
                tracing::debug!(%lease, verdict = ?verdict(&error), "a stream of keep-alives has ended");
                None
            }
            Err(_) => None,
        }
    }

    async fn renew_anew(&self, members: &Members, lease: LeaseId) -> Result<Duration, Verdict> {
        let call = |services| async move {
            let mut stream = Stream::open(services, lease).await?;
            let ttl = stream.renew().await?;
            Ok((stream, ttl))
        };
        let (stream, ttl) = members.call(LEASE, call).await?;
        self.put_back(lease, stream, ttl);
        Ok(ttl)
    }

    pub(super) fn forget(&self, lease: LeaseId) {
        self.lock().remove(&lease);
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn put_back(&self, lease: LeaseId, stream: Stream, ttl: Duration) {
        let now = Instant::now();
        let mut idle = self.lock();
        idle.retain(|_, idle| idle.until > now);
        idle.insert(lease, Idle { stream, until: now + ttl });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Idle>> {
        // Single operations on a map: nothing can be half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
