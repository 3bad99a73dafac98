//! Gathers blocks into frames, compresses each full frame once and hands it to every repository.

use super::outgoing::Outgoing;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::object::{FRAME_RAW_BYTES, TAG_BYTES};
use pgconvoy_core::format::pack::BlockRun;
use pgconvoy_repository::codec::Compressor;

pub(super) struct FramePacker<'a> {
    raw: &'a mut Vec<u8>,
    filled: usize,
    frame: u32,
    compressor: &'a mut Compressor,
    outgoing: &'a mut [Outgoing],
}

impl<'a> FramePacker<'a> {
    /// `raw` is the slot's buffer, kept between units so that it is zeroed once.
    pub(super) fn new(
        raw: &'a mut Vec<u8>,
        compressor: &'a mut Compressor,
        outgoing: &'a mut [Outgoing],
    ) -> Self {
        raw.resize(FRAME_RAW_BYTES, 0);
        FramePacker { raw, filled: 0, frame: 0, compressor, outgoing }
    }

    /// Free space for whole blocks in the current frame, one at least; and how many bytes that is.
    pub(super) fn room(&mut self, block_size: usize) -> Result<(&mut [u8], usize), Failure> {
        if self.raw.len() - self.filled < block_size {
            self.flush()?;
        }
        let room = (self.raw.len() - self.filled) / block_size * block_size;
        Ok((&mut self.raw[self.filled..self.filled + room], room))
    }

    /// Keeps `bytes` of the free space, and tells where they lie.
    pub(super) fn take(&mut self, bytes: usize, block_size: usize) -> BlockRun {
        let number = |value: usize| u32::try_from(value).expect("a frame is far below 4 GiB");
        let run = BlockRun(number(bytes.div_ceil(block_size)), 0, self.frame, number(self.filled));
        self.filled += bytes;
        run
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        if self.filled == 0 {
            return Ok(());
        }
        let raw = &self.raw[..self.filled];
        let mut stored = Vec::with_capacity(self.filled / 2 + TAG_BYTES);
        let codec = self.compressor.compress(raw, &mut stored)?;
        let raw_bytes = u32::try_from(self.filled).expect("a frame is far below 4 GiB");
        // Sealing works in place: all but the last get a copy.
        if let Some((last, others)) = self.outgoing.split_last_mut() {
            for one in others {
                let mut copy = Vec::with_capacity(stored.len() + TAG_BYTES);
                copy.extend_from_slice(&stored);
                one.frame(codec, raw_bytes, copy);
            }
            last.frame(codec, raw_bytes, stored);
        }
        if let Some(failure) = self.nobody_left() {
            return Err(failure);
        }
        self.filled = 0;
        self.frame += 1;
        Ok(())
    }

    /// Reading on for no repository at all would be work for nothing.
    fn nobody_left(&self) -> Option<Failure> {
        let first = self.outgoing.first().map(Outgoing::failure);
        match first {
            None => Some(Failure::new(ErrorCode::Assert, "a unit was ordered for no repository")),
            Some(None) => None,
            Some(Some(failed)) => {
                self.outgoing.iter().all(|one| one.failure().is_some()).then_some(failed.failure)
            }
        }
    }
}
