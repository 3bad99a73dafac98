#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::effects::testing::spec;
use pgconvoy_core::format::catalogue::{
    BackupRecord, BackupSizes, CatalogueBody, ManifestReference, PageCounts,
};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::{BackupKind, layout};
use pgconvoy_core::ids::{ClusterNumber, Identity, SystemId};
use pgconvoy_core::pg::{Lsn, PgVersion, TimelineId};
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::RepositorySettings;
use pgconvoy_repository::set::Place;
use pgconvoy_storage::{MemoryStorage, Storage};

const ONE: RepoKey = RepoKey(1);
const TWO: RepoKey = RepoKey(2);
/// Nobody ever made it.
const NOWHERE: RepoKey = RepoKey(3);

fn stop() -> StopBody {
    StopBody {
        start_lsn: Lsn(0x0200_0028),
        stop_lsn: Lsn(0x0200_0138),
        timeline: TimelineId(1),
        stopped: Timestamp(1),
        backup_label: "START WAL LOCATION: 0/2000028".into(),
        tablespace_map: String::new(),
        kept: None,
    }
}

async fn labelled() -> Labelled {
    let mut places = Vec::new();
    for number in [ONE, TWO, NOWHERE] {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let settings =
            RepositorySettings { number, secret: None, layout: pgconvoy_core::config::Layout::Packed };
        if number != NOWHERE {
            Repository::open_or_create(storage.clone(), &settings, Timestamp(0)).await.unwrap();
        }
        places.push(Place::at(storage, settings));
    }
    Labelled {
        set: Arc::new(RepositorySet::new(places)),
        spec: spec(),
        repositories: vec![ONE, TWO, NOWHERE],
        label: "20261122-103000F".parse().unwrap(),
    }
}

async fn publish(labelled: &Labelled, key: RepoKey, backup: Identity) {
    let record = BackupRecord {
        label: labelled.label,
        backup,
        kind: BackupKind::Full,
        prior: None,
        references: Vec::new(),
        cluster: ClusterNumber(1),
        system_id: SystemId(7),
        version: PgVersion::V15,
        online: false,
        started: Timestamp(1),
        stopped: Timestamp(2),
        timeline: TimelineId(1),
        lsn_start: None,
        lsn_stop: None,
        wal_start: None,
        wal_stop: None,
        sizes: BackupSizes::default(),
        pages: PageCounts { checked: 0, errors: 0 },
        manifest: ManifestReference { size: 0, sha1: [0; 20] },
        annotations: Default::default(),
        repositories: Vec::new(),
        writer: labelled.spec.writer.clone(),
        program: "0".into(),
    };
    let name = layout::catalogue_entry(&labelled.spec.stanza, labelled.label);
    let body = CatalogueBody::Published(Box::new(record));
    labelled.set.open(key).await.unwrap().put_object(Kind::Catalogue, &name, &body).await.unwrap();
}

#[tokio::test]
async fn a_stop_that_one_repository_knows_is_given_to_the_others() {
    let labelled = labelled().await;
    assert_eq!(labelled.stop(PlanNumber(1)).await, (None, Vec::new()));
    let (stanza, label, plan) = (&labelled.spec.stanza, labelled.label, PlanNumber(1));
    let two = labelled.set.open(TWO).await.unwrap();
    two.write_stop(stanza, label, plan, &stop(), None).await.unwrap();
    let (found, failed) = labelled.stop(PlanNumber(1)).await;
    assert_eq!(found, Some(stop()));
    assert_eq!(failed.iter().map(|one| one.repository).collect::<Vec<_>>(), [NOWHERE]);
    let one = labelled.set.open(ONE).await.unwrap();
    assert_eq!(one.stop_record(stanza, label, plan).await.unwrap(), Some(stop()));
}

#[tokio::test]
async fn giving_a_label_up_tells_of_each_repository_what_its_key_says() {
    let labelled = labelled().await;
    publish(&labelled, TWO, labelled.spec.backup).await;
    let fates = labelled.give_up("its leader was lost").await;
    let told: Vec<_> = fates.into_iter().map(|(key, fate)| (key, fate.ok())).collect();
    assert_eq!(told, [(ONE, Some(Fate::Void)), (TWO, Some(Fate::Published)), (NOWHERE, None)]);
    let again = labelled.give_up("its leader was lost").await;
    assert_eq!(again[0].1.as_ref().ok(), Some(&Fate::Void), "it was void already");
}

#[tokio::test]
async fn another_backup_of_the_same_label_is_not_taken_for_this_one() {
    let labelled = labelled().await;
    publish(&labelled, ONE, Identity::from_random_bytes([9; 16])).await;
    let fates = labelled.give_up("its leader was lost").await;
    assert_eq!(fates[0].1.as_ref().unwrap_err().code, ErrorCode::RepoInvalid);
}
