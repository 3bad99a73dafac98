//! Watches over a line that breaks.

use crate::proxy::{Line, Proxy};
use crate::support::{connect, job, next, next_value, put};
use pgconvoy_lease::LeaseError;
use pgconvoy_lease::store::LeaseStore as _;
use pgconvoy_lease::testing::etcd::EtcdCluster;

async fn compact(cluster: &EtcdCluster, revision: u64) {
    let mut client = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    client.compact(i64::try_from(revision).unwrap(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_line_was_cut_goes_on_without_a_gap() {
    let cluster = EtcdCluster::start(1).unwrap();
    let proxy = Proxy::to(&cluster.endpoints()[0]).await;
    let (far, near) = (connect(vec![proxy.endpoint()]).await, connect(cluster.endpoints()).await);
    let mut watch = far.watch(&job().all_done()).await.unwrap();
    for round in 0..4 {
        for number in 0..10 {
            put(&near, job().done(number), round).await.unwrap();
        }
        proxy.set(Line::Cut);
        for number in 10..20 {
            put(&near, job().done(number), round).await.unwrap();
        }
        proxy.set(Line::Whole);
        for number in 0..20 {
            let change = next(&mut watch).await.unwrap();
            assert_eq!(change.key(), &job().done(number), "in round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_missed_compacted_changes_ends_and_says_so() {
    let cluster = EtcdCluster::start(1).unwrap();
    let proxy = Proxy::to(&cluster.endpoints()[0]).await;
    let (far, near) = (connect(vec![proxy.endpoint()]).await, connect(cluster.endpoints()).await);
    let mut watch = far.watch(&job().all_done()).await.unwrap();
    put(&near, job().done(0), "seen").await.unwrap();
    assert_eq!(next_value(&mut watch).await, "seen");
    proxy.set(Line::Cut);
    put(&near, job().done(0), "missed").await.unwrap();
    let last = put(&near, job().done(0), "last").await.unwrap();
    compact(&cluster, last.0).await;
    proxy.set(Line::Whole);
    let lagged = LeaseError::Lagged { prefix: job().all_done().to_string() };
    assert_eq!(next(&mut watch).await, Err(lagged));
    // The way on: a new watch, and a listing.
    let mut watch = far.watch(&job().all_done()).await.unwrap();
    assert_eq!(far.list(&job().all_done()).await.unwrap().entries[0].value, "last");
    put(&near, job().done(0), "new").await.unwrap();
    assert_eq!(next_value(&mut watch).await, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_of_what_a_watch_has_told_does_not_disturb_it() {
    let cluster = EtcdCluster::start(1).unwrap();
    let proxy = Proxy::to(&cluster.endpoints()[0]).await;
    let (far, near) = (connect(vec![proxy.endpoint()]).await, connect(cluster.endpoints()).await);
    let mut watch = far.watch(&job().all_done()).await.unwrap();
    put(&near, job().done(0), "first").await.unwrap();
    let seen = put(&near, job().done(0), "second").await.unwrap();
    assert_eq!([next_value(&mut watch).await, next_value(&mut watch).await], ["first", "second"]);
    proxy.set(Line::Cut);
    compact(&cluster, seen.0).await;
    put(&near, job().done(0), "third").await.unwrap();
    proxy.set(Line::Whole);
    assert_eq!(next_value(&mut watch).await, "third");
}
