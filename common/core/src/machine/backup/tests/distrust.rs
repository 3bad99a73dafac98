//! WAL summaries that turn out to be wrong.

use super::*;

const WRONG: &str = "block 7 of base/1/100";

impl World {
    /// Until the first unit was accepted, of which something was left unread: the orders that are left.
    fn with_something_unread() -> World {
        let mut world = World::new();
        world.settle();
        let order = world.orders.remove(0);
        let receipt = Receipt { skipped: 8192, ..world.receipt(&order) };
        world.report(ReportBody::UnitDone(receipt));
        world.report(ReportBody::Ready { units: 1 });
        world.settle();
        assert_eq!((order.unit, world.machine.board().done()), (UnitId(0), 1));
        world
    }

    fn is_done(&self, unit: u32) -> bool {
        matches!(self.machine.board().states()[unit as usize], units::UnitState::Done(_))
    }
}

fn wrong() -> Option<String> {
    Some(WRONG.to_owned())
}

#[test]
fn units_that_left_something_unread_are_done_again_and_counted_once() {
    let mut world = World::with_something_unread();
    let order = world.orders.remove(0);
    let receipt = Receipt { wrong_summary: wrong(), ..world.receipt(&order) };
    world.report(ReportBody::UnitDone(receipt));
    world.report(ReportBody::Ready { units: 1 });
    assert!(!world.is_done(0) && world.is_done(order.unit.0));
    world.settle();
    assert!(world.orders.iter().all(|order| order.reads_all || order.attempt == Attempt(1)));
    world.do_all_units();
    let outcome = world.outcome();
    assert_eq!((outcome.status, outcome.bytes_skipped), (Status::Ok, 0));
    let packs = u64::from(outcome.units_total) * 10;
    assert!(
        outcome.repositories.iter().all(|result| result.stored == packs),
        "what was replaced is not counted"
    );
}

#[test]
fn what_a_worker_saw_counts_though_its_unit_failed_or_was_done_by_another() {
    for is_failure in [false, true] {
        let mut world = World::with_something_unread();
        let order = world.orders[0].clone();
        let report = if is_failure {
            let (unit, attempt, token) = (order.unit, order.attempt, order.token);
            let failure = disk_full();
            let failed = Vec::new();
            ReportBody::UnitFailed(UnitFailure {
                unit,
                attempt,
                token,
                failure,
                failed,
                wrong_summary: wrong(),
            })
        } else {
            let stale = FencingToken(999);
            ReportBody::UnitDone(Receipt { token: stale, wrong_summary: wrong(), ..world.receipt(&order) })
        };
        world.report(report);
        assert!(!world.is_done(0), "failure: {is_failure}");
    }
}

#[test]
fn what_is_read_last_is_read_again_when_something_else_is() {
    let mut world = World::with_something_unread();
    while world.orders[0].parts[0].path.as_str() != "global/pg_control" {
        let order = world.orders.remove(0);
        world.report(ReportBody::UnitDone(world.receipt(&order)));
        world.report(ReportBody::Ready { units: 1 });
        world.settle();
    }
    let control = world.orders.remove(0);
    let late = Receipt { token: FencingToken(999), wrong_summary: wrong(), ..world.receipt(&control) };
    world.report(ReportBody::UnitDone(late));
    assert!(!world.is_done(0));
    world.report(ReportBody::UnitDone(world.receipt(&control)));
    assert!(!world.is_done(control.unit.0), "the first unit is not done");
    world.report(ReportBody::Ready { units: 2 });
    world.settle();
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn after_the_stop_it_is_too_late_and_nobody_may_publish_the_backup() {
    let mut world = World::with_something_unread();
    let order = world.orders[0].clone();
    while world.machine.phase() == Phase::Copying {
        let next = world.orders.remove(0);
        world.report(ReportBody::UnitDone(world.receipt(&next)));
        world.report(ReportBody::Ready { units: 1 });
        while world.machine.phase() == Phase::Copying && !world.queue.is_empty() {
            let effect = world.queue.remove(0);
            world.carry_out(effect);
        }
    }
    let late = Receipt { token: FencingToken(999), wrong_summary: wrong(), ..world.receipt(&order) };
    world.report(ReportBody::UnitDone(late));
    world.settle();
    let failure = world.outcome().failure.clone().unwrap();
    assert!(failure.message.contains(WRONG), "{failure}");
    assert_eq!((world.outcome().status, &world.void), (Status::Error, &vec![ONE, TWO]));
}

#[test]
fn what_a_worker_tells_a_new_leader_before_that_has_a_plan_is_not_forgotten() {
    let recovered = Recovered { announced: takeover::announced(), ..Recovered::default() };
    let (machine, queue) = BackupMachine::start(spec(), worker(), vec![worker()], recovered);
    let mut world = World { machine, queue, ..World::new() };
    let (unit, attempt, token) = (UnitId(0), Attempt(1), FencingToken(1));
    let (failure, failed) = (disk_full(), Vec::new());
    let report = UnitFailure { unit, attempt, token, failure, failed, wrong_summary: wrong() };
    world.report(ReportBody::UnitFailed(report));
    let mut persisted = None;
    while !world.queue.is_empty() {
        match world.queue.remove(0) {
            Effect::PersistAnnounced(announced) => persisted = Some(announced.distrusts_summaries),
            other => world.carry_out(other),
        }
    }
    assert_eq!(persisted, Some(true));
    assert!(!world.orders.is_empty() && world.orders.iter().all(|order| order.reads_all));
}
