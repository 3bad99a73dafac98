//! What an object holds: bytes in pieces that it shares with the objects it was composed of, so that large ones take their room once.

use hyper::body::Bytes;
use md5::{Digest as _, Md5};
use std::ops::Range;

#[derive(Debug, Clone, Default)]
pub struct Body {
    pieces: Vec<Bytes>,
    size: usize,
}

impl From<Bytes> for Body {
    fn from(piece: Bytes) -> Body {
        Body { size: piece.len(), pieces: vec![piece] }
    }
}

impl Body {
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn append(&mut self, other: &Body) {
        self.pieces.extend_from_slice(&other.pieces);
        self.size += other.size;
    }

    /// Of all bytes in turn: what a client combines of its parts' checksums is compared with it.
    pub fn crc32c(&self) -> u32 {
        self.pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece))
    }

    pub fn md5(&self) -> [u8; 16] {
        let summed = self.pieces.iter().fold(Md5::new(), |sum, piece| sum.chain_update(piece));
        summed.finalize().into()
    }

    /// What lies in one piece is shared, anything else is put together.
    pub fn range(&self, range: Range<usize>) -> Bytes {
        let mut found = Vec::new();
        let mut begin = 0;
        for piece in &self.pieces {
            let (first, last) = (range.start.max(begin), range.end.min(begin + piece.len()));
            if first < last {
                found.push(piece.slice(first - begin..last - begin));
            }
            begin += piece.len();
        }
        if found.len() == 1 { found.remove(0) } else { found.concat().into() }
    }

    pub fn whole(&self) -> Bytes {
        self.range(0..self.size)
    }
}
