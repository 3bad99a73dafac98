//! Backups that are sealed as they should be and say something that is not so: what tags cannot find.

use super::support::{Flaw, Seal, Site, incremental};
use pgconvoy_core::format::layout;
use pgconvoy_repository::verify::BackupStatus;

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_lie_in_an_earlier_pack_are_followed_there() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::with_two_backups(seal).await;
        let full = site.labels().await[0];
        let made = incremental(&site, full, Flaw::None).await;
        let report = site.verify().await;
        assert!(report.is_ok(), "{seal:?}: {:?}", report.errors().collect::<Vec<_>>());
        assert_eq!(report.backups.len(), 3);
        let alone = site.try_verify(Some(made.label)).await.unwrap();
        assert!(alone.is_ok() && alone.backups[0].recoverable, "{alone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_contradiction_between_objects_is_found() {
    for (flaw, word) in [
        (Flaw::Hash, "does not match its hash"),
        (Flaw::Place, "blocks that it borrows are not in"),
        (Flaw::Salt, "blocks that it borrows are not in"),
        (Flaw::FrameOffset, "blocks that it borrows are not in"),
        (Flaw::Reference, "list of references"),
        (Flaw::Range, "it has no range 7"),
        (Flaw::Checksum, "is not the one that the manifest refers to"),
        (Flaw::SplitChecksum, "the checksum of base/5/1259"),
        (Flaw::Count, "files, and its head says"),
        (Flaw::Order, "out of order"),
        (Flaw::Head, "LSN is not the one in the catalogue entry"),
    ] {
        let site = Site::with_two_backups(Seal::Encrypted).await;
        let full = site.labels().await[0];
        let made = incremental(&site, full, flaw).await;
        let report = site.verify().await;
        let backup = report.backups.iter().find(|backup| backup.label == made.label).unwrap();
        assert_eq!((backup.status, backup.recoverable), (BackupStatus::Invalid, false), "{flaw:?}");
        let told: Vec<String> = backup.errors.iter().map(ToString::to_string).collect();
        let names = |error: &String| error.contains(&made.pack) || error.contains(&made.manifest);
        assert!(told.iter().any(|error| error.contains(word) && names(error)), "{flaw:?}: {told:?}");
        let others = report.backups.iter().filter(|backup| backup.label != made.label);
        assert!(others.into_iter().all(|backup| backup.recoverable), "{flaw:?}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_rests_on_what_others_hold() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let full = site.labels().await[0];
    let made = incremental(&site, full, Flaw::None).await;
    let pack = |name: &&String| name.contains(&format!("{full}/pack/"));
    let objects = site.objects().await;
    for name in objects.iter().filter(pack) {
        let whole = site.read(name).await;
        site.delete(name).await;
        let report = site.verify().await;
        for label in [full, made.label] {
            let backup = report.backups.iter().find(|backup| backup.label == label).unwrap();
            assert_eq!(backup.status, BackupStatus::Invalid, "{label} without {name}");
            assert!(backup.errors.iter().any(|error| error.object == *name), "{backup:?}");
        }
        let alone = site.try_verify(Some(made.label)).await.unwrap();
        assert!(!alone.is_ok(), "{name}");
        site.overwrite(name, whole).await;
    }
    site.delete(&layout::catalogue_entry(&site.stanza, full)).await;
    let report = site.verify().await;
    let told: Vec<String> = report.errors().map(ToString::to_string).collect();
    assert!(told.iter().any(|error| error.contains("rests on it, and it is not published")), "{told:?}");
}
