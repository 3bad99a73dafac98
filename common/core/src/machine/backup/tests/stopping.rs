//! The source is gone once it has stopped, and a job ends beside another leader that still publishes.

use super::takeover::{after_stop, all_packs, announced, fresh_after_stop, label};
use super::*;

/// All units are done, and the order to stop is on its way.
fn stopping() -> World {
    let spec = BackupSpec { source_patience_ms: 60_000, ..spec() };
    let (machine, queue) = BackupMachine::start(spec, worker(), vec![worker()], Recovered::default());
    let mut world = World { machine, queue, ..World::new() };
    while world.machine.phase() < Phase::Stopping {
        world.carry_out_one();
    }
    world.queue.clear();
    world
}

impl World {
    /// The next effect; if there is none, the next unit.
    fn carry_out_one(&mut self) {
        if !self.queue.is_empty() {
            let effect = self.queue.remove(0);
            return self.carry_out(effect);
        }
        let order = self.orders.remove(0);
        let receipt = self.receipt(&order);
        self.report(ReportBody::UnitDone(receipt));
        self.report(ReportBody::Ready { units: 1 });
    }
}

#[test]
fn a_source_that_died_after_the_stop_is_not_missed_where_its_record_is() {
    let mut world = stopping();
    world.recorded = Some(stop());
    world.tell(Event::WorkerLost { worker: worker() });
    world.settle();
    assert_eq!(world.outcome().status, Status::Ok);
    let label = world.published[0].1.head.backup_label.clone();
    assert_eq!(label.as_deref(), Some("START WAL LOCATION"));
}

#[test]
fn a_source_that_died_without_a_record_is_waited_for_and_then_the_job_ends() {
    let mut world = stopping();
    world.tell(Event::WorkerLost { worker: worker() });
    world.settle();
    assert!(world.outcome.is_none());
    world.tell(Event::SourceOverdue { absence: 1 });
    world.settle();
    assert_eq!(world.outcome().failure.as_ref().unwrap().code, ErrorCode::HostConnect);
}

#[test]
fn a_source_that_was_started_again_after_its_stop_does_not_cost_the_backup() {
    let mut world = stopping();
    world.recorded = Some(stop());
    let knows_nothing = Failure::new(ErrorCode::Assert, "there is no session to close");
    world.report(ReportBody::SessionClosed(Err(knows_nothing)));
    world.settle();
    assert_eq!(world.outcome().status, Status::Ok);
}

#[test]
fn what_the_archive_lacks_is_not_asked_of_a_source_that_died_after_the_stop() {
    let mut world = stopping();
    (world.recorded, world.archived) = (Some(stop()), vec![ONE]);
    world.report(ReportBody::SessionLost(Failure::new(ErrorCode::Assert, "it panicked")));
    let supplied = world.supplied.len();
    world.settle();
    assert_eq!((world.outcome().status, world.supplied.len()), (Status::Partial, supplied));
    assert_eq!(failure_of(world.outcome(), TWO).unwrap().code, ErrorCode::ArchiveTimeout);
}

#[test]
fn a_repository_that_cannot_be_given_the_record_is_left_out() {
    let mut world = stopping();
    (world.recorded, world.refusing) = (Some(stop()), vec![TWO]);
    world.tell(Event::WorkerLost { worker: worker() });
    world.settle();
    assert_eq!(world.outcome().status, Status::Partial);
    assert_eq!(failure_of(world.outcome(), TWO).unwrap().code, ErrorCode::FileWrite);
}

#[test]
fn the_record_of_another_session_is_not_believed() {
    let mut world = stopping();
    world.recorded = Some(StopBody { start_lsn: "0/2000028".parse().unwrap(), ..stop() });
    world.report(ReportBody::SessionLost(Failure::new(ErrorCode::Assert, "it panicked")));
    world.settle();
    assert_eq!(world.outcome().failure.as_ref().unwrap().code, ErrorCode::Assert);
}

#[test]
fn a_source_that_stops_late_is_heard_though_it_was_looked_for_elsewhere() {
    let mut world = stopping();
    world.tell(Event::WorkerLost { worker: worker() });
    world.report(ReportBody::SessionClosed(Ok(SessionEnd { stop: Some(stop()), failed: Vec::new() })));
    world.settle();
    assert_eq!(world.outcome().status, Status::Ok);
}

/// A new leader, the source of whose job was started again after it had stopped.
fn without_source() -> World {
    let mut world = fresh_after_stop();
    world.recorded = Some(stop());
    world.tell(Event::WorkerJoined { worker: worker(), held: None });
    world
}

fn kept() -> Option<Box<RecalledSession>> {
    let mut inventory = Inventory::default();
    scanned().into_iter().for_each(|entry| inventory.push(entry).unwrap());
    Some(Box::new(RecalledSession { preflight: facts(), session: session(), inventory }))
}

#[test]
fn a_new_leader_that_finds_no_source_finishes_the_backup_with_what_the_source_has_kept() {
    let mut world = without_source();
    world.kept = kept();
    world.recalled = all_packs();
    world.settle();
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().bytes_database, 70 * MIB + 2 * 8192);
    assert!(world.orders.is_empty() && world.sessions == 0, "a session after the stop is another one");
}

#[test]
fn a_new_leader_that_finds_neither_source_nor_session_leaves_the_label_to_nobody() {
    let mut world = without_source();
    world.settle();
    assert_eq!(world.outcome().failure.as_ref().unwrap().code, ErrorCode::HostConnect);
    assert_eq!(world.void, [ONE, TWO]);
}

#[test]
fn the_kept_session_of_another_start_is_not_believed() {
    let mut world = without_source();
    let mut other = kept().unwrap();
    other.session.started = Timestamp(NOW.0 + 1);
    world.kept = Some(other);
    world.settle();
    assert_eq!(world.outcome().status, Status::Error);
}

#[test]
fn before_the_order_to_stop_a_source_without_its_session_is_the_end() {
    let mut world = stopping();
    let recovered = Recovered { announced: announced(), ..Recovered::default() };
    (world.machine, world.queue) = BackupMachine::start(spec(), worker(), vec![worker()], recovered);
    world.report(ReportBody::SessionLost(disk_full()));
    assert!(!world.queue.iter().any(|effect| matches!(effect, Effect::RecallSession { .. })));
    world.settle();
    assert_eq!(world.outcome().status, Status::Error);
}

fn ended_beside_another_leader(published: &[RepoKey]) -> World {
    let mut world = after_stop();
    world.published_meanwhile = published.to_vec();
    world.tell(Event::Cancelled(Failure::new(ErrorCode::HostConnect, "the session's worker is gone")));
    world
}

#[test]
fn what_an_earlier_leader_publishes_while_the_next_one_fails_is_told_as_done() {
    let mut world = ended_beside_another_leader(&[ONE, TWO]);
    assert_eq!(world.machine.phase(), Phase::GivingUp);
    world.settle();
    assert_eq!((world.outcome().status, world.outcome().failure.as_ref()), (Status::Ok, None));
    assert_eq!(world.outcome().label, Some(label()));
}

#[test]
fn what_an_earlier_leader_published_in_one_repository_is_told_as_partial_and_void_in_the_other() {
    let mut world = ended_beside_another_leader(&[TWO]);
    world.settle();
    assert_eq!(world.outcome().status, Status::Partial);
    assert_eq!(failure_of(world.outcome(), ONE).unwrap().code, ErrorCode::HostConnect);
    assert_eq!(world.void, [ONE]);
}

#[test]
fn a_repository_that_cannot_say_what_it_has_is_told_as_without_the_backup() {
    let mut world = ended_beside_another_leader(&[]);
    world.queue.clear();
    let fates = vec![(ONE, Ok(Fate::Published)), (TWO, Err(disk_full()))];
    world.tell(Event::GivenUp { fates });
    world.settle();
    assert_eq!(world.outcome().status, Status::Partial);
    assert!(world.outcome().warnings.iter().any(|warning| warning.contains("repo 2")));
}

#[test]
fn a_worker_that_comes_while_the_label_is_given_up_hears_of_the_end() {
    let mut world = ended_beside_another_leader(&[]);
    let other: WorkerName = "other".parse().unwrap();
    world.tell(Event::WorkerJoined { worker: other.clone(), held: None });
    let given_up = world.queue.remove(0);
    world.queue.clear();
    world.carry_out(given_up);
    let is_end = |effect: &Effect| matches!(effect, Effect::Send { worker, order } if *worker == other && order.body == OrderBody::End);
    assert!(world.queue.iter().any(is_end));
}

#[test]
fn an_abandoned_backup_is_void_before_anybody_is_told() {
    let mut world = stopping();
    world.tell(Event::Abandoned(Failure::new(ErrorCode::Term, "cancelled")));
    assert!(!world.queue.iter().any(|effect| matches!(effect, Effect::Finish(_))));
    world.settle();
    assert_eq!((world.outcome().status, world.void.as_slice()), (Status::Error, &[ONE, TWO][..]));
}

#[test]
fn a_job_without_a_label_ends_at_once() {
    let recovered = Recovered { announced: announced(), ..Recovered::default() };
    let (mut machine, _) = BackupMachine::start(spec(), worker(), vec![worker()], recovered);
    let effects = machine.on_event(NOW, Event::Cancelled(disk_full()));
    assert!(matches!(effects.last(), Some(Effect::Finish(_))), "nobody was ordered to stop: {effects:?}");
}
