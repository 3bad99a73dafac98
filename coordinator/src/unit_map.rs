//! All units of a backup at a glance: a letter for each, who holds which, and what workers and repositories have of it so far.
//!
//! One byte for a unit, since a backup has up to 20,000 and pages look every half second.

use actix::Message;
use pgconvoy_core::ids::{Attempt, RepoKey, UnitId, WorkerName};
use pgconvoy_core::machine::backup::BackupMachine;
use pgconvoy_core::machine::backup::units::{ATTEMPTS_PER_TERM, UnitBoard, UnitState};

pub const PENDING: u8 = b'p';
pub const LEASED: u8 = b'l';
/// Leased, and not for the first time under this leader.
pub const AGAIN: u8 = b'a';
pub const DONE: u8 = b'd';

#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Option<UnitMap>")]
pub struct LookAtUnits;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitMap {
    /// One of the letters above for each unit.
    pub states: Vec<u8>,
    pub held: Vec<HeldUnit>,
    pub workers: Vec<WorkerPart>,
    pub repositories: Vec<RepositoryPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldUnit {
    pub unit: UnitId,
    pub worker: WorkerName,
    pub attempt: Attempt,
}

/// What a worker did of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPart {
    pub worker: WorkerName,
    pub units: u32,
    /// That it read.
    pub bytes: u64,
}

/// What a repository has of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPart {
    pub repository: RepoKey,
    pub stored: u64,
    /// Why it takes no more part.
    pub failure: Option<String>,
}

impl UnitMap {
    pub(crate) fn of(machine: &BackupMachine) -> UnitMap {
        let part = |(repository, stored, failure): (RepoKey, u64, Option<&_>)| RepositoryPart {
            repository,
            stored,
            failure: failure.map(|failure: &pgconvoy_core::failure::Failure| failure.message.clone()),
        };
        let repositories = machine.stored_so_far().into_iter().map(part).collect();
        UnitMap { repositories, ..UnitMap::of_board(machine.board()) }
    }

    fn of_board(board: &UnitBoard) -> UnitMap {
        let mut map = UnitMap::default();
        for (unit, _, state) in board.units() {
            let letter = match state {
                UnitState::Pending => PENDING,
                UnitState::Done(_) => DONE,
                UnitState::Held(holds) => {
                    let held = |hold: &pgconvoy_core::machine::backup::units::Hold| HeldUnit {
                        unit,
                        worker: hold.worker.clone(),
                        attempt: hold.attempt,
                    };
                    map.held.extend(holds.iter().map(held));
                    letter_of(holds.iter().map(|hold| hold.attempt).max())
                }
            };
            map.states.push(letter);
        }
        let part = |share: pgconvoy_core::machine::backup::event::WorkerShare| WorkerPart {
            worker: share.worker,
            units: share.units,
            bytes: share.bytes,
        };
        map.workers = board.shares().into_iter().map(part).collect();
        map
    }
}

/// Attempts count anew from a higher number under each leader.
fn letter_of(attempt: Option<Attempt>) -> u8 {
    if attempt.is_some_and(|attempt| attempt.0 % ATTEMPTS_PER_TERM > 1) { AGAIN } else { LEASED }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::plan::backup::{BackupPlan, Source, Unit, Work};
    use pgconvoy_core::plan::homes::Homes;

    #[test]
    fn units_that_nobody_began_are_pending() {
        let unit = |bytes| Unit { work: Work::Files(Vec::new()), bytes, source: Source::Any, last: false };
        let plan = BackupPlan { units: (1..=3).map(unit).collect(), ..BackupPlan::default() };
        let map = UnitMap::of_board(&UnitBoard::new(plan, Homes::default(), 0));
        assert_eq!(map.states, b"ppp");
        assert!(map.held.is_empty() && map.workers.is_empty());
    }

    #[test]
    fn a_second_attempt_shows_whoever_leads() {
        for (attempt, letter) in [(1, LEASED), (2, AGAIN), (3_001, LEASED), (3_002, AGAIN)] {
            assert_eq!(letter_of(Some(Attempt(attempt))), letter, "{attempt}");
        }
        assert_eq!(letter_of(None), LEASED);
    }
}
