//! What the tests have in common: stores, keys, and patience.

use bytes::Bytes;
use pgconvoy_lease::keys::JobKeys;
use pgconvoy_lease::store::{Expected, LeaseStore};
use pgconvoy_lease::{
    Acquire, Change, EtcdOptions, EtcdStore, FleetKeys, Key, LeaseError, LeaseId, Revision, Watch,
};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// For what has to happen: more than a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Outlives every test.
pub(crate) const LONG_TTL: Duration = Duration::from_secs(300);

pub(crate) fn options(endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions { endpoints, ..EtcdOptions::default() }
}

pub(crate) async fn connect(endpoints: Vec<String>) -> EtcdStore {
    EtcdStore::connect(options(endpoints)).await.unwrap()
}

pub(crate) fn fleet() -> FleetKeys {
    FleetKeys::new("blue").unwrap()
}

pub(crate) fn job() -> JobKeys {
    fleet().job("job-1").unwrap()
}

pub(crate) fn text(value: impl ToString) -> Bytes {
    Bytes::from(value.to_string())
}

pub(crate) async fn put(store: &EtcdStore, key: Key, value: impl ToString) -> Result<Revision, LeaseError> {
    store.put(key, text(value), Expected::Anything, None).await
}

pub(crate) async fn hold(store: &EtcdStore, key: Key) -> LeaseId {
    let lease = store.grant(LONG_TTL).await.unwrap();
    let answer = store.acquire(key, text("holder"), lease, None).await.unwrap();
    assert!(matches!(answer, Acquire::Granted(_)), "{answer:?}");
    lease
}

/// Makes a call again for as long as the store does not answer: what callers do who may repeat it.
pub(crate) async fn until_answered<T>(call: impl AsyncFn() -> Result<T, LeaseError>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(LeaseError::Unavailable { .. }) if Instant::now() < until => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn next(watch: &mut Watch) -> Result<Change, LeaseError> {
    timeout(PATIENCE, watch.next()).await.expect("a change or an end in time")
}

/// The value of the next change, which is a put.
pub(crate) async fn next_value(watch: &mut Watch) -> String {
    match next(watch).await.unwrap() {
        Change::Put(entry) => String::from_utf8(entry.value.to_vec()).unwrap(),
        gone @ Change::Gone { .. } => panic!("{gone:?}"),
    }
}
