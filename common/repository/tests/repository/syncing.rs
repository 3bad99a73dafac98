//! One repository filled from another: what is equal afterwards, what is proved on the way, and what an end at any moment leaves.

use super::support::{
    BackupRequest, Files, Flaw, Seal, Site, backup, incremental, segment, wal_content, writer,
};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::format::layout;
use pgconvoy_core::format::object::Kind as Object;
use pgconvoy_core::format::plan::{CopyBody, PlanBody};
use pgconvoy_core::ids::PlanNumber;
use pgconvoy_core::pg::{Lsn, TimelineId, WalFileName, WalPart};
use pgconvoy_core::units::{MIB, Timestamp};
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::sync::{BackupLock, SyncOptions, SyncReport, SyncStatus, Watch, sync};
use pgconvoy_repository::wal::PackedPart;
use pgconvoy_repository::{Repository, verify};
use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, Faults, KeyPattern, Kind, Operation, Rule};
use pgconvoy_storage::{MemoryStorage, Storage};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A repository without the stanza.
pub(crate) async fn empty(seal: Seal) -> Site {
    let site = Site::at(Arc::new(MemoryStorage::new()), seal, 2).await;
    site.delete("main/cluster/0001").await;
    site
}

/// Two full backups, one that borrows from the first, WAL, a history, and a part of a segment.
pub(crate) async fn source(seal: Seal) -> Site {
    let site = Site::with_two_backups(seal).await;
    let full = site.labels().await[0];
    incremental(&site, full, Flaw::None).await;
    let history = b"1\t0/500000\tno recovery target specified\n".to_vec();
    site.push_file(&WalFileName::History(TimelineId(2)), history).await;
    site.push_file(&WalFileName::Partial(segment(9)), wal_content(segment(9))).await;
    let part = WalPart::new(TimelineId(1), Lsn(10 * MIB), Lsn(10 * MIB + 500), site.cluster.wal_segment_size);
    let packed = PackedPart::pack(part.unwrap(), &[5; 500], Codec::Zst, Codec::Zst.default_level()).unwrap();
    site.repository.put_wal_part(&site.stanza, site.cluster.archive_id(), &packed).await.unwrap();
    site
}

pub(crate) async fn try_sync(from: &Site, to: &Site, set: Option<&str>) -> Result<SyncReport, Failure> {
    sync_into(from, to.repository.clone(), set).await
}

pub(crate) async fn sync_into(
    from: &Site,
    to: Arc<Repository>,
    set: Option<&str>,
) -> Result<SyncReport, Failure> {
    sync_with(from, to, &options(set)).await
}

pub(crate) async fn sync_with(
    from: &Site,
    to: Arc<Repository>,
    options: &SyncOptions,
) -> Result<SyncReport, Failure> {
    sync(from.repository.clone(), to, &from.stanza, options, Arc::new(|_| {})).await
}

/// As if by the process that made the backups: what it began is over.
pub(crate) fn options(set: Option<&str>) -> SyncOptions {
    let lock: BackupLock = Arc::new(|| Ok(Box::new(())));
    SyncOptions {
        set: set.map(|set| set.parse().unwrap()),
        process_max: 3,
        writer: writer(),
        now: Timestamp::from_seconds(1_796_000_000),
        watch: Watch { lock, process_runs: |_| true, window: Duration::from_millis(400) },
        cancel: CancellationToken::new(),
        crew: None,
    }
}

pub(crate) fn statuses(report: &SyncReport) -> Vec<SyncStatus> {
    report.backups.iter().map(|backup| backup.status).collect()
}

pub(crate) async fn is_whole(site: &Site) {
    let report = site.verify().await;
    assert_eq!(report.errors().collect::<Vec<_>>(), Vec::<&verify::Finding>::new());
    assert!(report.backups.iter().all(|backup| backup.recoverable), "{:?}", report.backups);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_is_filled_whatever_seals_the_two() {
    for (ours, theirs) in [
        (Seal::Encrypted, Seal::Encrypted),
        (Seal::Plain, Seal::Encrypted),
        (Seal::Encrypted, Seal::Plain),
        (Seal::Plain, Seal::Plain),
    ] {
        let (from, to) = (source(ours).await, empty(theirs).await);
        let report = try_sync(&from, &to, None).await.unwrap();
        assert_eq!(report.errors, [], "{ours:?} {theirs:?}");
        assert_eq!(statuses(&report), [SyncStatus::Copied; 3]);
        is_whole(&to).await;
        let archive = &report.archives[0];
        assert_eq!((archive.files, archive.parts, archive.present), (11, 1, 0));
        for label in from.labels().await {
            let (here, there) = (from.record(label).await, to.record(label).await);
            assert_eq!((here.backup, &here.references), (there.backup, &there.references));
            assert!(to.repository.copy_record(&to.stanza, label).await.unwrap().is_none());
        }
        let again = try_sync(&from, &to, None).await.unwrap();
        assert_eq!(statuses(&again), [SyncStatus::Present; 3]);
        assert_eq!((again.archives.len(), again.errors.len()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn between_repositories_without_encryption_every_object_is_the_same_to_the_byte() {
    let (from, to) = (source(Seal::Plain).await, empty(Seal::Plain).await);
    try_sync(&from, &to, None).await.unwrap();
    let (ours, theirs) = (from.objects().await, to.objects().await);
    assert_eq!(ours, theirs);
    let differs = |name: &str| name == layout::REPOSITORY || name.starts_with("main/catalogue/");
    for name in ours.iter().filter(|name| !differs(name)) {
        assert_eq!(from.read(name).await, to.read(name).await, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_set_brings_what_it_refers_to_and_the_wal_of_these() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let labels = from.labels().await;
    let incremental = labels.iter().find(|label| !label.is_full()).unwrap().to_string();
    let report = try_sync(&from, &to, Some(&incremental)).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied; 2]);
    // Two segments of the full backup, one of the incremental one, the history.
    assert_eq!(report.archives[0].files, 4);
    is_whole(&to).await;
    let missing = try_sync(&from, &to, Some("20301122-103000F")).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::BackupSetInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_costs_the_backup_that_needs_it_and_those_that_refer_to_it_and_no_other() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let from = source(seal).await;
        let full = from.labels().await[0];
        let packs = format!("main/backup/{full}/pack/0001");
        let all = from.objects().await;
        let of_full: Vec<&String> = all.iter().filter(|name| name.starts_with(&packs)).collect();
        for name in
            [of_full[0], &format!("main/backup/{full}/manifest"), &format!("main/backup/{full}/stop-0001")]
        {
            let to = empty(Seal::Encrypted).await;
            let whole = from.read(name).await;
            let mut hurt = whole.clone();
            hurt[whole.len() / 2] ^= 1;
            from.overwrite(name, hurt).await;
            let report = try_sync(&from, &to, None).await.unwrap();
            assert_eq!(
                statuses(&report),
                [SyncStatus::Error, SyncStatus::Copied, SyncStatus::Error],
                "{name}"
            );
            let told = report.errors[0].message.clone();
            assert!(told.contains(name.as_str()) && told.contains(&full.to_string()), "{told}");
            assert_eq!(to.labels().await.len(), 1, "what lacks something is not published");
            assert!(report.verdict().is_err());
            from.overwrite(name, whole).await;
            let report = try_sync(&from, &to, None).await.unwrap();
            assert_eq!(statuses(&report), [SyncStatus::Copied, SyncStatus::Present, SyncStatus::Copied]);
            let packs = report.backups[0].packs;
            // What was good then is not copied again.
            assert!(packs.present + 1 >= of_full.len() as u64 || !name.contains("/pack/"), "{packs:?}");
            is_whole(&to).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_wal_is_named_and_keeps_the_backup_that_needs_it_from_being_published() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let name = layout::wal_file(&from.stanza, from.cluster.archive_id(), &WalFileName::Segment(segment(5)));
    let whole = from.read(&name).await;
    from.overwrite(&name, whole[..whole.len() / 2].to_vec()).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied, SyncStatus::Error, SyncStatus::Copied]);
    assert!(report.errors[0].message.contains(&segment(5).to_string()), "{:?}", report.errors);
    from.overwrite(&name, whole).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!((statuses(&report)[1], report.archives[0].files), (SyncStatus::Copied, 1));
    is_whole(&to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_not_published_onto_other_wal_of_the_same_name() {
    let from = source(Seal::Encrypted).await;
    let to = Site::at(Arc::new(MemoryStorage::new()), Seal::Encrypted, 2).await;
    to.push([segment(2)]).await;
    to.push_file(&WalFileName::Segment(segment(5)), vec![7; 1 << 20]).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied, SyncStatus::Error, SyncStatus::Copied]);
    assert_eq!(report.verdict().unwrap_err().code, ErrorCode::ArchiveDuplicate);
    assert!(report.errors[0].message.contains(&segment(5).to_string()), "{:?}", report.errors);
    assert_eq!(to.labels().await.len(), 2);
    // Also where nothing is to be copied of the archive.
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(report.archives, []);
    assert_eq!(statuses(&report), [SyncStatus::Present, SyncStatus::Error, SyncStatus::Present]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_backup_under_the_same_label_is_named_and_stays() {
    let (from, to) =
        (source(Seal::Encrypted).await, Site::at(Arc::new(MemoryStorage::new()), Seal::Encrypted, 2).await);
    to.push((1..=4).map(segment)).await;
    let other = BackupRequest { identity: 77, ..BackupRequest::new(1_795_000_000, 2, 3) };
    let label = backup(&to, &other).await;
    assert_eq!(label, from.labels().await[0]);
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Conflict, SyncStatus::Copied, SyncStatus::LeftOut]);
    assert_eq!(report.verdict().unwrap_err().code, ErrorCode::BackupMismatch);
    assert_eq!(report.errors.len(), 2, "also what is left out is named: {:?}", report.errors);
    assert_eq!(to.record(label).await.backup, Site::identity(77));
    is_whole(&to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_was_given_up_cannot_be_filled_and_is_told() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let second = *from.labels().await.iter().filter(|label| label.is_full()).max().unwrap();
    let void = Repository::void_record(second, "test", &writer(), Timestamp::from_seconds(1));
    assert!(to.repository.give_up(&to.stanza, void).await.unwrap());
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(report.backups.iter().find(|one| one.label == second).unwrap().status, SyncStatus::Void);
    let verdict = report.verdict().unwrap_err();
    assert_eq!(verdict.code, ErrorCode::Command, "who is told of no error believes that it is filled");
    assert!(
        verdict.message.contains(&second.to_string()) && verdict.message.contains("given up"),
        "{verdict}"
    );
    let report = try_sync(&from, &to, Some(&second.to_string())).await.unwrap();
    assert_eq!(report.verdict().unwrap_err().code, ErrorCode::BackupSetInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_copied_is_nobodys_unfinished_backup() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let label = from.labels().await[0];
    let record = from.record(label).await;
    let mark = CopyBody {
        label,
        backup: record.backup,
        source: from.repository.identity(),
        writer: writer(),
        begun: Timestamp::from_seconds(1),
    };
    to.repository.begin_copy(&to.stanza, &mark).await.unwrap();
    to.repository.begin_copy(&to.stanza, &mark).await.unwrap();
    let other = CopyBody { backup: Site::identity(9), ..mark.clone() };
    assert!(to.repository.begin_copy(&to.stanza, &other).await.is_err());
    let plan = layout::plan(&to.stanza, label, PlanNumber(1));
    let copied: PlanBody = from.repository.get_object(Object::Plan, &plan).await.unwrap().unwrap();
    to.repository.write_plan(&to.stanza, &copied).await.unwrap();
    assert_eq!(to.repository.unfinished(&to.stanza).await.unwrap(), []);
    assert_eq!(to.repository.undecided(&to.stanza).await.unwrap(), []);
    // Without the record it is one, and once it is void it can be swept like any other.
    to.repository.end_copy(&to.stanza, label).await.unwrap();
    assert_eq!(to.repository.unfinished(&to.stanza).await.unwrap().len(), 1);
    to.repository.begin_copy(&to.stanza, &mark).await.unwrap();
    let void = Repository::void_record(label, "test", &writer(), Timestamp::from_seconds(1));
    assert!(to.repository.give_up(&to.stanza, void).await.unwrap());
    assert!(to.repository.unfinished(&to.stanza).await.unwrap()[0].is_void);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_copy_of_the_same_backup_in_the_target_is_completed_and_another_one_is_not_touched() {
    let from = source(Seal::Encrypted).await;
    let label = from.labels().await[0];
    let plan = layout::plan(&from.stanza, label, PlanNumber(1));
    let body: PlanBody = from.repository.get_object(Object::Plan, &plan).await.unwrap().unwrap();
    let to = empty(Seal::Encrypted).await;
    to.repository.write_plan(&to.stanza, &body).await.unwrap();
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied; 3]);
    assert_eq!(report.backups[0].objects.present, 1, "the plan");
    is_whole(&to).await;

    let to = empty(Seal::Encrypted).await;
    let other = PlanBody { backup: Site::identity(9), ..body };
    to.repository.write_plan(&to.stanza, &other).await.unwrap();
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Conflict, SyncStatus::Copied, SyncStatus::LeftOut]);
}

#[tokio::test(flavor = "multi_thread")]
async fn stanzas_that_were_created_apart_are_refused() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let mut cluster = from.cluster.clone();
    cluster.hash_secret = pgconvoy_core::format::HashSecret::from_random_bytes([1; 192]);
    to.repository.create_cluster(&to.stanza, &cluster).await.unwrap();
    let refused = try_sync(&from, &to, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::RepoInvalid, "{refused}");
    let itself = try_sync(&from, &from, None).await.unwrap_err();
    assert_eq!(itself.code, ErrorCode::OptionInvalidValue);
}

/// The target refuses from some write on, for every write there is; then it is gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_at_any_write_publishes_nothing_that_is_not_whole_and_nothing_is_copied_twice() {
    let from = source(Seal::Encrypted).await;
    let total = {
        let to = empty(Seal::Encrypted).await;
        try_sync(&from, &to, None).await.unwrap();
        to.objects().await.len()
    };
    for writes in 0..total as u64 + 3 {
        let to = empty(Seal::Encrypted).await;
        let (faulty, faults) = FaultStorage::new(to.storage.clone());
        let faulty: Arc<dyn Storage> = Arc::new(faulty);
        let opened = Arc::new(Repository::open(faulty, &to.settings).await.unwrap());
        faults.add(Rule::always(Operation::Put, Effect::Fail(Kind::Full)).skip(writes));
        if let Ok(report) = sync_into(&from, opened, None).await {
            assert!(report.verdict().is_err() || statuses(&report) == [SyncStatus::Copied; 3]);
        }
        for backup in to.verify_if_there().await {
            assert!(backup.recoverable || backup.status == verify::BackupStatus::InProgress, "{backup:?}");
        }
        let before = to.objects().await;
        let report = try_sync(&from, &to, None).await.unwrap();
        assert_eq!(report.errors, [], "after {writes} writes");
        is_whole(&to).await;
        let packs_before = before.iter().filter(|name| name.contains("/pack/")).count() as u64;
        let packs_after = to.objects().await.iter().filter(|name| name.contains("/pack/")).count() as u64;
        let copied: u64 = report.backups.iter().map(|backup| backup.packs.copied).sum();
        assert_eq!(packs_before + copied, packs_after, "after {writes} writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_backup_of_the_same_label_is_never_mixed_in_by_a_borrowed_block() {
    // The target has the full backup that the incremental one borrows from under its label and UUID, with other frames.
    let from = source(Seal::Encrypted).await;
    let to = Site::at(Arc::new(MemoryStorage::new()), Seal::Encrypted, 2).await;
    to.push((1..=4).map(segment)).await;
    let mut files = Files::sample();
    files.change("base/5/2619", 3);
    backup(&to, &BackupRequest { files, ..BackupRequest::new(1_795_000_000, 2, 3) }).await;
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Present, SyncStatus::Copied, SyncStatus::Error]);
    assert!(report.errors[0].message.contains("blocks that it borrows are not in"), "{:?}", report.errors);
    let of_target = to.verify().await;
    assert!(of_target.is_ok(), "{of_target:?}");
    let recoverable: Vec<bool> = of_target.backups.iter().map(|backup| backup.recoverable).collect();
    // In order of label; the incremental one is begun, and not published.
    assert_eq!(recoverable, [true, false, true]);
    assert_eq!(of_target.backups[1].status, verify::BackupStatus::InProgress);
}

/// The target as a store of which some calls fail.
async fn faulty(to: &Site) -> (Arc<Repository>, Faults) {
    let (storage, faults) = FaultStorage::new(to.storage.clone());
    (Arc::new(Repository::open(Arc::new(storage), &to.settings).await.unwrap()), faults)
}

fn on(operation: Operation, effect: Effect, what: &str) -> Rule {
    Rule::always(operation, effect).on(KeyPattern::Contains(what.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_lets_nobody_write_ends_it_at_once_and_not_once_for_each_object() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    for what in ["/wal/", "/pack/"] {
        let (opened, faults) = faulty(&to).await;
        let rule = faults.add(on(Operation::Put, Effect::Fail(Kind::Access), what));
        let report = sync_into(&from, opened, None).await.unwrap();
        assert!(report.ended_by.is_some() && report.errors.is_empty(), "{report:?}");
        // Each thread may have been under way.
        assert!(faults.strikes(rule) <= 3, "{} tries", faults.strikes(rule));
        assert_eq!(to.labels().await, []);
    }
    let report = try_sync(&from, &to, None).await.unwrap();
    assert_eq!(statuses(&report), [SyncStatus::Copied; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_is_begun_anew_three_times_in_all() {
    let from = source(Seal::Encrypted).await;
    for effect in [Effect::Fail(Kind::Unavailable), Effect::LoseAnswer(Kind::Timeout)] {
        let to = empty(Seal::Encrypted).await;
        let (opened, faults) = faulty(&to).await;
        faults.add(on(Operation::Put, effect, "/pack/").times(2));
        let report = sync_into(&from, opened, None).await.unwrap();
        assert_eq!(statuses(&report), [SyncStatus::Copied; 3], "{effect:?} {:?}", report.ended_by);
        is_whole(&to).await;
    }
    let to = empty(Seal::Encrypted).await;
    let (opened, faults) = faulty(&to).await;
    let history = layout::wal_file(&to.stanza, to.cluster.archive_id(), &WalFileName::History(TimelineId(2)));
    let rule = faults.add(on(Operation::Put, Effect::Fail(Kind::Unavailable), &history));
    let report = sync_into(&from, opened, None).await.unwrap();
    assert_eq!(report.verdict().unwrap_err().code, ErrorCode::HostConnect, "{:?}", report.ended_by);
    assert_eq!(faults.strikes(rule), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_entry_tells_what_the_backup_takes_in_its_own_repository() {
    let from = source(Seal::Plain).await;
    let to = empty(Seal::Encrypted).await;
    for label in from.labels().await {
        let mut record = from.record(label).await;
        // As a repository tells it that took no part in an earlier attempt.
        (record.sizes.stored, record.sizes.stored_set) = (1, 2);
        let name = layout::catalogue_entry(&from.stanza, label);
        from.delete(&name).await;
        let entry = CatalogueBody::Published(Box::new(record));
        from.repository.put_object(Object::Catalogue, &name, &entry).await.unwrap();
    }
    try_sync(&from, &to, None).await.unwrap();
    for label in to.labels().await {
        let record = to.record(label).await;
        let packs = layout::packs(&to.stanza, label, PlanNumber(1));
        let mut stored = 0;
        for name in to.objects().await.iter().filter(|name| name.starts_with(&packs)) {
            stored += to.read(name).await.len() as u64;
        }
        let of_prior = match record.prior {
            Some(prior) => to.record(prior).await.sizes.stored_set,
            None => 0,
        };
        assert_eq!((record.sizes.stored, record.sizes.stored_set), (stored, stored + of_prior), "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_published_while_somebody_looks_is_nobodys_unfinished_backup() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let (label, set) = (from.labels().await[0], from.labels().await[0].to_string());
    try_sync(&from, &to, Some(&set)).await.unwrap();
    let name = layout::catalogue_entry(&to.stanza, label);
    let record = to.record(label).await;
    let entry = CatalogueBody::Published(Box::new(record.clone()));
    let mark = CopyBody {
        label,
        backup: record.backup,
        source: from.repository.identity(),
        writer: writer(),
        begun: Timestamp::from_seconds(1),
    };
    for all in [false, true] {
        to.delete(&name).await;
        to.repository.begin_copy(&to.stanza, &mark).await.unwrap();
        let (opened, faults) = faulty(&to).await;
        // Between the listings and the look at the label.
        let label_key = layout::backup(&to.stanza, label).parse().unwrap();
        let wait = Effect::Delay(Duration::from_millis(500));
        faults.add(Rule::once(Operation::List, wait).on(KeyPattern::Exactly(label_key)));
        let stanza = to.stanza.clone();
        let looking = tokio::spawn(async move {
            if all {
                opened.unfinished(&stanza).await.unwrap()
            } else {
                opened.undecided(&stanza).await.unwrap()
            }
        });
        // So that the look is under way; the delay of its listing is the timeout.
        tokio::time::sleep(Duration::from_millis(200)).await;
        to.repository.put_object(Object::Catalogue, &name, &entry).await.unwrap();
        to.repository.end_copy(&to.stanza, label).await.unwrap();
        assert_eq!(looking.await.unwrap(), []);
    }
}
