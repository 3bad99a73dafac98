//! Whether a store that promises create-only keeps the promise, found out by two conflicting puts.
//!
//! Some servers that speak S3 accept the condition and ignore it. One that does is refused, or used under a lock. Some honour it in
//! puts and ignore it where an upload is joined of parts, so both are tried. Some know no condition and say so; whether it is that what
//! they refuse shows by the same request without it. Joins only in turn: SeaweedFS decides them rightly one
//! by one and lets several of a race win, which only harms whoever begins the same object twice at the same moment.

use crate::{ObjectKey, Place, PutMode, Storage, StorageError, random};
use bytes::Bytes;

/// Bytes of the bodies below, with room: what another writer put there is no answer to allocate for.
const BODY_MAX: u64 = 64;

/// What a store did with a second put that must create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateOnly {
    /// It refused the second and kept the first.
    Honoured,
    /// It took the second, or lost the first: whoever relies on it loses data.
    Ignored,
    /// It refused the first already, and takes an object that need not be created: it has no create-only.
    Refused { reason: String },
}

/// Tries it under fresh random keys below `scratch`: puts in turn and then at the same time, joins in turn. Deletes what it wrote.
///
/// An error says nothing about the promise.
pub async fn prove_create_only(
    storage: &dyn Storage,
    scratch: &ObjectKey,
) -> Result<CreateOnly, StorageError> {
    let in_turn = scratch_key(storage, scratch)?;
    let racing = scratch_key(storage, scratch)?;
    let joined = scratch_key(storage, scratch)?;
    let verdict = conflicts(storage, &in_turn, &racing, &joined).await;
    let mut cleaned = Ok(());
    for key in [&in_turn, &racing, &joined] {
        cleaned = cleaned.and(storage.delete(key).await);
    }
    let verdict = verdict?;
    cleaned?;
    Ok(verdict)
}

async fn conflicts(
    storage: &dyn Storage,
    in_turn: &ObjectKey,
    racing: &ObjectKey,
    joined: &ObjectKey,
) -> Result<CreateOnly, StorageError> {
    let verdict = match conflict_in_turn(storage, in_turn).await {
        Err(StorageError::NotSupported { at, reason }) => {
            let (body, _) = bodies();
            judged(storage.put(in_turn, PutMode::Overwrite, body).await, at, reason)
        }
        verdict => verdict,
    };
    let verdict = match verdict? {
        CreateOnly::Honoured => conflict_at_once(storage, racing).await?,
        other => other,
    };
    match (verdict, storage.features().joined_from()) {
        (CreateOnly::Honoured, Some(size)) => match conflict_of_joins(storage, joined, size).await {
            Err(StorageError::NotSupported { at, reason }) => {
                let body = Bytes::from(vec![1; length(storage, joined, size)?]);
                judged(upload(storage, joined, PutMode::Overwrite, body).await, at, reason)
            }
            verdict => verdict,
        },
        (verdict, _) => Ok(verdict),
    }
}

/// What a refusal of a creation means, by what became of the same thing without that condition.
fn judged(
    unconditional: Result<(), StorageError>,
    at: Place,
    reason: String,
) -> Result<CreateOnly, StorageError> {
    match unconditional {
        Ok(()) => Ok(CreateOnly::Refused { reason }),
        Err(_) => Err(StorageError::NotSupported { at, reason }),
    }
}

fn length(storage: &dyn Storage, key: &ObjectKey, size: u64) -> Result<usize, StorageError> {
    usize::try_from(size).map_err(|_| StorageError::NotSupported {
        at: Place::new(storage.describe(), Some(key)),
        reason: format!("an upload of {size} bytes does not fit this machine's memory"),
    })
}

/// Two uploads that are joined of parts, one after the other.
async fn conflict_of_joins(
    storage: &dyn Storage,
    key: &ObjectKey,
    size: u64,
) -> Result<CreateOnly, StorageError> {
    let length = length(storage, key, size)?;
    let (first, second) = (vec![1; length], vec![2; length]);
    upload(storage, key, PutMode::Create, first.into()).await?;
    let refused = is_refused(upload(storage, key, PutMode::Create, second.into()).await)?;
    let kept = storage.get_range(key, size - 1..size).await?;
    Ok(if refused && kept[..] == [1] { CreateOnly::Honoured } else { CreateOnly::Ignored })
}

async fn upload(
    storage: &dyn Storage,
    key: &ObjectKey,
    mode: PutMode,
    body: Bytes,
) -> Result<(), StorageError> {
    let mut upload = storage.begin(key, mode).await?;
    if let Err(error) = upload.write(body).await {
        upload.abort().await;
        return Err(error);
    }
    upload.finish().await
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
    use crate::decorate::fault::{Effect, FaultStorage, Kind, Operation, Rule};
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

    async fn proved(rule: Rule) -> Result<CreateOnly, StorageError> {
        let memory = MemoryStorage::new();
        let (storage, faults) = FaultStorage::new(Arc::new(memory.clone()));
        faults.add(rule);
        let verdict = prove_create_only(&storage, &"probe".parse().expect("a valid key")).await;
        assert_eq!(list_all(&memory, None).await, Ok(vec![]));
        verdict
    }

    #[tokio::test]
    async fn a_store_that_refuses_the_condition_is_told_from_one_that_refuses_all_puts() {
        let refusal = Effect::Fail(Kind::NotSupported);
        let verdict = proved(Rule::once(Operation::Put, refusal)).await;
        assert!(matches!(verdict, Ok(CreateOnly::Refused { .. })), "{verdict:?}");
        let verdict = proved(Rule::always(Operation::Put, refusal)).await;
        assert!(matches!(verdict, Err(StorageError::NotSupported { .. })), "{verdict:?}");
    }

    #[tokio::test]
    async fn an_error_is_no_verdict() {
        let (storage, faults) = FaultStorage::new(Arc::new(MemoryStorage::new()));
        faults.add(Rule::always(Operation::Put, Effect::Fail(Kind::Access)).skip(1));
        let scratch = "probe".parse().expect("a valid key");
        let verdict = prove_create_only(&storage, &scratch).await;
        assert!(matches!(verdict, Err(StorageError::Access { .. })), "{verdict:?}");
    }
}
