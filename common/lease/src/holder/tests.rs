#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::EmbeddedStore;
use crate::keys::{FleetKeys, Key, Prefix, Shard};
use crate::store::{Acquire, Claim, Entry, Guard, Listing, Revision, Write};
use crate::watch::Watch;
use async_trait::async_trait;
use bytes::Bytes;

const TTL: Duration = Duration::from_secs(9);

/// What happens to a keep-alive.
#[derive(Debug, Clone, Copy)]
enum Weather {
    Fair,
    /// Carried out at once, answered this much later.
    SlowAnswers(Duration),
    /// Refused with an error that may pass.
    Refused,
    /// Never answered.
    Silent,
}

/// A store behind a network that can fail.
struct Remote {
    store: EmbeddedStore,
    weather: Mutex<Weather>,
}

impl Remote {
    fn start() -> Arc<Remote> {
        Arc::new(Remote { store: EmbeddedStore::start(), weather: Mutex::new(Weather::Fair) })
    }

    fn turns(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }
}

#[async_trait]
impl LeaseStore for Remote {
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, LeaseError> {
        let weather = *self.weather.lock().unwrap();
        match weather {
            Weather::Fair => self.store.keep_alive(lease).await,
            Weather::SlowAnswers(by) => {
                let answer = self.store.keep_alive(lease).await;
                tokio::time::sleep(by).await;
                answer
            }
            Weather::Refused => Err(LeaseError::Unavailable { reason: "no leader".to_owned() }),
            Weather::Silent => std::future::pending().await,
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, LeaseError> {
        self.store.grant(ttl).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.store.revoke(lease).await
    }
    async fn acquire_each(
        &self,
        claims: Vec<Claim>,
        lease: LeaseId,
        guard: Option<&Guard>,
    ) -> Result<Vec<Acquire>, LeaseError> {
        self.store.acquire_each(claims, lease, guard).await
    }
    async fn commit(&self, writes: Vec<Write>, guard: Option<&Guard>) -> Result<Revision, LeaseError> {
        self.store.commit(writes, guard).await
    }
    async fn delete_prefix(&self, prefix: &Prefix, guard: Option<&Guard>) -> Result<u64, LeaseError> {
        self.store.delete_prefix(prefix, guard).await
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>, LeaseError> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &Prefix) -> Result<Listing, LeaseError> {
        self.store.list(prefix).await
    }
    async fn watch(&self, prefix: &Prefix) -> Result<Watch, LeaseError> {
        self.store.watch(prefix).await
    }
}

async fn holding() -> (Arc<Remote>, KeepAlive, Key) {
    let remote = Remote::start();
    let store: Arc<dyn LeaseStore> = remote.clone();
    let alive = KeepAlive::start(store, TTL).await.unwrap();
    let key = FleetKeys::new("f").unwrap().leader(Shard(0));
    let claim = remote.acquire(key.clone(), Bytes::new(), alive.lease(), None).await.unwrap();
    assert!(matches!(claim, Acquire::Granted(_)));
    (remote, alive, key)
}

async fn is_held(remote: &Remote, key: &Key) -> bool {
    remote.holder(key).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_lease_lives_as_long_as_its_keep_alives_are_confirmed() {
    let (remote, alive, key) = holding().await;
    tokio::time::sleep(10 * TTL).await;
    assert!(alive.is_alive());
    assert!(alive.remaining() > TTL / 2, "{:?}", alive.remaining());
    assert!(is_held(&remote, &key).await);
}

#[tokio::test(start_paused = true)]
async fn a_passing_fault_is_outlived() {
    let (remote, alive, key) = holding().await;
    for _ in 0..5 {
        remote.turns(Weather::Refused);
        tokio::time::sleep(TTL / 2).await;
        remote.turns(Weather::Fair);
        tokio::time::sleep(TTL / 2).await;
    }
    assert!(alive.is_alive());
    assert!(is_held(&remote, &key).await);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_not_answered_gives_itself_up_before_the_store_does() {
    for weather in [Weather::Refused, Weather::Silent] {
        let (remote, alive, key) = holding().await;
        remote.turns(weather);
        let start = Instant::now();
        alive.lost().await;
        assert!(!alive.is_alive());
        assert!(start.elapsed() <= TTL, "{:?} after {weather:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!is_held(&remote, &key).await, "the store follows");
    }
}

#[tokio::test(start_paused = true)]
async fn confirmations_count_from_their_sending() {
    let (remote, alive, key) = holding().await;
    let start = Instant::now();
    // The first keep-alive leaves at a third of the TTL and is answered half a TTL later; the next ones never.
    remote.turns(Weather::SlowAnswers(TTL / 2));
    tokio::time::sleep(TTL * 5 / 12).await;
    remote.turns(Weather::Silent);
    alive.lost().await;
    let lived = start.elapsed();
    assert!(lived <= TTL / 3 + TTL && lived > TTL, "lived for {lived:?}, confirmed at 5/6 of {TTL:?}");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(!is_held(&remote, &key).await);
}

#[tokio::test(start_paused = true)]
async fn a_late_confirmation_revives_nothing() {
    let (remote, alive, _) = holding().await;
    remote.turns(Weather::SlowAnswers(2 * TTL));
    alive.lost().await;
    remote.turns(Weather::Fair);
    tokio::time::sleep(4 * TTL).await;
    assert!(!alive.is_alive());
    assert_eq!(alive.remaining(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_store_ended_early_is_lost_at_the_next_keep_alive() {
    let (remote, alive, _) = holding().await;
    let token = alive.lost_token();
    remote.revoke(alive.lease()).await.unwrap();
    let start = Instant::now();
    alive.lost().await;
    assert!(start.elapsed() <= TTL / RENEWALS_PER_TTL + Duration::from_millis(5), "{:?}", start.elapsed());
    assert!(token.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_frees_at_once_and_loses_nothing() {
    let (remote, alive, key) = holding().await;
    let token = alive.lost_token();
    let start = Instant::now();
    alive.stop().await.unwrap();
    assert!(!is_held(&remote, &key).await);
    assert_eq!(start.elapsed(), Duration::ZERO);
    tokio::time::sleep(2 * TTL).await;
    assert!(!token.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_keep_alive_that_hangs() {
    let (remote, alive, key) = holding().await;
    remote.turns(Weather::Silent);
    tokio::time::sleep(TTL / 2).await;
    let start = Instant::now();
    alive.stop().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(!is_held(&remote, &key).await);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_holder_stops_asking_and_the_lease_runs_out() {
    let (remote, alive, key) = holding().await;
    drop(alive);
    assert!(is_held(&remote, &key).await);
    tokio::time::sleep(TTL + Duration::from_millis(5)).await;
    assert!(!is_held(&remote, &key).await);
}

#[tokio::test(start_paused = true)]
async fn time_that_a_host_slept_through_counts() {
    let awake = Clock::start().now();
    let mut fences = Fences::new(awake, TTL);
    let advanced = Moment { runtime: awake.runtime + Duration::from_secs(4), ..awake };
    assert_eq!(fences.remaining(advanced), Duration::from_secs(5));
    let slept = Moment { boot: awake.boot + Duration::from_secs(10), ..awake };
    assert_eq!(fences.remaining(slept), Duration::ZERO);
    assert_eq!(fences.remaining(awake), Duration::ZERO, "lost is for good");
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_that_arrives_after_the_host_slept_too_long_revives_nothing() {
    let clock = Clock::start();
    let sent = clock.now();
    let shared = Shared {
        lease: LeaseId(1),
        clock,
        fences: Mutex::new(Fences::new(sent, Duration::ZERO)),
        lost: CancellationToken::new(),
    };
    shared.confirm(sent, TTL);
    assert_eq!(shared.remaining(), Duration::ZERO);
    assert!(shared.lost.is_cancelled());
}
