//! Plans of a synchronisation as text, and what they must never say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::format::HashSecret;
use crate::ids::{Attempt, SystemId, UnitId};
use crate::pg::{Lsn, PgVersion, TimelineId};
use crate::units::Timestamp;
use proptest::prelude::*;

const FULL: &str = "20261122-103000F";
const DIFF: &str = "20261122-103000F_20261123-103000D";
const INCR: &str = "20261122-103000F_20261124-103000I";
const NEXT: &str = "20261125-103000F";

fn label(text: &str) -> BackupLabel {
    text.parse().unwrap()
}

fn identity(number: u8) -> Identity {
    Identity::from_random_bytes([number; 16])
}

fn cluster(secret: u8) -> ClusterBody {
    ClusterBody {
        number: ClusterNumber(1),
        system_id: SystemId(7),
        version: PgVersion::V15,
        control_version: 1300,
        catalog_version: 1,
        page_size: 8192,
        wal_segment_size: WalSegmentSize::DEFAULT,
        hash_secret: HashSecret::from_random_bytes([secret; HashSecret::BYTES]),
        created: Timestamp(0),
    }
}

fn segment(number: u64) -> WalSegmentName {
    let size = WalSegmentSize::DEFAULT;
    WalSegmentName::containing(TimelineId(1), Lsn(number * size.bytes()), size)
}

fn published(number: u8, references: &[&str], wal: (u64, u64)) -> Entry {
    Entry::Published(Published {
        backup: identity(number),
        references: references.iter().map(|text| label(text)).collect(),
        cluster: ClusterNumber(1),
        wal: Some((segment(wal.0), segment(wal.1))),
    })
}

/// A full backup, one of each kind on it, and another full one.
fn source() -> Holdings {
    let entries = [
        (FULL, published(1, &[], (2, 3))),
        (DIFF, published(2, &[FULL], (5, 5))),
        (INCR, published(3, &[FULL, DIFF], (7, 7))),
        (NEXT, published(4, &[], (8, 9))),
    ];
    let mut holdings = empty();
    holdings.clusters = vec![cluster(1)];
    holdings.entries = entries.into_iter().map(|(text, entry)| (label(text), entry)).collect();
    let archive = holdings.archives.entry(cluster(1).archive_id()).or_default();
    archive.files.extend((1..=9).map(|number| WalFileName::Segment(segment(number))));
    archive.files.insert(WalFileName::History(TimelineId(2)));
    holdings
}

fn empty() -> Holdings {
    Holdings::default()
}

fn plan(target: &Holdings, set: Option<&str>) -> String {
    SyncPlan::new(&source(), target, set.map(label)).unwrap().to_string()
}

#[test]
fn an_empty_repository_gets_all_oldest_first_and_histories_before_segments() {
    let expected = "\
cluster 1
copy      20261122-103000F
copy      20261122-103000F_20261123-103000D
copy      20261122-103000F_20261124-103000I
copy      20261125-103000F
archive 15-1
  00000002.history
  000000010000000000000001
  000000010000000000000002
  000000010000000000000003
  000000010000000000000004
  000000010000000000000005
  000000010000000000000006
  000000010000000000000007
  000000010000000000000008
  000000010000000000000009
";
    assert_eq!(plan(&empty(), None), expected);
}

#[test]
fn one_set_comes_with_what_it_refers_to_and_the_wal_of_these() {
    let expected = "\
cluster 1
copy      20261122-103000F
copy      20261122-103000F_20261123-103000D
archive 15-1
  00000002.history
  000000010000000000000002
  000000010000000000000003
  000000010000000000000005
";
    assert_eq!(plan(&empty(), Some(DIFF)), expected);
}

#[test]
fn what_both_have_is_not_copied_and_a_repository_that_has_all_lacks_nothing() {
    let mut target = source();
    let all = "\
present   20261122-103000F
present   20261122-103000F_20261123-103000D
present   20261122-103000F_20261124-103000I
present   20261125-103000F
";
    assert_eq!(plan(&target, None), all);
    target.entries.remove(&label(INCR));
    target.archives.values_mut().for_each(|archive| {
        archive.files.remove(&WalFileName::Segment(segment(4)));
    });
    let expected = all.replace("present   20261122-103000F_20261124", "copy      20261122-103000F_20261124")
        + "archive 15-1\n  000000010000000000000004\n";
    assert_eq!(plan(&target, None), expected);
}

#[test]
fn what_was_removed_under_published_backups_of_the_target_is_told_with_these() {
    let mut target = source();
    target.entries.remove(&label(FULL));
    target.entries.insert(label(DIFF), Entry::Void);
    let plan = SyncPlan::new(&source(), &target, None).unwrap();
    assert_eq!(plan.backups[0], (label(FULL), Step::Copy));
    assert_eq!(plan.relying, [(label(FULL), vec![label(INCR)])].into(), "a void one needs nothing");
    assert_eq!(SyncPlan::new(&source(), &empty(), None).unwrap().relying, [].into());
}

#[test]
fn a_label_that_is_decided_otherwise_stays_and_what_refers_to_it_is_left_out() {
    let mut target = source();
    target.entries = [(label(DIFF), Entry::Void), (label(NEXT), published(9, &[], (8, 9)))].into();
    let expected = format!(
        "\
copy      20261122-103000F
void      20261122-103000F_20261123-103000D  it was given up in the target
left-out  20261122-103000F_20261124-103000I  it refers to 20261122-103000F_20261123-103000D, whose state is void
conflict  20261125-103000F  the target has backup {} under this label, and the source {}
",
        identity(9),
        identity(4)
    );
    assert_eq!(plan(&target, None), expected);
}

fn plans(of: &[(u32, u8)]) -> Plans {
    Ok(of.iter().map(|(number, backup)| (PlanNumber(*number), identity(*backup))).collect())
}

/// The step of the first backup, whose plans in the source are 1 and 2, of different jobs.
fn step_where_begun(begun: Begun) -> Step {
    let (mut source, mut target) = (source(), empty());
    source.plans.insert(label(FULL), plans(&[(1, 8), (2, 1)]));
    target.undecided.insert(label(FULL), begun);
    SyncPlan::new(&source, &target, None).unwrap().backups.remove(0).1
}

#[test]
fn an_undecided_label_is_completed_or_taken_over_if_it_is_the_same_backup() {
    assert_eq!(step_where_begun(Begun::Copy(identity(1))), Step::Copy);
    for same in [plans(&[(1, 8), (2, 1)]), plans(&[(1, 8)]), plans(&[(2, 1)])] {
        assert_eq!(step_where_begun(Begun::Plans(same)), Step::TakeOver, "whatever job its plan was of");
    }
    for other in [plans(&[(1, 9)]), plans(&[(1, 1)]), plans(&[(1, 8), (2, 1), (3, 7)])] {
        let step = step_where_begun(Begun::Plans(other));
        assert!(
            matches!(&step, Step::Conflict(reason) if reason.contains("was begun in the target")),
            "{step:?}"
        );
    }
    let step = step_where_begun(Begun::Copy(identity(8)));
    assert!(matches!(&step, Step::Conflict(reason) if reason.contains("being copied")), "{step:?}");
}

#[test]
fn a_begun_label_whose_plans_cannot_be_read_is_a_step_of_its_own() {
    let unread = step_where_begun(Begun::Plans(Err("damaged".into())));
    assert!(matches!(&unread, Step::Unreadable(reason) if reason.contains("damaged")), "{unread:?}");
    let (mut source, mut target) = (source(), empty());
    target.undecided.insert(label(FULL), Begun::Plans(plans(&[(1, 1)])));
    source.plans.insert(label(FULL), Err("damaged".into()));
    let steps = SyncPlan::new(&source, &target, None).unwrap().backups;
    assert_eq!(steps[0].1, Step::Unreadable("its plans in the source: damaged".into()));
}

#[test]
fn what_cannot_be_read_is_neither_copied_nor_taken_for_absent() {
    let mut source = source();
    source.entries.insert(label(FULL), Entry::Unreadable("damaged".into()));
    let steps = SyncPlan::new(&source, &empty(), None).unwrap().backups;
    assert_eq!(steps[0].1, Step::Unreadable("its entry in the source: damaged".into()));
    assert!(matches!(steps[1].1, Step::LeftOut(_)) && matches!(steps[2].1, Step::LeftOut(_)));
    let mut target = empty();
    target.entries.insert(label(NEXT), Entry::Unreadable("damaged".into()));
    let steps = SyncPlan::new(&source, &target, None).unwrap().backups;
    assert_eq!(steps[3].1, Step::Unreadable("its entry in the target: damaged".into()));
}

#[test]
fn stanzas_that_were_created_apart_are_not_mixed() {
    let refused = |target: ClusterBody| {
        let target = Holdings { clusters: vec![target], ..empty() };
        SyncPlan::new(&source(), &target, None).unwrap_err()
    };
    assert!(matches!(refused(cluster(2)), SyncRefusal::OtherCluster(..)));
    assert!(matches!(
        refused(ClusterBody { system_id: SystemId(8), ..cluster(1) }),
        SyncRefusal::OtherCluster(..)
    ));
    let no_set = SyncPlan::new(&source(), &empty(), Some(label("20271122-103000F")));
    assert_eq!(no_set.unwrap_err(), SyncRefusal::NoSuchSet(label("20271122-103000F")));
    assert_eq!(SyncPlan::new(&empty(), &source(), None).unwrap_err(), SyncRefusal::NoStanza);
}

#[test]
fn parts_of_segments_come_only_where_nothing_stands_for_them_and_so_do_records_of_what_was_dropped() {
    let (mut source, mut target) = (source(), source());
    let size = WalSegmentSize::DEFAULT;
    let part = |number: u64, from: u64, to: u64| {
        let start = segment(number).start_lsn(size).0;
        WalPart::new(TimelineId(1), Lsn(start + from), Lsn(start + to), size).unwrap()
    };
    let id = cluster(1).archive_id();
    let there = source.archives.get_mut(&id).unwrap();
    there.parts.extend([part(9, 0, 10), part(10, 0, 10), part(10, 0, 20), part(11, 0, 10)]);
    there.dropped.extend([segment(9), segment(12), segment(13)].map(WalFileName::Segment));
    target.archives.get_mut(&id).unwrap().files.insert(WalFileName::Segment(segment(13)));
    let plan = SyncPlan::new(&source, &target, None).unwrap();
    assert_eq!(plan.archives[0].parts, [part(10, 0, 20), part(11, 0, 10)]);
    assert_eq!(plan.archives[0].dropped, [WalFileName::Segment(segment(12))]);
    let one = SyncPlan::new(&source, &target, Some(label(FULL))).unwrap();
    assert_eq!(one.archives, []);
}

#[test]
fn packs_of_earlier_plans_come_before_those_that_may_refer_to_them() {
    let pack = |plan, unit| PackName {
        label: label(FULL),
        plan: PlanNumber(plan),
        unit: UnitId(unit),
        attempt: Attempt(1),
    };
    assert_eq!(
        waves([pack(2, 1), pack(1, 5), pack(2, 0), pack(1, 5)]),
        [vec![pack(1, 5)], vec![pack(2, 0), pack(2, 1)]]
    );
}

proptest! {
    #[test]
    fn whatever_is_copied_finds_all_that_it_refers_to(
        backups in prop::collection::vec((prop::collection::vec(0usize..8, 0..3), 0u8..5, 0u8..5), 8)
    ) {
        let name = |number: usize| label(&format!("2026112{number}-103000F"));
        let entry = |number: usize, references: &[usize], state: u8| match state {
            0 => Some(Entry::Void),
            1 => Some(Entry::Unreadable("x".into())),
            2 => None,
            _ => Some(Entry::Published(Published {
                backup: identity(u8::try_from(number).unwrap() + if state == 3 { 100 } else { 0 }),
                references: references.iter().filter(|other| **other < number).map(|other| name(*other)).collect(),
                cluster: ClusterNumber(1),
                wal: None,
            })),
        };
        let (mut source, mut target) = (Holdings { clusters: vec![cluster(1)], ..empty() }, empty());
        for (number, (references, there, here)) in backups.iter().enumerate() {
            source.entries.extend(entry(number, references, *there).map(|entry| (name(number), entry)));
            target.entries.extend(entry(number, references, *here).map(|entry| (name(number), entry)));
        }
        let plan = SyncPlan::new(&source, &target, None).unwrap();
        let mut in_target = BTreeSet::new();
        for (copied, step) in &plan.backups {
            if *step == Step::Copy {
                prop_assert!(!target.entries.contains_key(copied));
                let Some(Entry::Published(published)) = source.entries.get(copied) else {
                    return Err(TestCaseError::fail("it is not published in the source"));
                };
                prop_assert!(published.references.iter().all(|reference| in_target.contains(reference)));
            }
            if step.is_in_target() {
                in_target.insert(*copied);
            }
        }
        let published = source.entries.values().filter(|entry| **entry != Entry::Void).count();
        prop_assert_eq!(plan.backups.len(), published, "each is told of");
    }
}
