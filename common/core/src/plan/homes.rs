//! Who read a unit's bytes for the backup that this one rests on, and had better read them again: hint bits and holes differ between
//! a primary and its standbys, and what differs is stored.
//!
//! It is a preference: nobody is idle for its sake. In a backup by compute workers it says nothing, as a manifest names who computed.

use super::backup::{BackupPlan, Unit, Work};
use super::inventory::FileIndex;
use super::prior::Prior;
use crate::format::manifest::RangeRecord;
use crate::ids::WorkerName;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Homes {
    workers: Vec<WorkerName>,
    /// Index into the workers, by unit; empty where nobody is anybody's home.
    of: Vec<Option<u16>>,
}

impl Homes {
    pub fn new(plan: &BackupPlan, prior: &Prior) -> Homes {
        let workers = prior.workers().to_vec();
        // With one worker there is nothing to prefer.
        if workers.len() < 2 {
            return Homes::default();
        }
        let mut bytes = vec![0; workers.len()];
        let of = plan.units.iter().map(|unit| home(unit, prior, &mut bytes)).collect();
        Homes { workers, of }
    }

    pub fn of(&self, unit: usize) -> Option<u16> {
        self.of.get(unit).copied().flatten()
    }

    pub fn number(&self, worker: &WorkerName) -> Option<u16> {
        let at = self.workers.iter().position(|name| name == worker)?;
        u16::try_from(at).ok()
    }

    pub fn count(&self) -> usize {
        self.workers.len()
    }
}

/// Whoever read most of it. `bytes` is scratch: one sum for each worker.
fn home(unit: &Unit, prior: &Prior, bytes: &mut [u64]) -> Option<u16> {
    bytes.fill(0);
    let mut add = |file: FileIndex, begin: u64, end: u64| {
        let ranges = prior.file(file).map_or(&[][..], |known| known.ranges);
        for range in ranges {
            if let Some(sum) = bytes.get_mut(usize::from(range.worker)) {
                *sum += overlap(range, begin, end);
            }
        }
    };
    match &unit.work {
        Work::Range { file, offset, length } => add(*file, *offset, offset.saturating_add(*length)),
        Work::Files(files) => files.iter().for_each(|file| add(*file, 0, u64::MAX)),
    }
    // The last of equals would be as good; the first one is the same for every leader.
    let (at, most) = bytes.iter().enumerate().rev().max_by_key(|(_, sum)| **sum)?;
    u16::try_from(at).ok().filter(|_| *most > 0)
}

fn overlap(range: &RangeRecord, begin: u64, end: u64) -> u64 {
    range.end().min(end).saturating_sub(range.offset.max(begin))
}
