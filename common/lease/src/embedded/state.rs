//! What the embedded store knows, and how each call changes it: values in, values out, the time as an argument.
//!
//! Invariants
//! 1. `entries[k].lease == Some(l)` exactly if `leases[l].keys` holds `k`.
//! 2. A transaction checks everything first and changes afterwards, so a refused one leaves no trace, not even a revision.
//! 3. Watchers hear of a change in the call that makes it.

use crate::error::LeaseError;
use crate::keys::{Key, Prefix};
use crate::store::{
    Acquire, Claim, Entry, Expected, Guard, LeaseId, Listing, Revision, Write, check_batch, check_value,
};
use crate::watch::{Change, Feed, Watch, WatchFeed};
use bytes::Bytes;
use pgconvoy_core::ids::FencingToken;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

struct Lease {
    ttl: Duration,
    expires_at: Instant,
    keys: BTreeSet<Key>,
}

#[derive(Default)]
pub(super) struct State {
    revision: Revision,
    leases_granted: i64,
    leases: BTreeMap<LeaseId, Lease>,
    entries: BTreeMap<Key, Entry>,
    feeds: Vec<WatchFeed>,
}

impl State {
    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        self.leases_granted += 1;
        let lease = LeaseId(self.leases_granted);
        self.leases.insert(lease, Lease { ttl, expires_at: now + ttl, keys: BTreeSet::new() });
        lease
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Result<Duration, LeaseError> {
        let held = self.leases.get_mut(&lease).ok_or(LeaseError::Lost { lease })?;
        held.expires_at = now + held.ttl;
        Ok(held.ttl)
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) {
        let Some(ended) = self.leases.remove(&lease) else { return };
        if ended.keys.is_empty() {
            return;
        }
        let revision = self.next_revision();
        for key in ended.keys {
            self.entries.remove(&key);
            self.tell(&Change::Gone { key, revision });
        }
    }

    /// Ends the leases whose time has come, the earliest first.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut over: Vec<(Instant, LeaseId)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires_at <= now)
            .map(|(id, lease)| (lease.expires_at, *id))
            .collect();
        over.sort_unstable();
        for (_, lease) in over {
            self.revoke(lease);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.expires_at).min()
    }

    pub(super) fn acquire_each(
        &mut self,
        claims: Vec<Claim>,
        lease: LeaseId,
        guard: Option<&Guard>,
    ) -> Result<Vec<Acquire>, LeaseError> {
        check_batch(claims.iter().map(|claim| &claim.key))?;
        for claim in &claims {
            check_value(&claim.key, &claim.value)?;
        }
        self.check_guard(guard)?;
        if !self.leases.contains_key(&lease) {
            return Err(LeaseError::Lost { lease });
        }
        if claims.iter().all(|claim| self.entries.contains_key(&claim.key)) {
            return Ok(claims.iter().map(|claim| Acquire::Held(self.entries[&claim.key].clone())).collect());
        }
        let revision = self.next_revision();
        Ok(claims.into_iter().map(|claim| self.claim(claim, lease, revision)).collect())
    }

    fn claim(&mut self, claim: Claim, lease: LeaseId, revision: Revision) -> Acquire {
        if let Some(held) = self.entries.get(&claim.key) {
            return Acquire::Held(held.clone());
        }
        let token = FencingToken(revision.0);
        if let Some(held) = self.leases.get_mut(&lease) {
            held.keys.insert(claim.key.clone());
        }
        self.store(Entry { key: claim.key, value: claim.value, token, revision, lease: Some(lease) });
        Acquire::Granted(token)
    }

    pub(super) fn commit(
        &mut self,
        writes: Vec<Write>,
        guard: Option<&Guard>,
    ) -> Result<Revision, LeaseError> {
        check_batch(writes.iter().map(Write::key))?;
        self.check_guard(guard)?;
        for write in &writes {
            self.check_write(write)?;
        }
        if writes.is_empty() {
            return Ok(self.revision);
        }
        let revision = self.next_revision();
        for write in writes {
            match write {
                Write::Put { key, value, .. } => self.put(key, value, revision),
                Write::Delete { key } | Write::Release { key, .. } => self.remove(&key, revision),
            }
        }
        Ok(revision)
    }

    fn check_write(&self, write: &Write) -> Result<(), LeaseError> {
        match write {
            Write::Put { key, value, expected } => {
                check_value(key, value)?;
                let found = self.entries.get(key);
                if let Some(held) = found.filter(|entry| entry.lease.is_some()) {
                    let holder = String::from_utf8_lossy(&held.value).into_owned();
                    return Err(LeaseError::Held { key: key.clone(), holder });
                }
                let as_expected = match expected {
                    Expected::Anything => true,
                    Expected::Absent => found.is_none(),
                    Expected::At(revision) => found.is_some_and(|entry| entry.revision == *revision),
                };
                if as_expected { Ok(()) } else { Err(LeaseError::Conflict { key: key.clone() }) }
            }
            Write::Delete { .. } => Ok(()),
            Write::Release { key, token } => self.check_held(key, *token),
        }
    }

    pub(super) fn delete_prefix(
        &mut self,
        prefix: &Prefix,
        guard: Option<&Guard>,
    ) -> Result<u64, LeaseError> {
        self.check_guard(guard)?;
        let keys: Vec<Key> = self.under(prefix).map(|entry| entry.key.clone()).collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let revision = self.next_revision();
        for key in &keys {
            self.remove(key, revision);
        }
        Ok(u64::try_from(keys.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        self.entries.get(key).cloned()
    }

    pub(super) fn list(&self, prefix: &Prefix) -> Listing {
        Listing { entries: self.under(prefix).cloned().collect(), revision: self.revision }
    }

    pub(super) fn watch(&mut self, prefix: Prefix) -> Watch {
        self.feeds.retain(|feed| !feed.is_closed());
        let (feed, watch) = Watch::channel(prefix);
        self.feeds.push(feed);
        watch
    }

    #[cfg(test)]
    pub(super) fn watches(&self) -> usize {
        self.feeds.len()
    }

    pub(super) fn close_watches(&mut self) {
        self.feeds.clear();
    }

    fn under<'a>(&'a self, prefix: &'a Prefix) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(|entry| prefix.covers(&entry.key))
    }

    fn check_guard(&self, guard: Option<&Guard>) -> Result<(), LeaseError> {
        guard.map_or(Ok(()), |guard| self.check_held(&guard.key, guard.token))
    }

    fn check_held(&self, key: &Key, token: FencingToken) -> Result<(), LeaseError> {
        match self.entries.get(key) {
            Some(entry) if entry.lease.is_some() && entry.token == token => Ok(()),
            _ => Err(LeaseError::Fenced { key: key.clone(), token }),
        }
    }

    fn next_revision(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    /// Writes a record; one that exists keeps the revision of its creation.
    fn put(&mut self, key: Key, value: Bytes, revision: Revision) {
        let token = self.entries.get(&key).map_or(FencingToken(revision.0), |entry| entry.token);
        self.store(Entry { key, value, token, revision, lease: None });
    }

    fn store(&mut self, entry: Entry) {
        self.entries.insert(entry.key.clone(), entry.clone());
        self.tell(&Change::Put(entry));
    }

    fn remove(&mut self, key: &Key, revision: Revision) {
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some(lease) = entry.lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
        self.tell(&Change::Gone { key: entry.key, revision });
    }

    fn tell(&mut self, change: &Change) {
        self.feeds.retain(|feed| feed.offer(change) == Feed::Open);
    }
}
