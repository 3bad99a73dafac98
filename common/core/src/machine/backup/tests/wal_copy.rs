//! WAL that a backup stores too.

use super::takeover::{announced, pack};
use super::*;

const SEGMENTS: [&str; 2] = ["pg_wal/000000010000000000000003", "pg_wal/000000010000000000000004"];

fn copying(recovered: Recovered) -> World {
    // A segment of 16 MiB each, so that there are two units.
    let spec = BackupSpec { archive_copy: true, unit_size: 16 * MIB, ..spec() };
    let (machine, queue) = BackupMachine::start(spec, worker(), vec![worker()], recovered);
    World { machine, queue, ..World::new() }
}

/// Until there is nothing left to do but to copy WAL.
fn until_wal(world: &mut World) {
    world.settle();
    while world.machine.phase() < Phase::CopyingWal {
        let order = world.orders.remove(0);
        let receipt = world.receipt(&order);
        world.report(ReportBody::UnitDone(receipt));
        world.report(ReportBody::Ready { units: 1 });
        world.settle();
    }
}

fn wal_of(contents: &BackupContents) -> Vec<(String, u64)> {
    contents
        .records()
        .filter_map(|record| match record {
            Record::File(file) if file.path.as_str().starts_with("pg_wal/") => {
                Some((file.path.to_string(), file.size))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn all_wal_from_start_to_stop_is_a_part_of_the_backup_that_is_to_have_it() {
    let mut world = copying(Recovered::default());
    until_wal(&mut world);
    assert!(world.published.is_empty());
    let paths: Vec<_> = world.orders.iter().map(|order| order.parts[0].path.to_string()).collect();
    assert_eq!(paths, SEGMENTS);
    assert!(world.orders.iter().all(|order| order.parts[0].class == FileClass::Wal));
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
    for (_, contents) in &world.published {
        assert_eq!(wal_of(contents), SEGMENTS.map(|path| (path.to_owned(), 16 * MIB)));
        assert_eq!(contents.records().count() as u64, contents.head.records);
        assert_eq!(contents.head.bytes, 70 * MIB + 2 * 8192 + 32 * MIB);
    }
}

#[test]
fn a_backup_that_is_not_to_have_it_has_none() {
    let mut world = World::new();
    world.do_all_units();
    assert_eq!(wal_of(&world.published[0].1), []);
}

#[test]
fn a_segment_that_is_not_whole_is_published_nowhere() {
    let mut world = copying(Recovered::default());
    until_wal(&mut world);
    while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
        let mut receipt = world.receipt(&order);
        if let PartReceipt::Present { length, .. } = &mut receipt.parts[0] {
            *length -= 1;
        }
        world.report(ReportBody::UnitDone(receipt));
        world.settle();
    }
    assert_eq!(world.outcome().status, Status::Error);
    assert!(world.published.is_empty());
}

#[test]
fn a_repository_that_fails_while_wal_is_copied_does_not_cost_the_other_its_backup() {
    let mut world = copying(Recovered::default());
    until_wal(&mut world);
    world.broken = vec![TWO];
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Partial);
    assert_eq!(wal_of(&world.published[0].1).len(), 2);
}

#[test]
fn a_source_that_dies_while_wal_is_copied_is_not_missed_where_there_are_others() {
    let spec = BackupSpec { archive_copy: true, source_patience_ms: 60_000, ..spec() };
    let other: WorkerName = "other".parse().unwrap();
    let readers = vec![worker(), other.clone()];
    let (machine, queue) = BackupMachine::start(spec, worker(), readers, Recovered::default());
    let mut world = World { machine, queue, ..World::new() };
    until_wal(&mut world);
    world.tell(Event::WorkerLost { worker: worker() });
    world.tell(Event::SourceOverdue { absence: 1 });
    world.orders.clear();
    world.tell(Event::Reported { worker: other.clone(), report: ReportBody::Ready { units: 2 } });
    world.settle();
    while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
        let report = ReportBody::UnitDone(world.receipt(&order));
        world.tell(Event::Reported { worker: other.clone(), report });
        world.settle();
    }
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn without_anybody_to_copy_wal_the_job_ends_when_its_source_is_overdue() {
    let spec = BackupSpec { archive_copy: true, source_patience_ms: 60_000, ..spec() };
    let (machine, queue) = BackupMachine::start(spec, worker(), vec![worker()], Recovered::default());
    let mut world = World { machine, queue, ..World::new() };
    until_wal(&mut world);
    world.tell(Event::WorkerLost { worker: worker() });
    world.settle();
    assert!(world.outcome.is_none());
    world.tell(Event::SourceOverdue { absence: 1 });
    world.settle();
    assert_eq!(world.outcome().failure.as_ref().unwrap().code, ErrorCode::HostConnect);
}

#[test]
fn what_an_earlier_leader_had_copied_is_not_copied_again() {
    let mut first = copying(Recovered::default());
    let mut orders = Vec::new();
    first.settle();
    while let Some(order) = (!first.orders.is_empty()).then(|| first.orders.remove(0)) {
        let receipt = first.receipt(&order);
        first.report(ReportBody::UnitDone(receipt));
        first.report(ReportBody::Ready { units: 1 });
        orders.push(order);
        first.settle();
    }
    // One of the two segments had been accepted.
    let last = orders.pop().unwrap();
    assert_eq!(last.parts[0].path.as_str(), SEGMENTS[1]);
    let accepted = |order: &UnitOrder| event::AcceptedUnit {
        unit: order.unit,
        attempt: order.attempt,
        repositories: vec![ONE, TWO],
        standby: None,
    };
    let mut world = copying(Recovered {
        announced: announced(),
        accepted: orders.iter().map(accepted).collect(),
        stop_ordered: true,
        ..Recovered::default()
    });
    world.recalled = orders.iter().map(pack).collect();
    world.token = 1_000;
    world.settle();
    let left: Vec<_> = world.orders.iter().map(|order| (order.unit, order.attempt)).collect();
    assert_eq!(left, [(last.unit, Attempt(units::ATTEMPTS_PER_TERM + 1))]);
    world.do_all_units();
    let contents = &world.published[0].1;
    assert_eq!(wal_of(contents).len(), 2);
    let attempts = contents.records().filter_map(|record| match record {
        Record::File(file) if file.path.as_str() == SEGMENTS[0] => Some(file.ranges[0].attempt),
        _ => None,
    });
    assert_eq!(attempts.collect::<Vec<_>>(), [Attempt(1)]);
}
