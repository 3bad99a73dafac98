//! How many threads compress, over all pushes that share a number.
//!
//! A push has always one of its own: a file never waits for another, which may be on its way to a store that hangs. It
//! takes further ones only while less than the number are at work, so that a file that is pushed alone gets all of them
//! and files that are pushed side by side have one each.
//!
//! What they work with is kept for the next file: memory that a process gets anew costs more than filling it.

use super::PushManner;
use crate::codec::{Codec, CodecError, Compressor, Level};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clones share it.
#[derive(Debug, Clone)]
pub struct Threads {
    wanted: usize,
    running: Arc<AtomicUsize>,
    kept: Arc<Mutex<Kept>>,
}

/// As many as were in use at once, and no more.
#[derive(Debug, Default)]
struct Kept {
    compressors: Vec<(Codec, Level, Compressor)>,
    buffers: Vec<Vec<u8>>,
}

impl Threads {
    pub fn new(wanted: usize) -> Threads {
        Threads { wanted, running: Arc::default(), kept: Arc::default() }
    }

    /// Nothing is left half done by a panic: each change is one call.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer whose content does not matter.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.kept().buffers.pop().unwrap_or_default()
    }

    pub(super) fn keep_buffers(&self, buffers: impl IntoIterator<Item = Vec<u8>>) {
        self.kept().buffers.extend(buffers);
    }

    pub(super) fn compressor(&self, manner: &PushManner) -> Result<Compressor, CodecError> {
        let (codec, level) = (manner.codec, manner.level);
        let compressors = &mut self.kept().compressors;
        match compressors.iter().rposition(|(of, at, _)| (*of, *at) == (codec, level)) {
            Some(at) => Ok(compressors.swap_remove(at).2),
            None => Compressor::new(codec, level),
        }
    }

    pub(super) fn keep_compressor(&self, manner: &PushManner, compressor: Compressor) {
        self.kept().compressors.push((manner.codec, manner.level, compressor));
    }

    /// The one that every push has.
    pub(super) fn first(&self) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.running.clone())
    }

    /// One more, if fewer than wanted run.
    pub(super) fn further(&self) -> Option<Running> {
        let more = |running| (running < self.wanted).then_some(running + 1);
        let grown = self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        grown.ok().map(|_| Running(self.running.clone()))
    }
}

/// Counts until it is dropped.
#[derive(Debug)]
pub(super) struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_push_has_one_and_whoever_is_alone_has_all() {
        let threads = Threads::new(3);
        let alone = threads.first();
        let further = [threads.further(), threads.further()];
        assert!(further.iter().all(Option::is_some) && threads.further().is_none());
        let another = threads.clone().first();
        drop(further);
        assert!(threads.further().is_some(), "two of three run");
        drop((alone, another));
        let none = Threads::new(0);
        let _first = none.first();
        assert!(none.further().is_none());
    }
}
