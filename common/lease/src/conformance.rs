//! What every lease store does, as tests: `lease_conformance!` makes one test of each case.
//!
//! Cases wait by the runtime's clock, so a store whose clock is the runtime's passes them on a paused one in no time.

#![allow(clippy::unwrap_used, reason = "this is test code: a failed unwrap fails the test")]

mod batches;
mod guards;
mod leases;
mod records;
mod watching;

pub use batches::*;
pub use guards::*;
pub use leases::*;
pub use records::*;
pub use watching::*;

use crate::keys::{FleetKeys, JobKeys, Shard};
use crate::store::{Acquire, Entry, Expected, Guard, LeaseId, LeaseStore, Revision};
use crate::{Key, LeaseError, Watch};
use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_core::ids::FencingToken;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// One step of a case: far more than a busy machine needs, far less than a person waits.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a case plays.
pub struct Scene {
    pub store: Arc<dyn LeaseStore>,
    /// A fleet of its own: cases may share a store.
    pub fleet: FleetKeys,
    /// The shortest TTL that the store keeps to.
    pub ttl: Duration,
    /// How much later than the TTL the store may expire a lease.
    pub late: Duration,
    /// What must live as long as the scene: a server of its own, or nothing.
    pub kept: Box<dyn Any + Send + Sync>,
}

/// Sets the scene for each case.
#[async_trait]
pub trait Fixture: Send + Sync {
    async fn scene(&self) -> Scene;
}

/// Makes a test of every case: `lease_conformance!([#[tokio::test]], MyFixture::new());`
#[macro_export]
macro_rules! lease_conformance {
    (@each [$($attribute:tt)+], $fixture:expr,) => {};
    (@each [$($attribute:tt)+], $fixture:expr, $case:ident $($rest:ident)*) => {
        $($attribute)+
        async fn $case() {
            let scene = $crate::conformance::Fixture::scene(&$fixture).await;
            $crate::conformance::$case(&scene).await;
        }
        $crate::lease_conformance!(@each [$($attribute)+], $fixture, $($rest)*);
    };
    ([$($attribute:tt)+], $fixture:expr) => {
        $crate::lease_conformance!(@each [$($attribute)+], $fixture,
            of_many_that_claim_a_key_one_wins
            a_holder_is_known_by_value_token_and_lease
            a_second_claim_of_the_same_holder_finds_its_own
            an_expired_lease_frees_its_keys_and_watchers_hear_of_it
            keep_alive_prolongs_a_lease
            a_lease_that_is_over_stays_over
            a_revoked_lease_frees_its_keys_at_once
            tokens_grow_whatever_happened_to_earlier_holders
            only_the_current_token_releases
            a_lease_holds_many_keys_and_keeps_those_it_did_not_release
            each_claim_of_a_batch_is_answered_for_itself
            a_batch_that_is_fenced_or_without_lease_grants_nothing
            a_claim_under_a_lease_that_is_over_is_lost_though_the_key_is_held
            a_batch_over_the_limit_or_with_a_key_twice_is_refused
            a_commit_carries_out_all_writes_or_none
            the_largest_batch_of_conditions_fits_under_a_guard
            a_commit_records_and_releases_in_one_revision
            a_guard_lets_the_holder_write
            a_guard_stops_every_write_of_an_expired_holder
            a_guard_stops_a_predecessor_whose_key_somebody_else_holds
            a_record_guards_nothing
            a_record_reads_back_as_written_and_outlives_leases
            a_put_writes_only_over_what_it_expects
            a_put_never_touches_a_held_key
            a_value_over_the_limit_is_refused
            a_listing_holds_its_prefix_in_order_and_nothing_else
            deleting_a_prefix_takes_records_and_held_keys
            a_key_taken_from_its_holder_is_not_lost_again_with_the_old_lease
            a_watch_tells_changes_in_order
            a_watch_tells_of_its_prefix_only
            a_watch_opened_before_a_listing_misses_nothing
            a_reader_that_falls_behind_is_told_so
        );
    };
}

impl Scene {
    fn job(&self) -> JobKeys {
        self.fleet.job("job-1").unwrap()
    }

    fn leader(&self) -> Key {
        self.fleet.leader(Shard(0))
    }

    /// A lease that outlives the case.
    async fn lease(&self) -> LeaseId {
        self.store.grant(self.ttl + 2 * STEP_TIMEOUT).await.unwrap()
    }

    async fn claim(&self, key: &Key, lease: LeaseId) -> Acquire {
        self.store.acquire(key.clone(), text("holder"), lease, None).await.unwrap()
    }

    /// Claims a key that is free.
    async fn hold(&self, key: &Key, lease: LeaseId) -> FencingToken {
        match self.claim(key, lease).await {
            Acquire::Granted(token) => token,
            Acquire::Held(entry) => panic!("{key} is held: {entry:?}"),
        }
    }

    /// Holds a key under a lease of its own and lets that expire.
    async fn hold_and_expire(&self, key: &Key) -> (LeaseId, FencingToken) {
        let lease = self.store.grant(self.ttl).await.unwrap();
        let token = self.hold(key, lease).await;
        self.until_expired().await;
        (lease, token)
    }

    /// Waits until a lease of [`Scene::ttl`] granted by now is certainly over.
    async fn until_expired(&self) {
        tokio::time::sleep(self.ttl + self.late).await;
    }

    async fn put(&self, key: &Key, value: &str) -> Revision {
        self.store.put(key.clone(), text(value), Expected::Anything, None).await.unwrap()
    }

    async fn get(&self, key: &Key) -> Option<Entry> {
        self.store.get(key).await.unwrap()
    }
}

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

fn guard(key: &Key, token: FencingToken) -> Guard {
    Guard { key: key.clone(), token }
}

fn fenced(key: &Key, token: FencingToken) -> LeaseError {
    LeaseError::Fenced { key: key.clone(), token }
}

/// The next change, which has happened or is about to.
async fn next(watch: &mut Watch) -> crate::Change {
    tokio::time::timeout(STEP_TIMEOUT, watch.next()).await.expect("a change was not told in time").unwrap()
}
