//! The units of a backup under way, for whoever looks at them one by one.

use actix::Message;
use pgconvoy_core::ids::{Attempt, FencingToken, UnitId, WorkerName};
use pgconvoy_core::machine::backup::units::{UnitBoard, UnitState};

/// Which units are asked for: `count` of them from `from` on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<UnitView>")]
pub struct ListUnits {
    pub from: UnitId,
    pub count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitView {
    pub id: UnitId,
    /// `pending`, `leased` or `done`.
    pub state: &'static str,
    /// Who works on it, or did it. Of several that try at once, the last that began.
    pub worker: Option<WorkerName>,
    /// By what right it is worked on; `None` while the lease store is being asked.
    pub token: Option<FencingToken>,
    pub attempt: Option<Attempt>,
    /// As they were planned.
    pub bytes: u64,
}

pub(crate) fn list(board: &UnitBoard, from: UnitId, count: usize) -> Vec<UnitView> {
    let from = usize::try_from(from.0).unwrap_or(usize::MAX);
    let units = board.units().skip(from).take(count);
    units
        .map(|(id, unit, state)| {
            let pending = UnitView {
                id,
                state: "pending",
                worker: None,
                token: None,
                attempt: None,
                bytes: unit.bytes,
            };
            match state {
                UnitState::Pending => pending,
                UnitState::Held(holds) => {
                    let hold = holds.last();
                    UnitView {
                        state: "leased",
                        worker: hold.map(|hold| hold.worker.clone()),
                        token: hold.and_then(|hold| hold.token),
                        attempt: hold.map(|hold| hold.attempt),
                        ..pending
                    }
                }
                UnitState::Done(accepted) => UnitView {
                    state: "done",
                    worker: Some(accepted.worker.clone()),
                    attempt: Some(accepted.attempt),
                    ..pending
                },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::plan::backup::{BackupPlan, Source, Unit, Work};
    use pgconvoy_core::plan::homes::Homes;

    #[test]
    fn units_are_listed_in_pages() {
        let unit = |bytes| Unit { work: Work::Files(Vec::new()), bytes, source: Source::Any, last: false };
        let plan = BackupPlan { units: (1..=5).map(unit).collect(), ..BackupPlan::default() };
        let board = UnitBoard::new(plan, Homes::default(), 0);
        let page = |from, count| -> Vec<(u32, u64)> {
            list(&board, UnitId(from), count).iter().map(|unit| (unit.id.0, unit.bytes)).collect()
        };
        assert_eq!(page(0, 10).len(), 5);
        assert_eq!(page(1, 2), [(1, 2), (2, 3)]);
        assert_eq!(page(9, 2), []);
        assert!(
            list(&board, UnitId(0), 5).iter().all(|unit| unit.state == "pending" && unit.worker.is_none())
        );
    }
}
