//! The worker that keeps the session is away for a while, and comes back.

use super::*;

fn patient() -> World {
    let spec = BackupSpec { source_patience_ms: 60_000, ..spec() };
    let (machine, queue) = BackupMachine::start(spec, worker(), vec![worker()], Recovered::default());
    World { machine, queue, ..World::new() }
}

fn back(units: Vec<HeldUnit>) -> Event {
    let job = spec().job;
    Event::WorkerJoined {
        worker: worker(),
        held: Some(Held { job, session: true, prepared: true, standing: None, units }),
    }
}

fn is_sent(effects: &[Effect], is_it: impl Fn(&OrderBody) -> bool) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Send { order, .. } if is_it(&order.body)))
}

/// Up to the phase, by hand from there on.
fn in_phase(mut world: World, phase: Phase) -> World {
    while world.machine.phase() < phase && !world.queue.is_empty() {
        let effect = world.queue.remove(0);
        world.carry_out(effect);
    }
    assert_eq!(world.machine.phase(), phase);
    world.queue.clear();
    world
}

#[test]
fn pages_of_a_scan_that_was_under_way_do_not_count_once_its_worker_is_back() {
    let mut world = in_phase(patient(), Phase::Scanning);
    let entries = scanned();
    let (first, rest) = entries.split_at(5);
    world.report(ReportBody::Scanned(first.to_vec()));
    world.tell(back(Vec::new()));
    assert!(is_sent(&world.queue, |order| matches!(order, OrderBody::OpenSession { .. })));
    // The rest of the scan that the lost connection broke: alone it looks like a small data directory.
    world.report(ReportBody::Scanned(rest.to_vec()));
    world.report(ReportBody::ScanEnded(Ok(ScanEnd { warnings: Vec::new(), copy_start: NOW })));
    assert_eq!(world.machine.phase(), Phase::Starting);
    for repository in [ONE, TWO] {
        world.tell(Event::WalFound { repository, result: Ok(Vec::new()) });
    }
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().bytes_database, 70 * MIB + 2 * 8192);
}

#[test]
fn wal_that_nobody_waits_for_settles_nothing() {
    let mut world = in_phase(patient(), Phase::Scanning);
    let result = Ok(());
    world.report(ReportBody::WalSupplied { repository: ONE, archiver_works: false, result });
    world.tell(Event::WalFound { repository: TWO, result: Ok(vec![segment("0/2000028")]) });
    assert!(world.outcome.is_none());
    assert!(is_sent(&world.queue, |order| matches!(order, OrderBody::SupplyWal(_))));
}

#[test]
fn a_source_that_is_away_while_wal_is_awaited_supplies_it_when_it_is_back() {
    let mut world = patient();
    world.archived = vec![ONE];
    world.settle();
    while world.machine.phase() < Phase::Awaiting {
        while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
            let receipt = world.receipt(&order);
            world.report(ReportBody::UnitDone(receipt));
            world.report(ReportBody::Ready { units: 1 });
        }
        let effect = world.queue.remove(0);
        world.carry_out(effect);
    }
    world.queue.clear();
    world.tell(Event::WorkerLost { worker: worker() });
    assert!(world.queue.iter().any(|effect| matches!(effect, Effect::WaitForSource { absence: 1, .. })));
    world.queue.clear();
    world.tell(Event::WalFound { repository: ONE, result: Ok(Vec::new()) });
    world.tell(Event::WalFound { repository: TWO, result: Ok(vec![segment("0/3000028")]) });
    world.queue.clear();
    world.tell(back(Vec::new()));
    world.settle();
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.supplied.last(), Some(&TWO));
}

#[test]
fn a_source_that_was_away_while_others_read_learns_of_the_units_before_it_closes() {
    let mut world = in_phase(patient(), Phase::Announcing);
    let other: WorkerName = "other".parse().unwrap();
    world.tell(Event::WorkerJoined { worker: other.clone(), held: None });
    world.tell(Event::WorkerLost { worker: worker() });
    world.queue.clear();
    for repository in [ONE, TWO] {
        world.tell(Event::PlanWritten { repository, result: Ok(()) });
    }
    world.queue.clear();
    while world.machine.phase() == Phase::Copying {
        world.tell(Event::Reported { worker: other.clone(), report: ReportBody::Ready { units: 1 } });
        let leases = world.queue.iter().find_map(|effect| match effect {
            Effect::LeaseUnits { units, .. } => Some(units[0]),
            _ => None,
        });
        let (unit, attempt) = leases.unwrap();
        world.queue.clear();
        let leases = vec![UnitLease { unit, attempt, token: FencingToken(9) }];
        world.tell(Event::UnitsLeased { worker: other.clone(), leases });
        let orders = world.queue.drain(..).find_map(|effect| match effect {
            Effect::Send { order: Order { body: OrderBody::RunUnit(order), .. }, .. } => Some(order),
            _ => None,
        });
        let report = ReportBody::UnitDone(world.receipt(&orders.unwrap()));
        world.tell(Event::Reported { worker: other.clone(), report });
    }
    assert_eq!(world.machine.phase(), Phase::Stopping);
    world.queue.clear();
    world.tell(back(Vec::new()));
    let orders = world.queue.iter().filter_map(|effect| match effect {
        Effect::Send { order, .. } => Some(&order.body),
        _ => None,
    });
    let orders: Vec<_> = orders.collect();
    assert!(matches!(orders[..], [OrderBody::Prepare(_), OrderBody::CloseSession { .. }]), "{orders:?}");
}
