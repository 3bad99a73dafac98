//! Who takes the place of a main worker that is lost, where somebody may.

use super::{Crew, Effect, Main, RestoreMachine};
use crate::ids::WorkerName;

/// One that an earlier leader recorded and that is not here is lost by then: longer than a worker's lease.
const ABSENT_AFTER_MS: u64 = 30_000;

impl RestoreMachine {
    /// The main worker, if it was waited for long enough.
    pub(super) fn absent_for(&self, waited_ms: u64) -> Option<WorkerName> {
        match &self.main {
            Main::Known(main) if self.spec.crew == Crew::Anyone && waited_ms >= ABSENT_AFTER_MS => {
                Some(main.clone())
            }
            _ => None,
        }
    }

    /// Whoever is here begins anew, and finds what is done already.
    pub(super) fn followed(&mut self, lost: &WorkerName) -> Vec<Effect> {
        let kind = self.spec.errand.kind;
        self.run = None;
        self.left_out.clear();
        let next = self.here.keys().next().cloned();
        self.main = next.clone().map_or(Main::Unknown, Main::Recording);
        let warning = Effect::Warn(format!("worker {lost}, whose {kind} it is, is lost: it begins anew"));
        [warning].into_iter().chain(next.map(Effect::RecordMain)).collect()
    }
}
