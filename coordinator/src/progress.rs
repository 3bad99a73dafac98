//! What watchers of a job see: a value, replaced whenever it changes.

use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::{UnitId, WorkerName};
use pgconvoy_core::machine::backup::stages::Stage;
use pgconvoy_core::machine::backup::{BackupMachine, Phase};
use pgconvoy_core::machine::restore::RestoreMachine;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub is_paused: bool,
    pub label: Option<BackupLabel>,
    /// Units are a backup's, the shares of a restore, or the objects of a repo-sync that were shared out so far.
    pub units_total: u32,
    pub units_done: u32,
    /// That somebody works on.
    pub units_held: u32,
    pub units_retried: u32,
    /// That were begun a second time while their first worker was still at them.
    pub units_doubled: u32,
    /// Attempts under way, by worker.
    pub busy: BTreeMap<WorkerName, u32>,
    pub bytes_total: u64,
    pub bytes_done: u64,
    pub limiting_stage: Option<Stage>,
}

/// Units that were accepted, with their bytes, while no record says so yet: a new leader would not know of them. Shared by
/// who wants them written down and who writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unwritten(Arc<Mutex<BTreeMap<UnitId, u64>>>);

impl Unwritten {
    pub(crate) fn add(&self, unit: UnitId, bytes: u64) {
        self.lock().insert(unit, bytes);
    }

    pub(crate) fn remove(&self, unit: UnitId) {
        self.lock().remove(&unit);
    }

    /// How many, and their bytes.
    pub(crate) fn sum(&self) -> (u32, u64) {
        let units = self.lock();
        (u32::try_from(units.len()).unwrap_or(u32::MAX), units.values().sum())
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UnitId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// What is done is what is written down: it never shrinks when another coordinator leads.
    pub(crate) fn of(machine: &BackupMachine, unwritten: &Unwritten) -> Self {
        let board = machine.board();
        let (bytes_total, bytes_done) = board.bytes();
        let (units_unwritten, bytes_unwritten) = unwritten.sum();
        Progress {
            phase: machine.phase(),
            is_paused: machine.is_paused(),
            label: machine.label(),
            units_total: board.total(),
            units_done: board.done().saturating_sub(units_unwritten),
            // Until that is written down a unit's lease stands: it is its worker's still.
            units_held: board.held() + units_unwritten,
            units_retried: board.retried(),
            units_doubled: board.doubled(),
            busy: board.busy().clone(),
            bytes_total,
            bytes_done: bytes_done.saturating_sub(bytes_unwritten),
            limiting_stage: machine.limiting_stage(),
        }
    }

    pub fn of_restore(machine: &RestoreMachine) -> Self {
        let Some((told, board)) = machine.run() else { return Progress::of_nothing() };
        let (bytes_total, bytes_done) = board.bytes();
        Progress {
            label: told.label(),
            units_total: board.before() + board.total(),
            units_done: board.before() + board.done(),
            units_held: board.held(),
            busy: board.busy(),
            bytes_total,
            bytes_done,
            ..Progress::of_nothing()
        }
    }

    /// Nothing is known yet.
    pub fn of_nothing() -> Self {
        Progress {
            phase: Phase::Copying,
            is_paused: false,
            label: None,
            units_total: 0,
            units_done: 0,
            units_held: 0,
            units_retried: 0,
            units_doubled: 0,
            busy: BTreeMap::new(),
            bytes_total: 0,
            bytes_done: 0,
            limiting_stage: None,
        }
    }
}
