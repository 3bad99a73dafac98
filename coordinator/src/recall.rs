//! Reads back what an earlier leader left: records from the lease store, receipts from the footers of packs.

use crate::leader::Leadership;
use futures::StreamExt;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::{BackupLabel, HashSecret, decode};
use pgconvoy_core::ids::{Identity, PlanNumber, RepoKey, StanzaName};
use pgconvoy_core::machine::backup::event::{AcceptedUnit, RecalledPack, UnitLease};
use pgconvoy_core::machine::backup::{Announced, Recovered};
use pgconvoy_core::wire::StoredPack;
use pgconvoy_lease::keys::{JobKeys, leased_unit};
use pgconvoy_repository::pack::PackReader;
use pgconvoy_repository::{Repository, RepositorySet};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// Footers read at once: enough to hide a store's latency, few enough for its limits.
const FOOTERS_AT_ONCE: usize = 16;

/// What the lease store knows of a job that was under way.
pub(crate) async fn recovered(
    leadership: &Leadership,
    keys: &JobKeys,
    announced: Option<Announced>,
    paused: bool,
) -> Result<Recovered, Failure> {
    let mut recovered = Recovered { announced, paused, ..Recovered::default() };
    for entry in leadership.list(&keys.all_done()).await?.entries {
        if entry.key == keys.stop_order() {
            recovered.stop_ordered = true;
            continue;
        }
        let units: Vec<AcceptedUnit> = decode("record of accepted units", &entry.value)?;
        recovered.accepted.extend(units);
    }
    for entry in leadership.list(&keys.leases()).await?.entries {
        let worker = std::str::from_utf8(&entry.value).ok().and_then(|name| name.parse().ok());
        if let (Some(worker), Some((unit, attempt))) = (worker, leased_unit(&entry.key)) {
            recovered.leases.push((worker, UnitLease { unit, attempt, token: entry.token }));
        }
    }
    Ok(recovered)
}

/// Which packs to look at.
pub(crate) struct Packs {
    pub stanza: StanzaName,
    pub label: BackupLabel,
    pub plan: PlanNumber,
    pub backup: Identity,
    pub units: Vec<AcceptedUnit>,
}

/// The packs that every repository can show which is said to have them.
pub(crate) async fn packs(set: Arc<RepositorySet>, wanted: Packs) -> Vec<RecalledPack> {
    let Packs { stanza, label, plan, backup, units } = wanted;
    let mut opened: BTreeMap<RepoKey, (Arc<Repository>, HashSecret)> = BTreeMap::new();
    for key in units.iter().flat_map(|unit| &unit.repositories) {
        if let Entry::Vacant(place) = opened.entry(*key) {
            match open(&set, *key, &stanza).await {
                Ok(one) => drop(place.insert(one)),
                Err(failure) => tracing::warn!("repo {key} cannot show what it has: {failure}"),
            }
        }
    }
    let one = |unit: AcceptedUnit| {
        let (opened, stanza) = (&opened, &stanza);
        async move {
            let name = PackName { label, plan, unit: unit.unit, attempt: unit.attempt };
            let mut recalled: Option<RecalledPack> = None;
            for key in unit.repositories {
                let (repository, secret) = opened.get(&key)?;
                let read = PackReader::open(repository, stanza, name, Some(backup), secret).await;
                let pack = read
                    .inspect_err(|error| {
                        tracing::warn!("pack {name} in repo {key} is not taken over: {error}")
                    })
                    .ok()?;
                let stored = StoredPack { repository: key, bytes: pack.object.size() };
                recalled
                    .get_or_insert(RecalledPack { body: pack.body, stored: Vec::new() })
                    .stored
                    .push(stored);
            }
            recalled
        }
    };
    futures::stream::iter(units.into_iter().map(one))
        .buffer_unordered(FOOTERS_AT_ONCE)
        .filter_map(async |pack| pack)
        .collect()
        .await
}

async fn open(
    set: &RepositorySet,
    key: RepoKey,
    stanza: &StanzaName,
) -> Result<(Arc<Repository>, HashSecret), Failure> {
    let repository = set.open(key).await?;
    let secret = repository.cluster(stanza).await?.hash_secret;
    Ok((repository, secret))
}
