//! What people may do to jobs and workers of a leadership. Each is written down before it is done.

use super::{Caller, Lead};
use crate::actors::backup::now;
use crate::jobs::Live;
use crate::records::{self, JobKeeper};
use crate::registry::WorkerView;
use crate::units::{ListUnits, UnitView};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::job::JobState;
use pgconvoy_core::record::AuditRecord;
use pgconvoy_core::wire::JobId;
use std::sync::Arc;

impl Lead {
    pub async fn cancel(self: &Arc<Self>, caller: &Caller, id: JobId) -> Result<(), Failure> {
        let keeper = self.keeper_of_live(id)?;
        self.audit(caller, "cancel", &id.to_string()).await?;
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

    pub async fn pause(self: &Arc<Self>, caller: &Caller, id: JobId) -> Result<(), Failure> {
        self.set_paused(caller, id, true).await
    }

    pub async fn resume(self: &Arc<Self>, caller: &Caller, id: JobId) -> Result<(), Failure> {
        self.set_paused(caller, id, false).await
    }

    async fn set_paused(&self, caller: &Caller, id: JobId, paused: bool) -> Result<(), Failure> {
        let keeper = self.keeper_of_live(id)?;
        self.audit(caller, if paused { "pause" } else { "resume" }, &id.to_string()).await?;
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

    pub async fn set_priority(&self, caller: &Caller, id: JobId, priority: i32) -> Result<(), Failure> {
        let keeper = self.keeper_of_live(id)?;
        self.audit(caller, &format!("priority {priority}"), &id.to_string()).await?;
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

    pub fn workers(&self) -> Vec<(WorkerView, u32)> {
        let state = self.lock();
        let busy = |worker: &WorkerName| {
            let units = state.jobs.values().filter_map(Live::progress);
            units.map(|progress| progress.busy.get(worker).copied().unwrap_or(0)).sum()
        };
        self.registry.workers().into_iter().map(|view| (view.clone(), busy(&view.name))).collect()
    }

    pub async fn drain(&self, caller: &Caller, worker: &WorkerName, is_wanted: bool) -> Result<(), Failure> {
        self.audit(caller, if is_wanted { "drain" } else { "undrain" }, worker.as_str()).await?;
        if self.registry.drain(worker, is_wanted) {
            self.changed.notify_one();
            return Ok(());
        }
        Err(Failure::new(ErrorCode::ParamInvalid, format!("there is no worker {worker}"))
            .hint("pgconvoy workers list shows them"))
    }

    /// Before it is done: what is not written down is not done.
    pub async fn audit(&self, caller: &Caller, what: &str, object: &str) -> Result<(), Failure> {
        let at = now();
        let record = AuditRecord {
            at,
            who: caller.name.clone(),
            role: caller.role.clone(),
            what: what.to_owned(),
            object: object.to_owned(),
            outcome: "asked".to_owned(),
        };
        let id = format!("{:015}-{}", at.0.max(0), (self.deps.identity)()?);
        records::audit(&self.deps.leadership, &id, &record).await
    }

    pub async fn audits(&self) -> Result<Vec<AuditRecord>, Failure> {
        records::audits(&self.deps.leadership).await
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
