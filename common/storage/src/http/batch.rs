//! Many deletes in one request, for stores that have such a call: what its answer counts for, and what is done where there is none.
//!
//! How a batch looks on its way is the store's; what comes back is read by [`answer`], and each refusal in it by the store, as if the
//! object had been asked for alone.
//!
//! Invariants
//! 1. An object counts as gone only by the answer to its own part, or to a delete of its own. What is no whole answer to all parts is an
//!    error, whatever it says of some.
//! 2. What a retention, a hold or a lease keeps holds up nothing else and is the error in the end.
//! 3. Whatever else a batch refuses, as a whole or a part of it, is asked for alone, and that answer counts. So nobody has to know by
//!    which code an account, a gateway or an emulator says that it takes no batches, and errors read as those of single deletes.
//! 4. A store is believed to take none when it refused all of a batch, be it as a whole or part by part, and then took the first of
//!    the same deletes alone. It is not asked for one again, and [`Feature::BatchedDeletes`](crate::Feature::BatchedDeletes) is gone.
//!
//! Failure story: a batch is not atomic. One whose answer was lost is made again as a whole, and finds absent what the first one
//! deleted. A server that is busy, for a batch or for a part of it, is an error that a retry may mend.

pub mod answer;

use crate::{ObjectKey, Storage, StorageError};
use answer::Part;
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use pgconvoy_core::failure::{Classify as _, Retry};
use std::sync::atomic::{AtomicBool, Ordering};

/// Deletes under way at a time where there are no batches: the store's pace may allow fewer.
const ALONE_AT_ONCE: usize = 16;
/// Batches under way at a time: a page of a listing, in batches of a hundred, is to be gone within a try.
const BATCHES_AT_ONCE: usize = 4;

/// What is known of a store's batches.
#[derive(Debug, Default)]
pub struct Batches {
    /// It was seen to refuse them.
    are_refused: AtomicBool,
}

impl Batches {
    pub fn are_taken(&self) -> bool {
        !self.are_refused.load(Ordering::Relaxed)
    }
}

/// A store that has a call for many deletes.
#[async_trait]
pub trait BatchStore: Storage {
    /// Deletes of one request, at most.
    const PARTS_MAX: usize;

    fn batches(&self) -> &Batches;

    /// One request for the first of the keys, as many as it takes, and at least one.
    async fn submit(&self, keys: &[ObjectKey]) -> Result<Outcome, StorageError>;
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For how many keys it was.
    asked: usize,
    /// To be asked for alone.
    refused: Vec<ObjectKey>,
    /// Where that is all of them: why the first was refused.
    refusal_of_all: Option<StorageError>,
    kept: Option<StorageError>,
}

impl Outcome {
    /// Of an answer, or such a part of one, that says no to the whole batch.
    pub fn of_refusal(keys: &[ObjectKey], refusal: StorageError) -> Result<Outcome, StorageError> {
        if refusal.retry() == Retry::MayHelp {
            return Err(refusal);
        }
        let refused = keys.to_vec();
        Ok(Outcome { asked: keys.len(), refused, refusal_of_all: Some(refusal), kept: None })
    }

    /// Of the answers to the keys, one each. `read` says what is wrong with one, if it is no success.
    pub fn of_parts(
        keys: &[ObjectKey],
        parts: &[Part],
        read: impl Fn(&ObjectKey, &Part) -> Result<(), StorageError>,
    ) -> Result<Outcome, StorageError> {
        let mut outcome = Outcome { asked: keys.len(), ..Outcome::default() };
        let mut refusal = None;
        let mut passing = Ok(());
        for (key, part) in keys.iter().zip(parts) {
            match read(key, part) {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) if error.is_kept() => {
                    outcome.kept.get_or_insert(error);
                }
                Err(error) if error.retry() == Retry::MayHelp => passing = passing.and(Err(error)),
                Err(error) => {
                    outcome.refused.push(key.clone());
                    refusal.get_or_insert(error);
                }
            }
        }
        outcome.refusal_of_all = refusal.filter(|_| outcome.refused.len() == keys.len());
        passing.map(|()| outcome)
    }
}

/// What is kept is told in the end; anything else ends the call.
fn unless_kept(
    kept: &mut Result<(), StorageError>,
    deleted: Result<(), StorageError>,
) -> Result<(), StorageError> {
    match deleted {
        Err(error) if error.is_kept() => {
            if kept.is_ok() {
                *kept = Err(error);
            }
            Ok(())
        }
        other => other,
    }
}

/// The first batch goes ahead: it shows whether there are any, and a store that is away costs one request.
pub async fn delete_many<S: BatchStore>(store: &S, keys: &[ObjectKey]) -> Result<(), StorageError> {
    let mut kept = Ok(());
    let (first, others) = keys.split_at(keys.len().min(S::PARTS_MAX));
    unless_kept(&mut kept, in_batches(store, first).await)?;
    let rest = if store.batches().are_taken() {
        let batches: Vec<_> = others.chunks(S::PARTS_MAX).map(|keys| in_batches(store, keys)).collect();
        several(batches, BATCHES_AT_ONCE).await
    } else {
        alone(store, others, None).await
    };
    unless_kept(&mut kept, rest)?;
    kept
}

async fn in_batches<S: BatchStore>(store: &S, keys: &[ObjectKey]) -> Result<(), StorageError> {
    let mut kept = Ok(());
    let mut rest = keys;
    while !rest.is_empty() {
        if rest.len() == 1 || !store.batches().are_taken() {
            unless_kept(&mut kept, alone(store, rest, None).await)?;
            break;
        }
        let Outcome { asked, refused, refusal_of_all, kept: kept_there } = store.submit(rest).await?;
        unless_kept(&mut kept, kept_there.map_or(Ok(()), Err))?;
        unless_kept(&mut kept, alone(store, &refused, refusal_of_all).await)?;
        rest = &rest[asked..];
    }
    kept
}

/// One by one, several at a time. The first goes ahead, so that a refusal of all costs one request, and shows whether that of a whole
/// batch was of batches.
async fn alone<S: BatchStore>(
    store: &S,
    keys: &[ObjectKey],
    refusal_of_all: Option<StorageError>,
) -> Result<(), StorageError> {
    let Some((first, others)) = keys.split_first() else { return Ok(()) };
    let mut kept = Ok(());
    unless_kept(&mut kept, store.delete(first).await)?;
    if let Some(refusal) = refusal_of_all {
        store.batches().are_refused.store(true, Ordering::Relaxed);
        let store = store.describe();
        tracing::warn!(store, %refusal, "the store takes no batches, objects are deleted one by one from now on");
    }
    let deletes: Vec<_> = others.iter().map(|key| store.delete(key)).collect();
    unless_kept(&mut kept, several(deletes, ALONE_AT_ONCE).await)?;
    kept
}

/// What fails in passing holds up no other, so that a second try finds less to do.
async fn several(
    deletes: Vec<impl Future<Output = Result<(), StorageError>>>,
    at_once: usize,
) -> Result<(), StorageError> {
    let mut deleted = stream::iter(deletes).buffer_unordered(at_once);
    let (mut kept, mut passing) = (Ok(()), Ok(()));
    while let Some(answer) = deleted.next().await {
        match answer {
            Err(error) if error.retry() == Retry::MayHelp => passing = passing.and(Err(error)),
            other => unless_kept(&mut kept, other)?,
        }
    }
    passing.and(kept)
}

#[cfg(test)]
mod tests;
