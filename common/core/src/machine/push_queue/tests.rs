#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use proptest::prelude::*;

const FIRST: RepoKey = RepoKey(1);
const SECOND: RepoKey = RepoKey(2);
const NOW: Duration = Duration::ZERO;

fn name(number: u32) -> WalFileName {
    format!("0000000100000000{number:08X}").parse().unwrap()
}

fn names(numbers: std::ops::RangeInclusive<u32>) -> Vec<WalFileName> {
    numbers.map(name).collect()
}

fn queue(is_second_required: bool) -> PushQueue {
    PushQueue::new([(FIRST, true), (SECOND, is_second_required)], 2)
}

fn order(number: u32, repositories: &[RepoKey]) -> Option<PushOrder> {
    Some(PushOrder { file: name(number), repositories: repositories.to_vec() })
}

#[test]
fn repositories_in_step_share_a_reading_and_a_slow_one_falls_behind_alone() {
    let mut queue = queue(true);
    queue.offer(names(1..=3));
    assert_eq!(queue.next(NOW), order(1, &[FIRST, SECOND]));
    assert_eq!(queue.next(NOW), order(2, &[FIRST, SECOND]));
    assert_eq!(queue.next(NOW), None, "two at once are enough for each");
    for number in [1, 2] {
        queue.read(name(number));
        assert!(!queue.report(name(number), FIRST, Outcome::Stored, NOW), "the second does not have it");
    }
    assert_eq!(queue.next(NOW), order(3, &[FIRST]));
    assert!(queue.report(name(1), SECOND, Outcome::Stored, NOW));
    assert_eq!(queue.next(NOW), order(3, &[SECOND]));
}

#[test]
fn histories_go_first_and_then_what_is_oldest() {
    let mut queue = queue(true);
    let history: WalFileName = "00000002.history".parse().unwrap();
    queue.offer([name(7), name(6), history]);
    let taken: Vec<WalFileName> = std::iter::from_fn(|| queue.next(NOW)).map(|order| order.file).collect();
    assert_eq!(taken, [history, name(6)]);
}

#[test]
fn a_file_is_archived_without_a_repository_that_nobody_needs_but_not_while_it_is_read() {
    let mut queue = queue(false);
    queue.offer(names(1..=1));
    assert_eq!(queue.next(NOW), order(1, &[FIRST, SECOND]));
    assert!(!queue.report(name(1), FIRST, Outcome::Stored, NOW), "it is still being read");
    assert!(queue.read(name(1)), "the second may go on from what was read");
    assert_eq!(queue.waiting().count(), 0);
    assert!(!queue.report(name(1), SECOND, Outcome::Failed, NOW));
    queue.offer([]);
    assert_eq!(queue.next(NOW), None, "nothing of it is left");
}

#[test]
fn what_is_archived_is_never_read_again() {
    let mut queue = queue(false);
    queue.offer(names(1..=3));
    for number in [1, 2] {
        assert_eq!(queue.next(NOW), order(number, &[FIRST, SECOND]));
        queue.read(name(number));
        queue.report(name(number), FIRST, Outcome::Stored, NOW);
    }
    assert_eq!(queue.next(NOW), order(3, &[FIRST]), "the second is still busy");
    queue.read(name(3));
    assert!(queue.report(name(3), FIRST, Outcome::Stored, NOW));
    queue.report(name(1), SECOND, Outcome::Stored, NOW);
    assert_eq!(queue.next(NOW), None, "the second gets it from the first, not from the server");
}

#[test]
fn a_repository_that_fails_again_and_again_is_left_alone_for_a_while() {
    let mut queue = queue(true);
    queue.offer(names(1..=1));
    assert_eq!(queue.next(NOW), order(1, &[FIRST, SECOND]));
    queue.read(name(1));
    queue.report(name(1), FIRST, Outcome::Stored, NOW);
    for _ in 1..FAILURES_MAX {
        queue.report(name(1), SECOND, Outcome::Failed, NOW);
        assert_eq!(queue.next(NOW), order(1, &[SECOND]));
        queue.read(name(1));
    }
    queue.report(name(1), SECOND, Outcome::Failed, NOW);
    assert!(queue.next(NOW).is_none() && !queue.is_busy() && !queue.is_healthy(SECOND));
    assert_eq!(queue.waiting().collect::<Vec<_>>(), names(1..=1));
    assert_eq!(queue.next(PAUSE), order(1, &[SECOND]));
    queue.read(name(1));
    assert!(queue.report(name(1), SECOND, Outcome::Stored, PAUSE) && queue.is_healthy(SECOND));
}

#[test]
fn what_is_refused_is_not_tried_again_and_never_archived_where_it_was_needed() {
    let mut queue = queue(true);
    queue.offer(names(1..=1));
    queue.next(NOW);
    queue.read(name(1));
    queue.report(name(1), FIRST, Outcome::Refused, NOW);
    assert!(!queue.report(name(1), SECOND, Outcome::Stored, NOW));
    assert_eq!(queue.next(NOW), None);
    queue.offer(names(1..=1));
    assert_eq!(queue.next(NOW), None);
}

#[test]
fn a_name_that_is_there_is_looked_at_when_that_is_all_that_is_missing() {
    let mut queue = queue(true);
    queue.offer(names(1..=2));
    queue.note_name(name(1), FIRST);
    queue.note_name(name(2), FIRST);
    queue.note_name(name(2), SECOND);
    assert_eq!(queue.next(NOW), order(1, &[SECOND]));
    assert_eq!(queue.next(NOW), order(2, &[FIRST, SECOND]), "a name alone is no proof");
    queue.read(name(1));
    assert!(!queue.report(name(1), SECOND, Outcome::Stored, NOW));
    assert_eq!(queue.next(NOW), order(1, &[FIRST]));
    queue.read(name(1));
    assert!(queue.report(name(1), FIRST, Outcome::Stored, NOW));
}

proptest! {
    /// Whatever happens in whatever order: archived means stored where it must be, and nothing is read after that.
    #[test]
    fn archived_means_stored_and_read_for_the_last_time(
        required in prop::collection::vec(any::<bool>(), 1..4),
        steps in prop::collection::vec((0usize..4, 0usize..8, 0u8..3), 0..200),
    ) {
        let keys: Vec<RepoKey> = (1u16..).map(RepoKey).take(required.len()).collect();
        let mut queue = PushQueue::new(keys.iter().copied().zip(required.iter().copied()), 2);
        queue.offer(names(1..=8));
        let (mut reading, mut running) = (Vec::new(), Vec::new());
        let (mut stored, mut archived) = (Vec::new(), Vec::new());
        for (at, (what, which, outcome)) in steps.into_iter().enumerate() {
            let now = Duration::from_secs(u64::try_from(at).unwrap());
            let told = match what {
                0 if which == 0 => {
                    queue.note_name(name(u32::from(outcome) + 1), keys[at % keys.len()]);
                    None
                }
                0 | 1 => {
                    if let Some(order) = queue.next(now) {
                        prop_assert!(!archived.contains(&order.file));
                        reading.push(order.file);
                        running.extend(order.repositories.into_iter().map(|key| (order.file, key)));
                    }
                    None
                }
                2 if !reading.is_empty() => {
                    let file = reading.remove(which % reading.len());
                    queue.read(file).then_some(file)
                }
                3 if !running.is_empty() => {
                    let (file, key) = running.remove(which % running.len());
                    let outcome = [Outcome::Stored, Outcome::Failed, Outcome::Refused][usize::from(outcome)];
                    if outcome == Outcome::Stored {
                        stored.push((file, key));
                    }
                    queue.report(file, key, outcome, now).then_some(file)
                }
                _ => None,
            };
            if let Some(file) = told {
                prop_assert!(!archived.contains(&file) && !reading.contains(&file));
                let has = |key: &RepoKey| stored.contains(&(file, *key));
                prop_assert!(keys.iter().zip(&required).all(|(key, needed)| !needed || has(key)));
                prop_assert!(keys.iter().any(has));
                archived.push(file);
            }
            for key in &keys {
                prop_assert!(running.iter().filter(|(_, of)| of == key).count() <= 2);
            }
        }
    }
}
