//! The worker that keeps the session is away for a while, and comes back.

use super::*;

fn patient() -> World {
    let spec = BackupSpec { source_patience_ms: 60_000, ..spec() };
    let (machine, queue) = BackupMachine::start(spec, worker(), vec![worker()], Recovered::default());
    World { machine, queue, ..World::new() }
}

fn back(units: Vec<HeldUnit>) -> Event {
    let job = spec().job;
    Event::WorkerJoined { worker: worker(), held: Some(Held { job, session: true, prepared: true, units }) }
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
