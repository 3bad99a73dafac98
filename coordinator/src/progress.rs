//! What watchers of a job see: a value, replaced whenever it changes.

use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::machine::backup::stages::Stage;
use pgconvoy_core::machine::backup::{BackupMachine, Phase};
use pgconvoy_core::machine::restore::RestoreMachine;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub is_paused: bool,
    pub label: Option<BackupLabel>,
    /// Units are a backup's, or the shares of a restore.
    pub units_total: u32,
    pub units_done: u32,
    /// That somebody works on.
    pub units_held: u32,
    pub units_retried: u32,
    /// Attempts under way, by worker.
    pub busy: BTreeMap<WorkerName, u32>,
    pub bytes_total: u64,
    pub bytes_done: u64,
    pub limiting_stage: Option<Stage>,
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
            limiting_stage: machine.limiting_stage(),
        }
    }

    pub fn of_restore(machine: &RestoreMachine) -> Self {
        let Some((told, board)) = machine.run() else { return Progress::of_nothing() };
        let (bytes_total, bytes_done) = board.bytes();
        Progress {
            label: Some(told.label),
            units_total: board.total(),
            units_done: board.done(),
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
            busy: BTreeMap::new(),
            bytes_total: 0,
            bytes_done: 0,
            limiting_stage: None,
        }
    }
}
