//! Threads that make files durable while the slots go on.
//!
//! A sync makes the journal write out all files that were created before it: of files that wait in the queue together, the
//! first one pays and the others find their work done. The queue's length bounds open files and unwritten pages.

use super::data::Halt;
use super::error::{Action, RestoreError};
use super::stock::InHand;
use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Far below the usual limit of 1024 open files.
const QUEUE_FILES: usize = 128;

pub(super) enum Job {
    /// All of it is written, and it has its owner, mode and time.
    Whole(File, PathBuf, Arc<InHand>),
    /// A large part is written: the disk may begin.
    Part(File, PathBuf, Arc<InHand>),
}

#[derive(Debug, Clone)]
pub(super) struct SyncQueue(SyncSender<Job>);

#[derive(Debug)]
pub(super) struct Waiting(Mutex<Receiver<Job>>);

pub(super) fn queue() -> (SyncQueue, Waiting) {
    let (sender, receiver) = sync_channel(QUEUE_FILES);
    (SyncQueue(sender), Waiting(Mutex::new(receiver)))
}

impl SyncQueue {
    /// Waits for room.
    pub(super) fn push(&self, job: Job) {
        // The receiver outlives all slots: it ends when the last queue is dropped.
        let _ = self.0.send(job);
    }
}

/// Until the last queue is dropped. After a failure the rest is only taken off, so that nobody waits for room. `durable` hears
/// of each part of the restore whose last file is on disk, and closed.
pub(super) fn serve(waiting: &Waiting, halt: &Halt, durable: &(dyn Fn(&InHand) + Sync)) {
    while let Some(job) = next(waiting) {
        if halt.is_set() {
            continue;
        }
        let (result, path, in_hand) = match job {
            Job::Whole(file, path, in_hand) => (file.sync_all(), path, in_hand),
            Job::Part(file, path, in_hand) => (file.sync_data(), path, in_hand),
        };
        match result {
            Err(source) => halt.set(RestoreError::File { action: Action::Sync, path, source }.into()),
            Ok(()) if in_hand.is_last() => durable(&in_hand),
            Ok(()) => {}
        }
    }
}

fn next(waiting: &Waiting) -> Option<Job> {
    waiting.0.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
