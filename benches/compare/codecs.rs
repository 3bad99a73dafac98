//! What archiving cannot be quicker than with the same codec and level: segments that lie in memory, hashed and compressed frame
//! by frame on as many threads.

use crate::measure::Cost;
use crate::plain::for_each;
use crate::rounds::Turn;
use crate::stage::settle;
use crate::support::Result;
use pgconvoy_core::format::object::FRAME_RAW_BYTES;
use pgconvoy_repository::codec::{Codec, Compressor};
use sha1::{Digest, Sha1};
use std::hint::black_box;
use std::path::PathBuf;

pub(crate) fn turn(segments: &[PathBuf], threads: u32) -> Result<Turn> {
    let segments = segments.iter().map(std::fs::read).collect::<std::io::Result<Vec<Vec<u8>>>>()?;
    settle();
    let (cost, ()) = Cost::of(|| for_each(&segments, threads, |segment| hash_and_compress(segment)))?;
    Ok(Turn { cost, memory: 0 })
}

fn hash_and_compress(segment: &[u8]) -> Result<()> {
    let mut compressor = Compressor::new(Codec::Zst, Codec::Zst.default_level())?;
    let (mut sha1, mut stored) = (Sha1::new(), Vec::new());
    for frame in segment.chunks(FRAME_RAW_BYTES) {
        stored.clear();
        sha1.update(frame);
        compressor.compress(frame, &mut stored)?;
        black_box(&stored);
    }
    black_box(sha1.finalize());
    Ok(())
}
