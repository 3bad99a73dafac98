//! What a worker has to say, also while there is nobody to say it to.
//!
//! Reports of finished units are kept until a coordinator has settled them, and said again on each new connection. Any other
//! report is an answer: the coordinator that still wants it asks again, so what cannot be sent is dropped.
//!
//! Invariant: a unit is begun and reported only while this worker's lease is known to live, and only while it is held.

use crate::holdings::{Holder, Holdings};
use crate::lease::Right;
use pgconvoy_core::ids::{Attempt, UnitId};
use pgconvoy_core::wire::{HeldUnit, JobId, Report, ReportBody, UnitOrder};
use pgconvoy_transport::{TransportError, TypedSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    holdings: Holdings,
    sender: Option<TypedSender<Report>>,
}

pub(crate) struct Outbox {
    right: Arc<Right>,
    state: Mutex<State>,
}

impl Outbox {
    pub(crate) fn new(right: Arc<Right>) -> Arc<Outbox> {
        Arc::new(Outbox { right, state: Mutex::default() })
    }

    /// From now on reports go there. What must be said first is returned: finished units, and how many more of each job's
    /// could be taken, given how many a job may have at once.
    pub(crate) fn connect(
        &self,
        sender: TypedSender<Report>,
        prepared: &[JobId],
        capacity: u16,
    ) -> Vec<Report> {
        let mut state = self.lock();
        state.sender = Some(sender);
        let finished = state.holdings.finished();
        let unsettled = finished.into_iter().map(|(job, body)| Report { job: Some(job), body });
        let ready = prepared.iter().map(|job| {
            let taken = u16::try_from(state.holdings.unfinished(*job)).unwrap_or(u16::MAX);
            let units = capacity.saturating_sub(taken);
            Report { job: Some(*job), body: ReportBody::Ready { units } }
        });
        unsettled.chain(ready.collect::<Vec<_>>()).collect()
    }

    pub(crate) fn disconnect(&self) {
        self.lock().sender = None;
    }

    /// Takes an order for a unit; `false` if it is a repetition.
    pub(crate) fn hold(&self, job: JobId, order: &UnitOrder) -> bool {
        self.lock().holdings.add((job, order.unit, order.attempt), order.token)
    }

    /// Whether a slot may begin with the unit now.
    pub(crate) fn start(&self, job: JobId, order: &UnitOrder) -> bool {
        self.right.is_alive() && self.lock().holdings.start((job, order.unit, order.attempt))
    }

    pub(crate) fn settle(&self, job: JobId, units: &[(UnitId, Attempt)]) {
        self.lock().holdings.settle(job, units);
    }

    pub(crate) fn give_back(&self, job: JobId, units: &[UnitId]) -> Vec<HeldUnit> {
        self.lock().holdings.give_back(job, units)
    }

    pub(crate) fn forget_job(&self, job: JobId) {
        self.lock().holdings.forget_job(job);
    }

    pub(crate) fn forget_units(&self) {
        self.lock().holdings.forget_all();
    }

    pub(crate) fn holds_nothing(&self) -> bool {
        self.lock().holdings.is_empty()
    }

    pub(crate) fn held(&self, job: JobId) -> Vec<HeldUnit> {
        self.lock().holdings.of_job(job)
    }

    async fn send(&self, job: Option<JobId>, body: ReportBody) -> Result<(), TransportError> {
        let sender = {
            let mut state = self.lock();
            if let (Some(job), Some((unit, attempt))) = (job, unit_of(&body)) {
                let holder: Holder = (job, unit, attempt);
                if !self.right.is_alive() || !state.holdings.finish(holder, &body) {
                    return Ok(());
                }
            }
            state.sender.clone()
        };
        match sender {
            Some(sender) => match sender.send(&Report { job, body }).await {
                // The connection is over, which its own loop notices.
                Err(TransportError::Closed(_)) => Ok(()),
                sent => sent,
            },
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unit_of(body: &ReportBody) -> Option<(UnitId, Attempt)> {
    match body {
        ReportBody::UnitDone(receipt) => Some((receipt.unit, receipt.attempt)),
        ReportBody::UnitFailed(failure) => Some((failure.unit, failure.attempt)),
        _ => None,
    }
}

/// How everything that works for one job reports. An error is about the report itself, never about the connection.
#[derive(Clone)]
pub struct Reporter {
    outbox: Arc<Outbox>,
    job: JobId,
}

impl Reporter {
    pub(crate) fn new(outbox: Arc<Outbox>, job: JobId) -> Reporter {
        Reporter { outbox, job }
    }

    pub(crate) fn job(&self) -> JobId {
        self.job
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub async fn send(&self, body: ReportBody) -> Result<(), TransportError> {
        self.outbox.send(Some(self.job), body).await
    }
}
