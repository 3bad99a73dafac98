//! The line between one worker's part of a shared job and the coordinator that shares the job out.
//!
//! Its queues are bounded by what is said over them: at most one message per share and event.

use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::wire::{ShareOrder, ShareReport};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How soon whoever waits here, or for shares, notices that all is to end.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Orders come in, reports go out; both ends are used from any thread.
#[derive(Debug)]
pub struct Desk {
    worker: WorkerName,
    orders: Mutex<VecDeque<ShareOrder>>,
    changed: Condvar,
    reports: UnboundedSender<ShareReport>,
}

impl Desk {
    /// What is reported comes out at the other end, until the desk is gone.
    pub fn new(worker: WorkerName) -> (Desk, UnboundedReceiver<ShareReport>) {
        let (reports, said) = unbounded_channel();
        (Desk { worker, orders: Mutex::default(), changed: Condvar::new(), reports }, said)
    }

    pub fn order(&self, order: ShareOrder) {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        self.changed.notify_all();
    }

    pub fn say(&self, report: ShareReport) {
        // Nobody listens any more when the job is over here.
        let _ = self.reports.send(report);
    }

    pub(crate) fn worker(&self) -> &WorkerName {
        &self.worker
    }

    /// The next order; `None` now and then, so that whoever waits can look around.
    pub(crate) fn next(&self) -> Option<ShareOrder> {
        self.next_unless(|| false)
    }

    /// The same, and at once when [`Self::wake`] is called and there is nothing more to wait for.
    pub(crate) fn next_unless(&self, is_over: impl Fn() -> bool) -> Option<ShareOrder> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(orders, POLL, |orders| orders.is_empty() && !is_over());
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }

    pub(crate) fn wake(&self) {
        // Whoever is about to wait has looked around with this lock held.
        drop(self.orders.lock());
        self.changed.notify_all();
    }
}
