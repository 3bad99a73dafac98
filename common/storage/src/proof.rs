//! Whether a store that promises create-only keeps the promise, found out by two conflicting puts.
//!
//! Some servers that speak S3 accept the condition and ignore it. One that does is refused, or used under a lock.

use crate::{ObjectKey, Place, PutMode, Storage, StorageError, random};
use bytes::Bytes;

/// Bytes of the bodies below, with room: what another writer put there is no answer to allocate for.
const BODY_MAX: u64 = 64;

/// What a store did with a second put that must create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOnly {
    /// It refused the second and kept the first.
    Honoured,
    /// It took the second, or lost the first: whoever relies on it loses data.
    Ignored,
}

/// Tries it under a fresh random key below `scratch`, in turn and then at the same time, and deletes what it wrote.
///
/// An error says nothing about the promise.
pub async fn prove_create_only(
    storage: &dyn Storage,
    scratch: &ObjectKey,
) -> Result<CreateOnly, StorageError> {
    let in_turn = scratch_key(storage, scratch)?;
    let racing = scratch_key(storage, scratch)?;
    let verdict = match conflict_in_turn(storage, &in_turn).await {
        Ok(CreateOnly::Honoured) => conflict_at_once(storage, &racing).await,
        other => other,
    };
    let cleaned = (storage.delete(&in_turn).await, storage.delete(&racing).await);
    let verdict = verdict?;
    cleaned.0.and(cleaned.1)?;
    Ok(verdict)
}

async fn conflict_in_turn(storage: &dyn Storage, key: &ObjectKey) -> Result<CreateOnly, StorageError> {
    let (first, second) = bodies();
    storage.put(key, PutMode::Create, first.clone()).await?;
    let refused = is_refused(storage.put(key, PutMode::Create, second).await)?;
    let kept = storage.get(key, BODY_MAX).await?;
    Ok(if refused && kept == first { CreateOnly::Honoured } else { CreateOnly::Ignored })
}

async fn conflict_at_once(storage: &dyn Storage, key: &ObjectKey) -> Result<CreateOnly, StorageError> {
    let (first, second) = bodies();
    let (one, other) = tokio::join!(
        storage.put(key, PutMode::Create, first.clone()),
        storage.put(key, PutMode::Create, second.clone())
    );
    let winner = match (is_refused(one)?, is_refused(other)?) {
        (false, true) => first,
        (true, false) => second,
        _ => return Ok(CreateOnly::Ignored),
    };
    let kept = storage.get(key, BODY_MAX).await?;
    Ok(if kept == winner { CreateOnly::Honoured } else { CreateOnly::Ignored })
}

fn is_refused(answer: Result<(), StorageError>) -> Result<bool, StorageError> {
    match answer {
        Ok(()) => Ok(false),
        Err(error) if error.is_already_exists() => Ok(true),
        Err(error) => Err(error),
    }
}

fn bodies() -> (Bytes, Bytes) {
    (Bytes::from_static(b"create-only: first"), Bytes::from_static(b"create-only: second"))
}

fn scratch_key(storage: &dyn Storage, scratch: &ObjectKey) -> Result<ObjectKey, StorageError> {
    let place = || Place::new(storage.describe(), Some(scratch));
    let name = random::hex(place)?;
    scratch.join(&name).map_err(|error| StorageError::NotSupported { at: place(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decorate::fault::{Effect, FaultStorage, Operation, Rule};
    use crate::{MemoryStorage, list_all};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_store_that_refuses_the_second_put_is_believed_and_left_clean() {
        let storage = MemoryStorage::new();
        let scratch = "probe".parse().expect("a valid key");
        assert_eq!(prove_create_only(&storage, &scratch).await, Ok(CreateOnly::Honoured));
        assert_eq!(list_all(&storage, None).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_found_out_and_left_clean() {
        let memory = MemoryStorage::new();
        let (storage, faults) = FaultStorage::new(Arc::new(memory.clone()));
        faults.add(Rule::always(Operation::Put, Effect::IgnoreCreateOnly));
        let scratch = "probe".parse().expect("a valid key");
        assert_eq!(prove_create_only(&storage, &scratch).await, Ok(CreateOnly::Ignored));
        assert_eq!(list_all(&memory, None).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn an_error_is_no_verdict() {
        let (storage, faults) = FaultStorage::new(Arc::new(MemoryStorage::new()));
        faults.add(Rule::always(Operation::Put, Effect::Fail(crate::decorate::fault::Kind::Access)).skip(1));
        let scratch = "probe".parse().expect("a valid key");
        let verdict = prove_create_only(&storage, &scratch).await;
        assert!(matches!(verdict, Err(StorageError::Access { .. })), "{verdict:?}");
    }
}
