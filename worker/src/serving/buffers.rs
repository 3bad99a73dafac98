//! What files are read into on their way to compute workers: filled, sent, and filled again. Memory that is had anew for each
//! chunk costs the database's host the zeroing of all of it.

use super::protocol::CHUNK_BYTES;
use bytes::Bytes;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers that lie idle at most: 3.75 MiB.
const IDLE_MAX: usize = 16;
/// Of less than this, a whole buffer would hold much more than it carries until it was sent.
const POOLED_MIN: u32 = CHUNK_BYTES / 2;

/// Clones share it.
#[derive(Clone, Default)]
pub(super) struct Buffers {
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Room for one chunk. Its bytes are somebody's earlier ones until they are written over.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Where it goes afterwards; `None`: nowhere.
    home: Option<Buffers>,
}

impl Buffers {
    pub(super) fn take(&self, length: u32) -> Buffer {
        let length = length as usize;
        if !(POOLED_MIN as usize..=CHUNK_BYTES as usize).contains(&length) {
            return Buffer { bytes: vec![0; length], home: None };
        }
        let bytes = self.idle().pop().unwrap_or_default();
        let mut buffer = Buffer { bytes, home: Some(self.clone()) };
        buffer.bytes.resize(length, 0);
        buffer
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Only the first bytes were filled.
    pub(super) fn truncate(&mut self, filled: usize) {
        self.bytes.truncate(filled);
    }

    /// To be sent. Nothing is copied.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let mut idle = home.idle();
        if idle.len() < IDLE_MAX {
            idle.push(mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &Buffers, length: u32, with: u8) -> Bytes {
        let mut buffer = buffers.take(length);
        buffer.as_mut_slice().fill(with);
        buffer.freeze()
    }

    #[test]
    fn a_buffer_comes_back_once_nobody_sends_from_it() {
        let buffers = Buffers::default();
        let (one, other) = (filled(&buffers, CHUNK_BYTES, 1), filled(&buffers, CHUNK_BYTES, 2));
        let part = one.slice(10..20);
        drop(one);
        assert_eq!(buffers.idle().len(), 0, "a part of it is still on its way");
        drop(other);
        assert_eq!(buffers.idle().len(), 1);
        let mut shorter = buffers.take(POOLED_MIN);
        assert_eq!((shorter.len(), buffers.idle().len()), (POOLED_MIN as usize, 0));
        shorter.truncate(3);
        assert_eq!(shorter.freeze().len(), 3);
        assert_eq!(part[..], [1; 10], "who still has bytes has its own");
    }

    #[test]
    fn what_lies_idle_is_bounded_and_small_answers_keep_no_large_buffer() {
        let buffers = Buffers::default();
        let many: Vec<Bytes> = (0..2 * IDLE_MAX).map(|_| filled(&buffers, CHUNK_BYTES, 0)).collect();
        drop(many);
        assert_eq!(buffers.idle().len(), IDLE_MAX);
        drop(filled(&buffers, POOLED_MIN - 1, 0));
        assert_eq!(buffers.idle().len(), IDLE_MAX);
    }
}
