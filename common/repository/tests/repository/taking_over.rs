//! A repository that has something of a backup already: what a copy takes over of it, and what it leaves alone.

use super::support::{BackupRequest, Seal, Site, backup, keep_session, segment};
use super::syncing::{empty, is_whole, source, statuses, sync_into, try_sync};
use pgconvoy_core::format::layout;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::object::Kind as Object;
use pgconvoy_core::format::plan::PlanBody;
use pgconvoy_core::ids::PlanNumber;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::Repository;
use pgconvoy_repository::sync::SyncStatus;
use pgconvoy_storage::MemoryStorage;
use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, KeyPattern, Kind, Operation, Rule};
use std::sync::Arc;

fn first_backup() -> BackupRequest {
    BackupRequest::new(1_795_000_000, 2, 3)
}

/// It took part in the first backup and was dropped before its end: no manifest, no entry, a pack is missing.
async fn dropped(seal: Seal) -> (Site, BackupLabel) {
    let site = Site::at(Arc::new(MemoryStorage::new()), seal, 2).await;
    site.push((1..=3).map(segment)).await;
    let label = backup(&site, &first_backup()).await;
    site.delete(&layout::catalogue_entry(&site.stanza, label)).await;
    site.delete(&layout::manifest(&site.stanza, label)).await;
    let prefix = layout::packs(&site.stanza, label, PlanNumber(1));
    let pack = site.objects().await.into_iter().find(|name| name.starts_with(&prefix)).unwrap();
    site.delete(&pack).await;
    (site, label)
}

async fn plan_of(site: &Site, label: BackupLabel) -> PlanBody {
    let name = layout::plan(&site.stanza, label, PlanNumber(1));
    site.repository.get_object(Object::Plan, &name).await.unwrap().unwrap()
}

async fn replace_plan(site: &Site, plan: &PlanBody) {
    site.delete(&layout::plan(&site.stanza, plan.label, plan.number)).await;
    site.repository.write_plan(&site.stanza, plan).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_the_target_was_dropped_from_is_completed_there_whatever_each_repository_keeps_of_it() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let from = source(Seal::Encrypted).await;
        let (to, label) = dropped(seal).await;
        let plan = plan_of(&to, label).await;
        let later = Timestamp(plan.written.0 + 1234);
        replace_plan(&to, &PlanBody { written: later, references: vec![label], ..plan }).await;
        keep_session(&from, label, &first_backup()).await;
        let report = try_sync(&from, &to, None).await.unwrap();
        assert_eq!(report.errors, [], "{seal:?}");
        assert_eq!(statuses(&report), [SyncStatus::Copied; 3]);
        let first = &report.backups[0];
        assert_eq!((first.packs.copied, first.objects.present), (1, 2), "the rest was there");
        assert_eq!(plan_of(&to, label).await.written, later, "what was there stays");
        is_whole(&to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_an_earlier_job_that_the_source_has_too_is_of_the_same_backup() {
    let from = source(Seal::Encrypted).await;
    let (to, label) = dropped(Seal::Encrypted).await;
    for site in [&from, &to] {
        let plan = plan_of(site, label).await;
        replace_plan(site, &PlanBody { backup: Site::identity(8), ..plan }).await;
    }
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied; 3], "{:?}", report.errors);
    is_whole(&to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_gone_on_with_from_another_repository_than_it_was_begun_from() {
    let from = source(Seal::Encrypted).await;
    let (other, to) = (empty(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    try_sync(&from, &other, None).await.unwrap();
    let label = from.labels().await[0];
    let (faulty, faults) = FaultStorage::new(to.storage.clone());
    let opened = Arc::new(Repository::open(Arc::new(faulty), &to.settings).await.unwrap());
    let manifest = layout::manifest(&to.stanza, label);
    faults.add(Rule::always(Operation::Put, Effect::Fail(Kind::Full)).on(KeyPattern::Exactly(manifest.parse().unwrap())));
    assert!(sync_into(&from, opened, None).await.unwrap().ended_by.is_some());
    let plan = plan_of(&other, label).await;
    replace_plan(&other, &PlanBody { written: Timestamp(plan.written.0 + 1234), ..plan }).await;
    let report = try_sync(&other, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied; 3], "{:?}", report.errors);
    assert_eq!(report.backups[0].packs.copied, 0);
    is_whole(&to).await;
}
