//! Cases about several keys in one transaction.

use super::{Scene, fenced, guard, text};
use crate::error::LeaseError;
use crate::store::{Acquire, BATCH_KEYS_MAX, Claim, Expected, Write};
use pgconvoy_core::ids::{Attempt, FencingToken, UnitId};

fn claims(scene: &Scene, units: impl IntoIterator<Item = u32>) -> Vec<Claim> {
    let job = scene.job();
    units
        .into_iter()
        .map(|unit| Claim { key: job.lease(UnitId(unit), Attempt(1)), value: text(&format!("w-1 {unit}")) })
        .collect()
}

pub async fn each_claim_of_a_batch_is_answered_for_itself(scene: &Scene) {
    let taken = scene.job().lease(UnitId(2), Attempt(1));
    let theirs = scene.hold(&taken, scene.lease().await).await;
    let lease = scene.lease().await;
    let answers = scene.store.acquire_each(claims(scene, [3, 2, 1]), lease, None).await.unwrap();
    let [Acquire::Granted(three), Acquire::Held(two), Acquire::Granted(one)] = &answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!((&two.key, two.token), (&taken, theirs));
    assert_eq!(three, one, "one transaction, one token");
    assert!(*one > theirs);
    let held = scene.store.list(&scene.job().leases()).await.unwrap().entries;
    let values: Vec<_> = held.iter().map(|entry| (entry.value.clone(), entry.token)).collect();
    assert_eq!(values, [(text("w-1 1"), *one), (text("holder"), theirs), (text("w-1 3"), *one)]);
    assert_eq!(scene.store.acquire_each(Vec::new(), lease, None).await, Ok(Vec::new()));
    let all = 10..10 + u32::try_from(BATCH_KEYS_MAX).unwrap();
    let answers = scene.store.acquire_each(claims(scene, all), lease, None).await.unwrap();
    assert!(
        answers.iter().all(|answer| matches!(answer, Acquire::Granted(_))),
        "the largest batch is granted"
    );
}

pub async fn a_batch_that_is_fenced_or_without_lease_grants_nothing(scene: &Scene) {
    let lease = scene.lease().await;
    let stale = guard(&scene.leader(), FencingToken(1));
    let refused = scene.store.acquire_each(claims(scene, [1, 2]), lease, Some(&stale)).await;
    assert_eq!(refused, Err(fenced(&stale.key, stale.token)));
    let over = scene.lease().await;
    scene.store.revoke(over).await.unwrap();
    let refused = scene.store.acquire_each(claims(scene, [1, 2]), over, None).await;
    assert_eq!(refused, Err(LeaseError::Lost { lease: over }));
    assert!(scene.store.list(&scene.job().leases()).await.unwrap().entries.is_empty());
}

pub async fn a_claim_under_a_lease_that_is_over_is_lost_though_the_key_is_held(scene: &Scene) {
    scene.hold(&scene.job().lease(UnitId(1), Attempt(1)), scene.lease().await).await;
    let over = scene.lease().await;
    scene.store.revoke(over).await.unwrap();
    for units in [vec![1], vec![]] {
        let refused = scene.store.acquire_each(claims(scene, units), over, None).await;
        assert_eq!(refused, Err(LeaseError::Lost { lease: over }));
    }
}

pub async fn a_batch_over_the_limit_or_with_a_key_twice_is_refused(scene: &Scene) {
    let lease = scene.lease().await;
    let count = BATCH_KEYS_MAX + 1;
    let many = claims(scene, 0..u32::try_from(count).unwrap());
    let writes = many.iter().map(|claim| Write::Delete { key: claim.key.clone() }).collect();
    let too_many = LeaseError::TooMany { count, max: BATCH_KEYS_MAX };
    assert_eq!(scene.store.acquire_each(many, lease, None).await, Err(too_many.clone()));
    assert_eq!(scene.store.commit(writes, None).await, Err(too_many));
    let twice = claims(scene, [4, 5, 4]);
    let repeated = LeaseError::Repeated { key: scene.job().lease(UnitId(4), Attempt(1)) };
    assert_eq!(scene.store.acquire_each(twice, lease, None).await, Err(repeated));
    assert!(scene.store.list(&scene.job().leases()).await.unwrap().entries.is_empty());
}

pub async fn a_commit_carries_out_all_writes_or_none(scene: &Scene) {
    let job = scene.job();
    let unit = job.lease(UnitId(1), Attempt(1));
    let token = scene.hold(&unit, scene.lease().await).await;
    let first = || Write::Put { key: job.done(0), value: text("1"), expected: Expected::Absent };
    let before = scene.put(&job.spec(), "spec").await;
    let bad = [
        (
            Write::Put { key: job.spec(), value: text("2"), expected: Expected::Absent },
            LeaseError::Conflict { key: job.spec() },
        ),
        (
            Write::Release { key: unit.clone(), token: FencingToken(token.0 + 1) },
            fenced(&unit, FencingToken(token.0 + 1)),
        ),
    ];
    for (write, expected) in bad {
        let delete = Write::Delete { key: job.done(1) };
        assert_eq!(scene.store.commit(vec![first(), write, delete], None).await, Err(expected));
        assert_eq!(scene.get(&job.done(0)).await, None);
        assert!(scene.store.holder(&unit).await.unwrap().is_some());
    }
    assert_eq!(scene.get(&job.spec()).await.unwrap().revision, before);
}

/// Two comparisons for each key and two for the guard: as many as a store ever has to make.
pub async fn the_largest_batch_of_conditions_fits_under_a_guard(scene: &Scene) {
    let job = scene.job();
    let lease = scene.lease().await;
    let leader = guard(&scene.leader(), scene.hold(&scene.leader(), lease).await);
    let units = 0..u32::try_from(BATCH_KEYS_MAX).unwrap();
    let granted = scene.store.acquire_each(claims(scene, units.clone()), lease, Some(&leader)).await.unwrap();
    let releases = units.zip(granted).map(|(unit, answer)| match answer {
        Acquire::Granted(token) => Write::Release { key: job.lease(UnitId(unit), Attempt(1)), token },
        Acquire::Held(entry) => panic!("{entry:?}"),
    });
    scene.store.commit(releases.collect(), Some(&leader)).await.unwrap();
    assert!(scene.store.list(&job.leases()).await.unwrap().entries.is_empty());
}

pub async fn a_commit_records_and_releases_in_one_revision(scene: &Scene) {
    let job = scene.job();
    let [one, two] = [1, 2].map(|unit| job.lease(UnitId(unit), Attempt(1)));
    let lease = scene.lease().await;
    let (token_one, token_two) = (scene.hold(&one, lease).await, scene.hold(&two, lease).await);
    let leader = scene.hold(&scene.leader(), lease).await;
    let writes = vec![
        Write::Put { key: job.done(0), value: text("1 2"), expected: Expected::Absent },
        Write::Release { key: one, token: token_one },
        Write::Release { key: two, token: token_two },
    ];
    let revision = scene.store.commit(writes, Some(&guard(&scene.leader(), leader))).await.unwrap();
    assert_eq!(scene.get(&job.done(0)).await.unwrap().revision, revision);
    let listing = scene.store.list(&job.leases()).await.unwrap();
    assert!(listing.entries.is_empty());
    assert!(listing.revision >= revision);
}
