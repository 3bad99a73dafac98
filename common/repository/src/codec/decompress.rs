//! The other direction: a stored frame to its raw bytes.

use super::{Codec, CodecError, FOOTER_RAW_BYTES_MAX, FRAME_RAW_BYTES_MAX, LengthFound, check_limit};
use flate2::{Decompress as Inflate, FlushDecompress};
use std::fmt;
use std::io::Cursor;

const GZ_WINDOW_BITS: u8 = 15;
/// One byte of room beyond the promised length lets a decoder reach its end mark, and shows that there is more.
const ROOM_BYTES: usize = 1;

/// Decompresses frames of any codec, and keeps zstd's and gzip's contexts between them.
#[derive(Default)]
pub struct Decompressor {
    zst: Option<zstd::bulk::Decompressor<'static>>,
    gz: Option<Inflate>,
}

impl Decompressor {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the `raw_len` bytes of one frame, [`FRAME_RAW_BYTES_MAX`] at most.
    pub fn decompress(
        &mut self,
        codec: Codec,
        stored: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        check_limit(raw_len, FRAME_RAW_BYTES_MAX)?;
        self.append(codec, stored, raw_len, out)
    }

    /// The same with the limit of a footer.
    pub fn decompress_footer(
        &mut self,
        codec: Codec,
        stored: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        check_limit(raw_len, FOOTER_RAW_BYTES_MAX)?;
        self.append(codec, stored, raw_len, out)
    }

    fn append(
        &mut self,
        codec: Codec,
        stored: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let start = out.len();
        let result = match codec {
            Codec::None => append_plain(stored, raw_len, out),
            Codec::Lz4 => append_lz4(stored, raw_len, out),
            Codec::Zst => append_zst(&mut self.zst, stored, raw_len, out),
            Codec::Gz => append_gz(&mut self.gz, stored, raw_len, out),
            Codec::Bz2 => append_bz2(stored, raw_len, out),
        };
        let result = result.and_then(|()| check_length(codec, out.len() - start, raw_len));
        if result.is_err() {
            out.truncate(start);
        }
        result
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

fn corrupt(codec: Codec, reason: impl fmt::Display) -> CodecError {
    CodecError::Corrupt { codec, reason: reason.to_string() }
}

fn check_length(codec: Codec, found: usize, expected: usize) -> Result<(), CodecError> {
    if found == expected {
        return Ok(());
    }
    let found = if found > expected { LengthFound::More } else { LengthFound::Exactly(found) };
    Err(CodecError::Length { codec, expected, found })
}

fn append_plain(stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    check_length(Codec::None, stored.len(), raw_len)?;
    out.reserve_exact(raw_len);
    out.extend_from_slice(stored);
    Ok(())
}

fn append_lz4(stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    out.reserve_exact(raw_len);
    out.resize(start + raw_len, 0);
    let found =
        lz4_flex::block::decompress_into(stored, &mut out[start..]).map_err(|e| corrupt(Codec::Lz4, e))?;
    out.truncate(start + found);
    Ok(())
}

/// The size in the frame's head must be the promised one, so that a bomb is refused before anything is unpacked.
fn append_zst(
    context: &mut Option<zstd::bulk::Decompressor<'static>>,
    stored: &[u8],
    raw_len: usize,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let announced = zstd::zstd_safe::get_frame_content_size(stored)
        .map_err(|_| corrupt(Codec::Zst, "it does not start like a frame"))?
        .ok_or_else(|| corrupt(Codec::Zst, "it does not say its size"))?;
    check_length(Codec::Zst, usize::try_from(announced).unwrap_or(usize::MAX), raw_len)?;
    let context = match context {
        Some(context) => context,
        None => context.insert(zstd::bulk::Decompressor::new().map_err(|e| corrupt(Codec::Zst, e))?),
    };
    out.reserve_exact(raw_len);
    let mut end = Cursor::new(&mut *out);
    end.set_position(u64::try_from(end.get_ref().len()).expect("a length fits 64 bits"));
    context.decompress_to_buffer(stored, &mut end).map_err(|e| corrupt(Codec::Zst, e))?;
    Ok(())
}

fn append_gz(
    context: &mut Option<Inflate>,
    stored: &[u8],
    raw_len: usize,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let context = match context {
        Some(context) => {
            context.reset(true);
            context
        }
        None => context.insert(Inflate::new_gzip(GZ_WINDOW_BITS)),
    };
    out.reserve_exact(raw_len + ROOM_BYTES);
    let start = out.len();
    let status =
        context.decompress_vec(stored, out, FlushDecompress::Finish).map_err(|e| corrupt(Codec::Gz, e))?;
    let ended = status == flate2::Status::StreamEnd;
    check_end(Codec::Gz, ended, out.len() - start, raw_len, context.total_in(), stored)
}

fn append_bz2(stored: &[u8], raw_len: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mut context = bzip2::Decompress::new(false);
    out.reserve_exact(raw_len + ROOM_BYTES);
    let start = out.len();
    let status = context.decompress_vec(stored, out).map_err(|e| corrupt(Codec::Bz2, e))?;
    let ended = status == bzip2::Status::StreamEnd;
    check_end(Codec::Bz2, ended, out.len() - start, raw_len, context.total_in(), stored)
}

/// A stream decoder must have come to its end mark, and that must be where the frame ends.
fn check_end(
    codec: Codec,
    ended: bool,
    found: usize,
    raw_len: usize,
    taken: u64,
    stored: &[u8],
) -> Result<(), CodecError> {
    if found > raw_len {
        return check_length(codec, found, raw_len);
    }
    if !ended {
        return Err(corrupt(codec, "it ends too early"));
    }
    if usize::try_from(taken) != Ok(stored.len()) {
        return Err(corrupt(codec, "something follows its end"));
    }
    Ok(())
}
