//! What verify concludes of repositories that nobody hurt, and of what they lack.

use super::support::{Seal, Site, segment};
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_core::format::layout;
use pgconvoy_core::pg::{Lsn, WalFileName, WalPart};
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::Repository;
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::verify::{
    BackupStatus, StanzaVerification, VerifyOptions, to_json, to_text, verify,
};
use pgconvoy_repository::wal::PackedPart;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;

fn wal_name(site: &Site, number: u64) -> String {
    layout::wal_file(&site.stanza, site.cluster.archive_id(), &WalFileName::Segment(segment(number)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_found_whole() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        let first = site.record(site.labels().await[0]).await;
        let report = site.verify().await;
        assert_eq!(report.errors().collect::<Vec<_>>(), Vec::<&_>::new(), "{seal:?}");
        assert!(report.is_ok());
        assert_eq!(report.backups.len(), 2);
        assert!(
            report.backups.iter().all(|backup| backup.status == BackupStatus::Valid && backup.recoverable)
        );
        let stanza =
            StanzaVerification { name: "main".into(), repositories: vec![report], without: Vec::new() };
        let json = to_json(std::slice::from_ref(&stanza));
        assert_eq!(json[0]["status"], "ok");
        assert_eq!(
            json[0]["repo"][0]["archive"],
            json!([{
                "id": "15-1",
                "files": 9,
                "ranges": [{ "start": segment(1), "stop": segment(9) }],
                "errors": [],
            }])
        );
        assert_eq!(
            json[0]["repo"][0]["pitr"],
            json!([{ "timeline": 1, "from": "0/300100", "to": "0/A00000", "from-time": first.stopped.to_string(), "to-time": null }])
        );
        assert!(to_text(&[stanza]).contains("recoverable on timeline 1 from 0/300100 to 0/A00000"));
    }
}

/// On a runtime of one thread and on a real directory.
#[tokio::test]
async fn a_directory_on_disk_is_verified_from_a_single_threaded_runtime() {
    let site = Site::on_disk(Seal::Encrypted).await;
    site.fill().await;
    assert!(site.directory().exists());
    let report = site.verify().await;
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.backups.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_checked_alone_with_its_own_wal() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let labels = site.labels().await;
    let report = site.try_verify(Some(labels[1])).await.unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.backups.iter().map(|backup| backup.label).collect::<Vec<_>>(), [labels[1]]);
    assert_eq!(report.archives[0].files, 2);
    assert_eq!(
        (report.pitr[0].from.to_string(), report.pitr[0].to.to_string()),
        ("0/600100".into(), "0/700000".into())
    );
    site.delete(&wal_name(&site, 2)).await;
    assert!(site.try_verify(Some(labels[1])).await.unwrap().is_ok(), "segment 2 is the other backup's");
    let unknown = "20200101-000000F".parse().unwrap();
    let failure = site.try_verify(Some(unknown)).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::BackupSetInvalid);
    assert!(failure.message.contains("20200101-000000F"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_without_its_wal_is_valid_and_not_recoverable() {
    let site = Site::with_two_backups(Seal::Plain).await;
    site.delete(&wal_name(&site, 3)).await;
    let report = site.verify().await;
    assert!(!report.is_ok());
    let first = &report.backups[0];
    assert_eq!((first.status, first.recoverable), (BackupStatus::Valid, false));
    assert!(first.errors[0].to_string().contains(&wal_name(&site, 3)), "{first:?}");
    assert!(report.backups[1].recoverable);
    assert_eq!(report.archives[0].ranges.len(), 2);
    assert_eq!(report.pitr.len(), 1);
    assert_eq!(report.pitr[0].from.to_string(), "0/600100");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_no_backup_needs_shortens_what_can_be_reached() {
    let site = Site::with_two_backups(Seal::Plain).await;
    site.delete(&wal_name(&site, 8)).await;
    let report = site.verify().await;
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.pitr[0].to.to_string(), "0/800000");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_without_an_entry_are_in_progress_and_void_ones_are_not_shown() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let label = site.labels().await[1];
    let entry = layout::catalogue_entry(&site.stanza, label);
    site.delete(&entry).await;
    let report = site.verify().await;
    assert!(report.is_ok(), "{report:?}");
    let shown: Vec<_> = report.backups.iter().map(|backup| (backup.status, backup.recoverable)).collect();
    assert_eq!(shown, [(BackupStatus::Valid, true), (BackupStatus::InProgress, false)]);
    let writer = site.record(site.labels().await[0]).await.writer;
    let void = Repository::void_record(label, "its writer is dead", &writer, Timestamp::from_seconds(0));
    assert!(site.repository.give_up(&site.stanza, void).await.unwrap());
    let report = site.verify().await;
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.backups.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_counts_to_its_end_and_a_cancelled_check_concludes_nothing() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let ends = Arc::new(AtomicUsize::new(0));
    let counted = ends.clone();
    let cancel = CancellationToken::new();
    let options = VerifyOptions { set: None, process_max: 3, cancel: cancel.clone() };
    let count: pgconvoy_repository::verify::OnProgress = Arc::new(move |progress| {
        counted.fetch_add(usize::from(progress.done == progress.total), Ordering::Relaxed);
    });
    verify(site.repository.clone(), &site.stanza, &options, count).await.unwrap();
    assert_eq!(ends.load(Ordering::Relaxed), 3, "two backups and an archive");
    let cancelling = cancel.clone();
    let stop: pgconvoy_repository::verify::OnProgress = Arc::new(move |_| cancelling.cancel());
    let failure = verify(site.repository.clone(), &site.stanza, &options, stop).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::Term);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_another_size_is_no_segment_of_the_cluster() {
    let site = Site::with_two_backups(Seal::Plain).await;
    site.push_file(&WalFileName::Segment(segment(10)), vec![1; 1000]).await;
    site.push_file(&WalFileName::Partial(segment(11)), vec![1; 1000]).await;
    let report = site.verify().await;
    let errors: Vec<_> = report.errors().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains(&wal_name(&site, 10)), "{errors:?}");
}

/// A store that lists what somebody deleted in the meantime looks like this: the name leads nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_file_that_is_gone_is_no_error_and_does_not_count() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let name = wal_name(&site, 8);
    let whole = site.read(&name).await;
    site.delete(&name).await;
    site.overwrite(&name.replace("/0000000100000000/", "/0000000100000001/"), whole).await;
    let report = site.verify().await;
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.archives[0].ranges.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_part_is_read_and_one_that_is_damaged_is_named() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        let (archive, size) = (site.cluster.archive_id(), site.cluster.wal_segment_size);
        let start = segment(20).start_lsn(size).0;
        let mut names = Vec::new();
        for (from, to) in [(0, 9000), (9000, 20_000)] {
            let (from, to) = (Lsn(start + from), Lsn(start + to));
            let part = WalPart::new(segment(20).timeline(), from, to, size).unwrap();
            let bytes = vec![7; usize::try_from(part.bytes()).unwrap()];
            let packed = PackedPart::pack(part, &bytes, Codec::Zst, Codec::Zst.default_level()).unwrap();
            site.repository.put_wal_part(&site.stanza, archive, &packed).await.unwrap();
            names.push(layout::wal_part(&site.stanza, archive, &part));
        }
        let report = site.verify().await;
        assert!(report.is_ok(), "{report:?}");

        let mut damaged = site.read(&names[1]).await.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        site.overwrite(&names[1], damaged).await;
        let report = site.verify().await;
        let errors: Vec<_> = report.errors().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(&names[1]), "{errors:?}");

        // What is under another's name is not what the name says.
        let other = site.read(&names[0]).await;
        site.overwrite(&names[1], other).await;
        let report = site.verify().await;
        assert_eq!(report.errors().count(), 1, "{report:?}");
    }
}
