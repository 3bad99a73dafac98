//! What the slots take: packs of the shares that this worker was given.

use super::data::Work;
use super::error::RestoreError;
use super::existing;
use crate::desk::POLL;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::ids::{Identity, ShareId, WorkerName};
use pgconvoy_core::plan::restore::PackWork;
use pgconvoy_core::plan::shares::{Share, Shares};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What files belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Of the main worker, which nobody gave it.
    Own,
    Share(ShareId),
    /// Staged by a mate.
    Adopted {
        share: ShareId,
        mate: WorkerName,
        staging: Identity,
    },
}

/// A part of the restore on its way to the disk.
#[derive(Debug)]
pub(super) struct InHand {
    pub(super) part: Part,
    /// Files that are not durable yet, and handles of large parts that wait for their sync.
    left: AtomicUsize,
}

impl InHand {
    pub(super) fn new(part: Part, files: usize) -> Arc<InHand> {
        Arc::new(InHand { part, left: AtomicUsize::new(files) })
    }

    /// A handle of a file that is not whole yet goes to be synced.
    pub(super) fn one_more(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    /// One more is synced and closed. Whether that was the last: then nothing of the part is open any more.
    pub(super) fn is_last(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

pub(super) struct Stock<'a> {
    work: &'a Work<'a>,
    shares: &'a Shares,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    given: VecDeque<(Arc<InHand>, Share)>,
    packs: VecDeque<(Arc<InHand>, PackWork)>,
    is_closed: bool,
}

impl<'a> Stock<'a> {
    pub(super) fn new(work: &'a Work<'a>, shares: &'a Shares) -> Self {
        Stock { work, shares, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn give(&self, in_hand: Arc<InHand>, share: Share) {
        self.lock().given.push_back((in_hand, share));
        self.changed.notify_all();
    }

    /// A share that a coordinator named.
    pub(super) fn give_numbered(&self, number: ShareId) -> Result<(), Failure> {
        let share = share_of(self.shares, number)?.clone();
        self.give(InHand::new(Part::Share(number), share.files.len()), share);
        Ok(())
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// What a slot will take next, as far as that is known.
    pub(super) fn coming(&self) -> Option<PackName> {
        let state = self.lock();
        if let Some((_, next)) = state.packs.front() {
            return Some(next.pack);
        }
        let (_, share) = state.given.front()?;
        self.shares.packs(&self.work.chosen.plan, share).first().map(|next| next.pack)
    }

    /// Waits for one; `None`: there is none any more.
    pub(super) fn next(&self) -> Result<Option<(Arc<InHand>, PackWork)>, Failure> {
        let mut state = self.lock();
        loop {
            self.work.halt.check()?;
            if let Some(next) = state.packs.pop_front() {
                return Ok(Some(next));
            }
            if let Some((in_hand, share)) = state.given.pop_front() {
                self.make_files_of_several_parts(&share)?;
                let packs = self.shares.packs(&self.work.chosen.plan, &share);
                state.packs.extend(packs.into_iter().map(|pack| (in_hand.clone(), pack)));
                continue;
            }
            if state.is_closed {
                return Ok(None);
            }
            state = self.changed.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Several slots will write to them. All others are made by the slot that fills them.
    fn make_files_of_several_parts(&self, share: &Share) -> Result<(), RestoreError> {
        let plan = &self.work.chosen.plan;
        for number in share.files.iter().filter(|number| plan.files[**number as usize].parts > 1) {
            let file = &plan.files[*number as usize];
            let path = self.work.ground.path(*number, file);
            let handle = existing::open(&path, file.size, self.work.standing)?;
            existing::set_length(&handle, &path, file.size)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn share_of(shares: &Shares, number: ShareId) -> Result<&Share, Failure> {
    shares.shared.get(number.0 as usize).ok_or_else(|| {
        let message = format!("share {number} was asked for, of {}", shares.shared.len());
        Failure::new(pgconvoy_core::failure::ErrorCode::Protocol, message)
    })
}
