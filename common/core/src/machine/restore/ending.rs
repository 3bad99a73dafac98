//! How a shared job ends before it is done.

use super::{Crew, Effect, Event, RestoreMachine, RestoreSpec};
use crate::failure::{ErrorCode, Failure};
use crate::ids::WorkerName;
use crate::units::Timestamp;
use crate::wire::ShareReport;

impl RestoreMachine {
    pub(super) fn cancel(&mut self, now: Timestamp, reason: Failure) -> Vec<Effect> {
        if self.spec.stop_patience_ms == 0 || self.main_here().is_none() {
            return self.finish(Err(reason));
        }
        self.cancelled = Some((reason, now));
        self.ends().collect()
    }

    /// Its main worker was told to stop.
    pub(super) fn while_stopping(
        &mut self,
        now: Timestamp,
        event: Event,
        reason: Failure,
        since: Timestamp,
    ) -> Vec<Effect> {
        match event {
            Event::Reported { worker, report: ShareReport::Ended(_) } if self.is_main(&worker) => {
                self.finish(Err(reason))
            }
            Event::Lost { worker } if self.is_main(&worker) => self.finish(Err(reason)),
            // It may have forgotten the job and not be done with it: its report tells, or time.
            Event::Joined { worker, holds: true } => vec![Effect::End(worker)],
            Event::Ticked => {
                let waited = u64::try_from(now.0.saturating_sub(since.0)).unwrap_or(0);
                if waited < self.spec.stop_patience_ms {
                    return Vec::new();
                }
                let message = "its main worker does not say that it has stopped".to_owned();
                [Effect::Warn(message)].into_iter().chain(self.finish(Err(reason))).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The main worker of a job that nobody else may begin.
pub(super) fn absent(main: &WorkerName, spec: &RestoreSpec) -> Failure {
    let kind = spec.errand.kind;
    let message = format!("worker {main}, whose {kind} it is, has not come back");
    let failure = Failure::new(ErrorCode::HostConnect, message)
        .hint(format!("start worker {main} and run the same {kind} again: it begins anew there"));
    match spec.crew {
        Crew::Anyone => failure,
        Crew::Named(_) => failure.hint(format!(
            "let another worker restore to the same place only if worker {main} has surely ended"
        )),
    }
}

pub(super) fn nobody(spec: &RestoreSpec) -> Failure {
    let kind = spec.errand.kind;
    let message = match &spec.crew {
        Crew::Named(named) => {
            let names: Vec<&str> = named.iter().map(WorkerName::as_str).collect();
            format!("none of {} is here to {kind}", names.join(", "))
        }
        Crew::Anyone => format!("no worker is here to {kind}"),
    };
    Failure::new(ErrorCode::HostConnect, message).hint("pgconvoy workers list shows who is")
}
