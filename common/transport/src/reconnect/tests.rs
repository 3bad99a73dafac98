#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::identity::{PeerIdentity, Role};
use crate::memory::{Faults, pair};
use std::sync::Arc;
use std::time::Duration;

fn course(addresses: &[&str]) -> Course {
    Course::new(addresses.iter().map(|&address| address.to_owned()).collect()).unwrap()
}

/// The longest waits and the addresses of the next attempts, all of which fail.
fn longest(course: &mut Course, attempts: usize) -> Vec<(String, u64)> {
    // The largest remainder for any bound is the bound itself.
    let longest = |course: &Course| {
        let bounds = (0..7u32).map(|n| DELAY_MIN * 2u32.pow(n)).map(|bound| bound.min(DELAY_MAX));
        let waits = bounds.map(|bound| {
            let nanos = u64::try_from(bound.as_nanos()).unwrap();
            course.clone().next(nanos)
        });
        waits.max_by_key(|step| step.wait).unwrap()
    };
    (0..attempts)
        .map(|_| {
            let step = longest(course);
            course.next(0);
            (step.address, u64::try_from(step.wait.as_millis()).unwrap())
        })
        .collect()
}

fn steps(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(address, wait)| ((*address).to_owned(), *wait)).collect()
}

#[test]
fn one_address_is_tried_at_once_and_then_after_waits_that_double_to_a_bound() {
    let waits: Vec<u64> = longest(&mut course(&["a"]), 10).into_iter().map(|(_, wait)| wait).collect();
    assert_eq!(waits, [0, 250, 500, 1_000, 2_000, 3_000, 3_000, 3_000, 3_000, 3_000]);
}

#[test]
fn several_addresses_are_tried_in_turn_with_a_wait_between_the_rounds() {
    let expected = [("a", 0), ("b", 0), ("c", 0), ("a", 250), ("b", 0), ("c", 0), ("a", 500), ("b", 0)];
    assert_eq!(longest(&mut course(&["a", "b", "c"]), 8), steps(&expected));
}

#[test]
fn every_wait_up_to_the_bound_can_come_and_none_beyond_it() {
    let mut course = course(&["a"]);
    course.next(0);
    for random in [0, 1, 7, u64::MAX / 3, u64::MAX] {
        let wait = course.clone().next(random).wait;
        assert!(wait <= DELAY_MIN, "{wait:?}");
    }
    assert_eq!(course.clone().next(0).wait, Duration::ZERO);
    assert_eq!(course.clone().next(125_000_000).wait, Duration::from_millis(125));
}

#[test]
fn a_very_long_outage_overflows_nothing() {
    let mut course = course(&["a"]);
    for _ in 0..100 {
        assert!(course.next(u64::MAX).wait <= DELAY_MAX);
    }
}

#[test]
fn a_hint_is_followed_first_and_at_once_and_then_the_turn_goes_on() {
    let mut course = course(&["a", "b"]);
    assert_eq!(course.next(0).address, "a");
    course.hinted("leader");
    assert_eq!(course.next(u64::MAX), Step { wait: Duration::ZERO, address: "leader".to_owned() });
    assert_eq!(course.next(0).address, "b");
}

#[test]
fn coordinators_that_point_at_each_other_make_no_busy_loop() {
    let mut course = course(&["a", "b"]);
    let mut waited = Duration::ZERO;
    for _ in 0..20 {
        course.hinted("elsewhere");
        // Three quarters of a second: never a multiple of a bound plus one.
        waited += course.next(750_000_000).wait;
    }
    assert!(waited > Duration::from_secs(5), "only {waited:?} were waited");
}

#[test]
fn a_connection_that_held_takes_the_waits_back_and_is_tried_again_first() {
    let mut course = course(&["a", "b"]);
    for _ in 0..5 {
        course.next(0);
    }
    let mut short = course.clone();
    short.ended(STEADY_AFTER - Duration::from_millis(1));
    assert_eq!(longest(&mut short, 2), steps(&[("b", 0), ("a", 1_000)]));
    course.ended(STEADY_AFTER);
    assert_eq!(longest(&mut course, 3), steps(&[("a", 0), ("b", 0), ("a", 250)]));
}

#[test]
fn without_an_address_there_is_no_course() {
    assert!(Course::new(Vec::new()).is_none());
}

/// Reaches those addresses that are listed, and writes down what was tried.
#[derive(Clone, Default)]
struct Board {
    tried: Arc<Mutex<Vec<String>>>,
    there: Arc<Mutex<Vec<&'static str>>>,
    far_ends: Arc<Mutex<Vec<Connection>>>,
}

#[async_trait]
impl Dial for Board {
    async fn dial(&self, address: &str) -> Result<Connection, TransportError> {
        self.tried.lock().unwrap().push(address.to_owned());
        if !self.there.lock().unwrap().contains(&address) {
            let reason = "nobody listens".to_owned();
            return Err(TransportError::Unreachable { address: address.to_owned(), reason });
        }
        let peer = |name: &str, role| PeerIdentity { name: name.parse().unwrap(), role };
        let (worker, coordinator) = (peer("w-1", Role::Worker), peer("c-1", Role::Coordinator));
        let (near, far) = pair(worker, coordinator, &Faults::default());
        self.far_ends.lock().unwrap().push(far);
        Ok(near)
    }
}

#[tokio::test(start_paused = true)]
async fn a_redial_tries_all_and_follows_the_one_who_does_not_lead() {
    let board = Board::default();
    let addresses = vec!["a:1".to_owned(), "b:1".to_owned()];
    let redial = Redial::new(board.clone(), addresses, Box::new(|| 0)).unwrap();
    assert!(redial.connect().await.is_err());
    board.there.lock().unwrap().extend(["b:1", "c:1"]);
    let connection = redial.connect().await.unwrap();
    let reason = CloseReason::new(CloseKind::NotLeader, "c:1");
    board.far_ends.lock().unwrap()[0].close(reason.clone());
    assert_eq!(connection.sender.closed().await, reason);
    redial.ended(&reason);
    redial.connect().await.unwrap();
    assert_eq!(*board.tried.lock().unwrap(), ["a:1", "b:1", "c:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_redial_that_is_told_no_leader_goes_on_with_its_list() {
    let board = Board::default();
    let redial = Redial::new(board.clone(), vec!["a:1".to_owned()], Box::new(|| 200_000_000)).unwrap();
    assert!(redial.connect().await.is_err());
    redial.ended(&CloseReason::new(CloseKind::NotLeader, ""));
    redial.ended(&CloseReason::new(CloseKind::Lost, "c:1"));
    let start = Instant::now();
    assert!(redial.connect().await.is_err());
    assert_eq!(start.elapsed(), Duration::from_millis(200));
    assert_eq!(*board.tried.lock().unwrap(), ["a:1", "a:1"]);
}
