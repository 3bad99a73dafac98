#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::StreamOutcome::{Failed, Gone, Stored};
use super::*;

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
const BEGIN: Lsn = Lsn(7 << 24);
const ONE: RepoKey = RepoKey(1);
const TWO: RepoKey = RepoKey(2);

fn machine(lanes: &[(RepoKey, bool)]) -> StreamMachine {
    StreamMachine::new(TimelineId(1), BEGIN, SIZE, lanes.iter().copied())
}

fn at(lsn: u64) -> Lsn {
    Lsn(BEGIN.0 + lsn)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn part(from: u64, to: u64) -> StreamWork {
    StreamWork::Part(WalPart::new(TimelineId(1), at(from), at(to), SIZE).unwrap())
}

fn whole(number: u64) -> StreamWork {
    let start = at(number * SIZE.bytes());
    StreamWork::Whole(WalSegmentName::containing(TimelineId(1), start, SIZE))
}

fn order(work: StreamWork, repositories: &[RepoKey]) -> Option<StreamOrder> {
    Some(StreamOrder { work, repositories: repositories.to_vec() })
}

fn receive(machine: &mut StreamMachine, bytes: u64) {
    machine.receive(machine.received(), bytes).unwrap();
}

#[test]
fn what_came_within_a_second_is_one_part_for_all_who_are_in_step() {
    let mut machine = machine(&[(ONE, true), (TWO, true)]);
    assert_eq!(machine.next(seconds(0.0)), None);
    receive(&mut machine, 100);
    assert_eq!(machine.next(seconds(0.1)), order(part(0, 100), &[ONE, TWO]));
    receive(&mut machine, 50);
    assert_eq!(machine.next(seconds(0.2)), None);
    machine.settle(seconds(0.3), ONE, part(0, 100), Stored);
    machine.settle(seconds(0.3), TWO, part(0, 100), Stored);
    receive(&mut machine, 50);
    assert_eq!(machine.next(seconds(1.0)), None);
    assert_eq!(machine.next(seconds(1.1)), order(part(100, 200), &[ONE, TWO]));
}

#[test]
fn only_what_every_required_repository_has_is_confirmed() {
    let mut machine = machine(&[(ONE, true), (TWO, false)]);
    receive(&mut machine, 100);
    machine.next(seconds(0.0)).unwrap();
    machine.settle(seconds(0.0), TWO, part(0, 100), Stored);
    assert_eq!(machine.confirmed(), BEGIN);
    machine.settle(seconds(0.0), ONE, part(0, 100), Stored);
    assert_eq!(machine.confirmed(), at(100));
}

#[test]
fn where_nobody_is_required_everybody_is() {
    let mut machine = machine(&[(ONE, false), (TWO, false)]);
    receive(&mut machine, 100);
    machine.next(seconds(0.0)).unwrap();
    machine.settle(seconds(0.0), ONE, part(0, 100), Stored);
    assert_eq!(machine.confirmed(), BEGIN);
}

#[test]
fn a_repository_that_fails_falls_behind_alone_and_goes_on_with_whole_segments() {
    let mut machine = machine(&[(ONE, true), (TWO, true)]);
    receive(&mut machine, 100);
    machine.next(seconds(0.0)).unwrap();
    machine.settle(seconds(0.0), ONE, part(0, 100), Stored);
    machine.settle(seconds(0.0), TWO, part(0, 100), Failed);
    receive(&mut machine, SIZE.bytes());
    assert_eq!(machine.next(seconds(1.0)), order(whole(0), &[ONE]));
    assert!(machine.settle(seconds(2.0), ONE, whole(0), Stored), "the parts are superseded");
    assert_eq!(machine.next(seconds(3.0)), order(part(SIZE.bytes(), SIZE.bytes() + 100), &[ONE]));
    assert_eq!(machine.next(seconds(5.0)), order(whole(0), &[TWO]));
    assert_eq!(machine.confirmed(), BEGIN);
    assert_eq!(machine.retained_bytes(), SIZE.bytes() + 100);
    machine.settle(seconds(6.0), TWO, whole(0), Stored);
    assert_eq!(machine.confirmed(), at(SIZE.bytes()));
}

#[test]
fn many_small_parts_become_one() {
    let mut machine = machine(&[(ONE, true)]);
    let mut superseded = 0;
    for second in 1..=200 {
        receive(&mut machine, 10);
        let order = machine.next(seconds(f64::from(second))).unwrap();
        superseded += u32::from(machine.settle(seconds(f64::from(second)), ONE, order.work, Stored));
    }
    // The first part stands for those of an earlier stream too.
    assert_eq!(superseded, 4);
    assert_eq!(machine.confirmed(), at(2000));
}

#[test]
fn what_comes_from_another_place_is_refused() {
    let mut machine = machine(&[(ONE, true)]);
    let gap = StreamGap { expected: BEGIN, found: at(8192) };
    assert_eq!(machine.receive(at(8192), 10), Err(gap));
}

#[test]
fn a_question_is_answered_at_once_and_not_waited_for_for_ever() {
    let mut machine = machine(&[(ONE, true)]);
    receive(&mut machine, 100);
    machine.next(seconds(0.0)).unwrap();
    machine.settle(seconds(0.0), ONE, part(0, 100), Stored);
    receive(&mut machine, 100);
    machine.note_question(seconds(0.1));
    assert_eq!(machine.next(seconds(0.1)), order(part(100, 200), &[ONE]));
    machine.note_question(seconds(9.0));
    assert!(!machine.is_in_the_way(seconds(10.0)));
    assert!(machine.is_in_the_way(seconds(10.1)));
    machine.settle(seconds(11.0), ONE, part(100, 200), Stored);
    assert!(!machine.is_in_the_way(seconds(30.0)));
}

/// Larger segments than fit at hand: a lane that is too slow for its parts waits for the whole.
#[test]
fn a_lane_never_leaves_a_gap_in_the_parts_of_a_segment() {
    let size = WalSegmentSize::new(1 << 30).unwrap();
    let mut machine = StreamMachine::new(TimelineId(1), Lsn(1 << 30), size, [(ONE, true)]);
    receive(&mut machine, 20 << 20);
    let order = machine.next(seconds(0.0)).unwrap();
    let StreamWork::Part(first) = order.work else { panic!("{order:?}") };
    assert_eq!(first.bytes(), 16 << 20);
    receive(&mut machine, 100 << 20);
    machine.settle(seconds(0.5), ONE, order.work, Stored);
    assert_eq!(machine.next(seconds(5.0)), None);
    receive(&mut machine, (1 << 30) - (120 << 20));
    assert!(matches!(machine.next(seconds(6.0)).unwrap().work, StreamWork::Whole(_)));
}

#[test]
fn what_is_gone_from_the_server_is_passed_over_where_nobody_needs_it() {
    let mut machine = machine(&[(ONE, true), (TWO, false)]);
    receive(&mut machine, 3 * SIZE.bytes() + 10);
    assert_eq!(machine.next(seconds(0.0)), order(whole(0), &[ONE, TWO]));
    machine.settle(seconds(0.1), ONE, whole(0), Stored);
    machine.settle(seconds(0.1), TWO, whole(0), Gone);
    assert_eq!(machine.next(seconds(0.2)), order(whole(1), &[ONE]));
    let part = part(3 * SIZE.bytes(), 3 * SIZE.bytes() + 10);
    assert_eq!(machine.next(seconds(0.2)), order(part, &[TWO]));
    assert_eq!(machine.confirmed(), at(SIZE.bytes()));
    machine.settle(seconds(0.3), ONE, whole(1), Gone);
    assert_eq!(machine.confirmed(), at(SIZE.bytes()));
    assert_eq!(machine.next(seconds(5.4)), order(whole(1), &[ONE]));
}
