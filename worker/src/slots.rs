//! The threads that do units. Compressing and hashing are no work for an async runtime.
//!
//! A slot asks for its next unit when the stores have confirmed one; as twice as many units as slots are asked for at first,
//! a slot computes while the packs of its last unit are still being synced. That bounds what is in flight.
//!
//! Invariants
//! 1. Every unit of a running job ends in one report, whatever it met: an error, a panic, a receipt too large to be sent.
//! 2. A unit of a job that is over ends in none, and holds no slot; one that was given back, or whose lease ended while it
//!    waited, is not begun.

use crate::job::JobContext;
use crate::outbox::Reporter;
use crate::unit::{Sent, Slot};
use futures::FutureExt;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::wire::{Receipt, ReportBody, UnitFailure, UnitOrder};
use pgconvoy_transport::TransportError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;

/// Units asked for per slot: one being computed, one on its way.
const UNITS_PER_SLOT: u16 = 2;

pub struct Task {
    pub context: Arc<JobContext>,
    pub order: Arc<UnitOrder>,
    pub reporter: Reporter,
}

pub struct SlotPool {
    slots: u16,
    /// Unbounded by itself: what is in it was asked for.
    queue: Sender<Task>,
}

impl SlotPool {
    pub fn start(slots: u16, runtime: &Handle) -> SlotPool {
        let (queue, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..slots {
            let (receiver, runtime) = (receiver.clone(), runtime.clone());
            std::thread::Builder::new()
                .name(format!("slot-{number}"))
                .spawn(move || serve(number, &receiver, &runtime))
                .expect("a thread can be started: there are few of them");
        }
        SlotPool { slots, queue }
    }

    /// How many units to ask for when a job begins.
    pub fn capacity(&self) -> u16 {
        self.slots.saturating_mul(UNITS_PER_SLOT)
    }

    pub fn submit(&self, task: Task) {
        // The receivers live as long as the pool: they end when this sender is dropped.
        let _ = self.queue.send(task);
    }
}

fn next(receiver: &Mutex<Receiver<Task>>) -> Option<Task> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn serve(number: u16, receiver: &Mutex<Receiver<Task>>, runtime: &Handle) {
    let mut current: Option<(Arc<JobContext>, Slot)> = None;
    while let Some(task) = next(receiver) {
        if task.context.ended.is_cancelled() {
            current = None;
            continue;
        }
        // Given back, or not ours any more.
        if !task.reporter.outbox().start(task.reporter.job(), &task.order) {
            continue;
        }
        let done = catch_unwind(AssertUnwindSafe(|| run(number, &mut current, &task)));
        let sent = done.unwrap_or_else(|_| {
            current = None;
            Err(failed(&task.order, panicked()))
        });
        runtime.spawn(settle(sent, task));
    }
}

fn run(number: u16, current: &mut Option<(Arc<JobContext>, Slot)>, task: &Task) -> Result<Sent, UnitFailure> {
    if !current.as_ref().is_some_and(|(context, _)| Arc::ptr_eq(context, &task.context)) {
        let slot = Slot::new(number, &task.context).map_err(|failure| failed(&task.order, failure))?;
        *current = Some((task.context.clone(), slot));
    }
    let (_, slot) = current.as_mut().expect("it was just set");
    slot.run(&task.context, task.order.clone())
}

async fn settle(sent: Result<Sent, UnitFailure>, task: Task) {
    let result = match sent {
        Ok(sent) => {
            let settled = AssertUnwindSafe(sent.settle()).catch_unwind().await;
            settled.unwrap_or_else(|_| Err(failed(&task.order, panicked())))
        }
        Err(failure) => Err(failure),
    };
    if task.context.ended.is_cancelled() {
        return;
    }
    // When the coordinator is gone, the pack stays unreferenced.
    if let Err(error) = report(result, &task).await {
        tracing::debug!("unit {} could not be reported: {error}", task.order.unit);
    }
}

/// What came of the unit, and the wish for another one.
async fn report(result: Result<Receipt, UnitFailure>, task: &Task) -> Result<(), TransportError> {
    let body = match result {
        Ok(receipt) => ReportBody::UnitDone(receipt),
        Err(failure) => ReportBody::UnitFailed(failure),
    };
    match task.reporter.send(body).await {
        Err(error @ TransportError::TooLarge { .. }) => {
            let failure = failed(&task.order, unreportable(&error));
            task.reporter.send(ReportBody::UnitFailed(failure)).await?;
        }
        sent => sent?,
    }
    task.reporter.send(ReportBody::Ready { units: 1 }).await
}

/// A receipt grows with the bad pages in it: a unit of nothing else does not fit.
fn unreportable(error: &TransportError) -> Failure {
    Failure::new(ErrorCode::Protocol, format!("what came of the unit cannot be reported: {error}"))
        .hint("a file with this many bad pages is damaged as a whole: see the server's log, and restore it from a backup")
        .hint("--no-checksum-page backs it up without looking at its pages")
}

fn panicked() -> Failure {
    Failure::new(ErrorCode::Assert, "a unit's thread panicked")
}

pub(crate) fn failed(order: &UnitOrder, failure: Failure) -> UnitFailure {
    UnitFailure {
        unit: order.unit,
        attempt: order.attempt,
        token: order.token,
        failure,
        failed: Vec::new(),
        wrong_summary: None,
    }
}

#[cfg(test)]
mod tests;
