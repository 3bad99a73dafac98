//! Workers that are to take nothing new.

use super::*;

fn other() -> WorkerName {
    "other".parse().unwrap()
}

impl World {
    /// Two workers read, and the second one has asked for units.
    fn with_another() -> World {
        let small = BackupSpec { unit_size: 8 * MIB, ..spec() };
        let (machine, queue) =
            BackupMachine::start(small, worker(), vec![worker(), other()], Recovered::default());
        let mut world = World { machine, queue, ..World::new() };
        world.settle();
        world
    }

    /// Units that this worker holds.
    pub(super) fn leased_to(&mut self, name: &WorkerName) -> Vec<UnitId> {
        self.settle();
        self.machine
            .board()
            .units()
            .filter_map(|(unit, _, state)| match state {
                units::UnitState::Held(holds) if holds.iter().any(|hold| hold.worker == *name) => Some(unit),
                _ => None,
            })
            .collect()
    }

    fn drain(&mut self, name: &WorkerName, is_draining: bool) {
        self.tell(Event::WorkerDrained { worker: name.clone(), is_draining });
    }
}

#[test]
fn a_worker_that_drains_gives_back_what_it_has_not_begun_and_gets_nothing_until_it_may_again() {
    let mut world = World::with_another();
    world.tell(Event::Reported { worker: other(), report: ReportBody::Ready { units: 1 } });
    let held = world.leased_to(&other());
    assert_eq!(held.len(), 1);
    world.drain(&other(), true);
    let given_back = world.queue.iter().find_map(|effect| match effect {
        Effect::Send { worker, order } if *worker == other() => match &order.body {
            OrderBody::GiveBack { units } => Some(units.clone()),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(given_back, Some(held.clone()));
    let order = world.orders.iter().find(|order| order.unit == held[0]).unwrap().clone();
    let returned = HeldUnit { unit: order.unit, attempt: order.attempt, token: order.token };
    world.tell(Event::Reported { worker: other(), report: ReportBody::UnitReturned(returned) });
    world.tell(Event::Reported { worker: other(), report: ReportBody::Ready { units: 4 } });
    assert_eq!(world.leased_to(&other()), []);
    world.drain(&other(), false);
    assert!(!world.leased_to(&other()).is_empty(), "it is given what it has asked for meanwhile");
}

#[test]
fn a_worker_that_was_drained_before_there_was_a_plan_gets_nothing_of_it() {
    let (machine, queue) =
        BackupMachine::start(spec(), worker(), vec![worker(), other()], Recovered::default());
    let mut world = World { machine, queue, ..World::new() };
    world.drain(&other(), true);
    world.settle();
    world.tell(Event::Reported { worker: other(), report: ReportBody::Ready { units: 4 } });
    assert_eq!(world.leased_to(&other()), []);
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn the_worker_that_keeps_the_session_goes_on_with_its_backup() {
    let mut world = World::new();
    world.settle();
    world.drain(&worker(), true);
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
}
