//! Workers that cannot store in a repository, and repositories in which nobody can.

use super::*;

fn other() -> WorkerName {
    "other".parse().unwrap()
}

fn third() -> WorkerName {
    "third".parse().unwrap()
}

impl World {
    /// The session's worker and two more; nobody has asked for units but the first one.
    fn of_three() -> World {
        let small = BackupSpec { unit_size: 8 * MIB, ..spec() };
        let (machine, queue) =
            BackupMachine::start(small, worker(), vec![worker(), other(), third()], Recovered::default());
        let mut world = World { machine, queue, ..World::new() };
        world.settle();
        world
    }

    fn ask(&mut self, name: &WorkerName) {
        self.tell(Event::Reported { worker: name.clone(), report: ReportBody::Ready { units: 1 } });
        self.settle();
    }

    /// The one unit that this worker has, stored where nothing is broken.
    fn do_unit_of(&mut self, name: &WorkerName) -> UnitId {
        let held = self.leased_to(name);
        let order = self.orders.iter().rfind(|order| held.contains(&order.unit)).unwrap().clone();
        self.orders.retain(|waiting| waiting.unit != order.unit);
        let report = ReportBody::UnitDone(self.receipt(&order));
        self.tell(Event::Reported { worker: name.clone(), report });
        self.settle();
        order.unit
    }

    fn fail_unit_of(&mut self, name: &WorkerName, broken: &[RepoKey]) -> UnitId {
        self.broken = broken.to_vec();
        let unit = self.do_unit_of(name);
        self.broken = Vec::new();
        unit
    }

    fn takes_part(&self, name: &WorkerName) -> bool {
        self.machine.present_readers().contains(name)
    }

    fn is_in_the_job(&self, repository: RepoKey) -> bool {
        self.machine.alive().contains(&repository)
    }
}

#[test]
fn who_cannot_store_where_others_can_takes_no_further_part_and_the_repository_stays() {
    let mut world = World::of_three();
    world.ask(&other());
    let failed = world.fail_unit_of(&other(), &[TWO]);
    assert!(world.takes_part(&other()) && world.is_in_the_job(TWO), "nobody else has tried");
    world.ask(&other());
    assert_eq!(world.leased_to(&other()), [], "until that is decided it gets nothing");
    world.ask(&third());
    assert_eq!(world.do_unit_of(&third()), failed, "what it could not do comes first");
    assert!(!world.takes_part(&other()) && world.is_in_the_job(TWO));
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn a_repository_in_which_two_workers_cannot_store_leaves_the_job_and_both_go_on() {
    let mut world = World::of_three();
    world.ask(&other());
    world.ask(&third());
    world.fail_unit_of(&other(), &[TWO]);
    world.fail_unit_of(&third(), &[TWO]);
    assert!(!world.is_in_the_job(TWO));
    for name in [other(), third()] {
        world.ask(&name);
        assert!(world.takes_part(&name) && !world.leased_to(&name).is_empty(), "{name}");
    }
    world.broken = vec![TWO];
    world.do_all_units();
}

#[test]
fn what_was_begun_before_somebody_failed_says_nothing_of_the_time_after() {
    let mut world = World::of_three();
    world.ask(&third());
    world.ask(&other());
    let held = world.leased_to(&other());
    let order = world.orders.iter().rfind(|order| held.contains(&order.unit)).unwrap().clone();
    world.broken = vec![TWO];
    let report = ReportBody::UnitDone(world.receipt(&order));
    world.broken = Vec::new();
    let later = Timestamp(NOW.0 + 1);
    let effects = world.machine.on_event(later, Event::Reported { worker: other(), report });
    world.queue.extend(effects);
    world.do_unit_of(&third());
    assert!(world.takes_part(&other()), "the other one may have stored before the repository broke");
}

#[test]
fn the_last_one_who_could_try_is_no_suspect() {
    let mut world = World::of_three();
    for name in [worker(), third()] {
        world.tell(Event::WorkerDrained { worker: name, is_draining: true });
    }
    world.ask(&other());
    // The session's worker does not drain: it could try.
    world.fail_unit_of(&other(), &[TWO]);
    assert!(world.is_in_the_job(TWO));
    let source = world.leased_to(&worker());
    assert!(!source.is_empty());
    world.fail_unit_of(&worker(), &[TWO]);
    assert!(!world.is_in_the_job(TWO), "the session's worker is none either");
}

#[test]
fn a_suspect_is_needed_again_when_the_others_are_gone() {
    let mut world = World::of_three();
    world.ask(&other());
    world.fail_unit_of(&other(), &[ONE, TWO]);
    world.ask(&other());
    assert_eq!(world.leased_to(&other()), []);
    world.tell(Event::WorkerLost { worker: third() });
    world.tell(Event::WorkerLost { worker: worker() });
    assert!(!world.leased_to(&other()).is_empty());
}
