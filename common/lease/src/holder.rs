//! A lease that is kept alive, and a holder that knows when it is lost.
//!
//! When it must give itself up is [`Fence`]'s business. It is fed by CLOCK_BOOTTIME as well as by the runtime's clock,
//! because the runtime's stands still while a host sleeps.
//!
//! Invariants
//! 1. From the TTL after the sending of the last confirmed keep-alive on, [`KeepAlive::is_alive`] is false.
//! 2. Lost is for good: a late confirmation revives nothing.
//! 3. The task ends with its owner: [`KeepAlive::stop`] waits for it and revokes the lease; dropping only cancels it,
//!    and the lease runs out by itself.
//!
//! Failure story: a store that does not answer is asked again until the TTL is over. After a suspended host wakes,
//! `is_alive` is right at once, and [`KeepAlive::lost`] follows with the next keep-alive at the latest.

use crate::error::LeaseError;
use crate::store::{LeaseId, LeaseStore};
use pgconvoy_core::failure::{Classify, Retry};
use pgconvoy_core::fence::Fence;
use rustix::time::{ClockId, clock_gettime};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Keep-alives in one TTL: two may be lost in a row before the third has to arrive.
pub const RENEWALS_PER_TTL: u32 = 3;

/// How often, in one TTL, a store that does not answer is asked again.
pub const RETRIES_PER_TTL: u32 = 12;

/// A moment by two clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    runtime: Duration,
    boot: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now())
    }

    fn now(self) -> Moment {
        Moment { runtime: self.0.elapsed(), boot: boot_time() }
    }
}

/// One fence for each clock: the one that says "over" first is believed.
#[derive(Debug, Clone, Copy)]
struct Fences {
    runtime: Fence,
    boot: Fence,
}

impl Fences {
    fn new(sent: Moment, ttl: Duration) -> Fences {
        Fences { runtime: Fence::new(sent.runtime, ttl), boot: Fence::new(sent.boot, ttl) }
    }

    fn remaining(&mut self, now: Moment) -> Duration {
        self.runtime.remaining(now.runtime).min(self.boot.remaining(now.boot))
    }

    fn confirm(&mut self, sent: Moment, ttl: Duration, now: Moment) {
        self.runtime.confirm(sent.runtime, ttl, now.runtime);
        self.boot.confirm(sent.boot, ttl, now.boot);
    }

    fn lose(&mut self) {
        self.runtime.lose();
        self.boot.lose();
    }
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

struct Shared {
    lease: LeaseId,
    clock: Clock,
    fences: Mutex<Fences>,
    lost: CancellationToken,
}

impl Shared {
    fn remaining(&self) -> Duration {
        self.judge(&mut self.lock())
    }

    /// Takes note of a confirmation, unless the lease was given up while it was on its way.
    fn confirm(&self, sent: Moment, ttl: Duration) {
        let mut fences = self.lock();
        fences.confirm(sent, ttl, self.clock.now());
        self.judge(&mut fences);
    }

    fn lose(&self) {
        self.lock().lose();
        self.lost.cancel();
    }

    fn judge(&self, fences: &mut Fences) -> Duration {
        let remaining = fences.remaining(self.clock.now());
        if remaining.is_zero() {
            self.lost.cancel();
        }
        remaining
    }

    fn lock(&self) -> MutexGuard<'_, Fences> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct KeepAlive {
    shared: Arc<Shared>,
    store: Arc<dyn LeaseStore>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _stop_on_drop: DropGuard,
}

impl KeepAlive {
    /// Grants a lease and keeps it alive from now on. Must be called inside a tokio runtime.
    pub async fn start(store: Arc<dyn LeaseStore>, ttl: Duration) -> Result<KeepAlive, LeaseError> {
        let clock = Clock::start();
        let fences = Mutex::new(Fences::new(clock.now(), ttl));
        let lease = store.grant(ttl).await?;
        let shared = Arc::new(Shared { lease, clock, fences, lost: CancellationToken::new() });
        let stop = CancellationToken::new();
        let task = tokio::spawn(renew(Arc::clone(&shared), Arc::clone(&store), ttl, stop.clone()));
        Ok(KeepAlive { shared, store, _stop_on_drop: stop.clone().drop_guard(), stop, task })
    }

    pub fn lease(&self) -> LeaseId {
        self.shared.lease
    }

    /// Whether the holder may still act for what it holds. Ask right before acting.
    pub fn is_alive(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long the holder may act without another confirmation.
    pub fn remaining(&self) -> Duration {
        self.shared.remaining()
    }

    /// Resolves when the lease is lost; never after a clean stop.
    pub async fn lost(&self) {
        self.shared.lost.cancelled().await;
    }

    /// Cancelled when the lease is lost: for work that must end with it.
    pub fn lost_token(&self) -> CancellationToken {
        self.shared.lost.child_token()
    }

    /// The holder acts no more from now on, whatever the store thinks.
    pub fn give_up(&self) {
        self.shared.lose();
    }

    /// Ends the renewal, waits for it, and frees at once what the lease holds.
    pub async fn stop(self) -> Result<(), LeaseError> {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the renewal of a lease ended badly");
        }
        self.store.revoke(self.shared.lease).await
    }
}

/// Asks for confirmations until the lease is lost or the owner stops.
async fn renew(shared: Arc<Shared>, store: Arc<dyn LeaseStore>, ttl: Duration, stop: CancellationToken) {
    let mut pause = ttl / RENEWALS_PER_TTL;
    loop {
        let remaining = shared.remaining();
        if remaining.is_zero() {
            tracing::warn!(lease = %shared.lease, "lease lost: no keep-alive was confirmed within its TTL");
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause.min(remaining)) => {}
        }
        let sent = shared.clock.now();
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = tokio::time::timeout(shared.remaining(), store.keep_alive(shared.lease)) => answer,
        };
        pause = match answer {
            Ok(Ok(granted)) => {
                shared.confirm(sent, granted.min(ttl));
                ttl / RENEWALS_PER_TTL
            }
            Ok(Err(error)) if error.retry() == Retry::MayHelp => {
                tracing::debug!(lease = %shared.lease, %error, "keep-alive not confirmed");
                ttl / RETRIES_PER_TTL
            }
            Ok(Err(error)) => {
                tracing::warn!(lease = %shared.lease, %error, "lease lost");
                shared.lose();
                return;
            }
            Err(_over) => Duration::ZERO,
        };
    }
}

#[cfg(test)]
mod tests;
