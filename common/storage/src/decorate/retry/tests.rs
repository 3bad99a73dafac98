use super::*;
use crate::MemoryStorage;
use crate::decorate::fault::{Effect, FaultStorage, Faults, Kind, Operation, Rule};
use crate::decorate::metrics::{Counters, MetricsStorage};
use tokio::time::Instant;

const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 4,
    backoff_first: Duration::from_millis(100),
    backoff_max: Duration::from_secs(1),
    deadline: Duration::from_secs(30),
    attempt_timeout: Some(Duration::from_secs(10)),
};

/// Retries over faults over counters over memory.
struct Stack {
    retry: RetryStorage,
    faults: Faults,
    counters: Arc<Counters>,
    memory: MemoryStorage,
}

fn stack() -> Stack {
    let memory = MemoryStorage::new();
    let (counted, counters) = MetricsStorage::new(Arc::new(memory.clone()));
    let (faulty, faults) = FaultStorage::new(Arc::new(counted));
    Stack { retry: RetryStorage::new(Arc::new(faulty), POLICY), faults, counters, memory }
}

fn key() -> ObjectKey {
    "a/b".parse().expect("a valid key")
}

const MINE: Bytes = Bytes::from_static(b"mine");
const FOREIGN: Bytes = Bytes::from_static(b"foreign");

#[tokio::test(start_paused = true)]
async fn a_passing_fault_is_hidden() {
    let stack = stack();
    let id = stack.faults.add(Rule::always(Operation::Put, Effect::Fail(Kind::Unavailable)).times(3));
    assert_eq!(stack.retry.put(&key(), PutMode::Create, MINE).await, Ok(()));
    assert_eq!(stack.faults.strikes(id), 3);
}

#[tokio::test(start_paused = true)]
async fn tries_end_at_their_maximum_with_the_last_error() {
    let stack = stack();
    let id = stack.faults.add(Rule::always(Operation::Stat, Effect::Fail(Kind::Unavailable)));
    let answer = stack.retry.stat(&key()).await;
    assert!(matches!(answer, Err(StorageError::Unavailable { .. })), "{answer:?}");
    assert_eq!(stack.faults.strikes(id), u64::from(POLICY.attempts_max));
}

#[tokio::test(start_paused = true)]
async fn what_a_retry_cannot_help_is_tried_once() {
    for kind in [Kind::Access, Kind::ReadOnly, Kind::Full, Kind::Io, Kind::NotFound] {
        let stack = stack();
        let id = stack.faults.add(Rule::always(Operation::Get, Effect::Fail(kind)));
        assert!(stack.retry.get(&key(), 8).await.is_err());
        assert_eq!(stack.faults.strikes(id), 1, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_recognised_by_its_bytes() {
    let stack = stack();
    stack.faults.add(Rule::once(Operation::Put, Effect::LoseAnswer(Kind::Timeout)));
    assert_eq!(stack.retry.put(&key(), PutMode::Create, MINE).await, Ok(()));
    assert_eq!(stack.counters.snapshot().puts, 2);
    assert_eq!(stack.memory.get(&key(), 99).await, Ok(MINE));
}

#[tokio::test(start_paused = true)]
async fn the_comparison_survives_faults_of_its_own() {
    let stack = stack();
    stack.faults.add(Rule::once(Operation::Put, Effect::LoseAnswer(Kind::Timeout)));
    stack.faults.add(Rule::once(Operation::Get, Effect::Fail(Kind::Unavailable)));
    assert_eq!(stack.retry.put(&key(), PutMode::Create, MINE).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn another_writers_object_is_a_conflict_even_after_a_fault() {
    for other in [FOREIGN, Bytes::from_static(b"min")] {
        let stack = stack();
        stack.memory.put(&key(), PutMode::Create, other.clone()).await.expect("put");
        stack.faults.add(Rule::once(Operation::Put, Effect::Fail(Kind::Unavailable)));
        let answer = stack.retry.put(&key(), PutMode::Create, MINE).await;
        assert!(matches!(answer, Err(StorageError::AlreadyExists { .. })), "{answer:?}");
        assert_eq!(stack.memory.get(&key(), 99).await, Ok(other));
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_without_an_earlier_fault_is_not_compared() {
    let stack = stack();
    stack.memory.put(&key(), PutMode::Create, MINE).await.expect("put");
    let answer = stack.retry.put(&key(), PutMode::Create, MINE).await;
    assert!(matches!(answer, Err(StorageError::AlreadyExists { .. })), "{answer:?}");
    assert_eq!(stack.counters.snapshot().gets, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_try_leaves_time_for_another() {
    let stack = stack();
    stack.faults.add(Rule::once(Operation::Put, Effect::Stall));
    let begun = Instant::now();
    assert_eq!(stack.retry.put(&key(), PutMode::Create, MINE).await, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_call_outlasts_the_deadline() {
    let stack = stack();
    stack.faults.add(Rule::always(Operation::Get, Effect::Stall));
    let begun = Instant::now();
    let answer = stack.retry.get(&key(), 8).await;
    assert!(matches!(answer, Err(StorageError::Timeout { .. })), "{answer:?}");
    assert!(begun.elapsed() <= POLICY.deadline, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_an_upload_only_the_begin_is_tried_again() {
    let stack = stack();
    stack.faults.add(Rule::once(Operation::Begin, Effect::Fail(Kind::Unavailable)));
    let id = stack.faults.add(Rule::always(Operation::Write, Effect::Fail(Kind::Unavailable)));
    let mut upload = stack.retry.begin(&key(), PutMode::Create).await.expect("begin is tried again");
    assert!(upload.write(MINE).await.is_err());
    assert_eq!(stack.faults.strikes(id), 1);
}

#[test]
fn waits_double_up_to_their_maximum_and_jitter_down_to_half() {
    let wait = |failures, random| POLICY.backoff(failures, random).as_millis();
    assert_eq!([1, 2, 3, 4, 5, 99].map(|n| wait(n, 255)), [100, 200, 400, 800, 1000, 1000]);
    assert_eq!([1, 2, 99].map(|n| wait(n, 0)), [50, 100, 500]);
}
