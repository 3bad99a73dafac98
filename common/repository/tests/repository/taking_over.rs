//! A repository that has something of a backup already: what a copy takes over of it, and what it leaves alone.

use super::support::{BackupRequest, Files, Seal, Site, backup, keep_session, segment, writer};
use super::syncing::{empty, is_whole, options, source, statuses, sync_into, sync_with, try_sync};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::layout;
use pgconvoy_core::format::object::Kind as Object;
use pgconvoy_core::format::plan::{HeartbeatBody, PlanBody, Writer};
use pgconvoy_core::ids::PlanNumber;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::Repository;
use pgconvoy_repository::sync::{SyncOptions, SyncStatus};
use pgconvoy_storage::MemoryStorage;
use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, KeyPattern, Kind, Operation, Rule};
use std::sync::Arc;
use std::time::Duration;

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
async fn a_plan_of_another_job_that_the_source_has_too_is_of_the_same_backup() {
    let from = source(Seal::Encrypted).await;
    let (to, label) = dropped(Seal::Encrypted).await;
    // The second attempt was the source's and the target's, and stored nothing that was needed.
    for site in [&from, &to] {
        let plan =
            PlanBody { backup: Site::identity(8), number: PlanNumber(2), ..plan_of(site, label).await };
        site.repository.write_plan(&site.stanza, &plan).await.unwrap();
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
    faults.add(
        Rule::always(Operation::Put, Effect::Fail(Kind::Full))
            .on(KeyPattern::Exactly(manifest.parse().unwrap())),
    );
    assert!(sync_into(&from, opened, None).await.unwrap().ended_by.is_some());
    let plan = plan_of(&other, label).await;
    replace_plan(&other, &PlanBody { written: Timestamp(plan.written.0 + 1234), ..plan }).await;
    let report = try_sync(&other, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied; 3], "{:?}", report.errors);
    assert_eq!(report.backups[0].packs.copied, 0);
    is_whole(&to).await;
}

/// A process that this host has, and whose heartbeats alone tell whether it lives.
fn elsewhere() -> SyncOptions {
    SyncOptions { writer: Writer { process: 1, ..writer() }, ..options(None) }
}

async fn is_unfinished(site: &Site, label: BackupLabel) -> bool {
    assert!(site.repository.copy_record(&site.stanza, label).await.unwrap().is_none());
    let undecided = site.repository.undecided(&site.stanza).await.unwrap();
    undecided.iter().any(|begun| begun.label == label)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_being_written_to_the_target_keeps_its_label_and_is_taken_over_once_it_is_silent() {
    let from = source(Seal::Encrypted).await;
    let (to, label) = dropped(Seal::Encrypted).await;
    let (repository, stanza) = (to.repository.clone(), to.stanza.clone());
    let beating = tokio::spawn(async move {
        for sequence in 0.. {
            let heartbeat = HeartbeatBody { writer: writer(), sequence };
            repository.beat(&stanza, label, PlanNumber(1), &heartbeat).await.unwrap();
            // Ended by the test; far below the silence that is the timeout of a writer.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let report = sync_with(&from, to.repository.clone(), &elsewhere()).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Busy, SyncStatus::Copied, SyncStatus::Error]);
    assert_eq!(report.errors[0].code, ErrorCode::LockAcquire, "{:?}", report.errors);
    assert!(is_unfinished(&to, label).await);
    beating.abort();
    let _ = beating.await;
    let report = sync_with(&from, to.repository.clone(), &elsewhere()).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied, SyncStatus::Present, SyncStatus::Copied]);
    let heartbeats = layout::heartbeats(&to.stanza, label);
    assert!(!to.objects().await.iter().any(|name| name.starts_with(&heartbeats)));
    is_whole(&to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_over_while_a_backup_of_this_host_holds_the_lock() {
    let from = source(Seal::Encrypted).await;
    let (to, label) = dropped(Seal::Encrypted).await;
    let mut options = options(None);
    options.watch.lock = Arc::new(|| Err(Failure::new(ErrorCode::LockAcquire, "a backup runs")));
    let report = sync_with(&from, to.repository.clone(), &options).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Busy, SyncStatus::Copied, SyncStatus::Error]);
    assert!(is_unfinished(&to, label).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_there_of_another_backup_or_tells_nothing_is_named_and_stays_unfinished() {
    let from = source(Seal::Encrypted).await;
    let (to, label) = dropped(Seal::Encrypted).await;
    let plan = plan_of(&to, label).await;
    replace_plan(&to, &PlanBody { backup: Site::identity(9), ..plan.clone() }).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report)[0], SyncStatus::Conflict);
    assert!(is_unfinished(&to, label).await);

    let name = layout::plan(&to.stanza, label, PlanNumber(1));
    to.overwrite(&name, b"nothing".to_vec()).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report)[0], SyncStatus::Error);
    assert!(report.errors[0].message.contains(&name), "{:?}", report.errors);
    assert!(is_unfinished(&to, label).await);

    replace_plan(&to, &plan).await;
    assert_eq!(statuses(&try_sync(&from, &to, None).await.unwrap())[0], SyncStatus::Copied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_taken_back_where_the_packs_turn_out_to_be_others_and_not_where_the_source_is_damaged() {
    let from = source(Seal::Encrypted).await;
    let to = Site::at(Arc::new(MemoryStorage::new()), Seal::Encrypted, 2).await;
    to.push((1..=3).map(segment)).await;
    let mut files = Files::sample();
    files.change("base/5/2619", 3);
    let label = backup(&to, &BackupRequest { files, ..first_backup() }).await;
    to.delete(&layout::catalogue_entry(&to.stanza, label)).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Error, SyncStatus::Copied, SyncStatus::Error]);
    assert!(report.errors[0].message.contains("not what the source has"), "{:?}", report.errors);
    assert!(is_unfinished(&to, label).await);

    let to = empty(Seal::Encrypted).await;
    let manifest = layout::manifest(&from.stanza, label);
    let whole = from.read(&manifest).await;
    let stop = layout::stop(&from.stanza, label, PlanNumber(1));
    from.overwrite(&stop, whole).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report)[0], SyncStatus::Error);
    assert!(to.repository.copy_record(&to.stanza, label).await.unwrap().is_some(), "the next copy goes on");
}

/// A target that has all, the label of the full backup, and that of the incremental one on it.
async fn filled() -> (Site, Site, BackupLabel, BackupLabel) {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    try_sync(&from, &to, None).await.unwrap();
    let labels = from.labels().await;
    let incremental = *labels.iter().find(|label| !label.is_full()).unwrap();
    (from, to, labels[0], incremental)
}

async fn remove_under(site: &Site, prefix: &str) {
    for name in site.objects().await.into_iter().filter(|name| name.starts_with(prefix)) {
        site.delete(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_published_backups_of_the_target_refer_to_is_not_stored_anew_under_them() {
    let (from, to, full, incremental) = filled().await;
    to.delete(&layout::catalogue_entry(&to.stanza, full)).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report)[0], SyncStatus::Copied, "nothing of it was lost: {:?}", report.errors);
    is_whole(&to).await;

    to.delete(&layout::catalogue_entry(&to.stanza, full)).await;
    remove_under(&to, &format!("{}/", layout::backup(&to.stanza, full))).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Error, SyncStatus::Present, SyncStatus::Present]);
    assert!(report.errors[0].message.contains(&incremental.to_string()), "{:?}", report.errors);
    assert!(!to.labels().await.contains(&full));

    // Without those it is copied again.
    to.delete(&layout::catalogue_entry(&to.stanza, incremental)).await;
    remove_under(&to, &format!("{}/", layout::backup(&to.stanza, incremental))).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied, SyncStatus::Present, SyncStatus::Copied]);
    is_whole(&to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_whose_lender_was_stored_anew_is_not_taken_for_present() {
    let (from, to, full, incremental) = filled().await;
    for label in [full, incremental] {
        to.delete(&layout::catalogue_entry(&to.stanza, label)).await;
    }
    remove_under(&to, &format!("{}/", layout::backup(&to.stanza, full))).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied, SyncStatus::Present, SyncStatus::Error]);
    assert!(report.errors[0].message.contains("/pack/"), "{:?}", report.errors);
    assert!(!to.labels().await.contains(&incremental), "it could not be opened");
    assert!(to.verify().await.backups.iter().all(|backup| backup.recoverable || backup.label == incremental));
}
