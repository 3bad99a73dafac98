//! Between the values of this package and those of the etcd client.
//!
//! Invariants
//! 1. A key that is not of the fleet's form is an error, never left out: what cannot be read is not taken for absent.
//! 2. etcd counts in signed numbers that are never negative, this package in unsigned ones.

use super::transaction::{Condition, Operation, Outcome, Reply, Transaction, nonsense};
use crate::error::LeaseError;
use crate::keys::Key;
use crate::store::{Entry, LeaseId, Revision};
use crate::watch::Change;
use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, Event, EventType, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};
use pgconvoy_core::ids::{FencingToken, IdError};

fn compare(condition: Condition) -> Compare {
    let equal = CompareOp::Equal;
    match condition {
        Condition::Absent(key) => Compare::create_revision(key.as_str(), equal, 0),
        Condition::CreatedAt(key, revision) => Compare::create_revision(key.as_str(), equal, revision),
        Condition::WrittenAt(key, revision) => Compare::mod_revision(key.as_str(), equal, revision),
        Condition::Held(key) => Compare::lease(key.as_str(), CompareOp::NotEqual, 0),
        Condition::NotHeld(key) => Compare::lease(key.as_str(), equal, 0),
    }
}

fn operation(operation: Operation) -> TxnOp {
    match operation {
        Operation::Get(key) => TxnOp::get(key.as_str(), None),
        Operation::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value, options)
        }
        Operation::Delete(key) => TxnOp::delete(key.as_str(), None),
        Operation::DeletePrefix(prefix) => {
            TxnOp::delete(prefix.as_str(), Some(DeleteOptions::new().with_prefix()))
        }
        Operation::Nested(nested) => TxnOp::txn(txn(nested)),
    }
}

pub(super) fn txn(transaction: Transaction) -> Txn {
    let operations = |list: Vec<Operation>| list.into_iter().map(operation).collect::<Vec<_>>();
    Txn::new()
        .when(transaction.when.into_iter().map(compare).collect::<Vec<_>>())
        .and_then(operations(transaction.then))
        .or_else(operations(transaction.otherwise))
}

pub(super) fn outcome(response: &TxnResponse) -> Result<Outcome, LeaseError> {
    // The header of a nested response is empty; the transaction has one revision.
    let revision = response.header().map_or(Ok(Revision(0)), |header| revision(header.revision()))?;
    let replies = response.op_responses().into_iter().map(reply).collect::<Result<_, _>>()?;
    Ok(Outcome { succeeded: response.succeeded(), revision, replies })
}

fn reply(response: TxnOpResponse) -> Result<Reply, LeaseError> {
    Ok(match response {
        TxnOpResponse::Put(_) => Reply::Written,
        TxnOpResponse::Get(got) => Reply::Got(got.kvs().first().map(entry).transpose()?),
        TxnOpResponse::Delete(deleted) => Reply::Deleted(number(deleted.deleted())?),
        TxnOpResponse::Txn(nested) => Reply::Nested(outcome(&nested)?),
    })
}

pub(super) fn entry(kv: &KeyValue) -> Result<Entry, LeaseError> {
    Ok(Entry {
        key: key(kv.key())?,
        value: Bytes::copy_from_slice(kv.value()),
        token: FencingToken(number(kv.create_revision())?),
        revision: revision(kv.mod_revision())?,
        lease: (kv.lease() != 0).then_some(LeaseId(kv.lease())),
    })
}

pub(super) fn change(event: &Event) -> Result<Change, LeaseError> {
    let kv = event.kv().ok_or_else(|| nonsense("a change without a key"))?;
    match event.event_type() {
        EventType::Put => Ok(Change::Put(entry(kv)?)),
        EventType::Delete => Ok(Change::Gone { key: key(kv.key())?, revision: revision(kv.mod_revision())? }),
    }
}

/// The state of the store that an answer describes.
pub(super) fn revision_of(header: Option<&ResponseHeader>) -> Result<Revision, LeaseError> {
    revision(header.ok_or_else(|| nonsense("there is no header"))?.revision())
}

fn key(bytes: &[u8]) -> Result<Key, LeaseError> {
    let text = std::str::from_utf8(bytes).map_err(|_| IdError {
        what: "lease store key",
        text: String::from_utf8_lossy(bytes).into_owned(),
        reason: "it is no text",
    })?;
    Ok(Key::parse(text)?)
}

fn revision(revision: i64) -> Result<Revision, LeaseError> {
    number(revision).map(Revision)
}

fn number(number: i64) -> Result<u64, LeaseError> {
    u64::try_from(number).map_err(|_| nonsense("a negative count"))
}
