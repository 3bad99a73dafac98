//! The threads that do units. Compressing and hashing are no work for an async runtime.
//!
//! A slot asks for its next unit when the stores have confirmed one; as twice as many units as slots are asked for at first,
//! a slot computes while the packs of its last unit are still being synced. That bounds what is in flight.

use crate::job::JobContext;
use crate::session::Reporter;
use crate::unit::{Sent, Slot};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::wire::{ReportBody, UnitFailure, UnitOrder};
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
        let done = catch_unwind(AssertUnwindSafe(|| run(number, &mut current, &task)));
        let sent = done.unwrap_or_else(|_| {
            current = None;
            Err(failed(&task.order, Failure::new(ErrorCode::Assert, "a unit's thread panicked")))
        });
        runtime.spawn(settle(sent, task.reporter));
    }
}

fn run(
    number: u16,
    current: &mut Option<(Arc<JobContext>, Slot)>,
    task: &Task,
) -> Result<Sent, UnitFailure> {
    if !current.as_ref().is_some_and(|(context, _)| Arc::ptr_eq(context, &task.context)) {
        let slot = Slot::new(number, &task.context).map_err(|failure| failed(&task.order, failure))?;
        *current = Some((task.context.clone(), slot));
    }
    let (_, slot) = current.as_mut().expect("it was just set");
    slot.run(&task.context, task.order.clone())
}

async fn settle(sent: Result<Sent, UnitFailure>, reporter: Reporter) {
    let result = match sent {
        Ok(sent) => sent.settle().await,
        Err(failure) => Err(failure),
    };
    let report = match result {
        Ok(receipt) => ReportBody::UnitDone(receipt),
        Err(failure) => ReportBody::UnitFailed(failure),
    };
    // When the coordinator is gone, the pack stays unreferenced.
    if reporter.send(report).await.is_ok() {
        let _ = reporter.send(ReportBody::Ready { units: 1 }).await;
    }
}

fn failed(order: &UnitOrder, failure: Failure) -> UnitFailure {
    UnitFailure { unit: order.unit, attempt: order.attempt, token: order.token, failure, failed: Vec::new() }
}
