//! Workers that are given nothing, whatever they ask for: what they asked for is kept until they may work again.

use super::UnitBoard;
use crate::ids::WorkerName;
use crate::plan::backup::BackupPlan;
use crate::plan::homes::Homes;

impl UnitBoard {
    /// Another plan, for the same workers.
    pub(in crate::machine::backup) fn begin_anew(&mut self, plan: BackupPlan, homes: Homes, term: u32) {
        let UnitBoard { draining, suspended, fares, served, .. } = std::mem::take(self);
        *self = UnitBoard { draining, suspended, fares, served, ..UnitBoard::new(plan, homes, term) };
    }

    pub(in crate::machine::backup) fn drain(&mut self, worker: &WorkerName, is_draining: bool) {
        if is_draining {
            self.draining.insert(worker.clone());
        } else {
            self.draining.remove(worker);
        }
    }

    pub(in crate::machine::backup) fn is_draining(&self, worker: &WorkerName) -> bool {
        self.draining.contains(worker)
    }
}
