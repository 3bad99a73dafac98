//! What a leadership keeps of jobs that are over: so many, the newest.

use super::Lead;
use crate::records::{FINISHED_JOBS_KEPT, JobKeeper};
use pgconvoy_core::units::Timestamp;
use std::sync::Arc;

impl Lead {
    /// A record that could not be removed is found again by the next leader.
    pub(super) async fn forget_the_oldest(&self) {
        for keeper in self.take_out_the_oldest() {
            if let Err(failure) = keeper.delete().await {
                tracing::debug!("the record of job {} was not removed: {failure}", keeper.record().id);
            }
        }
    }

    fn take_out_the_oldest(&self) -> Vec<Arc<JobKeeper>> {
        let mut state = self.lock();
        let mut over: Vec<(Timestamp, _)> = state
            .jobs
            .values()
            .map(|job| job.record())
            .filter(|record| record.state.is_over())
            .map(|record| (record.finished.unwrap_or(record.created), record.id))
            .collect();
        over.sort_unstable();
        let too_many = over.len().saturating_sub(FINISHED_JOBS_KEPT);
        over.iter().take(too_many).filter_map(|(_, id)| Some(state.jobs.remove(id)?.keeper)).collect()
    }
}
