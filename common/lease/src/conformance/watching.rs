//! Cases about watches.

use super::{STEP_TIMEOUT, Scene, next, text};
use crate::error::LeaseError;
use crate::store::{BATCH_KEYS_MAX, Expected, Write};
use crate::watch::{Change, WATCH_CHANGES_MAX};
use pgconvoy_core::ids::{Attempt, UnitId};
use std::collections::BTreeMap;
use std::sync::Arc;

pub async fn a_watch_tells_changes_in_order(scene: &Scene) {
    let (key, unit) = (scene.job().spec(), scene.job().lease(UnitId(1), Attempt(1)));
    scene.put(&key, "before").await;
    let mut watch = scene.store.watch(&scene.fleet.all()).await.unwrap();
    let first = scene.put(&key, "1").await;
    let lease = scene.lease().await;
    let token = scene.hold(&unit, lease).await;
    let second = scene.put(&key, "2").await;
    scene.store.delete(key.clone(), None).await.unwrap();
    scene.store.release(unit.clone(), token).await.unwrap();
    let mut changes = Vec::new();
    for _ in 0..5 {
        changes.push(next(&mut watch).await);
    }
    let told: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Put(entry) => (entry.key.clone(), Some(entry.value.clone())),
            Change::Gone { key, .. } => (key.clone(), None),
        })
        .collect();
    let expected = [
        (key.clone(), Some(text("1"))),
        (unit.clone(), Some(text("holder"))),
        (key.clone(), Some(text("2"))),
        (key, None),
        (unit, None),
    ];
    assert_eq!(told, expected);
    assert!(changes.is_sorted_by(|earlier, later| earlier.revision() < later.revision()), "{changes:?}");
    assert_eq!(changes[0].revision(), first);
    assert_eq!(changes[2].revision(), second);
    assert!(matches!(&changes[1], Change::Put(entry) if entry.token == token && entry.lease == Some(lease)));
}

pub async fn a_watch_tells_of_its_prefix_only(scene: &Scene) {
    let (one, ten) = (scene.fleet.job("1").unwrap(), scene.fleet.job("10").unwrap());
    let mut watch = scene.store.watch(&one.all_done()).await.unwrap();
    scene.put(&ten.done(0), "other").await;
    scene.put(&one.spec(), "spec").await;
    scene.put(&one.done(0), "mine").await;
    assert_eq!(next(&mut watch).await.key(), &one.done(0));
}

pub async fn a_watch_opened_before_a_listing_misses_nothing(scene: &Scene) {
    const WRITES: u32 = 200;
    let job = scene.job();
    let writing = {
        let (store, job) = (Arc::clone(&scene.store), job.clone());
        tokio::spawn(async move {
            for number in 0..WRITES {
                let value = text(&number.to_string());
                store.put(job.done(number % 7), value, Expected::Anything, None).await.unwrap();
                tokio::task::yield_now().await;
            }
            store.put(job.done(99), text("last"), Expected::Anything, None).await.unwrap();
        })
    };
    tokio::task::yield_now().await;
    let mut watch = scene.store.watch(&job.all_done()).await.unwrap();
    let listing = scene.store.list(&job.all_done()).await.unwrap();
    let mut seen: BTreeMap<_, _> =
        listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    while !seen.contains_key(&job.done(99)) {
        let change = next(&mut watch).await;
        if change.revision() <= listing.revision {
            continue;
        }
        match change {
            Change::Put(entry) => seen.insert(entry.key.clone(), entry),
            Change::Gone { key, .. } => seen.remove(&key),
        };
    }
    tokio::time::timeout(STEP_TIMEOUT, writing).await.unwrap().unwrap();
    let now = scene.store.list(&job.all_done()).await.unwrap().entries;
    assert_eq!(seen.into_values().collect::<Vec<_>>(), now);
}

pub async fn a_reader_that_falls_behind_is_told_so(scene: &Scene) {
    let job = scene.job();
    let mut slow = scene.store.watch(&job.all_done()).await.unwrap();
    let batches = u32::try_from(2 * WATCH_CHANGES_MAX / BATCH_KEYS_MAX).unwrap();
    let keys = u32::try_from(BATCH_KEYS_MAX).unwrap();
    for batch in 0..batches {
        let put = |number| Write::Put {
            key: job.done(batch * keys + number),
            value: text("x"),
            expected: Expected::Absent,
        };
        scene.store.commit((0..keys).map(put).collect(), None).await.unwrap();
    }
    // Time for a store at the other end of a network to tell what it has to tell.
    tokio::time::sleep(scene.late).await;
    let mut read = 0;
    let end = loop {
        match tokio::time::timeout(STEP_TIMEOUT, slow.next()).await.unwrap() {
            Ok(change) => assert_eq!(change.key(), &job.done(read), "no gap before the end"),
            Err(error) => break error,
        }
        read += 1;
    };
    assert_eq!(end, LeaseError::Lagged { prefix: job.all_done().to_string() });
    assert_eq!(slow.next().await, Err(end), "the end stays the end");
    assert!(usize::try_from(read).unwrap() <= WATCH_CHANGES_MAX, "{read} changes were kept for one reader");
    let mut fresh = scene.store.watch(&job.all_done()).await.unwrap();
    scene.put(&job.done(0), "y").await;
    assert_eq!(next(&mut fresh).await.key(), &job.done(0));
}
