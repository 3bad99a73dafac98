//! Cases about guarded writes: a leader that slept through its own demise changes nothing.

use super::{Scene, fenced, guard, text};
use crate::store::{Acquire, Expected, Guard, Write};
use pgconvoy_core::ids::{Attempt, UnitId};

/// Tries every kind of write under a guard that does not hold, and shows that nothing changed.
async fn every_write_is_refused(scene: &Scene, stale: &Guard) {
    let job = scene.job();
    scene.put(&job.spec(), "spec").await;
    let before = scene.store.list(&scene.fleet.all()).await.unwrap().entries;
    let lease = scene.lease().await;
    let expected = fenced(&stale.key, stale.token);
    let put = scene.store.put(job.done(0), text("1"), Expected::Anything, Some(stale)).await;
    assert_eq!(put, Err(expected.clone()));
    let delete = scene.store.delete(job.spec(), Some(stale)).await;
    assert_eq!(delete, Err(expected.clone()));
    let writes = vec![Write::Put { key: job.spec(), value: text("2"), expected: Expected::Anything }];
    assert_eq!(scene.store.commit(writes, Some(stale)).await, Err(expected.clone()));
    assert_eq!(scene.store.delete_prefix(&scene.fleet.all(), Some(stale)).await, Err(expected.clone()));
    let claim = scene.store.acquire(job.lease(UnitId(1), Attempt(1)), text("w"), lease, Some(stale)).await;
    assert_eq!(claim, Err(expected));
    assert_eq!(scene.store.list(&scene.fleet.all()).await.unwrap().entries, before);
}

pub async fn a_guard_lets_the_holder_write(scene: &Scene) {
    let job = scene.job();
    let lease = scene.lease().await;
    let current = guard(&scene.leader(), scene.hold(&scene.leader(), lease).await);
    scene.store.put(job.spec(), text("spec"), Expected::Absent, Some(&current)).await.unwrap();
    let claim = scene
        .store
        .acquire(job.lease(UnitId(1), Attempt(1)), text("w"), lease, Some(&current))
        .await
        .unwrap();
    assert!(matches!(claim, Acquire::Granted(_)));
    assert_eq!(scene.store.delete_prefix(&job.leases(), Some(&current)).await, Ok(1));
    scene.store.delete(job.spec(), Some(&current)).await.unwrap();
    assert_eq!(scene.get(&job.spec()).await, None);
}

pub async fn a_guard_stops_every_write_of_an_expired_holder(scene: &Scene) {
    let (_, token) = scene.hold_and_expire(&scene.leader()).await;
    every_write_is_refused(scene, &guard(&scene.leader(), token)).await;
}

pub async fn a_guard_stops_a_predecessor_whose_key_somebody_else_holds(scene: &Scene) {
    let (_, old) = scene.hold_and_expire(&scene.leader()).await;
    let new = scene.hold(&scene.leader(), scene.lease().await).await;
    every_write_is_refused(scene, &guard(&scene.leader(), old)).await;
    assert_eq!(scene.store.holder(&scene.leader()).await.unwrap().unwrap().token, new);
}

pub async fn a_record_guards_nothing(scene: &Scene) {
    let key = scene.job().done(7);
    scene.put(&key, "a record").await;
    let token = scene.get(&key).await.unwrap().token;
    every_write_is_refused(scene, &guard(&key, token)).await;
}
