#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::testing::spec;
use super::*;
use crate::leader::Ttls;
use async_trait::async_trait;
use pgconvoy_core::machine::backup::Recovered;
use pgconvoy_lease::store::{Listing, Revision};
use pgconvoy_lease::{EmbeddedStore, FleetKeys, Guard, LeaseStore, Prefix, Watch};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;

/// For conditions that are waited for; long enough for any machine.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Counts transactions that write.
struct Counting {
    store: EmbeddedStore,
    commits: AtomicUsize,
}

#[async_trait]
impl LeaseStore for Counting {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, LeaseError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, LeaseError> {
        self.store.keep_alive(lease).await
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
        assert!(writes.len() <= BATCH_KEYS_MAX, "{} keys in one transaction", writes.len());
        self.commits.fetch_add(1, Ordering::Relaxed);
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

fn worker() -> WorkerName {
    "db1".parse().unwrap()
}

fn accepted(unit: u32) -> Effect {
    let repositories = vec![RepoKey(1)];
    let accepted = AcceptedUnit { unit: UnitId(unit), attempt: Attempt(1), repositories, standby: None };
    Effect::PersistAccepted { worker: worker(), accepted }
}

struct Site {
    store: Arc<Counting>,
    leadership: Arc<Leadership>,
    unwritten: Unwritten,
}

impl Site {
    async fn new() -> Site {
        let store = Arc::new(Counting { store: EmbeddedStore::start(), commits: AtomicUsize::new(0) });
        let keys = FleetKeys::new("blue").unwrap();
        let leadership = Leadership::acquire(store.clone(), keys, "one", Ttls::FLEET.leader).await.unwrap();
        Site { store, leadership: Arc::new(leadership), unwritten: Unwritten::default() }
    }

    fn keys(&self) -> JobKeys {
        self.leadership.keys.job(&spec().job.to_string()).unwrap()
    }

    /// Carries out what waits in that many batches; how many transactions it took.
    async fn carry_out(&self, batches: Vec<Vec<Effect>>) -> usize {
        let admission = Arc::new(|_: &_| Ok(()));
        let runtime = Handle::current();
        let registry = Registry::new(
            self.leadership.clone(),
            runtime,
            Ttls::FLEET.worker,
            admission,
            Default::default(),
        );
        let (unheard, _) = mpsc::unbounded_channel();
        let (actor, _) =
            BackupActor::new(spec(), worker(), Vec::new(), Recovered::default(), unheard, Default::default());
        let effects = Effects {
            spec: spec(),
            registry,
            actor: actix::Actor::start(actor),
            repositories: Arc::new(RepositorySet::new(Vec::new())),
            archive_timeout: TIMEOUT,
            locks: Vec::new(),
            heartbeats: BTreeMap::new(),
            accepted: BTreeMap::new(),
            unwritten: self.unwritten.clone(),
            record: None,
        };
        let (queue, waiting) = mpsc::unbounded_channel();
        batches.into_iter().for_each(|batch| queue.send(batch).unwrap());
        // Nobody wants anything more.
        drop(queue);
        let before = self.store.commits.load(Ordering::Relaxed);
        let (finished, _) = oneshot::channel();
        tokio::time::timeout(TIMEOUT, effects.run(waiting, finished)).await.unwrap();
        self.store.commits.load(Ordering::Relaxed) - before
    }

    async fn recovered(&self) -> Recovered {
        crate::recall::recovered(&self.leadership, &self.keys(), None, false).await.unwrap()
    }
}

#[actix::test]
async fn units_whose_acceptance_waits_are_written_down_in_one_transaction() {
    let site = Site::new().await;
    let warned = || Effect::Warn("somebody else is slow".to_owned());
    let batches = (0..40).map(|unit| vec![accepted(unit), warned()]).collect();
    assert_eq!(site.carry_out(batches).await, 1);
    let units: Vec<u32> = site.recovered().await.accepted.iter().map(|one| one.unit.0).collect();
    assert_eq!(units, (0..40).collect::<Vec<_>>());
}

#[actix::test]
async fn what_is_told_as_done_is_what_was_written_down() {
    let site = Site::new().await;
    (0..5).for_each(|unit| site.unwritten.add(UnitId(unit), 100));
    assert_eq!(site.unwritten.sum(), (5, 500));
    site.carry_out(vec![vec![accepted(0), accepted(1)], vec![Effect::PersistStopOrder, accepted(2)]]).await;
    assert_eq!(site.unwritten.sum(), (2, 200));
    assert_eq!(site.recovered().await.accepted.len(), 3);
}

#[actix::test]
async fn the_leases_of_accepted_units_end_with_the_same_transaction() {
    let site = Site::new().await;
    let lease = site.store.grant(TIMEOUT).await.unwrap();
    for unit in 0..3 {
        let key = site.keys().lease(UnitId(unit), Attempt(1));
        site.store.acquire(key, Bytes::from_static(b"db1"), lease, None).await.unwrap();
    }
    assert_eq!(site.recovered().await.leases.len(), 3);
    site.carry_out(vec![vec![accepted(0)], vec![accepted(2)]]).await;
    let left: Vec<u32> = site.recovered().await.leases.iter().map(|(_, lease)| lease.unit.0).collect();
    assert_eq!(left, [1]);
}

#[actix::test]
async fn a_transaction_takes_as_many_units_as_it_has_keys_for() {
    let site = Site::new().await;
    // Each of the first ones needs two keys, its lease and a record of its own.
    let scattered = (0..40).map(|number| accepted(number * UNITS_PER_RECORD));
    let close = (1..100).map(accepted);
    let batches: Vec<Vec<Effect>> = scattered.chain(close).map(|effect| vec![effect]).collect();
    let transactions = site.carry_out(batches).await;
    assert!((3..=4).contains(&transactions), "{transactions} transactions");
    assert_eq!(site.recovered().await.accepted.len(), 139);
}

#[actix::test]
async fn nothing_is_written_down_ahead_of_the_order_to_stop() {
    let site = Site::new().await;
    let batches = vec![vec![accepted(0)], vec![Effect::PersistStopOrder], vec![accepted(1)]];
    assert_eq!(site.carry_out(batches).await, 3);
    assert!(site.recovered().await.stop_ordered);
}
