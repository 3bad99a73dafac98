#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{ONE, PATIENCE, STALL, Site, TWO, VERSION, units};
use crate::keeper::spool::Recording;
use pgconvoy_core::ids::SystemId;
use pgconvoy_core::pg::{Lsn, TimelineId, WalSegmentSize};
use pgconvoy_core::plan::inventory::{EntryKind, ScannedEntry};
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{PreflightFacts, ScanEnd, SessionFacts};
use pgconvoy_storage::decorate::fault::{Effect, Kind as Fault, Operation, Rule};

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

async fn record_in_both(site: &Site) -> Vec<RepositoryFailure> {
    let context = site.context(STALL).await;
    let record = Record { context: &context, stop: stop(), scan: None };
    let recording = record.write_to(&site.set, &[ONE, TWO]);
    tokio::time::timeout(PATIENCE, recording).await.expect("a repository holds the others up")
}

async fn is_recorded(site: &Site, key: RepoKey) -> bool {
    site.faults(key).clear();
    let units = units(STALL);
    let found = site.repository(key).await.stop_record(&units.stanza, units.label, units.plan).await;
    found.unwrap() == Some(stop())
}

#[tokio::test]
async fn the_record_is_in_every_repository_that_is_not_named() {
    for effect in [Effect::Fail(Fault::Full), Effect::Stall] {
        let site = Site::new().await;
        site.faults(ONE).add(Rule::always(Operation::Put, effect));
        let failed = record_in_both(&site).await;
        assert_eq!(failed.iter().map(|one| one.repository).collect::<Vec<_>>(), [ONE], "{effect:?}");
        assert!(!is_recorded(&site, ONE).await);
        assert!(is_recorded(&site, TWO).await);
    }
}

#[tokio::test]
async fn a_record_that_is_there_already_is_as_good_and_another_one_is_not() {
    let site = Site::new().await;
    assert_eq!(record_in_both(&site).await, []);
    assert_eq!(record_in_both(&site).await, []);

    let context = site.context(STALL).await;
    let other = StopBody { stop_lsn: Lsn(0x0300_0000), ..stop() };
    let other = Record { context: &context, stop: other, scan: None };
    let failed = other.write_to(&site.set, &[TWO]).await;
    assert_eq!(failed.len(), 1);
    assert!(is_recorded(&site, TWO).await);
}

#[tokio::test]
async fn the_scan_goes_with_the_record_where_it_was_spooled() {
    let site = Site::new().await;
    let context = site.context(STALL).await;
    let spool = tempfile::tempdir().unwrap();
    let entry = ScannedEntry {
        path: "base".parse().unwrap(),
        kind: EntryKind::Directory,
        mode: 0o700,
        user: None,
        group: None,
        modified: 1,
    };
    let mut recording = Recording::begin(Some(spool.path())).unwrap();
    recording.add(std::slice::from_ref(&entry)).unwrap();
    let scan = recording.end(ScanEnd { warnings: Vec::new(), copy_start: Timestamp(3) });
    let record = Record { context: &context, stop: kept(), scan: Some(&scan) };
    assert_eq!(record.write_to(&site.set, &[ONE, TWO]).await, []);
    for key in [ONE, TWO] {
        let units = units(STALL);
        let repository = site.repository(key).await;
        let found = repository.kept_scan(&units.stanza, units.label, units.plan).await.unwrap();
        let (stop, inventory) = found.unwrap();
        assert_eq!((stop, inventory.items().len()), (kept(), 1), "repo {key}");
    }
}

/// As a keeper with a session keeps it.
fn kept() -> StopBody {
    let preflight = PreflightFacts {
        system_id: SystemId(7),
        version: VERSION,
        control_version: 1700,
        catalog_version: 1,
        page_size: 8192,
        checksums: true,
        wal_segment_size: WalSegmentSize::DEFAULT,
        relation_segment_blocks: 131_072,
        timeline: TimelineId(1),
        warnings: Vec::new(),
    };
    let session = SessionFacts {
        offline_control: None,
        started: Timestamp(1),
        timeline: TimelineId(1),
        start: None,
        databases: Vec::new(),
        tablespaces: Vec::new(),
    };
    StopBody { kept: Some(Box::new(KeptSession { preflight, session })), ..stop() }
}
