//! Standbys and compute workers: who is given what, and what becomes of what they gave.

use super::takeover::announced;
use super::*;
use crate::config::{BackupStandby, Offload};
use crate::ticket::{Admits, TicketSecret};
use crate::wire::{FromStandby, Incarnation, Serving, Standing};

const STANDBY: Incarnation = Incarnation { started_us: 77, timeline: TimelineId(1) };
const SECRET: TicketSecret = TicketSecret::from_random_bytes([9; TicketSecret::BYTES]);

fn named(name: &str) -> WorkerName {
    name.parse().unwrap()
}

fn db2() -> WorkerName {
    named("db2")
}

fn primary() -> Standing {
    Standing::Primary { serves: None }
}

fn standby() -> Standing {
    Standing::Standby { incarnation: STANDBY, serves: None }
}

fn serving() -> Standing {
    Standing::Primary { serves: Some(Serving { address: "db1:7434".into(), secret: SECRET }) }
}

fn later(seconds: i64) -> Timestamp {
    Timestamp(NOW.0 + seconds * 1000)
}

impl World {
    fn read_by(standby: BackupStandby, offload: Offload, readers: &[WorkerName]) -> World {
        World::read_by_with(standby, offload, readers, Recovered::default())
    }

    /// As far as units could be given.
    fn read_by_with(
        standby: BackupStandby,
        offload: Offload,
        readers: &[WorkerName],
        recovered: Recovered,
    ) -> World {
        let small = BackupSpec { unit_size: 8 * MIB, standby, offload, ..spec() };
        let readers = std::iter::once(worker()).chain(readers.iter().cloned()).collect();
        let (machine, queue) = BackupMachine::start(small, worker(), readers, recovered);
        let mut world = World { machine, queue, ..World::new() };
        world.settle();
        // The world has asked as one that had prepared.
        world.machine.board.forget_wishes(&worker());
        world
    }

    fn say(&mut self, who: &WorkerName, report: ReportBody) {
        self.tell(Event::Reported { worker: who.clone(), report });
        self.settle();
    }

    fn stands(&mut self, who: &WorkerName, standing: Standing) {
        self.say(who, ReportBody::Standing(standing));
        self.say(who, ReportBody::Ready { units: 1 });
    }

    fn tick(&mut self, now: Timestamp) {
        let effects = self.machine.on_event(now, Event::Ticked);
        self.queue.extend(effects);
        self.settle();
    }

    /// Does what that worker holds, until it is given nothing more; how many units that were.
    fn do_units_of(&mut self, who: &WorkerName, standby: Option<Incarnation>) -> usize {
        let mut done = 0;
        while let Some(unit) = self.leased_to(who).first().copied() {
            let at = self.orders.iter().position(|order| order.unit == unit).unwrap();
            let order = self.orders.remove(at);
            let standby = standby.map(|incarnation| FromStandby { worker: who.clone(), incarnation });
            let receipt = Receipt { standby, ..self.receipt(&order) };
            self.say(who, ReportBody::UnitDone(receipt));
            self.say(who, ReportBody::Ready { units: 1 });
            done += 1;
        }
        done
    }

    fn confirm(&mut self, who: &WorkerName, result: Result<(), Failure>) {
        let order = self.confirming.pop().expect("it was asked");
        assert_eq!((order.incarnation, order.terms.checkpoint), (STANDBY, "0/3000028".parse().unwrap()));
        self.say(who, ReportBody::Confirmed { round: order.round, result });
    }

    fn warned(&self, of: &str) -> bool {
        self.machine.warnings.iter().any(|warning| warning.contains(of))
    }
}

fn promoted() -> Failure {
    Failure::new(ErrorCode::DbMismatch, "it is not in recovery")
}

#[test]
fn a_standby_reads_beside_the_primary_and_what_only_that_has_stays_there() {
    let mut world = World::read_by(BackupStandby::Prefer, Offload::Never, &[db2()]);
    assert_eq!(world.orders, [], "nobody has said yet what it is");
    world.stands(&db2(), standby());
    world.stands(&worker(), primary());
    assert_eq!((world.leased_to(&db2()).len(), world.leased_to(&worker()).len()), (1, 1));
    assert!(world.do_units_of(&db2(), Some(STANDBY)) > 5, "all but one unit and pg_control");
    assert_eq!(world.do_units_of(&worker(), None), 1, "pg_control waits for the standby to be confirmed");
    world.confirm(&db2(), Ok(()));
    assert_eq!(world.leased_to(&db2()), [], "pg_control is not for it");
    assert_eq!(world.do_units_of(&worker(), None), 1);
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().workers.len(), 2);
}

#[test]
fn what_a_standby_gave_is_read_again_if_it_turns_out_to_be_another_one() {
    let mut world = World::read_by(BackupStandby::Prefer, Offload::Never, &[db2()]);
    world.stands(&worker(), primary());
    world.stands(&db2(), standby());
    let given = world.do_units_of(&db2(), Some(STANDBY));
    assert!(given > 5);
    world.do_units_of(&worker(), None);
    world.confirm(&db2(), Err(promoted()));
    assert!(world.warned("worker db2 takes no further part: it is not in recovery"));
    assert_eq!(world.do_units_of(&worker(), None), given + 1, "all of it, and pg_control");
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().units_retried as usize, given);
    let names = world.published[0].1.head.workers.clone();
    let files = world.published[0].1.records().filter_map(|record| match record {
        Record::File(file) => Some(file),
        _ => None,
    });
    let mut ranges = files.flat_map(|file| file.ranges);
    assert!(ranges.all(|range| names[usize::from(range.worker)] == worker()), "nothing of the standby's");
}

#[test]
fn a_look_decides_only_about_what_was_accepted_before_it_was_ordered() {
    let mut world = World::read_by(BackupStandby::Prefer, Offload::Never, &[db2()]);
    world.stands(&worker(), primary());
    world.stands(&db2(), standby());
    let done = |world: &mut World| {
        let unit = world.leased_to(&db2())[0];
        let at = world.orders.iter().position(|order| order.unit == unit).unwrap();
        let order = world.orders.remove(at);
        let standby = Some(FromStandby { worker: db2(), incarnation: STANDBY });
        let receipt = Receipt { standby, ..world.receipt(&order) };
        world.say(&db2(), ReportBody::UnitDone(receipt));
        world.say(&db2(), ReportBody::Ready { units: 1 });
    };
    done(&mut world);
    world.tick(later(1));
    assert_eq!(world.confirming.len(), 0);
    world.tick(later(40));
    assert_eq!(world.confirming.len(), 1, "half a minute after the first");
    done(&mut world);
    world.confirm(&db2(), Ok(()));
    let again = world.machine.board().done();
    world.tell(Event::WorkerLost { worker: db2() });
    world.settle();
    assert_eq!(world.machine.board().done(), again - 1, "the second one is read again, the first is not");
    world.tell(Event::Reported { worker: worker(), report: ReportBody::Ready { units: 1 } });
    world.do_units_of(&worker(), None);
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn a_standby_whose_files_cannot_be_read_is_dismissed_at_once_and_costs_no_unit_an_attempt() {
    let mut world = World::read_by(BackupStandby::Prefer, Offload::Never, &[db2()]);
    world.stands(&db2(), standby());
    let order = world.orders.pop().unwrap();
    let failure = Failure::new(ErrorCode::FileRead, "Stale file handle");
    world.say(&db2(), ReportBody::UnitFailed(super::super::copying::failed(&world.receipt(&order), failure)));
    world.say(&db2(), ReportBody::Ready { units: 1 });
    assert_eq!(world.leased_to(&db2()), []);
    world.stands(&worker(), primary());
    world.do_units_of(&worker(), None);
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().workers.len(), 1);
}

#[test]
fn with_y_the_primary_reads_only_what_it_must_and_a_standby_is_waited_for_a_minute() {
    let mut world = World::read_by(BackupStandby::Yes, Offload::Never, &[]);
    world.stands(&worker(), primary());
    assert_eq!(world.leased_to(&worker()), []);
    world.tick(later(1));
    assert!(world.warned("no standby takes part"));
    world.tell(Event::WorkerJoined { worker: db2(), held: None });
    world.settle();
    world.machine.board.forget_wishes(&worker());
    // It has minutes to catch up.
    world.tick(later(200));
    world.stands(&db2(), standby());
    world.stands(&worker(), primary());
    world.do_units_of(&db2(), Some(STANDBY));
    world.confirm(&db2(), Ok(()));
    assert_eq!(world.do_units_of(&worker(), None), 1);
    assert_eq!(world.outcome().status, Status::Ok);

    let mut alone = World::read_by(BackupStandby::Yes, Offload::Never, &[]);
    alone.stands(&worker(), primary());
    alone.tick(later(1));
    alone.tick(later(50));
    assert_eq!(alone.outcome, None);
    alone.tick(later(70));
    let failure = alone.outcome().failure.clone().unwrap();
    assert_eq!(failure.code.number(), 49, "{failure}");
    assert_eq!(failure.hints.len(), 2);
}

#[test]
fn a_new_leader_asks_standbys_again_about_what_its_predecessor_had_accepted() {
    let mut first = World::read_by(BackupStandby::Prefer, Offload::Never, &[db2()]);
    first.stands(&db2(), standby());
    let order = first.orders.pop().unwrap();
    let from = FromStandby { worker: db2(), incarnation: STANDBY };
    let accepted = event::AcceptedUnit {
        unit: order.unit,
        attempt: order.attempt,
        repositories: vec![ONE, TWO],
        standby: Some(from),
    };
    let recovered =
        || Recovered { announced: announced(), accepted: vec![accepted.clone()], ..Recovered::default() };
    for comes_back in [true, false] {
        let readers: &[WorkerName] = if comes_back { &[named("db2")] } else { &[] };
        let mut world = World::read_by_with(BackupStandby::Prefer, Offload::Never, &[], Recovered::default());
        let small = BackupSpec { unit_size: 8 * MIB, standby: BackupStandby::Prefer, ..spec() };
        let all = std::iter::once(worker()).chain(readers.iter().cloned()).collect();
        let (machine, queue) = BackupMachine::start(small, worker(), all, recovered());
        let pack = super::takeover::pack(&order);
        world = World { machine, queue, recalled: vec![pack], ..world };
        world.settle();
        assert_eq!(world.machine.board().done(), 1);
        if comes_back {
            world.stands(&db2(), standby());
        }
        world.stands(&worker(), primary());
        world.do_units_of(&db2(), Some(STANDBY));
        world.do_units_of(&worker(), None);
        if comes_back {
            world.confirm(&db2(), Ok(()));
        } else {
            world.tick(later(1));
            world.tick(later(40));
            assert!(world.warned("1 units that the standby of worker db2 gave are read again"));
        }
        world.do_units_of(&worker(), None);
        assert_eq!(world.outcome().status, Status::Ok, "{comes_back}");
    }
}

#[test]
fn compute_workers_get_tickets_for_everything_and_sources_nothing_when_all_is_offloaded() {
    let compute = named("compute");
    let mut world = World::read_by(BackupStandby::No, Offload::Always, &[named("compute")]);
    world.stands(&worker(), serving());
    assert_eq!(world.orders, []);
    world.stands(&compute, Standing::Compute);
    let order = world.orders[0].clone();
    let remote = order.source.clone().unwrap();
    assert_eq!((remote.worker, remote.address.as_str()), (worker(), "db1:7434"));
    let admits = Admits {
        job: spec().job,
        unit: order.unit,
        attempt: order.attempt,
        worker: &compute,
        parts: &order.parts,
    };
    assert!(SECRET.has_signed(&admits, &remote.ticket));
    let done = world.do_units_of(&compute, None);
    assert_eq!(u32::try_from(done), Ok(world.machine.board().total()), "pg_control too");
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn a_source_that_is_not_reached_costs_no_attempt_until_it_is_clear_that_the_worker_cannot() {
    let compute = named("compute");
    let mut world = World::read_by(BackupStandby::No, Offload::Prefer, &[named("compute")]);
    world.stands(&worker(), serving());
    world.stands(&compute, Standing::Compute);
    let unreachable = || Failure::new(ErrorCode::HostConnect, "db1:7434 does not answer");
    let mut failed = 0;
    for second in 0..100 {
        while let Some(at) = world.orders.iter().position(|order| order.source.is_some()) {
            let order = world.orders.remove(at);
            let report = super::super::copying::failed(&world.receipt(&order), unreachable());
            let effects = world.machine.on_event(
                later(second),
                Event::Reported { worker: compute.clone(), report: ReportBody::UnitFailed(report) },
            );
            world.queue.extend(effects);
            world.settle();
            world.say(&compute, ReportBody::Ready { units: 1 });
            failed += 1;
        }
        world.tick(later(second));
    }
    assert_eq!(failed, 8, "it is tried again every few seconds");
    assert!(world.warned("worker compute takes no further part: db1:7434 does not answer"));
    world.orders.retain(|order| order.source.is_none());
    world.do_units_of(&worker(), None);
    assert_eq!(world.outcome().status, Status::Ok, "the source computes itself where that is allowed");
}

#[test]
fn pages_that_fail_on_one_server_are_taken_from_another_one_that_has_them_intact() {
    for is_intact_elsewhere in [true, false] {
        let mut world = World::read_by(BackupStandby::Prefer, Offload::Never, &[db2()]);
        world.stands(&worker(), primary());
        let unit = world.leased_to(&worker())[0];
        let order = world.orders.remove(0);
        assert_eq!(order.unit, unit);
        world.stands(&db2(), standby());
        let damaged = |world: &World, order: &UnitOrder| {
            let mut receipt = world.receipt(order);
            if let PartReceipt::Present { bad_pages, .. } = &mut receipt.parts[0] {
                *bad_pages = vec![7];
            }
            receipt
        };
        let receipt = damaged(&world, &order);
        world.say(&worker(), ReportBody::UnitDone(receipt));
        assert!(
            world.warned("1 pages of unit 0 are damaged where worker local reads: another server is asked")
        );
        world.say(&worker(), ReportBody::Ready { units: 1 });
        assert!(!world.leased_to(&worker()).contains(&unit), "not from the same disk");
        while !world.leased_to(&db2()).is_empty() {
            let held = world.leased_to(&db2())[0];
            let at = world.orders.iter().position(|order| order.unit == held).unwrap();
            let order = world.orders.remove(at);
            let standby = Some(FromStandby { worker: db2(), incarnation: STANDBY });
            let receipt = match held == unit && !is_intact_elsewhere {
                true => damaged(&world, &order),
                false => world.receipt(&order),
            };
            world.say(&db2(), ReportBody::UnitDone(Receipt { standby, ..receipt }));
            world.say(&db2(), ReportBody::Ready { units: 1 });
        }
        world.do_units_of(&worker(), None);
        world.confirm(&db2(), Ok(()));
        world.do_units_of(&worker(), None);
        assert_eq!(world.outcome().status, Status::Ok);
        assert_eq!(world.warned("are intact where worker db2 does"), is_intact_elsewhere);
        assert_eq!(world.outcome().bad_pages.len(), usize::from(!is_intact_elsewhere));
    }
}

#[test]
fn nobody_waits_for_another_server_that_is_not_there() {
    let mut world = World::read_by(BackupStandby::Prefer, Offload::Never, &[]);
    world.stands(&worker(), primary());
    let order = world.orders.remove(0);
    let mut receipt = world.receipt(&order);
    if let PartReceipt::Present { bad_pages, .. } = &mut receipt.parts[0] {
        *bad_pages = vec![7];
    }
    world.say(&worker(), ReportBody::UnitDone(receipt));
    world.say(&worker(), ReportBody::Ready { units: 1 });
    world.do_units_of(&worker(), None);
    assert_eq!((world.outcome().status, world.outcome().bad_pages.len()), (Status::Ok, 1));
}

#[test]
fn a_source_that_serves_nobody_computes_by_itself_where_that_is_allowed_and_is_named_where_it_is_not() {
    let compute = named("compute");
    let mut world = World::read_by(BackupStandby::No, Offload::Prefer, &[named("compute")]);
    world.stands(&compute, Standing::Compute);
    world.stands(&worker(), primary());
    assert_eq!(world.leased_to(&compute), []);
    world.do_units_of(&worker(), None);
    assert_eq!(world.outcome().status, Status::Ok);

    let mut world = World::read_by(BackupStandby::No, Offload::Always, &[named("compute")]);
    world.stands(&compute, Standing::Compute);
    world.stands(&worker(), primary());
    world.tick(later(1));
    world.tick(later(70));
    let failure = world.outcome().failure.clone().unwrap();
    assert!(failure.message.contains("the primary's worker serves nobody"), "{failure}");
    assert!(failure.hints[0].contains("listen"), "{failure}");
}

#[test]
fn a_standby_that_says_that_it_is_lost_is_given_nothing_though_it_asks() {
    let mut world = World::read_by(BackupStandby::Prefer, Offload::Never, &[db2()]);
    world.stands(&db2(), standby());
    world.say(&db2(), ReportBody::SessionLost(promoted()));
    world.say(&db2(), ReportBody::Ready { units: 4 });
    assert_eq!(world.leased_to(&db2()), []);
    world.stands(&worker(), primary());
    world.do_units_of(&worker(), None);
    assert_eq!(world.outcome().status, Status::Ok);
}
