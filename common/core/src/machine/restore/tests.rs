//! Whole restores on paper: workers that do what they are told, and what may happen to them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod copying;
mod world;

use super::*;
use crate::failure::ErrorCode;
use crate::format::BlockHash;
use crate::job::{JobKind, JobOptions};
use proptest::prelude::*;
use world::World;

const NOW: Timestamp = Timestamp(1_763_800_200_000);
const PATIENCE_MS: u64 = 120_000;

fn name(text: &str) -> WorkerName {
    text.parse().unwrap()
}

fn spec(named: &[&str]) -> RestoreSpec {
    let (stanza, options) = ("main".parse().unwrap(), JobOptions::default());
    let errand = ErrandOrder { kind: JobKind::Restore, stanza, options };
    let named = named.iter().map(|text| name(text)).collect();
    RestoreSpec {
        errand,
        crew: Crew::Named(named),
        main: None,
        patience_ms: PATIENCE_MS,
        stop_patience_ms: 0,
    }
}

fn failure() -> Failure {
    Failure::new(ErrorCode::TablespaceMap, "its maps lead elsewhere")
}

#[test]
fn the_main_worker_and_its_mates_share_the_restore_and_every_share_is_done_once() {
    let mut world = World::new(&["a", "b", "c"], 12);
    world.all_come();
    world.run_to_the_end();
    let by = world.done_by();
    assert_eq!(by.values().sum::<usize>(), 12);
    assert_eq!(by.len(), 3, "somebody did nothing: {by:?}");
    let (total, done) = world.machine.run().unwrap().1.bytes();
    assert_eq!((total, done), (12 * 10, 12 * 10));
}

#[test]
fn a_worker_that_is_alone_gets_all_shares_at_once() {
    let mut world = World::new(&["a"], 12);
    world.all_come();
    assert_eq!(world.machine.run().unwrap().1.held(), 12);
    world.run_to_the_end();
    assert_eq!(world.done_by(), [(name("a"), 12)].into());
}

#[test]
fn the_main_worker_is_recorded_before_it_is_told_to_begin() {
    let mut machine = RestoreMachine::start(NOW, spec(&["a", "b"]));
    let joined = |worker| Event::Joined { worker: name(worker), holds: false };
    assert_eq!(machine.on_event(NOW, joined("b")), [Effect::RecordMain(name("b"))]);
    assert_eq!(machine.on_event(NOW, joined("a")), [], "there is nothing to help with yet");
    assert_eq!(machine.on_event(NOW, joined("z")), [], "nobody named it");
    let effects = machine.on_event(NOW, Event::MainRecorded);
    let errand = Box::new(spec(&[]).errand);
    assert_eq!(effects, [Effect::Order { worker: name("b"), order: ShareOrder::Lead(errand) }]);
}

#[test]
fn a_mate_that_never_comes_is_not_waited_for() {
    let mut world = World::new(&["a", "b"], 6);
    world.comes("a");
    world.run_to_the_end();
    assert_eq!(world.done_by(), [(name("a"), 6)].into());
}

#[test]
fn what_a_lost_mate_had_in_hand_goes_to_others_and_what_it_staged_counts() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    world.stage_one("b");
    world.is_lost("b");
    assert!(world.places().is_empty(), "its staging place is left");
    world.run_to_the_end();
    assert_eq!(world.done_by(), [(name("a"), 5), (name("b"), 1)].into());
}

#[test]
fn a_report_of_an_earlier_incarnation_counts_for_nothing() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    let old = world.staging("b").unwrap();
    world.is_lost("b");
    world.comes("b");
    assert_ne!(world.staging("b"), Some(old));
    let share = world.taken("b")[0];
    let staged = StagedShare::new(share, Vec::new());
    let stale = ShareReport::Staged { staging: old, staged };
    assert_eq!(world.says("b", stale), []);
    let stale = ShareReport::AssistFailed { staging: old, failure: failure() };
    assert_eq!(world.says("b", stale), []);
    assert_eq!(world.taken("b").len(), 3);
    world.run_to_the_end();
}

#[test]
fn a_mate_that_fails_is_left_out_with_a_warning_and_its_shares_go_back() {
    let mut world = World::new(&["a", "b", "c"], 9);
    world.all_come();
    let staging = world.staging("b").unwrap();
    let effects = world.says("b", ShareReport::AssistFailed { staging, failure: failure() });
    let warning = "worker b is left out of the restore: its maps lead elsewhere";
    assert!(effects.contains(&Effect::Warn(warning.into())), "{effects:?}");
    let dismiss = ShareOrder::Dismiss { mate: name("b"), because: Some(failure()) };
    assert!(effects.contains(&Effect::Order { worker: name("a"), order: dismiss }), "{effects:?}");
    assert!(effects.contains(&Effect::End(name("b"))), "{effects:?}");
    world.comes("b");
    assert_eq!(world.staging("b"), None, "it is asked again");
    world.run_to_the_end();
    assert_eq!(world.done_by().keys().cloned().collect::<Vec<_>>(), [name("a"), name("c")]);
}

#[test]
fn a_mate_whose_files_the_main_worker_does_not_find_is_left_out() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    world.loses_files("b");
    world.stage_one("b");
    assert_eq!(world.staging("b"), None);
    world.run_to_the_end();
    assert_eq!(world.done_by(), [(name("a"), 6)].into());
}

#[test]
fn a_main_worker_that_comes_back_with_its_restore_goes_on_with_it() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    world.write_one();
    world.is_lost("a");
    world.stage_one("b");
    world.returns("a");
    world.run_to_the_end();
    assert_eq!(world.begun, 1);
}

#[test]
fn a_main_worker_that_comes_back_without_its_restore_begins_anew() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    world.write_one();
    world.stage_one("b");
    world.is_lost("a");
    world.comes("a");
    world.run_to_the_end();
    assert_eq!(world.begun, 2);
}

#[test]
fn a_main_worker_that_stays_away_ends_the_restore_and_nobody_takes_its_place() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    world.is_lost("a");
    let just_before = Timestamp(NOW.0 + i64::try_from(PATIENCE_MS).unwrap() - 1);
    assert_eq!(world.machine.on_event(just_before, Event::Ticked), []);
    let effects = world.machine.on_event(Timestamp(just_before.0 + 1), Event::Ticked);
    let Some(Effect::Finish(Err(failure))) = effects.last() else { panic!("{effects:?}") };
    assert_eq!(failure.code, ErrorCode::HostConnect);
    assert!(failure.message.contains("worker a") && failure.hints.len() == 2, "{failure:?}");
    assert!(effects.contains(&Effect::End(name("b"))), "{effects:?}");
}

#[test]
fn a_restore_that_no_worker_comes_for_ends_in_time() {
    let mut machine = RestoreMachine::start(NOW, spec(&["a", "b"]));
    let late = Timestamp(NOW.0 + i64::try_from(PATIENCE_MS).unwrap());
    let effects = machine.on_event(late, Event::Ticked);
    let Some(Effect::Finish(Err(failure))) = effects.last() else { panic!("{effects:?}") };
    assert_eq!(failure.message, "none of a, b is here to restore");
}

#[test]
fn a_cancelled_restore_is_ended_everywhere() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    let effects = world.machine.on_event(NOW, Event::Cancelled(failure()));
    let ends = ["a", "b"].map(|worker| Effect::End(name(worker)));
    assert_eq!(effects, [&ends[..], &[Effect::Finish(Err(failure()))]].concat());
    assert_eq!(world.machine.on_event(NOW, Event::Ticked), []);
}

#[test]
fn a_failure_of_the_main_worker_is_the_jobs() {
    let mut world = World::new(&["a", "b"], 6);
    world.all_come();
    let effects = world.says("a", ShareReport::Ended(Err(failure())));
    assert_eq!(effects.last(), Some(&Effect::Finish(Err(failure()))));
}

#[test]
fn a_new_leader_asks_the_main_worker_how_far_it_is_and_nothing_is_done_twice() {
    let mut world = World::new(&["a", "b"], 8);
    world.all_come();
    world.write_one();
    world.stage_one("b");
    let staging = world.staging("b");
    world.another_leads();
    assert_eq!(world.staging("b"), staging, "a mate goes on where it was");
    assert_eq!(world.machine.run().unwrap().1.done(), 2);
    world.run_to_the_end();
    assert_eq!(world.begun, 1);
}

proptest! {
    #[test]
    fn whatever_happens_every_share_is_done_exactly_once(happenings in prop::collection::vec(0u8..14, 0..60)) {
        let mut world = World::new(&["a", "b", "c"], 9);
        world.all_come();
        for happening in happenings {
            match happening {
                0..=2 => world.write_one(),
                3 | 4 => world.stage_one("b"),
                5 | 6 => world.stage_one("c"),
                7 => { world.is_lost("b"); world.comes("b"); }
                8 => { world.is_lost("c"); world.returns("c"); }
                9 => world.is_lost("c"),
                10 => { world.is_lost("a"); world.stage_one("b"); world.returns("a"); }
                11 => { world.is_lost("a"); world.stage_one("c"); world.comes("a"); }
                12 => world.another_leads(),
                _ => world.returns("b"),
            }
        }
        world.run_to_the_end();
        prop_assert_eq!(world.done_by().values().sum::<usize>(), 9);
    }
}
