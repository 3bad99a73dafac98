//! Runs the slots: threads that take packs, largest first, and the threads that make their files durable.

use super::error::{Action, RestoreError};
use super::ledger::Ledger;
use super::owners::Owners;
use super::pack::PackSlot;
use super::places::Places;
use super::source::Chosen;
use super::sync::{self, Job, SyncQueue, Waiting};
use super::{RestoreOrder, Surroundings, files, terminated};
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// What all slots share.
pub(super) struct Work<'a> {
    pub(super) chosen: &'a Chosen,
    pub(super) places: &'a Places,
    pub(super) owners: &'a Owners,
    pub(super) ledger: &'a Ledger<'a>,
    pub(super) halt: &'a Halt,
    pub(super) around: &'a Surroundings,
    pub(super) with_crcs: bool,
}

/// Why the slots stop before they are through: the first failure, or a signal.
#[derive(Debug)]
pub(super) struct Halt {
    stop: CancellationToken,
    is_set: AtomicBool,
    first: Mutex<Option<Failure>>,
}

impl Halt {
    fn new(stop: CancellationToken) -> Self {
        Halt { stop, is_set: AtomicBool::new(false), first: Mutex::new(None) }
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed) || self.stop.is_cancelled()
    }

    pub(super) fn set(&self, failure: Failure) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.is_set.store(true, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.is_set() { Err(self.why().unwrap_or_else(terminated)) } else { Ok(()) }
    }

    fn why(&self) -> Option<Failure> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All data, written and synced. The CRC of each file of the plan, if they were wanted.
pub(super) fn write(
    chosen: &Chosen,
    places: &Places,
    owners: &Owners,
    order: &RestoreOrder,
    around: &Surroundings,
) -> Result<Vec<Option<u32>>, Failure> {
    let halt = Halt::new(around.stop.clone());
    let ledger = Ledger::new(&chosen.plan, places, &chosen.secret, order.backup_manifest);
    let work = Work {
        chosen,
        places,
        owners,
        ledger: &ledger,
        halt: &halt,
        around,
        with_crcs: order.backup_manifest,
    };
    let (queue, waiting) = sync::queue();
    run(&work, queue, &waiting, order.slots.max(1));
    halt.check()?;
    Ok(ledger.close()?)
}

fn run(work: &Work<'_>, queue: SyncQueue, waiting: &Waiting, slots: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..slots {
            scope.spawn(|| sync::serve(waiting, work.halt));
        }
        for _ in 0..slots {
            let (queue, next) = (queue.clone(), &next);
            scope.spawn(move || guard(work.halt, || serve(work, queue, next)));
        }
        guard(work.halt, || make_empty_files(work, &queue));
        drop(queue);
    });
}

/// A panic of one thread ends the restore as an error does.
fn guard(halt: &Halt, work: impl FnOnce() -> Result<(), Failure>) {
    let panicked = |_| Err(Failure::new(ErrorCode::Assert, "a thread of the restore panicked"));
    if let Err(failure) = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked) {
        halt.set(failure);
    }
}

fn serve(work: &Work<'_>, queue: SyncQueue, next: &AtomicUsize) -> Result<(), Failure> {
    let mut slot = PackSlot::new(work, queue);
    while let Some(pack) = work.chosen.plan.packs.get(next.fetch_add(1, Ordering::Relaxed)) {
        slot.restore(pack)?;
    }
    Ok(())
}

/// Files without any part: empty ones, and holes in place of what is left out.
fn make_empty_files(work: &Work<'_>, queue: &SyncQueue) -> Result<(), Failure> {
    for file in work.chosen.plan.files.iter().filter(|file| file.parts == 0) {
        work.halt.check()?;
        let path = work.places.of(&file.path);
        let handle = files::create(&path)?;
        handle.set_len(file.size).map_err(RestoreError::file(Action::Write, &path))?;
        work.owners.give(&handle, &path, file.ownership, Some(file.modified))?;
        queue.push(Job::Whole(handle, path));
    }
    Ok(())
}
