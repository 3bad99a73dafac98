//! What watchers of a job see: a value, replaced whenever it changes.

use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::machine::backup::{BackupMachine, Phase};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub label: Option<BackupLabel>,
    pub units_total: u32,
    pub units_done: u32,
    pub bytes_total: u64,
    pub bytes_done: u64,
}

impl Progress {
    pub fn of(machine: &BackupMachine) -> Self {
        let board = machine.board();
        let (bytes_total, bytes_done) = board.bytes();
        Progress {
            phase: machine.phase(),
            label: machine.label(),
            units_total: board.total(),
            units_done: board.done(),
            bytes_total,
            bytes_done,
        }
    }
}
