//! The record of a stop, alone and with the scan that belongs to it.

use super::support::{Seal, Site};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::layout;
use pgconvoy_core::format::wal::{KeptSession, StopBody};
use pgconvoy_core::ids::{PlanNumber, SystemId};
use pgconvoy_core::pg::{FileClass, Fork, Lsn, PgVersion, TimelineId, WalSegmentSize};
use pgconvoy_core::plan::inventory::{EntryKind, Inventory, ScannedEntry};
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{PreflightFacts, SessionFacts};
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::stop::ScanPages;

const PLAN: PlanNumber = PlanNumber(1);
/// Several frames of them.
const FILES: u32 = 30_000;
const PAGE_ENTRIES: usize = 200;

fn label() -> BackupLabel {
    "20261122-103000F".parse().unwrap()
}

fn stop(kept: bool) -> StopBody {
    let preflight = PreflightFacts {
        system_id: SystemId(7),
        version: PgVersion::V15,
        control_version: 1300,
        catalog_version: 202_209_061,
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
    StopBody {
        start_lsn: Lsn(0x0200_0028),
        stop_lsn: Lsn(0x0200_0138),
        timeline: TimelineId(1),
        stopped: Timestamp(2),
        backup_label: "START WAL LOCATION: 0/2000028".into(),
        tablespace_map: String::new(),
        kept: kept.then(|| Box::new(KeptSession { preflight, session })),
    }
}

fn scan() -> Vec<ScannedEntry> {
    let entry = |path: String, kind| ScannedEntry {
        path: path.parse().unwrap(),
        kind,
        mode: 0o600,
        user: Some("postgres".into()),
        group: None,
        modified: 1,
    };
    let class = FileClass::Relation { fork: Fork::Main, segment: 0 };
    let files = (0..FILES).map(|number| {
        entry(format!("base/{:06}", 100_000 + number), EntryKind::File { size: u64::from(number), class })
    });
    std::iter::once(entry("base".into(), EntryKind::Directory)).chain(files).collect()
}

fn pages() -> ScanPages {
    let pages: Vec<_> = scan().chunks(PAGE_ENTRIES).map(|page| Ok(page.to_vec())).collect();
    Box::new(pages.into_iter())
}

#[tokio::test]
async fn a_scan_of_many_frames_is_read_back_as_it_was() {
    for seal in [Seal::Plain, Seal::Encrypted] {
        let site = Site::new(seal).await;
        let repository = &site.repository;
        repository.write_stop(&site.stanza, label(), PLAN, &stop(true), Some(pages())).await.unwrap();
        let (found, inventory) = repository.kept_scan(&site.stanza, label(), PLAN).await.unwrap().unwrap();
        let mut expected = Inventory::default();
        scan().into_iter().for_each(|entry| expected.push(entry).unwrap());
        assert_eq!((found, inventory == expected), (stop(true), true), "{seal:?}");
        let alone = repository.stop_record(&site.stanza, label(), PLAN).await.unwrap().unwrap();
        assert!(alone.is_same_stop(&stop(false)));
    }
}

#[tokio::test]
async fn a_record_without_a_scan_has_nothing_to_go_on_from() {
    let site = Site::new(Seal::Plain).await;
    assert_eq!(site.repository.kept_scan(&site.stanza, label(), PLAN).await.unwrap(), None);
    site.repository.write_stop(&site.stanza, label(), PLAN, &stop(false), None).await.unwrap();
    assert_eq!(site.repository.kept_scan(&site.stanza, label(), PLAN).await.unwrap(), None);
    assert_eq!(site.repository.stop_record(&site.stanza, label(), PLAN).await.unwrap(), Some(stop(false)));
}

#[tokio::test]
async fn a_scan_that_cannot_be_read_leaves_no_half_of_a_record() {
    let site = Site::new(Seal::Plain).await;
    let broken = Failure::new(ErrorCode::FileRead, "the spool is gone");
    let pages: ScanPages = Box::new(pages().take(100).chain(std::iter::once(Err(broken))));
    let written = site.repository.write_stop(&site.stanza, label(), PLAN, &stop(true), Some(pages)).await;
    assert!(matches!(written, Err(RepositoryError::Interrupted { .. })), "{written:?}");
    assert!(!site.objects().await.contains(&layout::stop(&site.stanza, label(), PLAN)));
}
