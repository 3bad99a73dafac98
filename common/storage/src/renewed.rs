//! What holds for a while and is got anew before it ends: a token, credentials.
//!
//! Invariants
//! 1. One renewal is under way at a time, however many ask, and all who wait for it get its outcome.
//! 2. It is renewed before its end. Who finds one that still holds uses it: only the one who renews it waits.
//! 3. A renewal that fails, or whose asker gives up, costs the others nothing while the old one holds: it is repeated after
//!    [`RENEW_AGAIN`], not by everybody at once.
//!
//! How long one renewal may take is the business of whoever renews.

use std::fmt::{self, Display};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long before its end it is renewed, at most: longer than any request.
const RENEWAL_MAX: Duration = Duration::from_secs(300);
/// And this share of its life, if it lives shorter.
const RENEWAL_SHARE: u32 = 4;
/// After a renewal that failed.
pub const RENEW_AGAIN: Duration = Duration::from_secs(10);
/// A life beyond the clock's range is as good as a day.
const LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What somebody gave out.
#[derive(Clone)]
pub struct Given<T> {
    pub value: T,
    /// From when it was asked for; `None`: for good.
    pub life: Option<Duration>,
}

/// See the module. `E` says why there is none.
pub struct Renewed<T, E> {
    state: Mutex<State<T, E>>,
    /// The right to renew.
    turn: tokio::sync::Mutex<()>,
}

struct State<T, E> {
    kept: Option<Kept<T>>,
    /// When the last renewal failed, and why.
    failure: Option<(Instant, E)>,
}

struct Kept<T> {
    value: T,
    /// `None`: never.
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
}

impl<T> Kept<T> {
    fn of(given: Given<T>, asked_at: Instant) -> Kept<T> {
        let life = given.life.map(|life| life.min(LIFE_MAX));
        let renew_after = life.map(|life| life - RENEWAL_MAX.min(life / RENEWAL_SHARE));
        Kept {
            value: given.value,
            renew_at: renew_after.map(|after| asked_at + after),
            ends_at: life.map(|life| asked_at + life),
        }
    }
}

impl<T, E> Default for Renewed<T, E> {
    fn default() -> Self {
        Renewed { state: Mutex::new(State { kept: None, failure: None }), turn: tokio::sync::Mutex::new(()) }
    }
}

/// What is kept is a secret.
impl<T, E> fmt::Debug for Renewed<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renewed")
    }
}

impl<T: Clone, E: Clone + Display> Renewed<T, E> {
    /// One that holds; `renew` gets another, and is begun only when that is due.
    pub async fn current(&self, renew: impl Future<Output = Result<Given<T>, E>>) -> Result<T, E> {
        if let Some(fresh) = self.kept_before(|kept| kept.renew_at) {
            return Ok(fresh);
        }
        let begun = Instant::now();
        let _turn = match self.kept_before(|kept| kept.ends_at) {
            Some(old) => match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(old),
            },
            None => self.turn.lock().await,
        };
        if let Some(fresh) = self.kept_before(|kept| kept.renew_at) {
            return Ok(fresh);
        }
        if let Some((failed_at, error)) = &self.lock().failure
            && *failed_at > begun
        {
            return Err(error.clone());
        }
        let asked_at = Instant::now();
        self.put_off(asked_at);
        match renew.await {
            Ok(given) => {
                let value = given.value.clone();
                *self.lock() = State { kept: Some(Kept::of(given, asked_at)), failure: None };
                Ok(value)
            }
            Err(error) => {
                self.lock().failure = Some((Instant::now(), error.clone()));
                let old = self.kept_before(|kept| kept.ends_at);
                if old.is_some() {
                    tracing::warn!(%error, "what is about to end could not be renewed, and is used on");
                }
                old.ok_or(error)
            }
        }
    }

    /// Nobody uses it any more if it is the one that was refused. False: it is another already, or there is none.
    pub fn forget(&self, is_refused: impl FnOnce(&T) -> bool) -> bool {
        self.lock().kept.take_if(|kept| is_refused(&kept.value)).is_some()
    }

    /// Before it is tried: whoever tries may be dropped.
    fn put_off(&self, now: Instant) {
        if let Some(kept) = &mut self.lock().kept {
            kept.renew_at = Some(now + RENEW_AGAIN);
        }
    }

    fn kept_before(&self, end: impl FnOnce(&Kept<T>) -> Option<Instant>) -> Option<T> {
        let state = self.lock();
        let kept = state.kept.as_ref()?;
        // What is put off beyond the end holds no longer than that.
        let holds = kept.ends_at.is_none_or(|ends_at| Instant::now() < ends_at);
        let is_early = end(kept).is_none_or(|end| Instant::now() < end);
        (holds && is_early).then(|| kept.value.clone())
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
