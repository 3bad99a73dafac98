#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::MemoryStorage;
use crate::decorate::fault::{Effect, FaultStorage, Faults, Kind, Operation, Rule};

const BODY: Bytes = Bytes::from_static(b"body");
/// Far beyond what is usual below, which is nothing on the paused clock.
const STALL: Duration = Duration::from_secs(60);

fn key() -> ObjectKey {
    "a/b".parse().unwrap()
}

/// A store whose reads usually take no time.
async fn quick() -> (HedgeStorage, Faults) {
    let memory = MemoryStorage::new();
    memory.put(&key(), PutMode::Create, BODY).await.unwrap();
    let (faulty, faults) = FaultStorage::new(Arc::new(memory));
    let storage = HedgeStorage::new(Arc::new(faulty));
    for _ in 0..20 {
        assert_eq!(storage.get_range(&key(), 0..4).await.unwrap(), BODY);
    }
    (storage, faults)
}

#[tokio::test(start_paused = true)]
async fn a_read_that_stalls_is_answered_by_the_second_request() {
    let (storage, faults) = quick().await;
    faults.add(Rule::always(Operation::GetRange, Effect::Delay(STALL)).times(1));
    let begin = Instant::now();
    assert_eq!(storage.get_range(&key(), 0..4).await.unwrap(), BODY);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_altogether_is_not_asked_twice_for_everything() {
    let (storage, faults) = quick().await;
    let slow = faults.add(Rule::always(Operation::GetRange, Effect::Delay(STALL)));
    for _ in 0..100 {
        assert_eq!(storage.get_range(&key(), 0..4).await.unwrap(), BODY);
    }
    assert!(faults.strikes(slow) <= 100 + 20, "{}", faults.strikes(slow));
}

#[tokio::test(start_paused = true)]
async fn the_second_request_failing_leaves_the_first_one_its_time() {
    let (storage, faults) = quick().await;
    faults.add(Rule::always(Operation::GetRange, Effect::Delay(STALL)).times(1));
    faults.add(Rule::always(Operation::GetRange, Effect::Fail(Kind::Unavailable)).times(1));
    let begin = Instant::now();
    assert_eq!(storage.get_range(&key(), 0..4).await.unwrap(), BODY);
    assert!(begin.elapsed() >= STALL);
}

#[tokio::test(start_paused = true)]
async fn what_trying_again_cannot_change_counts_at_once() {
    let (storage, faults) = quick().await;
    faults.add(Rule::always(Operation::GetRange, Effect::Delay(STALL)).times(1));
    faults.add(Rule::always(Operation::GetRange, Effect::Fail(Kind::Access)).times(1));
    let begin = Instant::now();
    let error = storage.get_range(&key(), 0..4).await.unwrap_err();
    assert!(matches!(error, StorageError::Access { .. }), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(1));
}
