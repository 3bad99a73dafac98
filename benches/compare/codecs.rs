//! What archiving cannot be quicker than with the same codec and level: segments read, hashed and compressed frame by frame on as
//! many threads. The files are in the page cache, and a frame is as warm in the processor's as the engine's.

use crate::measure::Cost;
use crate::plain::for_each;
use crate::rounds::Turn;
use crate::stage::settle;
use crate::support::{Result, ensure};
use pgconvoy_core::format::object::FRAME_RAW_BYTES;
use pgconvoy_repository::codec::{Codec, Compressor};
use sha1::{Digest, Sha1};
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) fn turn(segments: &[PathBuf], threads: u32) -> Result<Turn> {
    settle();
    let (cost, ()) = Cost::of(|| for_each(segments, threads, |segment| hash_and_compress(segment)))?;
    Ok(Turn { cost, memory: 0 })
}

fn hash_and_compress(segment: &Path) -> Result<()> {
    let mut file = File::open(segment)?;
    let bytes = usize::try_from(file.metadata()?.len())?;
    ensure!(bytes % FRAME_RAW_BYTES == 0, "{} has no whole frames", segment.display());
    let mut compressor = Compressor::new(Codec::Zst, Codec::Zst.default_level())?;
    let (mut sha1, mut raw, mut stored) = (Sha1::new(), vec![0; FRAME_RAW_BYTES], Vec::new());
    for _ in 0..bytes / FRAME_RAW_BYTES {
        file.read_exact(&mut raw)?;
        sha1.update(&raw);
        stored.clear();
        compressor.compress(&raw, &mut stored)?;
        black_box(&stored);
    }
    black_box(sha1.finalize());
    Ok(())
}
