//! Connecting again: whom to try next, and how long to wait before.
//!
//! [`Course`] decides, from what came of the earlier attempts and a random number; [`Redial`] does it. Not here: what was
//! going on when the connection was lost, and whether it is worth going on.
//!
//! Invariants
//! 1. After every address has failed once there is a wait, and it is bounded: a fleet neither hammers a coordinator that
//!    comes back nor forgets it.
//! 2. A hint where the leader is goes before everything else, but two coordinators that point at each other make no
//!    busy loop.
//! 3. Only a connection that held for a while takes the waits back: being let in is no progress.

mod course;

pub use course::{Course, DELAY_MAX, DELAY_MIN, HINTS_IN_A_ROW_MAX, STEADY_AFTER, Step};

use crate::connection::{Connection, Connector};
use crate::error::{CloseKind, CloseReason, TransportError};
use async_trait::async_trait;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// Reaches whoever is at an address.
#[async_trait]
pub trait Dial: Send + Sync {
    /// One attempt. The address is `host:port` and resolved anew.
    async fn dial(&self, address: &str) -> Result<Connection, TransportError>;
}

/// Connects again and again: each call of `connect` is one attempt, after the wait that is due.
pub trait Reconnect: Connector {
    /// The connection made last is over, for this reason. Follows it where it leads.
    fn ended(&self, reason: &CloseReason);
}

/// Where randomness comes from: any number, equally likely.
pub type Random = Box<dyn FnMut() -> u64 + Send>;

/// Connects to one of several addresses. Each call of `connect` is one attempt, after the wait that is due; the caller
/// calls again until it has enough, and tells what became of a connection by [`Redial::ended`].
pub struct Redial<D> {
    dial: D,
    state: Mutex<State>,
}

struct State {
    course: Course,
    random: Random,
    connected_at: Option<Instant>,
}

impl<D: Dial> Redial<D> {
    /// `None` without any address.
    pub fn new(dial: D, addresses: Vec<String>, random: Random) -> Option<Redial<D>> {
        let course = Course::new(addresses)?;
        Some(Redial { dial, state: Mutex::new(State { course, random, connected_at: None }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Step {
        let mut state = self.state();
        let random = (state.random)();
        state.course.next(random)
    }
}

/// Where a peer that does not lead says that the leader is.
fn hint(reason: &CloseReason) -> Option<&str> {
    (reason.kind() == CloseKind::NotLeader && !reason.text().is_empty()).then(|| reason.text())
}

impl<D: Dial> Reconnect for Redial<D> {
    fn ended(&self, reason: &CloseReason) {
        let mut state = self.state();
        let held_for = state.connected_at.take().map(|at| at.elapsed()).unwrap_or_default();
        state.course.ended(held_for);
        if let Some(address) = hint(reason) {
            state.course.hinted(address);
        }
    }
}

#[async_trait]
impl<D: Dial> Connector for Redial<D> {
    async fn connect(&self) -> Result<Connection, TransportError> {
        let step = self.next();
        tokio::time::sleep(step.wait).await;
        let outcome = self.dial.dial(&step.address).await;
        let mut state = self.state();
        match &outcome {
            Ok(_) => state.connected_at = Some(Instant::now()),
            Err(error) => {
                if let Some(address) = error.close_reason().and_then(hint) {
                    state.course.hinted(address);
                }
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
