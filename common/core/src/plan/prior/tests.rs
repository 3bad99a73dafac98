#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;
use crate::ids::{Attempt, PlanNumber, UnitId};
use crate::pg::Fork;
use crate::plan::inventory::{EntryKind, ScannedEntry};
use crate::plan::restore::tests::head;

const RELATION: FileClass = FileClass::Relation { fork: Fork::Main, segment: 0 };
const NOW: Timestamp = Timestamp(1_000_000);

fn inventory(files: &[(&str, u64, i64, FileClass)]) -> Inventory {
    let mut inventory = Inventory::default();
    let mut push = |path: &str, kind, modified| {
        let path = path.parse().unwrap();
        inventory.push(ScannedEntry { path, kind, mode: 0o600, user: None, group: None, modified }).unwrap();
    };
    push("base", EntryKind::Directory, 0);
    for (path, size, modified, class) in files {
        push(path, EntryKind::File { size: *size, class: *class }, *modified);
    }
    inventory
}

fn record(path: &str, size: u64, modified: i64) -> FileRecord {
    let range = RangeRecord {
        offset: 0,
        length: size,
        label: 0,
        plan: PlanNumber(1),
        unit: UnitId(3),
        attempt: Attempt(1),
        place: 0,
        worker: 0,
        slot: 0,
    };
    FileRecord {
        path: path.parse().unwrap(),
        size,
        modified,
        ownership: crate::format::manifest::Ownership { mode: 0o600, user: 0, group: 0 },
        checksum: BlockHash([size.to_le_bytes()[1]; 16]),
        ranges: if size == 0 { Vec::new() } else { vec![range] },
        bad_pages: Vec::new(),
    }
}

fn prior(inventory: &Inventory, records: &[FileRecord]) -> Prior {
    let mut head = head();
    head.references = vec!["20261121-103000F".parse().unwrap()];
    let mut prior = Prior::new(&head);
    records.iter().for_each(|record| prior.push(inventory, record));
    prior
}

fn verdicts(inventory: &Inventory, prior: &Prior) -> Vec<bool> {
    let unchanged = prior.unchanged(inventory);
    inventory.files().map(|(file, _)| unchanged.contains(file)).collect()
}

#[test]
fn files_are_found_by_their_paths_whatever_came_and_went() {
    let inventory = inventory(&[
        ("base/10", 8192, 5, RELATION),
        ("base/10_fsm", 8192, 5, RELATION),
        ("base/12", 8192, 5, RELATION),
        ("base/14", 0, 5, RELATION),
        ("base/15", 8192, 5, RELATION),
    ]);
    let records = [
        record("base/1", 8192, 5),
        record("base/10", 8192, 5),
        record("base/11", 8192, 5),
        record("base/12", 16384, 5),
        record("base/14", 0, 5),
        record("base/9", 8192, 5),
    ];
    let prior = prior(&inventory, &records);
    assert_eq!(verdicts(&inventory, &prior), [true, false, false, true, false]);
    assert_eq!(prior.file(FileIndex(1)), None);
    let known = prior.file(FileIndex(2)).unwrap();
    assert_eq!((known.size, known.ranges.len()), (16384, 1));
    assert_eq!(prior.file(FileIndex(3)).unwrap().ranges, []);
}

#[test]
fn what_the_prior_had_stored_itself_is_found_under_its_own_label() {
    let inventory = inventory(&[("base/1", 8192, 5, RELATION), ("base/2", 8192, 5, RELATION)]);
    let mut old = record("base/2", 8192, 5);
    old.ranges[0].label = 1;
    let prior = prior(&inventory, &[record("base/1", 8192, 5), old]);
    let label = |file| prior.references()[prior.file(FileIndex(file)).unwrap().ranges[0].label as usize - 1];
    assert_eq!(label(0), prior.label());
    assert_eq!(label(1).to_string(), "20261121-103000F");
}

#[test]
fn another_size_or_time_a_bad_page_and_pg_control_mean_reading_again() {
    let inventory = inventory(&[
        ("base/1", 8192, 6, RELATION),
        ("base/2", 8192, 5, RELATION),
        ("base/3", 8192, 5, RELATION),
        ("base/4", 8192, 5, FileClass::Control),
        ("base/5", 8192, 5, RELATION),
    ]);
    let bad = FileRecord { bad_pages: vec![0], ..record("base/3", 8192, 5) };
    let records = [
        record("base/1", 8192, 5),
        record("base/2", 4096, 4),
        bad,
        record("base/4", 8192, 5),
        record("base/5", 8192, 5),
    ];
    let prior = prior(&inventory, &records);
    assert_eq!(verdicts(&inventory, &prior), [false, false, false, false, true]);
    assert_eq!(prior.anomaly(&inventory, NOW), None);
}

#[test]
fn a_clock_that_went_wrong_is_noticed() {
    let found = |size, modified| {
        let inventory = inventory(&[("base/1", size, modified, RELATION)]);
        prior(&inventory, &[record("base/1", 8192, 500)]).anomaly(&inventory, NOW)
    };
    assert_eq!(found(8192, 500), None);
    assert_eq!(found(16384, 501), None);
    assert!(found(8192, NOW.seconds() + 1).unwrap().contains("future"));
    assert!(found(8192, 499).unwrap().contains("earlier"));
    assert!(found(16384, 500).unwrap().contains("another size"));
}
