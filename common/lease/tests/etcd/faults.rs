//! One server: restarted, frozen, unreachable, or with its answers lost.

use crate::proxy::{Line, Proxy};
use crate::support::{PATIENCE, connect, fleet, hold, job, next_value, options, put, until_answered};
use pgconvoy_core::failure::Classify as _;
use pgconvoy_core::ids::{Attempt, UnitId};
use pgconvoy_lease::etcd::CALL_TIMEOUT;
use pgconvoy_lease::store::LeaseStore as _;
use pgconvoy_lease::testing::etcd::EtcdCluster;
use pgconvoy_lease::{EtcdStore, LeaseError};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// What a busy machine adds to a time-out.
const SLACK: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_keeps_leases_and_keys_and_watches_miss_nothing() {
    let mut cluster = EtcdCluster::start(1).unwrap();
    let store = connect(cluster.endpoints()).await;
    let key = job().lease(UnitId(1), Attempt(1));
    let lease = hold(&store, key.clone()).await;
    put(&store, job().spec(), "spec").await.unwrap();
    let (held, spec) = (store.get(&key).await.unwrap(), store.get(&job().spec()).await.unwrap());
    let mut watch = store.watch(&job().all_done()).await.unwrap();
    for round in 0..3 {
        put(&store, job().done(0), format!("{round} before")).await.unwrap();
        cluster.kill(0).unwrap();
        cluster.restart(0).unwrap();
        // Also what happens before the watch is back is told.
        for number in 0..3 {
            until_answered(async || put(&store, job().done(0), format!("{round} {number}")).await).await;
        }
        for expected in ["before", "0", "1", "2"] {
            assert_eq!(next_value(&mut watch).await, format!("{round} {expected}"));
        }
    }
    assert_eq!(store.get(&key).await.unwrap(), held);
    assert_eq!(store.get(&job().spec()).await.unwrap(), spec);
    store.keep_alive(lease).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_frozen_is_unavailable_in_time_and_works_again_when_thawed() {
    let cluster = EtcdCluster::start(1).unwrap();
    let store = connect(cluster.endpoints()).await;
    let lease = hold(&store, fleet().leader(Default::default())).await;
    cluster.freeze(0).unwrap();
    let spec = job().spec();
    let begin = Instant::now();
    let (get, write, kept) =
        tokio::join!(store.get(&spec), put(&store, job().spec(), 1), store.keep_alive(lease));
    assert!(begin.elapsed() < 2 * CALL_TIMEOUT + SLACK, "{:?}", begin.elapsed());
    assert!(matches!(get, Err(LeaseError::Unavailable { .. })), "{get:?}");
    assert!(matches!(write, Err(LeaseError::Unavailable { .. })), "{write:?}");
    assert!(matches!(kept, Err(LeaseError::Unavailable { .. })), "{kept:?}");
    cluster.thaw(0).unwrap();
    until_answered(async || put(&store, job().spec(), 2).await).await;
    until_answered(async || store.keep_alive(lease).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_was_lost_is_unavailable_and_was_made_once() {
    let cluster = EtcdCluster::start(1).unwrap();
    let proxy = Proxy::to(&cluster.endpoints()[0]).await;
    let (far, near) = (connect(vec![proxy.endpoint()]).await, connect(cluster.endpoints()).await);
    let before = put(&near, job().spec(), "before").await.unwrap();
    proxy.set(Line::LosesAnswers);
    let lost = put(&far, job().spec(), "lost").await;
    assert!(matches!(lost, Err(LeaseError::Unavailable { .. })), "{lost:?}");
    proxy.set(Line::Whole);
    let entry = near.get(&job().spec()).await.unwrap().unwrap();
    assert_eq!(entry.value, "lost");
    assert_eq!(entry.revision.0, before.0 + 1);
    let after = put(&near, job().spec(), "after").await.unwrap();
    assert_eq!(after.0, before.0 + 2, "nothing else was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_never_sent_waits_for_the_line_to_be_mended() {
    let cluster = EtcdCluster::start(1).unwrap();
    let proxy = Proxy::to(&cluster.endpoints()[0]).await;
    let store = Arc::new(connect(vec![proxy.endpoint()]).await);
    let (address, target) = (proxy.address(), cluster.endpoints().remove(0));
    drop(proxy);
    // The connection is known to be gone once a read has failed to make another.
    assert!(timeout(SLACK, store.get(&job().spec())).await.is_err());
    let write = tokio::spawn({
        let store = Arc::clone(&store);
        async move { put(&store, job().spec(), "patient").await }
    });
    let _mended = Proxy::at(address, &target).await;
    timeout(PATIENCE, write).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_endpoint_is_told_soon_and_with_a_hint() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begin = Instant::now();
    let error = EtcdStore::connect(options(vec![closed.to_string()])).await.err().unwrap();
    assert!(begin.elapsed() < SLACK, "{:?}", begin.elapsed());
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains(&closed.to_string()), "{text}");
    assert!(error.hints().iter().any(|hint| hint.contains("endpoints")), "{error:?}");
    // Something that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let error = timeout(CALL_TIMEOUT + SLACK, EtcdStore::connect(options(vec![endpoint]))).await.unwrap();
    assert!(matches!(error.err(), Some(LeaseError::Unavailable { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_wrong_endpoint_of_several_does_no_harm() {
    let cluster = EtcdCluster::start(1).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = connect([vec![closed.to_string()], cluster.endpoints()].concat()).await;
    put(&store, job().spec(), "there").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_the_watches_and_waits_for_them() {
    let cluster = EtcdCluster::start(1).unwrap();
    let store = connect(cluster.endpoints()).await;
    let mut watch = store.watch(&fleet().all()).await.unwrap();
    timeout(PATIENCE, store.close()).await.unwrap();
    assert!(matches!(watch.next().await, Err(LeaseError::Unavailable { .. })));
}
