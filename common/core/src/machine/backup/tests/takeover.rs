//! A leader finds what an earlier one left: leases, accepted units, perhaps the order to stop.

use super::event::{AcceptedUnit, RecalledPack};
use super::*;
use crate::format::pack::{PackBody, PackRange};
use crate::ids::PlanNumber;

pub(super) fn label() -> BackupLabel {
    "20251122-083000F".parse().unwrap()
}

pub(super) fn announced() -> Option<Announced> {
    Some(Announced {
        label: label(),
        session: NOW,
        term: 0,
        priors: Vec::new(),
        reads_all: false,
        plan: PlanNumber(1),
        leftover_in: Vec::new(),
        distrusts_summaries: false,
    })
}

/// Every unit of the backup, in the order in which a healthy run does them.
fn all_orders() -> Vec<UnitOrder> {
    let mut world = World::new();
    let mut orders = Vec::new();
    world.settle();
    while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
        let receipt = world.receipt(&order);
        world.report(ReportBody::UnitDone(receipt));
        world.report(ReportBody::Ready { units: 1 });
        orders.push(order);
        world.settle();
    }
    orders
}

pub(super) fn pack(order: &UnitOrder) -> RecalledPack {
    let range = |part: &crate::wire::UnitPart| PackRange {
        path: part.path.to_string(),
        offset: part.offset,
        length: part.length,
        block_size: part.block_size,
        hashes: Vec::new(),
        runs: Vec::new(),
        checksum: BlockHash([1; 16]),
        bad_pages: Vec::new(),
        sha1: None,
    };
    let body = PackBody {
        backup: spec().backup,
        label: label(),
        plan: PlanNumber(1),
        unit: order.unit,
        attempt: order.attempt,
        worker: worker(),
        slot: 0,
        ranges: order.parts.iter().filter(|part| part.length > 0).map(range).collect(),
        foreign: Vec::new(),
        vanished: Vec::new(),
        skipped: 0,
        plain: false,
    };
    let stored = [ONE, TWO].map(|repository| StoredPack { repository, bytes: 10 });
    RecalledPack { body, stored: stored.to_vec() }
}

fn accepted(order: &UnitOrder, repositories: &[RepoKey]) -> AcceptedUnit {
    AcceptedUnit {
        unit: order.unit,
        attempt: order.attempt,
        repositories: repositories.to_vec(),
        standby: None,
    }
}

fn lease(order: &UnitOrder) -> (WorkerName, UnitLease) {
    (worker(), UnitLease { unit: order.unit, attempt: order.attempt, token: order.token })
}

fn held(units: &[&UnitOrder]) -> Option<Held> {
    let units = units
        .iter()
        .map(|order| HeldUnit { unit: order.unit, attempt: order.attempt, token: order.token })
        .collect();
    Some(Held { job: spec().job, session: true, prepared: true, standing: None, units })
}

fn taken_over(recovered: Recovered) -> World {
    let (machine, queue) = BackupMachine::start(spec(), worker(), vec![worker()], recovered);
    World { machine, queue, token: 1_000, ..World::new() }
}

/// What packs the machine asks for, at last.
fn asked(world: &mut World) -> Vec<AcceptedUnit> {
    let mut asked = None;
    while !world.queue.is_empty() {
        match world.queue.remove(0) {
            Effect::RecallReceipts { units, .. } => asked = Some(units),
            other => world.carry_out(other),
        }
    }
    asked.expect("packs were asked for")
}

fn all_accepted(orders: &[UnitOrder]) -> Vec<AcceptedUnit> {
    orders.iter().map(|order| accepted(order, &[ONE, TWO])).collect()
}

#[test]
fn a_receipt_that_comes_before_its_lease_is_adopted_is_accepted_once_it_is() {
    let orders = all_orders();
    let leases = vec![lease(&orders[0])];
    let mut world = taken_over(Recovered { announced: announced(), leases, ..Recovered::default() });
    let receipt = world.receipt(&orders[0]);
    world.report(ReportBody::UnitDone(receipt));
    assert!(!world.queue.iter().any(|effect| matches!(effect, Effect::Settle { .. })));
    world.settle();
    assert_eq!(world.machine.board().done(), 1);
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().units_retried, 0);
}

#[test]
fn a_lease_that_its_worker_does_not_know_of_is_not_waited_for() {
    let orders = all_orders();
    let leases = vec![lease(&orders[0]), lease(&orders[1])];
    let mut world = taken_over(Recovered { announced: announced(), leases, ..Recovered::default() });
    world.tell(Event::WorkerJoined { worker: worker(), held: held(&[&orders[1]]) });
    let released = Effect::ReleaseLease { unit: orders[0].unit, attempt: orders[0].attempt };
    assert!(world.queue.contains(&released));
    world.settle();
    let receipt = world.receipt(&orders[1]);
    world.report(ReportBody::UnitDone(receipt));
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn the_leases_of_a_worker_that_is_lost_before_they_are_adopted_go_with_it() {
    let orders = all_orders();
    let (_, theirs) = lease(&orders[0]);
    let other: WorkerName = "other".parse().unwrap();
    let leases = vec![(other.clone(), theirs)];
    let mut world = taken_over(Recovered { announced: announced(), leases, ..Recovered::default() });
    world.tell(Event::WorkerLost { worker: other });
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn attempts_of_the_next_leader_bear_numbers_that_no_earlier_one_gave() {
    let mut world = taken_over(Recovered { announced: announced(), ..Recovered::default() });
    world.settle();
    assert!(world.orders.iter().all(|order| order.attempt == Attempt(units::ATTEMPTS_PER_TERM + 1)));
}

#[test]
fn a_repository_that_does_not_open_is_not_asked_for_what_was_accepted() {
    let orders = all_orders();
    let accepted = vec![accepted(&orders[0], &[ONE, TWO])];
    let mut world = taken_over(Recovered { announced: announced(), accepted, ..Recovered::default() });
    world.unplanned.insert(TWO, disk_full());
    let asked = asked(&mut world);
    assert_eq!(asked[0].repositories, [ONE]);
}

#[test]
fn of_a_unit_that_was_accepted_twice_the_newest_attempt_counts() {
    let orders = all_orders();
    let again = UnitOrder { attempt: Attempt(7), ..orders[0].clone() };
    let accepted = vec![accepted(&orders[0], &[ONE, TWO]), accepted(&again, &[ONE, TWO])];
    let mut world = taken_over(Recovered { announced: announced(), accepted, ..Recovered::default() });
    let asked = asked(&mut world);
    assert_eq!(asked.iter().map(|one| one.attempt).collect::<Vec<_>>(), [Attempt(7)]);
}

#[test]
fn pg_control_is_read_again_when_anything_else_is() {
    let orders = all_orders();
    let accepted = all_accepted(&orders);
    let mut world = taken_over(Recovered { announced: announced(), accepted, ..Recovered::default() });
    asked(&mut world);
    // One pack cannot be shown.
    let packs = orders[1..].iter().map(pack).collect();
    world.tell(Event::ReceiptsRecalled { packs });
    assert_eq!(world.machine.board().done() as usize, orders.len() - 2);
    world.settle();
    let first = world.orders[0].parts[0].path.to_string();
    assert_eq!((world.orders.len(), first.as_str()), (1, "base/1/100"));
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn after_the_order_to_stop_nothing_is_read_and_who_lacks_something_is_left_out() {
    let orders = all_orders();
    let accepted = all_accepted(&orders);
    let recovered =
        Recovered { announced: announced(), accepted, stop_ordered: true, ..Recovered::default() };
    let mut world = taken_over(recovered);
    asked(&mut world);
    let all: Vec<RecalledPack> = orders.iter().map(pack).collect();
    world.tell(Event::ReceiptsRecalled { packs: all[1..].to_vec() });
    assert_eq!(asked(&mut world)[0].repositories, [ONE]);
    world.tell(Event::ReceiptsRecalled { packs: all.clone() });
    assert_eq!(asked(&mut world)[0].repositories, [TWO]);
    world.tell(Event::ReceiptsRecalled { packs: all[1..].to_vec() });
    assert_eq!(asked(&mut world)[0].repositories, [ONE]);
    world.tell(Event::ReceiptsRecalled { packs: all });
    world.settle();
    assert!(world.orders.is_empty());
    assert_eq!(world.outcome().status, Status::Partial);
}

/// A new leader that finds everything accepted and the order to stop.
pub(super) fn fresh_after_stop() -> World {
    let accepted = all_accepted(&all_orders());
    taken_over(Recovered { announced: announced(), accepted, stop_ordered: true, ..Recovered::default() })
}

/// Once it has asked for the receipts.
pub(super) fn after_stop() -> World {
    let mut world = fresh_after_stop();
    asked(&mut world);
    world
}

pub(super) fn all_packs() -> Vec<RecalledPack> {
    all_orders().iter().map(pack).collect()
}

#[test]
fn a_job_that_fails_after_the_order_to_stop_leaves_its_label_to_nobody() {
    let mut world = after_stop();
    world.tell(Event::Cancelled(disk_full()));
    let given_up =
        |effect: &Effect| matches!(effect, Effect::GiveUpLabel { label: of, .. } if *of == label());
    assert!(world.queue.iter().any(given_up));
    world.settle();
    assert_eq!(world.outcome().status, Status::Error);
}

fn opened(has_this: bool) -> Result<RepositoryFacts, Failure> {
    Ok(RepositoryFacts {
        identity: Identity::default(),
        cluster: cluster(),
        labels: Vec::new(),
        has_this,
        unfinished: Vec::new(),
        prior: None,
    })
}

#[test]
fn what_an_earlier_leader_had_published_everywhere_is_done_without_any_session() {
    let recovered = Recovered { announced: announced(), ..Recovered::default() };
    let (mut machine, _) = BackupMachine::start(spec(), worker(), Vec::new(), recovered);
    let results = vec![(ONE, opened(true)), (TWO, opened(true))];
    let effects = machine.on_event(NOW, all_opened(results));
    let Some(Effect::Finish(outcome)) = effects.last() else { panic!("it is not over: {effects:?}") };
    assert_eq!((outcome.status, outcome.label), (Status::Ok, Some(label())));
}

#[test]
fn what_was_published_in_one_repository_only_goes_on_for_the_other() {
    let recovered = Recovered { announced: announced(), ..Recovered::default() };
    let (mut machine, _) = BackupMachine::start(spec(), worker(), Vec::new(), recovered);
    let results = vec![(ONE, opened(true)), (TWO, opened(false))];
    machine.on_event(NOW, all_opened(results));
    assert_eq!(machine.phase(), Phase::Opening);
    let gone = Failure::new(ErrorCode::HostConnect, "the session's worker is gone");
    let effects = machine.on_event(NOW, Event::Cancelled(gone));
    let Some(Effect::Finish(outcome)) = effects.last() else { panic!("it is not over: {effects:?}") };
    assert_eq!(outcome.status, Status::Partial);
}
