//! Three members: one lost, one frozen, two lost.

use crate::support::{PATIENCE, connect, fleet, hold, job, next_value, put, until_answered};
use pgconvoy_lease::LeaseError;
use pgconvoy_lease::etcd::CALL_TIMEOUT;
use pgconvoy_lease::store::LeaseStore as _;
use pgconvoy_lease::testing::etcd::EtcdCluster;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// What a busy machine adds to a time-out.
const SLACK: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_of_three_may_be_killed_the_leader_first() {
    let mut cluster = EtcdCluster::start(3).unwrap();
    let store = connect(cluster.endpoints()).await;
    let lease = hold(&store, fleet().leader(Default::default())).await;
    let held = store.get(&fleet().leader(Default::default())).await.unwrap();
    let mut watch = store.watch(&job().all_done()).await.unwrap();
    let first = cluster.leader().unwrap();
    for node in (0..3).map(|step| (first + step) % 3) {
        cluster.kill(node).unwrap();
        let begin = Instant::now();
        until_answered(async || store.keep_alive(lease).await).await;
        until_answered(async || put(&store, job().done(0), node).await).await;
        assert!(begin.elapsed() < 2 * CALL_TIMEOUT, "{:?} after the loss of {node}", begin.elapsed());
        // A write that was made although its answer was lost is told twice.
        while next_value(&mut watch).await != node.to_string() {}
        cluster.restart(node).unwrap();
    }
    assert_eq!(store.get(&fleet().leader(Default::default())).await.unwrap(), held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_member_is_passed_over_and_its_watches_move() {
    let cluster = EtcdCluster::start(3).unwrap();
    // Both begin at the first member.
    let (store, other) =
        (connect(cluster.endpoints()).await, connect(cluster.endpoints()[1..].to_vec()).await);
    let lease = hold(&store, fleet().leader(Default::default())).await;
    let mut watch = store.watch(&job().all_done()).await.unwrap();
    cluster.freeze(0).unwrap();
    until_answered(async || put(&other, job().done(0), "unseen").await).await;
    let begin = Instant::now();
    store.get(&job().spec()).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    assert!(begin.elapsed() < CALL_TIMEOUT + SLACK, "{:?}", begin.elapsed());
    assert_eq!(next_value(&mut watch).await, "unseen");
    cluster.thaw(0).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_every_call_is_unavailable_in_time_and_with_it_all_goes_on() {
    let mut cluster = EtcdCluster::start(3).unwrap();
    let store = connect(cluster.endpoints()).await;
    let lease = hold(&store, fleet().leader(Default::default())).await;
    let mut watch = store.watch(&job().all_done()).await.unwrap();
    // The leader is among the lost: one that is left would confirm keep-alives until it has noticed that it is alone.
    let leader = cluster.leader().unwrap();
    let lost = [leader, (leader + 1) % 3];
    for node in lost {
        cluster.kill(node).unwrap();
    }
    let begin = Instant::now();
    let all = fleet().all();
    let spec = job().spec();
    let (get, list, write, granted, kept, watched) = tokio::join!(
        store.get(&spec),
        store.list(&all),
        put(&store, job().spec(), "lost"),
        store.grant(Duration::from_secs(5)),
        store.keep_alive(lease),
        store.watch(&all),
    );
    assert!(begin.elapsed() < 2 * CALL_TIMEOUT + SLACK, "{:?}", begin.elapsed());
    let outcomes = [
        get.map(|_| ()),
        list.map(|_| ()),
        write.map(|_| ()),
        granted.map(|_| ()),
        kept.map(|_| ()),
        watched.map(|_| ()),
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(LeaseError::Unavailable { .. })), "{outcome:?}");
    }
    for node in lost {
        cluster.launch(node).unwrap();
    }
    cluster.await_healthy(0..3).unwrap();
    until_answered(async || store.keep_alive(lease).await).await;
    until_answered(async || put(&store, job().done(0), "back").await).await;
    let seen = timeout(PATIENCE, next_value(&mut watch)).await.unwrap();
    assert_eq!(seen, "back");
}
