#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::keys::{FleetKeys, JobKeys, Shard};
use crate::store::BATCH_KEYS_MAX;
use pgconvoy_core::ids::{Attempt, UnitId};

/// etcd's own, for one list of a transaction, and for the sum along nested ones.
const ETCD_OPERATIONS_MAX: usize = 128;

fn job() -> JobKeys {
    FleetKeys::new("blue").unwrap().job("1").unwrap()
}

fn leader() -> Guard {
    Guard { key: FleetKeys::new("blue").unwrap().leader(Shard(0)), token: FencingToken(7) }
}

fn unit(number: u32) -> Key {
    job().lease(UnitId(number), Attempt(1))
}

fn put(key: Key, expected: Expected) -> Write {
    Write::Put { key, value: Bytes::from_static(b"v"), expected }
}

fn entry(key: Key, revision: u64, lease: Option<LeaseId>) -> Entry {
    let (token, value) = (FencingToken(revision), Bytes::from_static(b"w-1"));
    Entry { key, value, token, revision: Revision(revision), lease }
}

fn refused(entries: Vec<Option<Entry>>) -> Outcome {
    let replies = entries.into_iter().map(Reply::Got).collect();
    Outcome { succeeded: false, revision: Revision(9), replies }
}

/// As etcd counts them.
fn operations(transaction: &Transaction) -> usize {
    let nested = |list: &[Operation]| {
        let inner = |operation: &Operation| match operation {
            Operation::Nested(nested) => operations(nested),
            _ => 0,
        };
        list.iter().map(inner).max().unwrap_or(0)
    };
    let own = transaction.when.len().max(transaction.then.len()).max(transaction.otherwise.len());
    own + nested(&transaction.then).max(nested(&transaction.otherwise))
}

#[test]
fn the_largest_batches_fit_into_the_limit_of_etcd() {
    let units = || (0..u32::try_from(BATCH_KEYS_MAX).unwrap()).map(unit);
    let releases: Vec<_> = units().map(|key| Write::Release { key, token: FencingToken(3) }).collect();
    let puts: Vec<_> = units().map(|key| put(key, Expected::At(Revision(3)))).collect();
    let claims = units().map(|key| Claim { key, value: Bytes::new() }).collect();
    for transaction in [
        commit(&releases, Some(&leader())),
        commit(&puts, Some(&leader())),
        acquire_each(claims, LeaseId(1), Some(&leader())),
    ] {
        assert!(operations(&transaction) <= ETCD_OPERATIONS_MAX, "{}", operations(&transaction));
    }
}

#[test]
fn each_claim_is_decided_for_itself_behind_the_guard() {
    let claim = Claim { key: unit(1), value: Bytes::from_static(b"w-1") };
    let transaction = acquire_each(vec![claim], LeaseId(5), Some(&leader()));
    let guard = leader().key;
    let nested = Transaction {
        when: vec![Condition::Absent(unit(1))],
        then: vec![Operation::Put {
            key: unit(1),
            value: Bytes::from_static(b"w-1"),
            lease: Some(LeaseId(5)),
        }],
        otherwise: vec![Operation::Get(unit(1))],
    };
    let expected = Transaction {
        when: vec![Condition::CreatedAt(guard.clone(), 7), Condition::Held(guard.clone())],
        then: vec![Operation::Nested(nested)],
        otherwise: vec![Operation::Get(guard)],
    };
    assert_eq!(transaction, expected);
}

#[test]
fn answers_to_claims_come_in_their_order() {
    let held = entry(unit(2), 4, Some(LeaseId(1)));
    let nested =
        |succeeded, reply| Reply::Nested(Outcome { succeeded, revision: Revision(0), replies: vec![reply] });
    let replies = vec![nested(true, Reply::Written), nested(false, Reply::Got(Some(held.clone())))];
    let outcome = Outcome { succeeded: true, revision: Revision(9), replies };
    let answers = acquired(outcome, None).unwrap();
    assert_eq!(answers, [Acquire::Granted(FencingToken(9)), Acquire::Held(held)]);
    let Guard { key, token } = leader();
    assert_eq!(acquired(refused(vec![None]), Some(&leader())), Err(LeaseError::Fenced { key, token }));
}

#[test]
fn a_refused_commit_names_the_first_reason_the_guard_before_all() {
    let writes = [put(job().spec(), Expected::Absent), put(unit(1), Expected::Anything)];
    let guard = Some(entry(leader().key, 7, Some(LeaseId(1))));
    let held = Some(entry(unit(1), 5, Some(LeaseId(2))));
    let record = Some(entry(job().spec(), 3, None));
    let reason = |entries| committed(refused(entries), &writes, Some(&leader())).unwrap_err();
    let fenced = LeaseError::Fenced { key: leader().key, token: leader().token };
    assert_eq!(reason(vec![None, record.clone(), held.clone()]), fenced);
    let unheld = Some(entry(leader().key, 7, None));
    assert_eq!(reason(vec![unheld, None, None]), fenced, "a record guards nothing");
    let conflict = LeaseError::Conflict { key: job().spec() };
    assert_eq!(reason(vec![guard.clone(), record, held.clone()]), conflict);
    let holder = LeaseError::Held { key: unit(1), holder: "w-1".to_owned() };
    assert_eq!(reason(vec![guard.clone(), None, held]), holder);
    assert!(matches!(reason(vec![guard, None, None]), LeaseError::Unavailable { .. }));
}

#[test]
fn a_revision_that_cannot_be_matches_nothing() {
    for impossible in [0, u64::MAX] {
        let write = put(unit(1), Expected::At(Revision(impossible)));
        let transaction = commit(std::slice::from_ref(&write), None);
        assert_eq!(transaction.when[1], Condition::WrittenAt(unit(1), i64::MAX));
        assert_eq!(
            committed(refused(vec![None]), &[write], None),
            Err(LeaseError::Conflict { key: unit(1) })
        );
    }
}

#[test]
fn an_empty_commit_still_reads_its_guard() {
    let transaction = commit(&[], Some(&leader()));
    assert_eq!(transaction.then, [Operation::Get(leader().key)]);
}
