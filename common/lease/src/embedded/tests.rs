#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::conformance::{Fixture, Scene};
use crate::keys::{FleetKeys, Shard};
use bytes::Bytes;

struct Embedded {
    ttl: Duration,
}

#[async_trait]
impl Fixture for Embedded {
    async fn scene(&self) -> Scene {
        Scene {
            store: Arc::new(EmbeddedStore::start()),
            fleet: FleetKeys::new("embedded").unwrap(),
            ttl: self.ttl,
            late: self.ttl / 2,
            kept: Box::new(()),
        }
    }
}

mod on_a_paused_clock {
    crate::lease_conformance!(
        [#[tokio::test(start_paused = true)]],
        super::Embedded { ttl: std::time::Duration::from_secs(10) }
    );
}

/// Real time and real races; a TTL that a busy machine does not miss.
mod on_several_threads {
    crate::lease_conformance!(
        [#[tokio::test(flavor = "multi_thread", worker_threads = 2)]],
        super::Embedded { ttl: std::time::Duration::from_secs(2) }
    );
}

fn leader() -> Key {
    FleetKeys::new("embedded").unwrap().leader(Shard(0))
}

fn fleet() -> Prefix {
    FleetKeys::new("embedded").unwrap().all()
}

async fn hold(store: &EmbeddedStore, ttl: Duration) {
    let lease = store.grant(ttl).await.unwrap();
    let claim = store.acquire(leader(), Bytes::new(), lease, None).await.unwrap();
    assert!(matches!(claim, Acquire::Granted(_)));
}

#[tokio::test(start_paused = true)]
async fn watchers_hear_of_the_earliest_expiry_first_whatever_was_granted_before() {
    let store = EmbeddedStore::start();
    let mut watch = store.watch(&fleet()).await.unwrap();
    // The reaper falls asleep with nothing to do, and then with something that is far away.
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.grant(Duration::from_secs(3_600)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    hold(&store, Duration::from_secs(5)).await;
    watch.next().await.unwrap();
    watch.next().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_over_at_its_ttl_even_before_the_reaper_ran() {
    let store = EmbeddedStore::start();
    store.close().await;
    hold(&store, Duration::from_secs(5)).await;
    tokio::time::advance(Duration::from_millis(4_999)).await;
    assert!(store.holder(&leader()).await.unwrap().is_some());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(store.get(&leader()).await.unwrap(), None);
}

#[tokio::test]
async fn closing_ends_the_watches_and_the_reaper() {
    let store = EmbeddedStore::start();
    let mut watch = store.watch(&fleet()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), store.close()).await.unwrap();
    assert!(matches!(watch.next().await, Err(LeaseError::Unavailable { .. })));
    assert_eq!(Arc::strong_count(&store.shared), 1, "the reaper has let go of the state");
}

#[tokio::test]
async fn a_watch_that_nobody_reads_any_more_costs_nothing() {
    let store = EmbeddedStore::start();
    for _ in 0..100 {
        drop(store.watch(&fleet()).await.unwrap());
    }
    let _kept = store.watch(&fleet()).await.unwrap();
    assert_eq!(store.shared.lock().watches(), 1);
}
