//! The lease store of a fleet that is one process: real expiry, real tokens, nothing on disk.
//!
//! It survives nothing, and need not: in embedded mode the process is the fleet, and what must outlive it is in the
//! repositories. Two processes on one host are kept apart by flock, not by this.
//!
//! Invariants
//! 1. The mutex guards a machine of values ([`state`]) and is never held across an await.
//! 2. Expiry is decided by the time that a call brings along, so no call ever sees a lease that is over; the reaper only
//!    sees to it that watchers hear of it without a call.
//! 3. Dropping the store stops the reaper; [`EmbeddedStore::close`] also waits for it and ends every watch.

mod state;

use crate::error::LeaseError;
use crate::keys::{Key, Prefix};
use crate::store::{Acquire, Claim, Entry, Guard, LeaseId, LeaseStore, Listing, Revision, Write};
use crate::watch::Watch;
use async_trait::async_trait;
use state::State;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Shared {
    state: Mutex<State>,
    /// The earliest expiry may have moved forward.
    sooner: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside the machine leaves at worst a transaction half done in a process that is going down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. Clone an `Arc` of it, not the store.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    reaper: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl EmbeddedStore {
    /// Starts the store and its reaper. Must be called inside a tokio runtime.
    pub fn start() -> EmbeddedStore {
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), sooner: Notify::new() });
        let stop = CancellationToken::new();
        let reaper = tokio::spawn(reap(Arc::clone(&shared), stop.clone()));
        EmbeddedStore {
            shared,
            reaper: Mutex::new(Some(reaper)),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Stops the reaper, waits for it, and ends every watch. Calls made afterwards still work; nobody is told of them.
    pub async fn close(&self) {
        self.stop.cancel();
        let reaper = self.reaper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reaper) = reaper
            && let Err(error) = reaper.await
        {
            tracing::warn!(%error, "the reaper of the lease store ended badly");
        }
        self.shared.lock().close_watches();
    }

    /// Runs one step of the machine at the present moment.
    fn step<T>(&self, step: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.expire(now);
        step(&mut state, now)
    }
}

/// Expires leases when their time has come, so that watchers hear of it.
async fn reap(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let next = {
            let mut state = shared.lock();
            state.expire(Instant::now());
            state.next_expiry()
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.sooner.notified() => {}
            () = due => {}
        }
    }
}

#[async_trait]
impl LeaseStore for EmbeddedStore {
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, LeaseError> {
        let lease = self.step(|state, now| state.grant(ttl, now));
        self.shared.sooner.notify_one();
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, LeaseError> {
        self.step(|state, now| state.keep_alive(lease, now))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.step(|state, _| state.revoke(lease));
        Ok(())
    }

    async fn acquire_each(
        &self,
        claims: Vec<Claim>,
        lease: LeaseId,
        guard: Option<&Guard>,
    ) -> Result<Vec<Acquire>, LeaseError> {
        self.step(|state, _| state.acquire_each(claims, lease, guard))
    }

    async fn commit(&self, writes: Vec<Write>, guard: Option<&Guard>) -> Result<Revision, LeaseError> {
        self.step(|state, _| state.commit(writes, guard))
    }

    async fn delete_prefix(&self, prefix: &Prefix, guard: Option<&Guard>) -> Result<u64, LeaseError> {
        self.step(|state, _| state.delete_prefix(prefix, guard))
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, LeaseError> {
        Ok(self.step(|state, _| state.get(key)))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, LeaseError> {
        Ok(self.step(|state, _| state.list(prefix)))
    }

    async fn watch(&self, prefix: &Prefix) -> Result<Watch, LeaseError> {
        Ok(self.step(|state, _| state.watch(prefix.clone())))
    }
}

#[cfg(test)]
mod tests;
