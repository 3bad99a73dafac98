//! Cases about records.

use super::{Scene, text};
use crate::error::LeaseError;
use crate::store::{Expected, VALUE_BYTES_MAX};
use bytes::Bytes;
use pgconvoy_core::ids::{Attempt, UnitId};

pub async fn a_record_reads_back_as_written_and_outlives_leases(scene: &Scene) {
    let key = scene.job().spec();
    assert_eq!(scene.get(&key).await, None);
    let value = Bytes::from_static(b"\x00\xff not text \xfe");
    let revision = scene.store.put(key.clone(), value.clone(), Expected::Anything, None).await.unwrap();
    scene.hold_and_expire(&scene.leader()).await;
    let entry = scene.get(&key).await.unwrap();
    assert_eq!((entry.key, entry.value, entry.revision, entry.lease), (key.clone(), value, revision, None));
    let later = scene.put(&key, "again").await;
    assert!(later > revision);
    let entry = scene.get(&key).await.unwrap();
    assert_eq!((entry.value, entry.revision), (text("again"), later));
    scene.store.delete(key.clone(), None).await.unwrap();
    assert_eq!(scene.get(&key).await, None);
    scene.store.delete(key, None).await.expect("deleting nothing is no error");
}

pub async fn a_put_writes_only_over_what_it_expects(scene: &Scene) {
    let key = scene.job().spec();
    let put = async |value: &str, expected| scene.store.put(key.clone(), text(value), expected, None).await;
    let conflict = Err(LeaseError::Conflict { key: key.clone() });
    let first = put("1", Expected::Absent).await.unwrap();
    assert_eq!(put("2", Expected::Absent).await, conflict);
    let second = put("2", Expected::At(first)).await.unwrap();
    assert_eq!(put("3", Expected::At(first)).await, conflict);
    assert_eq!(scene.get(&key).await.unwrap().value, text("2"));
    scene.store.delete(key.clone(), None).await.unwrap();
    assert_eq!(put("3", Expected::At(second)).await, conflict, "gone is not as expected either");
    put("3", Expected::Absent).await.unwrap();
}

pub async fn a_put_never_touches_a_held_key(scene: &Scene) {
    let key = scene.job().lease(UnitId(1), Attempt(1));
    scene.hold(&key, scene.lease().await).await;
    let before = scene.get(&key).await.unwrap();
    for expected in [Expected::Anything, Expected::Absent, Expected::At(before.revision)] {
        let refused = scene.store.put(key.clone(), text("mine"), expected, None).await;
        assert_eq!(refused, Err(LeaseError::Held { key: key.clone(), holder: "holder".to_owned() }));
    }
    assert_eq!(scene.get(&key).await, Some(before));
}

pub async fn a_value_over_the_limit_is_refused(scene: &Scene) {
    let key = scene.job().spec();
    let largest = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    scene.store.put(key.clone(), largest, Expected::Anything, None).await.unwrap();
    let bytes = VALUE_BYTES_MAX + 1;
    let refused = scene.store.put(key.clone(), vec![7; bytes].into(), Expected::Anything, None).await;
    assert_eq!(refused, Err(LeaseError::TooLarge { key: key.clone(), bytes, max: VALUE_BYTES_MAX }));
    assert_eq!(scene.get(&key).await.unwrap().value.len(), VALUE_BYTES_MAX);
}

pub async fn a_listing_holds_its_prefix_in_order_and_nothing_else(scene: &Scene) {
    let (one, ten) = (scene.fleet.job("1").unwrap(), scene.fleet.job("10").unwrap());
    let empty = scene.store.list(&one.all_done()).await.unwrap();
    assert!(empty.entries.is_empty());
    for part in [10, 2, 1] {
        scene.put(&one.done(part), &part.to_string()).await;
        scene.put(&ten.done(part), "other").await;
    }
    let last = scene.put(&one.spec(), "spec").await;
    let listing = scene.store.list(&one.all_done()).await.unwrap();
    let keys: Vec<_> = listing.entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(keys, [one.done(1), one.done(2), one.done(10)]);
    assert_eq!(listing.entries[2].value, text("10"));
    assert!(listing.revision >= last && last > empty.revision);
}

pub async fn deleting_a_prefix_takes_records_and_held_keys(scene: &Scene) {
    let job = scene.job();
    let lease = scene.lease().await;
    let other = scene.fleet.job("job-10").unwrap();
    for unit in 0..5 {
        scene.hold(&job.lease(UnitId(unit), Attempt(1)), lease).await;
    }
    scene.hold(&other.lease(UnitId(0), Attempt(1)), lease).await;
    scene.put(&job.done(0), "1").await;
    assert_eq!(scene.store.delete_prefix(&job.leases(), None).await, Ok(5));
    assert_eq!(scene.store.delete_prefix(&job.leases(), None).await, Ok(0));
    assert_eq!(scene.store.delete_prefix(&scene.fleet.all(), None).await, Ok(2));
    scene.store.keep_alive(lease).await.expect("the lease lives on without keys");
}

pub async fn a_key_taken_from_its_holder_is_not_lost_again_with_the_old_lease(scene: &Scene) {
    let key = scene.job().lease(UnitId(1), Attempt(1));
    let old = scene.store.grant(scene.ttl).await.unwrap();
    scene.hold(&key, old).await;
    scene.store.delete(key.clone(), None).await.unwrap();
    let token = scene.hold(&key, scene.lease().await).await;
    scene.until_expired().await;
    assert_eq!(scene.store.keep_alive(old).await, Err(LeaseError::Lost { lease: old }));
    assert_eq!(scene.store.holder(&key).await.unwrap().unwrap().token, token);
}
