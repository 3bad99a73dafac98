//! How long one unit waits for one repository, waits for a turn there not counted.
//!
//! Failure story: a repository that stalls is given up for the whole job (`GivenUp`); one whose calls fail is not, because
//! its next unit may go well.

use crate::job::{JobContext, job_over};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::UnitOrder;
use pgconvoy_storage::clock::Clock;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// In stall timeouts, what all waits of one unit for one repository may take together. Without it a store that takes each
/// piece just in time would hold a slot, and with it the other repositories, for hours.
const STALLS_PER_UNIT_MAX: u32 = 4;
/// A unit that is larger than this, because no file may be split, may take as many times as long.
const UNIT_BYTES: u64 = 32 << 20;

pub(super) struct Patience {
    context: Arc<JobContext>,
    order: Arc<UnitOrder>,
    repository: RepoKey,
    stalls_max: u32,
    waited: Duration,
}

impl Patience {
    pub(super) fn new(context: &Arc<JobContext>, order: &Arc<UnitOrder>, repository: RepoKey) -> Self {
        let bytes: u64 = order.parts.iter().map(|part| part.length).sum();
        let times = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        Patience {
            context: context.clone(),
            order: order.clone(),
            repository,
            stalls_max: STALLS_PER_UNIT_MAX.saturating_mul(times),
            waited: Duration::ZERO,
        }
    }

    /// Whether there is any point in trying.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.context.check_running()?;
        match self.context.given_up.skips(self.repository, &self.order.repositories) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    pub(super) async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let stall = Duration::from_millis(self.context.units.stall_timeout_ms);
        let left = stall.saturating_mul(self.stalls_max).saturating_sub(self.waited);
        let clock = Clock::new(Some(stall.min(left)));
        let outcome = tokio::select! {
            biased;
            done = clock.time(None, work) => done.ok_or_else(|| self.stalled(stall, left)),
            failure = self.context.given_up.skipped(self.repository, &self.order.repositories) => Err(failure),
            () = self.context.ended.cancelled() => Err(job_over()),
        };
        self.waited += clock.spent();
        outcome
    }

    fn stalled(&self, stall: Duration, left: Duration) -> Failure {
        let what = if left < stall {
            format!("kept a unit waiting for {} s in all", stall.saturating_mul(self.stalls_max).as_secs())
        } else {
            format!("did not answer for {} s", stall.as_secs())
        };
        let failure = Failure::new(ErrorCode::FileWrite, format!("repo {} {what}", self.repository))
            .hint("is its store reachable, and is it overloaded? io-timeout sets how long it may stall")
            .retryable();
        self.context.given_up.add(self.repository, failure.clone());
        failure
    }
}
