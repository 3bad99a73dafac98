//! Runs the slots, threads that take packs from the stock, and the threads that make their files durable.

use super::existing::Standing;
use super::ledger::Ledger;
use super::opening::Openings;
use super::owners::Owners;
use super::pack::PackSlot;
use super::places::Places;
use super::source::Chosen;
use super::staging;
use super::stock::{InHand, Stock};
use super::sync::{self, SyncQueue};
use super::{RestoreError, Surroundings, terminated};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::Identity;
use pgconvoy_core::plan::restore::PlannedFile;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// What all slots share.
pub(super) struct Work<'a> {
    pub(super) chosen: &'a Chosen,
    pub(super) ground: Ground<'a>,
    pub(super) ledger: &'a Ledger<'a>,
    pub(super) halt: &'a Halt,
    pub(super) around: &'a Surroundings,
    pub(super) with_crcs: bool,
    /// To what the files by their own names hold already.
    pub(super) standing: Standing,
    pub(super) openings: Openings,
}

/// Where this worker's slots write.
pub(super) enum Ground<'a> {
    /// The main worker's: files by their own names.
    Final { places: &'a Places, owners: &'a Owners },
    /// A mate's.
    Staged { places: &'a Places, staging: Identity },
}

impl Ground<'_> {
    pub(super) fn path(&self, number: u32, file: &PlannedFile) -> PathBuf {
        match self {
            Ground::Final { places, .. } => places.of(&file.path),
            Ground::Staged { places, staging } => staging::path(places, *staging, number, file),
        }
    }

    /// What a whole file lacks before it is synced.
    pub(super) fn complete(
        &self,
        handle: &File,
        path: &Path,
        file: &PlannedFile,
    ) -> Result<(), RestoreError> {
        match self {
            Ground::Final { owners, .. } => owners.give(handle, path, file.ownership, Some(file.modified)),
            Ground::Staged { .. } => Ok(()),
        }
    }
}

/// Why the slots stop before they are through: the first failure, or a signal.
#[derive(Debug)]
pub(super) struct Halt {
    stop: CancellationToken,
    is_set: AtomicBool,
    first: Mutex<Option<Failure>>,
}

impl Halt {
    pub(super) fn new(stop: CancellationToken) -> Self {
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

/// Until the stock is closed and empty. `steward` fills it; when that returns, it is closed. `durable` hears of each part of
/// which all files are on disk.
pub(super) fn run(
    work: &Work<'_>,
    stock: &Stock<'_>,
    slots: usize,
    durable: &(dyn Fn(&InHand) + Sync),
    steward: impl FnOnce(&SyncQueue) -> Result<(), Failure>,
) {
    let (queue, waiting) = sync::queue();
    std::thread::scope(|scope| {
        for _ in 0..slots {
            scope.spawn(|| sync::serve(&waiting, work.halt, durable));
        }
        for _ in 0..slots {
            let queue = queue.clone();
            scope.spawn(move || guard(work.halt, || serve(work, stock, queue)));
        }
        guard(work.halt, || steward(&queue));
        stock.close();
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

fn serve(work: &Work<'_>, stock: &Stock<'_>, queue: SyncQueue) -> Result<(), Failure> {
    let mut slot = PackSlot::new(work, queue);
    while let Some((in_hand, pack)) = stock.next()? {
        // Over a cluster most packs may not be needed at all.
        let coming = stock.coming().filter(|_| !work.standing.existing.may_be_a_cluster());
        if let Some(coming) = coming {
            work.openings.begin(&work.around.runtime, work.chosen, coming);
        }
        slot.restore(&in_hand, &pack)?;
        if let Some(unused) = work.openings.take(pack.pack) {
            unused.abort();
        }
    }
    Ok(())
}
