use super::*;
use crate::decorate::fault::{Effect, FaultStorage, Faults, Kind, Operation, Rule};
use crate::decorate::retry::{RetryPolicy, RetryStorage};
use crate::{CreateOnly, MemoryStorage, clock, conformance, list_all, prove_create_only};
use tokio::time::Instant;

const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 4,
    backoff_first: Duration::from_millis(100),
    backoff_max: Duration::from_secs(1),
    deadline: Duration::from_secs(30),
    attempt_timeout: Some(Duration::from_secs(10)),
};
const HOLD: Duration = Duration::from_secs(5);
const FIRST: Bytes = Bytes::from_static(b"first");
const SECOND: Bytes = Bytes::from_static(b"second");

/// Locks that cannot be had.
#[derive(Debug)]
struct NoLocks;

#[async_trait]
impl KeyLocks for NoLocks {
    async fn acquire(&self, at: &Place) -> Result<KeyLock, StorageError> {
        Err(StorageError::Busy { at: at.clone(), reason: "process 1 has its lock".into() })
    }
}

/// A store that overwrites what must be created.
fn overwriting(memory: &MemoryStorage) -> (Arc<dyn Storage>, Faults) {
    let (storage, faults) = FaultStorage::new(Arc::new(memory.clone()));
    (Arc::new(storage), faults)
}

fn ignore_conditions(faults: &Faults) {
    for operation in [Operation::Put, Operation::Begin] {
        faults.add(Rule::always(operation, Effect::IgnoreCreateOnly));
    }
}

/// Guard over retries over faults over memory. What a test adds to the faults comes before their ignoring conditions.
struct Stack {
    guard: Arc<GuardStorage>,
    bare: Arc<dyn Storage>,
    faults: Faults,
    memory: MemoryStorage,
}

fn stack(rules: &[Rule]) -> Stack {
    let memory = MemoryStorage::new();
    let (bare, faults) = overwriting(&memory);
    for rule in rules {
        faults.add(rule.clone());
    }
    ignore_conditions(&faults);
    let retry = Arc::new(RetryStorage::new(bare.clone(), POLICY));
    let guard = Arc::new(GuardStorage::new(retry, Arc::new(Stripes::default())));
    Stack { guard, bare, faults, memory }
}

fn key() -> ObjectKey {
    "a/b".parse().expect("a valid key")
}

async fn upload(storage: &dyn Storage, body: Bytes) -> Result<(), StorageError> {
    let mut upload = storage.begin(&key(), PutMode::Create).await?;
    upload.write(body).await?;
    upload.finish().await
}

fn is_refused(answer: &Result<(), StorageError>) -> bool {
    matches!(answer, Err(StorageError::AlreadyExists { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_overwrites_is_a_store_behind_a_guard() {
    conformance::suite(async || stack(&[]).guard as Arc<dyn Storage>).await;
}

#[tokio::test]
async fn without_its_guard_the_same_store_overwrites() {
    let stack = stack(&[]);
    stack.guard.put(&key(), PutMode::Create, FIRST).await.expect("nothing is there");
    assert!(is_refused(&stack.guard.put(&key(), PutMode::Create, SECOND).await));
    assert!(is_refused(&upload(&*stack.guard, SECOND).await));
    assert_eq!(stack.memory.get(&key(), 99).await, Ok(FIRST));
    assert_eq!(stack.bare.put(&key(), PutMode::Create, SECOND).await, Ok(()));
    assert_eq!(upload(&*stack.bare, SECOND).await, Ok(()));
    assert_eq!(stack.memory.get(&key(), 99).await, Ok(SECOND));
}

#[tokio::test]
async fn who_asks_what_the_store_does_by_itself_learns_it_through_a_limit_too() {
    let stack = stack(&[]);
    let probe: ObjectKey = "probe".parse().expect("a valid key");
    let unlimited = Arc::new(crate::bandwidth::Bandwidth::of(None));
    let limited = crate::decorate::limit::LimitStorage::new(stack.guard.clone(), unlimited);
    assert_eq!(prove_create_only(&limited, &probe).await, Ok(CreateOnly::Honoured));
    let bare = limited.unguarded().expect("there is a guard");
    assert_eq!(prove_create_only(bare, &probe).await, Ok(CreateOnly::Ignored));
    assert!(bare.unguarded().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_was_lost_is_no_conflict_with_itself() {
    for operation in [Operation::Put, Operation::Stat] {
        let stack = stack(&[Rule::once(operation, Effect::LoseAnswer(Kind::Timeout))]);
        assert_eq!(stack.guard.put(&key(), PutMode::Create, FIRST).await, Ok(()));
        assert_eq!(stack.memory.get(&key(), 99).await, Ok(FIRST));
        assert!(is_refused(&stack.guard.put(&key(), PutMode::Create, SECOND).await));
        assert_eq!(stack.memory.get(&key(), 99).await, Ok(FIRST));
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_failed_in_the_end_may_have_worked_and_is_found_by_the_next() {
    let lost = Effect::LoseAnswer(Kind::Unavailable);
    let stack = stack(&[Rule::always(Operation::Put, lost).times(u64::from(POLICY.attempts_max))]);
    let answer = stack.guard.put(&key(), PutMode::Create, FIRST).await;
    assert!(matches!(answer, Err(StorageError::Unavailable { .. })), "{answer:?}");
    assert!(is_refused(&stack.guard.put(&key(), PutMode::Create, SECOND).await));
    assert_eq!(stack.memory.get(&key(), 99).await, Ok(FIRST));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_looked_for_is_not_put() {
    let stack = stack(&[Rule::always(Operation::Stat, Effect::Fail(Kind::Access))]);
    for answer in [stack.guard.put(&key(), PutMode::Create, FIRST).await, upload(&*stack.guard, FIRST).await]
    {
        assert!(matches!(answer, Err(StorageError::Access { .. })), "{answer:?}");
    }
    assert_eq!(list_all(&stack.memory, None).await, Ok(vec![]));
}

/// Between the look and the put of one creation nobody gets in, whatever the store takes for either.
#[tokio::test(start_paused = true)]
async fn guards_that_share_their_locks_let_one_creator_win() {
    let memory = MemoryStorage::new();
    let locks = Arc::new(Stripes::default());
    let process = || {
        let (bare, faults) = overwriting(&memory);
        faults.add(Rule::once(Operation::Put, Effect::Delay(HOLD)));
        faults.add(Rule::always(Operation::Put, Effect::IgnoreCreateOnly));
        GuardStorage::new(bare, locks.clone())
    };
    let (one, other) = (process(), process());
    let wanted = key();
    let (first, second) =
        tokio::join!(one.put(&wanted, PutMode::Create, FIRST), other.put(&wanted, PutMode::Create, SECOND));
    assert_eq!(first, Ok(()));
    assert!(is_refused(&second), "{second:?}");
    assert_eq!(memory.get(&key(), 99).await, Ok(FIRST));
}

/// A request that was sent arrives, whether or not anybody waits for its answer.
#[tokio::test(start_paused = true)]
async fn a_creation_that_was_given_up_keeps_its_lock_until_the_store_has_answered() {
    let stack = stack(&[Rule::once(Operation::Put, Effect::Delay(HOLD))]);
    let wanted = key();
    let put = stack.guard.put(&wanted, PutMode::Create, FIRST);
    assert!(tokio::time::timeout(HOLD / 2, put).await.is_err(), "it takes longer");
    assert!(is_refused(&stack.guard.put(&wanted, PutMode::Create, SECOND).await));
    assert_eq!(stack.memory.get(&wanted, 99).await, Ok(FIRST));

    let stack = self::stack(&[Rule::once(Operation::Finish, Effect::Delay(HOLD))]);
    let upload = self::upload(&*stack.guard, FIRST);
    assert!(tokio::time::timeout(HOLD / 2, upload).await.is_err(), "it takes longer");
    assert!(is_refused(&self::upload(&*stack.guard, SECOND).await));
    assert_eq!(stack.memory.get(&wanted, 99).await, Ok(FIRST));
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_the_lock_is_no_slowness_of_the_store() {
    let stack = stack(&[]);
    let locks = Arc::new(Stripes::default());
    let guard = GuardStorage::new(stack.bare.clone(), locks.clone());
    let held = locks.acquire(&Place::new("memory", Some(&key()))).await.expect("nobody has it");
    tokio::spawn(async move {
        tokio::time::sleep(HOLD).await;
        drop(held);
    });
    let begun = Instant::now();
    let wanted = key();
    let put = guard.put(&wanted, PutMode::Create, FIRST);
    assert_eq!(clock::within(Some(HOLD / 2), None, put).await, Some(Ok(())));
    assert!(begun.elapsed() >= HOLD, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_upload_that_loses_leaves_nothing_of_itself() {
    let stack = stack(&[]);
    let aborts = stack.faults.add(Rule::always(Operation::Abort, Effect::Delay(Duration::ZERO)));
    stack.memory.put(&key(), PutMode::Create, FIRST).await.expect("nothing is there");
    assert!(is_refused(&upload(&*stack.guard, SECOND).await));
    assert_eq!(stack.faults.strikes(aborts), 1);
    let lockless = GuardStorage::new(stack.bare.clone(), Arc::new(NoLocks));
    let answer = upload(&lockless, SECOND).await;
    assert!(matches!(answer, Err(StorageError::Busy { .. })), "{answer:?}");
    assert_eq!(stack.faults.strikes(aborts), 2);
}

#[tokio::test]
async fn nothing_is_created_without_a_lock_and_what_may_overwrite_needs_none() {
    let stack = stack(&[]);
    let lockless = GuardStorage::new(stack.bare.clone(), Arc::new(NoLocks));
    let answer = lockless.put(&key(), PutMode::Create, FIRST).await;
    assert!(matches!(answer, Err(StorageError::Busy { .. })), "{answer:?}");
    assert_eq!(list_all(&stack.memory, None).await, Ok(vec![]));
    assert_eq!(lockless.put(&key(), PutMode::Overwrite, FIRST).await, Ok(()));
}

#[test]
fn a_key_has_the_same_lock_in_every_process_and_keys_are_spread() {
    let of = |store: &str, key: &str| stripe(&Place::new(store, Some(&key.parse().expect("a valid key"))));
    // Processes of other versions share the locks: these numbers never change.
    assert_eq!([of("s3:a", "x/1"), of("s3:a", "x/2"), of("s3:b", "x/1")], [32, 24, 46]);
    let used: std::collections::BTreeSet<usize> = (0..1000).map(|n| of("s3:a", &format!("x/{n}"))).collect();
    assert_eq!(used.len(), STRIPES);
}
