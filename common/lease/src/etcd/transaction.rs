//! Each call of the contract as one transaction of etcd, and what its outcome says: values in, values out.
//!
//! What etcd knows of a key that is compared here: by which transaction it was created (the fencing token), by which it
//! was written last, and whether a lease is bound to it. A key that is not there has zero for each.
//!
//! Invariants
//! 1. Every decision rests on comparisons in the transaction that acts on it. The other branch only reads what explains
//!    the refusal, and in the same transaction.
//! 2. At most two comparisons for each key and two for the guard: [`BATCH_KEYS_MAX`](crate::store::BATCH_KEYS_MAX) keys
//!    fit into etcd's limit of 128.
//! 3. A refusal is explained in the order in which the embedded store would: the guard first, then the writes as given.

use crate::error::LeaseError;
use crate::keys::{Key, Prefix};
use crate::store::{Acquire, Claim, Entry, Expected, Guard, LeaseId, Revision, Write};
use bytes::Bytes;
use pgconvoy_core::ids::FencingToken;
use std::collections::BTreeMap;

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Absent(Key),
    CreatedAt(Key, i64),
    WrittenAt(Key, i64),
    Held(Key),
    /// A record, or nothing.
    NotHeld(Key),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Get(Key),
    Put { key: Key, value: Bytes, lease: Option<LeaseId> },
    Delete(Key),
    DeletePrefix(Prefix),
    Nested(Transaction),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) when: Vec<Condition>,
    pub(super) then: Vec<Operation>,
    pub(super) otherwise: Vec<Operation>,
}

/// What one operation found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Got(Option<Entry>),
    Written,
    Deleted(u64),
    Nested(Outcome),
}

/// Which branch was taken, and its replies in the order of the operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) succeeded: bool,
    pub(super) revision: Revision,
    pub(super) replies: Vec<Reply>,
}

/// A revision to compare with. etcd's begin at 1, and zero means "not there": what cannot be one never compares equal.
fn comparable(revision: u64) -> i64 {
    i64::try_from(revision).ok().filter(|revision| *revision > 0).unwrap_or(i64::MAX)
}

fn held_with(key: &Key, token: FencingToken) -> [Condition; 2] {
    [Condition::CreatedAt(key.clone(), comparable(token.0)), Condition::Held(key.clone())]
}

fn guarded(guard: Option<&Guard>) -> Transaction {
    let Some(guard) = guard else { return Transaction::default() };
    Transaction {
        when: held_with(&guard.key, guard.token).into(),
        then: Vec::new(),
        otherwise: vec![Operation::Get(guard.key.clone())],
    }
}

pub(super) fn acquire_each(claims: Vec<Claim>, lease: LeaseId, guard: Option<&Guard>) -> Transaction {
    let mut transaction = guarded(guard);
    transaction.then = claims
        .into_iter()
        .map(|Claim { key, value }| {
            Operation::Nested(Transaction {
                when: vec![Condition::Absent(key.clone())],
                otherwise: vec![Operation::Get(key.clone())],
                then: vec![Operation::Put { key, value, lease: Some(lease) }],
            })
        })
        .collect();
    transaction
}

pub(super) fn acquired(outcome: Outcome, guard: Option<&Guard>) -> Result<Vec<Acquire>, LeaseError> {
    if !outcome.succeeded {
        return Err(fenced(guard));
    }
    let token = FencingToken(outcome.revision.0);
    outcome
        .replies
        .into_iter()
        .map(|reply| match reply {
            Reply::Nested(Outcome { succeeded: true, .. }) => Ok(Acquire::Granted(token)),
            Reply::Nested(Outcome { replies, .. }) => match replies.into_iter().next() {
                Some(Reply::Got(Some(entry))) => Ok(Acquire::Held(entry)),
                _ => Err(nonsense("a claim was refused without a holder")),
            },
            _ => Err(nonsense("a claim was answered by something else")),
        })
        .collect()
}

pub(super) fn commit(writes: &[Write], guard: Option<&Guard>) -> Transaction {
    let mut transaction = guarded(guard);
    for write in writes {
        match write {
            Write::Put { key, expected, .. } => {
                transaction.when.push(Condition::NotHeld(key.clone()));
                match expected {
                    Expected::Anything => {}
                    Expected::Absent => transaction.when.push(Condition::Absent(key.clone())),
                    Expected::At(revision) => {
                        transaction.when.push(Condition::WrittenAt(key.clone(), comparable(revision.0)));
                    }
                }
            }
            Write::Delete { .. } => {}
            Write::Release { key, token } => transaction.when.extend(held_with(key, *token)),
        }
        if !matches!(write, Write::Delete { .. }) {
            transaction.otherwise.push(Operation::Get(write.key().clone()));
        }
        transaction.then.push(match write {
            Write::Put { key, value, .. } => {
                Operation::Put { key: key.clone(), value: value.clone(), lease: None }
            }
            Write::Delete { key } | Write::Release { key, .. } => Operation::Delete(key.clone()),
        });
    }
    if let (true, Some(guard)) = (writes.is_empty(), guard) {
        // A transaction without a read or a write may be answered from an old state of the store.
        transaction.then.push(Operation::Get(guard.key.clone()));
    }
    transaction
}

pub(super) fn committed(
    outcome: Outcome,
    writes: &[Write],
    guard: Option<&Guard>,
) -> Result<Revision, LeaseError> {
    if outcome.succeeded {
        return Ok(outcome.revision);
    }
    let found: BTreeMap<Key, Entry> = outcome
        .replies
        .into_iter()
        .filter_map(|reply| match reply {
            Reply::Got(entry) => entry.map(|entry| (entry.key.clone(), entry)),
            _ => None,
        })
        .collect();
    if let Some(guard) = guard {
        check_held(&found, &guard.key, guard.token)?;
    }
    for write in writes {
        check_write(&found, write)?;
    }
    Err(nonsense("a commit was refused although every condition holds"))
}

pub(super) fn delete_prefix(prefix: &Prefix, guard: Option<&Guard>) -> Transaction {
    let mut transaction = guarded(guard);
    transaction.then.push(Operation::DeletePrefix(prefix.clone()));
    transaction
}

pub(super) fn deleted(outcome: &Outcome, guard: Option<&Guard>) -> Result<u64, LeaseError> {
    match outcome.replies.first() {
        _ if !outcome.succeeded => Err(fenced(guard)),
        Some(Reply::Deleted(count)) => Ok(*count),
        _ => Err(nonsense("a deletion was answered by something else")),
    }
}

fn check_held(found: &BTreeMap<Key, Entry>, key: &Key, token: FencingToken) -> Result<(), LeaseError> {
    match found.get(key) {
        Some(entry) if entry.lease.is_some() && entry.token == token => Ok(()),
        _ => Err(LeaseError::Fenced { key: key.clone(), token }),
    }
}

fn check_write(found: &BTreeMap<Key, Entry>, write: &Write) -> Result<(), LeaseError> {
    let (key, expected) = match write {
        Write::Put { key, expected, .. } => (key, expected),
        Write::Delete { .. } => return Ok(()),
        Write::Release { key, token } => return check_held(found, key, *token),
    };
    let entry = found.get(key);
    if let Some(held) = entry.filter(|entry| entry.lease.is_some()) {
        let holder = String::from_utf8_lossy(&held.value).into_owned();
        return Err(LeaseError::Held { key: key.clone(), holder });
    }
    let as_expected = match expected {
        Expected::Anything => true,
        Expected::Absent => entry.is_none(),
        Expected::At(revision) => entry.is_some_and(|entry| entry.revision == *revision),
    };
    if as_expected { Ok(()) } else { Err(LeaseError::Conflict { key: key.clone() }) }
}

fn fenced(guard: Option<&Guard>) -> LeaseError {
    match guard {
        Some(guard) => LeaseError::Fenced { key: guard.key.clone(), token: guard.token },
        None => nonsense("a transaction without conditions was refused"),
    }
}

/// An answer that no etcd gives. What took place is not known.
pub(super) fn nonsense(what: &str) -> LeaseError {
    LeaseError::Unavailable { reason: format!("its answer makes no sense: {what}") }
}

#[cfg(test)]
mod tests;
