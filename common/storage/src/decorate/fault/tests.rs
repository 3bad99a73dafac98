use super::*;
use crate::MemoryStorage;

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

async fn with_object(name: &str) -> (FaultStorage, Faults, MemoryStorage) {
    let memory = MemoryStorage::new();
    memory.put(&key(name), PutMode::Create, Bytes::from_static(b"12345678")).await.expect("put");
    let (storage, faults) = FaultStorage::new(Arc::new(memory.clone()));
    (storage, faults, memory)
}

#[tokio::test]
async fn a_rule_strikes_the_calls_it_names_and_no_others() {
    let (storage, faults, _) = with_object("a/b").await;
    let rule = Rule::always(Operation::Get, Effect::Fail(Kind::Access)).skip(1).times(2);
    let id = faults.add(rule.on(KeyPattern::Under(key("a"))));
    let mut answers = Vec::new();
    for _ in 0..4 {
        assert!(storage.stat(&key("a/b")).await.is_ok());
        answers.push(storage.get(&key("a/b"), 8).await.is_ok());
    }
    assert_eq!(answers, [true, false, false, true]);
    assert_eq!(faults.strikes(id), 2);
    faults.add(Rule::always(Operation::Any, Effect::Fail(Kind::Full)));
    assert!(storage.stat(&key("a/b")).await.is_err());
    faults.clear();
    assert!(storage.stat(&key("a/b")).await.is_ok());
}

#[tokio::test]
async fn a_lost_answer_is_a_put_that_was_made() {
    let (storage, faults, memory) = with_object("a").await;
    faults.add(Rule::once(Operation::Put, Effect::LoseAnswer(Kind::Timeout)));
    let answer = storage.put(&key("b"), PutMode::Create, Bytes::from_static(b"x")).await;
    assert!(matches!(answer, Err(StorageError::Timeout { .. })), "{answer:?}");
    assert!(memory.stat(&key("b")).await.expect("stat").is_some());
}

#[tokio::test]
async fn reads_are_cut_and_bits_turned() {
    let (storage, faults, _) = with_object("a").await;
    faults.add(Rule::once(Operation::Get, Effect::TruncateRead(3)));
    faults.add(Rule::once(Operation::Get, Effect::FlipBit(9)));
    assert_eq!(storage.get(&key("a"), 8).await.expect("get"), "123");
    assert_eq!(storage.get(&key("a"), 8).await.expect("get"), "10345678");
    assert_eq!(storage.get(&key("a"), 8).await.expect("get"), "12345678");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_call_never_answers_and_a_delayed_one_does() {
    let (storage, faults, _) = with_object("a").await;
    faults.add(Rule::once(Operation::Get, Effect::Stall));
    faults.add(Rule::once(Operation::Get, Effect::Delay(Duration::from_secs(5))));
    let a_year = Duration::from_secs(365 * 24 * 3600);
    let (a, eight) = (key("a"), 8);
    assert!(tokio::time::timeout(a_year, storage.get(&a, eight)).await.is_err());
    let begun = tokio::time::Instant::now();
    assert!(storage.get(&a, eight).await.is_ok());
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[tokio::test]
async fn a_failed_write_kills_the_upload() {
    let (storage, faults, memory) = with_object("a").await;
    faults.add(Rule::once(Operation::Write, Effect::Fail(Kind::Full)).skip(1));
    let mut upload = storage.begin(&key("b"), PutMode::Create).await.expect("begin");
    upload.write(Bytes::from_static(b"1")).await.expect("the first write passes");
    assert!(upload.write(Bytes::from_static(b"2")).await.is_err());
    assert!(upload.write(Bytes::from_static(b"3")).await.is_err());
    assert!(upload.finish().await.is_err());
    assert_eq!(memory.stat(&key("b")).await, Ok(None));
}
