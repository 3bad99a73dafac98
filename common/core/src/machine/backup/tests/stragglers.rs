//! Two workers at one unit: the first valid receipt counts, whoever's it is.

use super::*;

fn other() -> WorkerName {
    "other".parse().unwrap()
}

const LATE: Timestamp = Timestamp(NOW.0 + 600_000);

impl World {
    /// All units but one are done, which `other` has had for ten minutes and the idle one has begun as well: both orders.
    fn with_a_straggler() -> (World, UnitOrder, UnitOrder) {
        let small = BackupSpec { unit_size: 8 * MIB, ..spec() };
        let (machine, queue) =
            BackupMachine::start(small, worker(), vec![worker(), other()], Recovered::default());
        let mut world = World { machine, queue, ..World::new() };
        world.settle();
        world.tell(Event::Reported { worker: other(), report: ReportBody::Ready { units: 1 } });
        world.settle();
        let first = world.orders.pop().expect("the one that asked last");
        while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
            world.report(ReportBody::UnitDone(world.receipt(&order)));
            world.report(ReportBody::Ready { units: 1 });
            world.settle();
        }
        let effects = world.machine.on_event(LATE, Event::Ticked);
        world.queue.extend(effects);
        world.settle();
        let second = world.orders.pop().expect("the slow unit, a second time");
        assert_eq!((second.unit, second.attempt), (first.unit, Attempt(2)));
        (world, first, second)
    }

    fn holds(&self, unit: UnitId) -> usize {
        match &self.machine.board().states()[unit.0 as usize] {
            units::UnitState::Held(holds) => holds.len(),
            _ => 0,
        }
    }
}

/// The attempt at that unit which the manifest names.
fn published(world: &World, unit: UnitId) -> Attempt {
    let files = world.published[0].1.records().filter_map(|record| match record {
        Record::File(file) => Some(file),
        _ => None,
    });
    let ranges: Vec<RangeRecord> = files.flat_map(|file| file.ranges).collect();
    ranges.iter().find(|range| range.unit == unit).unwrap().attempt
}

#[test]
fn the_first_receipt_wins_and_the_other_one_changes_nothing() {
    for is_second_faster in [true, false] {
        let (mut world, first, second) = World::with_a_straggler();
        assert_eq!(world.holds(first.unit), 2);
        let ((fast, by), (slow, late)) = match is_second_faster {
            true => ((&second, worker()), (&first, other())),
            false => ((&first, other()), (&second, worker())),
        };
        let report = ReportBody::UnitDone(world.receipt(fast));
        world.tell(Event::Reported { worker: by, report });
        let gives_up = Effect::ReleaseLease { unit: slow.unit, attempt: slow.attempt };
        assert!(world.queue.contains(&gives_up), "its lease ends");
        let stored = world.machine.board().read();
        let report = ReportBody::UnitDone(world.receipt(slow));
        world.tell(Event::Reported { worker: late, report });
        assert_eq!(world.machine.board().read(), stored);
        world.report(ReportBody::Ready { units: 1 });
        world.do_all_units();
        assert_eq!(world.outcome().status, Status::Ok);
        assert_eq!(published(&world, fast.unit), fast.attempt);
    }
}
