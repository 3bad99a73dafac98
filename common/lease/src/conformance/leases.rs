//! Cases about leases, holders and tokens.

use super::{Scene, next, text};
use crate::error::LeaseError;
use crate::store::{Acquire, Release};
use crate::watch::Change;
use pgconvoy_core::ids::{Attempt, FencingToken, UnitId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub async fn of_many_that_claim_a_key_one_wins(scene: &Scene) {
    const CLAIMANTS: u32 = 16;
    let tasks: Vec<_> = (0..CLAIMANTS)
        .map(|number| {
            let (store, key) = (Arc::clone(&scene.store), scene.leader());
            tokio::spawn(async move {
                let lease = store.grant(Duration::from_secs(60)).await.unwrap();
                tokio::task::yield_now().await;
                let value = text(&number.to_string());
                (store.acquire(key, value.clone(), lease, None).await.unwrap(), value, lease)
            })
        })
        .collect();
    let mut winners = Vec::new();
    let mut losers = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (Acquire::Granted(token), value, lease) => winners.push((token, value, lease)),
            (Acquire::Held(entry), ..) => losers.push((entry.token, entry.value, entry.lease.unwrap())),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(losers.len(), 15);
    assert!(losers.iter().all(|seen| *seen == winners[0]), "losers see who won: {winners:?} {losers:?}");
}

pub async fn a_holder_is_known_by_value_token_and_lease(scene: &Scene) {
    let key = scene.leader();
    assert_eq!(scene.store.holder(&key).await.unwrap(), None);
    let lease = scene.lease().await;
    let token = scene.hold(&key, lease).await;
    let holder = scene.store.holder(&key).await.unwrap().unwrap();
    assert_eq!((holder.value, holder.token, holder.lease), (text("holder"), token, Some(lease)));
    let record = scene.job().spec();
    scene.put(&record, "spec").await;
    assert_eq!(scene.store.holder(&record).await.unwrap(), None, "a record has no holder");
}

pub async fn a_second_claim_of_the_same_holder_finds_its_own(scene: &Scene) {
    let lease = scene.lease().await;
    let token = scene.hold(&scene.leader(), lease).await;
    let Acquire::Held(entry) = scene.claim(&scene.leader(), lease).await else { panic!("granted twice") };
    assert_eq!((entry.lease, entry.token), (Some(lease), token));
}

pub async fn an_expired_lease_frees_its_keys_and_watchers_hear_of_it(scene: &Scene) {
    let key = scene.leader();
    let mut watch = scene.store.watch(&scene.fleet.all()).await.unwrap();
    let granted = Instant::now();
    let lease = scene.store.grant(scene.ttl).await.unwrap();
    scene.hold(&key, lease).await;
    assert!(matches!(next(&mut watch).await, Change::Put(entry) if entry.lease == Some(lease)));
    // Nobody calls the store meanwhile.
    let change = next(&mut watch).await;
    let lived = granted.elapsed();
    assert!(matches!(change, Change::Gone { key: gone, .. } if gone == key));
    assert!(lived >= scene.ttl && lived <= scene.ttl + scene.late, "lived for {lived:?} of {:?}", scene.ttl);
    assert_eq!(scene.get(&key).await, None);
    scene.hold(&key, scene.lease().await).await;
}

pub async fn keep_alive_prolongs_a_lease(scene: &Scene) {
    let key = scene.leader();
    let lease = scene.store.grant(scene.ttl).await.unwrap();
    let token = scene.hold(&key, lease).await;
    let start = Instant::now();
    while start.elapsed() < 2 * (scene.ttl + scene.late) {
        tokio::time::sleep(scene.ttl / 2).await;
        let remaining = scene.store.keep_alive(lease).await.unwrap();
        assert!(remaining >= scene.ttl, "{remaining:?} of {:?}", scene.ttl);
    }
    assert_eq!(scene.store.holder(&key).await.unwrap().unwrap().token, token);
    scene.until_expired().await;
    assert_eq!(scene.store.holder(&key).await.unwrap(), None);
}

pub async fn a_lease_that_is_over_stays_over(scene: &Scene) {
    let (lease, _) = scene.hold_and_expire(&scene.leader()).await;
    assert_eq!(scene.store.keep_alive(lease).await, Err(LeaseError::Lost { lease }));
    let claim = scene.store.acquire(scene.leader(), text("late"), lease, None).await;
    assert_eq!(claim, Err(LeaseError::Lost { lease }));
    assert_eq!(scene.get(&scene.leader()).await, None);
}

pub async fn a_revoked_lease_frees_its_keys_at_once(scene: &Scene) {
    let key = scene.leader();
    let lease = scene.lease().await;
    scene.hold(&key, lease).await;
    let mut watch = scene.store.watch(&scene.fleet.all()).await.unwrap();
    scene.store.revoke(lease).await.unwrap();
    assert!(matches!(next(&mut watch).await, Change::Gone { key: gone, .. } if gone == key));
    assert_eq!(scene.get(&key).await, None);
    assert_eq!(scene.store.keep_alive(lease).await, Err(LeaseError::Lost { lease }));
    scene.store.revoke(lease).await.expect("revoking twice is no error");
}

pub async fn tokens_grow_whatever_happened_to_earlier_holders(scene: &Scene) {
    let key = scene.leader();
    let mut tokens: Vec<FencingToken> = Vec::new();
    tokens.push(scene.hold_and_expire(&key).await.1);
    let revoked = scene.lease().await;
    tokens.push(scene.hold(&key, revoked).await);
    scene.store.revoke(revoked).await.unwrap();
    let lease = scene.lease().await;
    let token = scene.hold(&key, lease).await;
    tokens.push(token);
    scene.store.release(key.clone(), token).await.unwrap();
    tokens.push(scene.hold(&scene.job().lease(UnitId(1), Attempt(1)), lease).await);
    tokens.push(scene.hold(&key, lease).await);
    scene.store.delete(key.clone(), None).await.unwrap();
    tokens.push(scene.hold(&key, lease).await);
    assert!(tokens.is_sorted_by(|earlier, later| earlier < later), "{tokens:?}");
}

pub async fn only_the_current_token_releases(scene: &Scene) {
    let key = scene.leader();
    let (_, old) = scene.hold_and_expire(&key).await;
    assert_eq!(scene.store.release(key.clone(), old).await, Ok(Release::NotHolder));
    let new = scene.hold(&key, scene.lease().await).await;
    assert_eq!(scene.store.release(key.clone(), old).await, Ok(Release::NotHolder));
    assert_eq!(scene.store.holder(&key).await.unwrap().unwrap().token, new);
    assert_eq!(scene.store.release(key.clone(), new).await, Ok(Release::Freed));
    assert_eq!(scene.get(&key).await, None);
    assert_eq!(scene.store.release(key, new).await, Ok(Release::NotHolder));
}

pub async fn a_lease_holds_many_keys_and_keeps_those_it_did_not_release(scene: &Scene) {
    let lease = scene.store.grant(scene.ttl).await.unwrap();
    let [one, two, three] = [1, 2, 3].map(|unit| scene.job().lease(UnitId(unit), Attempt(1)));
    let token = scene.hold(&one, lease).await;
    scene.hold(&two, lease).await;
    scene.store.release(one.clone(), token).await.unwrap();
    // Somebody else may have the released key; the expiry of the first lease must not take it.
    scene.hold(&one, scene.lease().await).await;
    scene.hold(&three, lease).await;
    scene.until_expired().await;
    let listing = scene.store.list(&scene.job().leases()).await.unwrap();
    assert_eq!(listing.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), [one]);
}
