//! What watchers of a job see: a value, replaced whenever it changes.

use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::machine::backup::{BackupMachine, Phase};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub is_paused: bool,
    pub label: Option<BackupLabel>,
    pub units_total: u32,
    pub units_done: u32,
    /// That somebody works on.
    pub units_held: u32,
    pub units_retried: u32,
    /// Attempts under way, by worker.
    pub busy: BTreeMap<WorkerName, u32>,
    pub bytes_total: u64,
    pub bytes_done: u64,
}

impl Progress {
    pub fn of(machine: &BackupMachine) -> Self {
        let board = machine.board();
        let (bytes_total, bytes_done) = board.bytes();
        Progress {
            phase: machine.phase(),
            is_paused: machine.is_paused(),
            label: machine.label(),
            units_total: board.total(),
            units_done: board.done(),
            units_held: board.held(),
            units_retried: board.retried(),
            busy: board.busy().clone(),
            bytes_total,
            bytes_done,
        }
    }
}
