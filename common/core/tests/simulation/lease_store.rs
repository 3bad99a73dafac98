//! A lease store on paper: keys held by leases, records, revisions, guarded transactions. Time is an argument.
//!
//! It keeps the contract of the real ones: what a decision rests on is compared in the call that acts on it, and a key dies with
//! its lease.

use crate::Millis;
use pgconvoy_core::ids::{Attempt, FencingToken, Identity, RepoKey, UnitId, WorkerName};
use pgconvoy_core::machine::backup::event::AcceptedUnit;
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::wire::JobId;
use std::collections::BTreeMap;

pub(crate) type LeaseId = u64;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Leader,
    Worker(WorkerName),
    Job(JobId),
    Done(JobId),
    StopOrder(JobId),
    Unit(JobId, UnitId, Attempt),
    Lock(String, RepoKey),
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Coordinator(usize),
    Incarnation(Identity),
    Record(Box<JobRecord>),
    Accepted(Vec<AcceptedUnit>),
    Holder(WorkerName),
    Nothing,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) token: FencingToken,
    pub(crate) lease: Option<LeaseId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The guard does not hold: another one leads.
    Fenced,
    LeaseOver,
}

#[derive(Debug)]
pub(crate) enum Acquire {
    Granted(FencingToken),
    Held(Entry),
}

struct Lease {
    ttl: Millis,
    until: Millis,
}

#[derive(Default)]
pub(crate) struct LeaseStore {
    revision: u64,
    leases: BTreeMap<LeaseId, Lease>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    /// The newest leadership ever granted.
    pub(crate) newest_epoch: u64,
}

impl LeaseStore {
    pub(crate) fn expire(&mut self, now: Millis) {
        let over: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.until <= now).map(|(id, _)| *id).collect();
        for lease in over {
            self.revoke(lease);
        }
    }

    pub(crate) fn grant(&mut self, ttl: Millis, now: Millis) -> LeaseId {
        self.revision += 1;
        self.leases.insert(self.revision, Lease { ttl, until: now + ttl });
        self.revision
    }

    pub(crate) fn keep_alive(&mut self, lease: LeaseId, now: Millis) -> Result<Millis, Refused> {
        let held = self.leases.get_mut(&lease).ok_or(Refused::LeaseOver)?;
        held.until = now + held.ttl;
        Ok(held.ttl)
    }

    pub(crate) fn revoke(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        self.entries.retain(|_, entry| entry.lease != Some(lease));
    }

    pub(crate) fn holds(&self, guard: FencingToken) -> bool {
        self.entries.get(&Key::Leader).is_some_and(|entry| entry.token == guard)
    }

    pub(crate) fn acquire(
        &mut self,
        key: Key,
        value: Value,
        lease: LeaseId,
        guard: Option<FencingToken>,
    ) -> Result<Acquire, Refused> {
        self.check(guard)?;
        if !self.leases.contains_key(&lease) {
            return Err(Refused::LeaseOver);
        }
        if let Some(entry) = self.entries.get(&key) {
            return Ok(Acquire::Held(entry.clone()));
        }
        self.revision += 1;
        let token = FencingToken(self.revision);
        if key == Key::Leader {
            self.newest_epoch = token.0;
        }
        self.entries.insert(key, Entry { value, token, lease: Some(lease) });
        Ok(Acquire::Granted(token))
    }

    pub(crate) fn check(&self, guard: Option<FencingToken>) -> Result<(), Refused> {
        match guard {
            Some(guard) if !self.holds(guard) => Err(Refused::Fenced),
            _ => Ok(()),
        }
    }

    pub(crate) fn put(&mut self, key: Key, value: Value) {
        self.revision += 1;
        self.entries.insert(key, Entry { value, token: FencingToken(self.revision), lease: None });
    }

    pub(crate) fn delete(&mut self, key: &Key) {
        self.revision += 1;
        self.entries.remove(key);
    }

    pub(crate) fn accepted(&self, job: JobId) -> Vec<AcceptedUnit> {
        match self.entries.get(&Key::Done(job)).map(|entry| &entry.value) {
            Some(Value::Accepted(units)) => units.clone(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn record(&self, job: JobId) -> Option<&JobRecord> {
        match self.entries.get(&Key::Job(job)).map(|entry| &entry.value) {
            Some(Value::Record(record)) => Some(record),
            _ => None,
        }
    }

    pub(crate) fn records(&self) -> Vec<JobRecord> {
        let record = |entry: &Entry| match &entry.value {
            Value::Record(record) => Some(record.as_ref().clone()),
            _ => None,
        };
        self.entries.values().filter_map(record).collect()
    }
}
