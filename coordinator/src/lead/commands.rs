//! What people may do to jobs and workers of a leadership.

use super::{Caller, Lead};
use crate::records::JobKeeper;
use crate::registry::WorkerView;
use crate::unit_map::UnitMap;
use crate::units::{ListUnits, UnitView};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::job::JobState;
use pgconvoy_core::wire::JobId;
use std::sync::Arc;

impl Lead {
    pub async fn cancel(self: &Arc<Self>, caller: &Caller, id: JobId) -> Result<(), Failure> {
        let keeper = self.keeper_of_live(id)?;
        let reason = Failure::new(ErrorCode::Term, format!("cancelled by {}", caller.name));
        if keeper.record().state.is_under_way() {
            // Whoever leads next knows what is wanted.
            keeper.change(|record| record.state = JobState::Draining).await?;
        }
        let was_waiting = {
            let mut state = self.lock();
            let was_waiting = state.queue.is_waiting(id) && state.queue.remove(id);
            if !was_waiting && let Some(job) = state.jobs.get_mut(&id) {
                job.is_cancelled = true;
                job.control.cancel(reason.clone());
            }
            was_waiting
        };
        if was_waiting {
            self.conclude(&keeper, JobState::Cancelled, Some(reason), None).await?;
        }
        self.touch();
        Ok(())
    }

    pub async fn set_paused(&self, id: JobId, paused: bool) -> Result<(), Failure> {
        let keeper = self.keeper_of_live(id)?;
        let (from, to) = if paused {
            (JobState::Running, JobState::Paused)
        } else {
            (JobState::Paused, JobState::Running)
        };
        if keeper.record().state != from {
            let message = format!("job {id} is {}, not {}", keeper.record().state.name(), from.name());
            return Err(Failure::new(ErrorCode::ParamInvalid, message));
        }
        keeper.change(|record| record.state = to).await?;
        if let Some(job) = self.lock().jobs.get(&id) {
            job.control.pause(paused);
        }
        self.touch();
        Ok(())
    }

    pub async fn set_priority(&self, id: JobId, priority: i32) -> Result<(), Failure> {
        let keeper = self.keeper_of_live(id)?;
        keeper.change(|record| record.priority = priority).await?;
        self.lock().queue.set_priority(id, priority);
        self.touch();
        Ok(())
    }

    /// Where the units of a job stand while it runs; none before and after, and none of a job that has no units.
    pub async fn units(&self, id: JobId, page: ListUnits) -> Vec<UnitView> {
        let backup = self.lock().jobs.get(&id).and_then(|job| job.control.backup().cloned());
        match backup {
            Some(backup) => backup.units(page).await,
            None => Vec::new(),
        }
    }

    /// The same of all units at a glance.
    pub async fn unit_map(&self, id: JobId) -> Option<UnitMap> {
        let backup = self.lock().jobs.get(&id).and_then(|job| job.control.backup().cloned());
        backup?.unit_map().await
    }

    pub fn workers(&self) -> Vec<(WorkerView, u32)> {
        let load = self.lock().load();
        let busy = |worker: &WorkerName| load.get(worker).copied().unwrap_or_default();
        self.registry.workers().into_iter().map(|view| (view.clone(), busy(&view.name))).collect()
    }

    pub async fn drain(&self, worker: &WorkerName, is_wanted: bool) -> Result<(), Failure> {
        if self.registry.drain(worker, is_wanted).await? {
            self.changed.notify_one();
            return Ok(());
        }
        Err(Failure::new(ErrorCode::ParamInvalid, format!("there is no worker {worker}"))
            .hint("pgconvoy workers list shows them"))
    }

    fn keeper_of_live(&self, id: JobId) -> Result<Arc<JobKeeper>, Failure> {
        let keeper = self.lock().jobs.get(&id).map(|job| job.keeper.clone());
        let keeper = keeper.ok_or_else(|| {
            Failure::new(ErrorCode::ParamInvalid, format!("there is no job {id}"))
                .hint("pgconvoy job list shows them")
        })?;
        if keeper.record().state.is_over() {
            let message = format!("job {id} is over: {}", keeper.record().state.name());
            return Err(Failure::new(ErrorCode::ParamInvalid, message));
        }
        Ok(keeper)
    }
}
