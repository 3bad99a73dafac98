//! The yardstick: zstd, xxh3-128 and AES-256-GCM over each frame, with nothing around them.
//!
//! The libraries are called directly, not through the project's own wrappers, whose cost is part of the engine's.

use crate::measure::thread_cpu;
use crate::pages::Pages;
use crate::support::{Result, anyhow};
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};
use pgconvoy_core::format::object::FRAME_RAW_BYTES;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;

pub(crate) const ZST_LEVEL: i32 = 3;
const SECRET: [u8; 192] = [5; 192];
const KEY: [u8; 32] = [9; 32];

/// CPU seconds of the codecs alone, and the bytes that would have been stored. The pages come from their files here too, so
/// that a frame is as warm in the cache as the engine's, but reading is not counted.
pub(crate) fn run(pages: &Pages) -> Result<(f64, usize)> {
    let mut compressor = zstd::bulk::Compressor::new(ZST_LEVEL)?;
    let cipher = Aes256Gcm::new(&KEY.into());
    let mut raw = vec![0; FRAME_RAW_BYTES];
    let mut stored = vec![0; zstd::zstd_safe::compress_bound(FRAME_RAW_BYTES)];
    let (mut frame, mut total, mut seconds) = (0u32, 0, 0.0);
    for relation in pages.files() {
        let mut file = File::open(pages.directory().join(&relation.path))?;
        let mut left = usize::try_from(relation.size)?;
        while left > 0 {
            let bytes = left.min(FRAME_RAW_BYTES);
            file.read_exact(&mut raw[..bytes])?;
            left -= bytes;
            let begin = thread_cpu();
            black_box(xxhash_rust::xxh3::xxh3_128_with_secret(&raw[..bytes], &SECRET));
            let length = compressor.compress_to_buffer(&raw[..bytes], stored.as_mut_slice())?;
            let tag = cipher
                .encrypt_inout_detached(&nonce(frame), &[], (&mut stored[..length]).into())
                .map_err(|_| anyhow!("a frame is too large for AES-GCM"))?;
            black_box(tag);
            seconds += thread_cpu() - begin;
            total += length;
            frame += 1;
        }
    }
    Ok((seconds, total))
}

fn nonce(frame: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let [a, b, c, d] = frame.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d].into()
}
