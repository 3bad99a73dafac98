//! A mate's part: copies the objects that it is given, and tells of each.

use super::tasks::Tasks;
use crate::desk::Desk;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{Identity, ShareId};
use pgconvoy_core::wire::{CopyOrder, ShareOrder, ShareReport, StagedShare};
use pgconvoy_repository::sync::{Ready, Said, SyncMate};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Blocks until it is told to stop, or cannot go on. Not to be called on a thread of the runtime.
pub fn help(
    copier: &SyncMate,
    order: CopyOrder,
    desk: &Desk,
    slots: usize,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let slots = slots.max(1);
    let (staging, books, tasks, failed) =
        (order.staging, Mutex::default(), Tasks::default(), Mutex::new(None));
    let mate = Mate { copier, staging, slots, desk, stop, books, tasks, failed };
    std::thread::scope(|scope| {
        for _ in 0..slots {
            scope.spawn(|| mate.work());
        }
        mate.serve(order);
    });
    mate.failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// What is being copied.
#[derive(Clone)]
struct Part {
    first: ShareId,
    count: u32,
    /// `None`: that is over, and nothing of it is copied here.
    ready: Option<Arc<Ready>>,
}

#[derive(Default)]
struct Books {
    part: Option<Part>,
    taken: BTreeSet<ShareId>,
}

struct Mate<'a> {
    copier: &'a SyncMate,
    staging: Identity,
    slots: usize,
    desk: &'a Desk,
    stop: &'a CancellationToken,
    books: Mutex<Books>,
    tasks: Tasks<(ShareId, Part)>,
    /// Why it cannot go on.
    failed: Mutex<Option<Failure>>,
}

impl Mate<'_> {
    fn serve(&self, order: CopyOrder) {
        if let Err(failure) = self.begin(order) {
            return self.fail(failure);
        }
        while !self.is_over() {
            let done = match self.desk.next() {
                Some(ShareOrder::Copy(order)) => self.begin(*order),
                Some(ShareOrder::Take { within, shares }) if within == self.staging => {
                    shares.into_iter().for_each(|share| self.take(share));
                    Ok(())
                }
                // Said to an earlier beginning of this worker.
                Some(_) | None => Ok(()),
            };
            if let Err(failure) = done {
                return self.fail(failure);
            }
        }
    }

    /// The next part, or how far it is with this one.
    fn begin(&self, order: CopyOrder) -> Result<(), Failure> {
        let is_known = self.books().part.as_ref().is_some_and(|part| part.first == order.first);
        if !is_known {
            let ready = self.copier.ready(&order.part)?.map(Arc::new);
            let count = u32::try_from(order.part.objects.count()).unwrap_or(u32::MAX);
            *self.books() =
                Books { part: Some(Part { first: order.first, count, ready }), taken: BTreeSet::new() };
            self.tasks.clear();
        }
        self.desk.say(ShareReport::Assisting {
            staging: self.staging,
            slots: u16::try_from(self.slots).unwrap_or(u16::MAX),
            taken: self.books().taken.iter().copied().collect(),
        });
        Ok(())
    }

    fn take(&self, share: ShareId) {
        let mut books = self.books();
        let Some(part) = books.part.clone() else { return };
        let is_of_this_part = share.0.checked_sub(part.first.0).is_some_and(|at| at < part.count);
        if is_of_this_part && books.taken.insert(share) {
            drop(books);
            self.tasks.push((share, part));
        }
    }

    fn work(&self) {
        while !self.is_over() {
            let Some((share, part)) = self.tasks.next_unless(|| self.is_over()) else { continue };
            let said = match &part.ready {
                Some(ready) => self.copier.copy(ready, (share.0 - part.first.0) as usize),
                None => Ok(Said::Present),
            };
            match said {
                Ok(said) => self.say(share, said),
                Err(failure) => self.fail(failure),
            }
        }
    }

    fn say(&self, share: ShareId, said: Said) {
        self.books().taken.remove(&share);
        let staged = StagedShare { share, crcs: Vec::new(), was_there: said != Said::Copied };
        self.desk.say(ShareReport::Staged { staging: self.staging, staged });
    }

    fn fail(&self, failure: Failure) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }

    fn is_over(&self) -> bool {
        let has_failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        has_failed || self.stop.is_cancelled()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
