//! An errand: a whole job, done in a task of its own that reports its end by itself.
//!
//! Invariant: the end can be reported. Whoever waits for it waits for ever if it does not fit a frame.

use super::Keeper;
use futures::FutureExt;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::wire::{ErrandEnd, ErrandOrder, ReportBody, reportable};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

impl Keeper {
    /// In a task of its own, which reports by itself. A repeated order is answered when the errand is done, and begins nothing.
    pub(super) fn errand(&mut self, order: ErrandOrder) -> Option<ReportBody> {
        if let Some(errand) = &self.errand {
            return errand.borrow().clone().map(ReportBody::ErrandEnded);
        }
        let Some(errands) = self.ground.errands.clone() else {
            let message = format!("worker {} does no errands", self.ground.worker);
            return Some(ReportBody::ErrandEnded(Err(Failure::new(ErrorCode::NotSupported, message))));
        };
        let (done, result) = watch::channel(None);
        self.errand = Some(result);
        let (reporter, cancel, reached) = (self.reporter.clone(), self.ended.clone(), self.reached.clone());
        reached.errand.store(true, Ordering::Release);
        self.ground.runtime.spawn(async move {
            let end = AssertUnwindSafe(errands.run(order, cancel)).catch_unwind().await;
            let panicked = || Err(Failure::new(ErrorCode::Assert, "the errand panicked"));
            let end = end.unwrap_or_else(|_| panicked()).map(ErrandEnd::reportable).map_err(reportable);
            done.send_replace(Some(end.clone()));
            // Without a coordinator the next one asks again.
            let _ = reporter.send(ReportBody::ErrandEnded(end)).await;
            reached.errand.store(false, Ordering::Release);
        });
        None
    }
}

#[cfg(test)]
mod tests;
