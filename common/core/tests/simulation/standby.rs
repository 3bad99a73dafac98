//! Standbys on paper: each start of one is another, and one that was promoted is none.
//!
//! Mirrors `standby.rs` of `pgconvoy-postgres`, and `keeper/standby.rs` of `pgconvoy-worker`.

use crate::world::World;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::pg::TimelineId;
use pgconvoy_core::wire::{ConfirmOrder, Incarnation, ReportBody};

#[derive(Debug, Default)]
pub(crate) struct Standby {
    starts: i64,
    is_promoted: bool,
}

impl Standby {
    fn incarnation(&self) -> Option<Incarnation> {
        let incarnation = Incarnation { started_us: self.starts, timeline: TimelineId(1) };
        (!self.is_promoted).then_some(incarnation)
    }
}

impl World {
    /// All workers of a stanza but its first one see a standby.
    pub(crate) fn set_up_standbys(&mut self) {
        if !self.scenario.with_standbys {
            return;
        }
        for id in 0..self.workers.len() {
            let stanza = self.workers[id].stanza;
            if self.workers[..id].iter().any(|other| other.stanza == stanza) {
                self.standbys.insert(id, Standby::default());
            }
        }
    }

    pub(crate) fn standby_names(&self) -> Vec<WorkerName> {
        self.standbys.keys().map(|id| self.workers[*id].name.clone()).collect()
    }

    /// What it is now; `Ok(None)`: this worker sees the primary.
    pub(crate) fn incarnation(&self, id: usize) -> Result<Option<Incarnation>, Failure> {
        match self.standbys.get(&id) {
            None => Ok(None),
            Some(standby) => standby.incarnation().map(Some).ok_or_else(promoted),
        }
    }

    pub(crate) fn confirm(&self, id: usize, order: &ConfirmOrder) -> ReportBody {
        let result = self.incarnation(id).and_then(|now| match now {
            Some(now) if now == order.incarnation => Ok(()),
            _ => Err(Failure::new(ErrorCode::DbMismatch, "it is another one")),
        });
        ReportBody::Confirmed { round: order.round, result }
    }

    pub(crate) fn promote(&mut self, id: usize) {
        if let Some(standby) = self.standbys.get_mut(&id) {
            standby.is_promoted = true;
        }
    }

    pub(crate) fn remake(&mut self, id: usize) {
        if let Some(standby) = self.standbys.get_mut(&id) {
            *standby = Standby { starts: standby.starts + 1, is_promoted: false };
        }
    }
}

fn promoted() -> Failure {
    Failure::new(ErrorCode::DbMismatch, "it is not in recovery")
}
