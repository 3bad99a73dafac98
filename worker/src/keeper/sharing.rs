//! This worker's part in a shared job: the main worker's, or a mate's.
//!
//! It runs in a task of its own and reports by itself. An order that comes again is passed on to it, and it says again how far it
//! is; one that is over is answered from memory.

use super::Keeper;
use crate::desk::Desk;
use crate::errand::Errands;
use futures::FutureExt;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::Identity;
use pgconvoy_core::wire::{ErrandEnd, ReportBody, ShareOrder, ShareReport, reportable};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(super) struct Sharing {
    /// A mate's; `None`: this is the main worker.
    staging: Option<Identity>,
    desk: Arc<Desk>,
    /// The last that there is to say.
    end: watch::Receiver<Option<ShareReport>>,
    cancel: CancellationToken,
}

impl Keeper {
    pub(super) fn share(&mut self, order: ShareOrder) -> Option<ReportBody> {
        let part = match &order {
            ShareOrder::Lead(_) => None,
            ShareOrder::Assist(assist) => Some(assist.staging),
            ShareOrder::Copy(copy) => Some(copy.staging),
            _ => {
                if let Some(sharing) = &self.sharing {
                    sharing.desk.order(order);
                }
                return None;
            }
        };
        if let Some(sharing) = self.sharing.as_ref().filter(|sharing| sharing.staging == part) {
            let end = sharing.end.borrow().clone();
            if end.is_none() {
                sharing.desk.order(order);
            }
            return end.map(ReportBody::Restore);
        }
        // What it did for an earlier beginning of the main worker is over.
        if let Some(old) = self.sharing.take() {
            old.cancel.cancel();
        }
        let Some(errands) = self.ground.errands.clone() else {
            let message = format!("worker {} does no errands", self.ground.worker);
            let failure = Failure::new(ErrorCode::NotSupported, message);
            return Some(ReportBody::Restore(last_word(part, Err(failure))));
        };
        self.sharing = Some(self.begin(part, order, errands));
        None
    }

    fn begin(&self, part: Option<Identity>, order: ShareOrder, errands: Arc<dyn Errands>) -> Sharing {
        let (desk, mut said) = Desk::new(self.ground.worker.clone());
        let (desk, cancel) = (Arc::new(desk), self.ended.child_token());
        let (over, end) = watch::channel(None);
        let reporter = self.reporter.clone();
        let is_main = part.is_none();
        let reached = self.reached.clone();
        reached.errand.store(is_main, Ordering::Release);
        self.ground.runtime.spawn(async move {
            while let Some(report) = said.recv().await {
                let is_over = matches!(report, ShareReport::Ended(_));
                // Without a coordinator the next one asks again.
                let _ = reporter.send(ReportBody::Restore(report)).await;
                if is_over {
                    reached.errand.store(false, Ordering::Release);
                }
            }
        });
        let sharing = Sharing { staging: part, desk: desk.clone(), end, cancel: cancel.clone() };
        self.ground.runtime.spawn(async move {
            let work = AssertUnwindSafe(run(&*errands, order, desk.clone(), cancel)).catch_unwind();
            let panicked = |_| {
                let failure = Failure::new(ErrorCode::Assert, "its part of the job panicked")
                    .hint("this is a defect: the worker's log has the place");
                last_word(part, Err(failure))
            };
            let last = work.await.unwrap_or_else(panicked);
            over.send_replace(Some(last.clone()));
            desk.say(last);
        });
        sharing
    }
}

async fn run(
    errands: &dyn Errands,
    order: ShareOrder,
    desk: Arc<Desk>,
    cancel: CancellationToken,
) -> ShareReport {
    match order {
        ShareOrder::Lead(order) => {
            let end = errands.lead(*order, desk, cancel).await;
            ShareReport::Ended(end.map(ErrandEnd::reportable).map_err(reportable))
        }
        ShareOrder::Assist(order) => {
            let staging = order.staging;
            last_word(Some(staging), errands.assist(*order, desk, cancel).await)
        }
        ShareOrder::Copy(order) => {
            let staging = order.staging;
            last_word(Some(staging), errands.copy(*order, desk, cancel).await)
        }
        _ => last_word(None, Err(Failure::new(ErrorCode::Assert, "no part of a job begins with that"))),
    }
}

fn last_word(staging: Option<Identity>, ended: Result<(), Failure>) -> ShareReport {
    let ended_early = || Failure::new(ErrorCode::Assert, "it ended without being told to");
    let failure = ended.err().unwrap_or_else(ended_early);
    match staging {
        Some(staging) => ShareReport::AssistFailed { staging, failure },
        None => ShareReport::Ended(Err(failure)),
    }
}

#[cfg(test)]
mod tests;
