//! Gathers blocks into a frame. Blocks may be read straight into its free space, and those that nobody needs are closed over.

use pgconvoy_core::format::object::FRAME_RAW_BYTES;
use std::ops::Range;

/// Where a block lies that this pack holds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub frame: u32,
    pub skip: u32,
}

pub(super) struct FramePacker {
    raw: Vec<u8>,
    filled: usize,
    frame: u32,
}

impl FramePacker {
    /// `raw` is a buffer that a slot keeps between units, so that it is zeroed once.
    pub(super) fn new(mut raw: Vec<u8>) -> Self {
        raw.resize(FRAME_RAW_BYTES, 0);
        FramePacker { raw, filled: 0, frame: 0 }
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.raw
    }

    pub(super) fn has_room(&self, block_size: usize) -> bool {
        self.raw.len() - self.filled >= block_size
    }

    /// Free space for whole blocks.
    pub(super) fn room(&mut self, block_size: usize) -> &mut [u8] {
        let room = (self.raw.len() - self.filled) / block_size * block_size;
        &mut self.raw[self.filled..self.filled + room]
    }

    /// The first bytes of the free space, as they were read.
    pub(super) fn read(&self, range: Range<usize>) -> &[u8] {
        &self.raw[self.filled..][range]
    }

    /// Keeps a block that was read to `from` of the free space; what was before it, and is not kept, gives way. Answers with
    /// its place, and how far the free space has moved.
    pub(super) fn keep(&mut self, from: Range<usize>) -> (Place, usize) {
        let (begin, length) = (self.filled + from.start, from.len());
        if from.start > 0 {
            self.raw.copy_within(begin..begin + length, self.filled);
        }
        (self.took(length), length)
    }

    /// Copies a block into the free space.
    pub(super) fn add(&mut self, block: &[u8]) -> Place {
        self.raw[self.filled..self.filled + block.len()].copy_from_slice(block);
        self.took(block.len())
    }

    fn took(&mut self, length: usize) -> Place {
        let place = Place { frame: self.frame, skip: number(self.filled) };
        self.filled += length;
        place
    }

    /// What was gathered; the next frame begins. `None`: nothing was.
    pub(super) fn take_frame(&mut self) -> Option<&[u8]> {
        let filled = std::mem::take(&mut self.filled);
        if filled == 0 {
            return None;
        }
        self.frame += 1;
        Some(&self.raw[..filled])
    }
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("a frame is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_is_closed_over() {
        let mut packer = FramePacker::new(Vec::new());
        packer.room(4)[..12].copy_from_slice(b"aaaabbbbcccc");
        // The first is not kept, the others are.
        let (second, moved) = packer.keep(4..8);
        assert_eq!((second, moved), (Place { frame: 0, skip: 0 }, 4));
        let (third, _) = packer.keep(8 - moved..12 - moved);
        assert_eq!(third, Place { frame: 0, skip: 4 });
        assert_eq!(packer.take_frame(), Some(&b"bbbbcccc"[..]));
        assert_eq!(packer.take_frame(), None);
        assert_eq!(packer.add(b"dd"), Place { frame: 1, skip: 0 });
    }
}
