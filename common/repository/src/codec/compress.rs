//! One direction: raw bytes to a stored frame.

use super::{Codec, CodecError, FOOTER_RAW_BYTES_MAX, FRAME_RAW_BYTES_MAX, Level, check_limit};
use flate2::{Compress as Deflate, Compression, FlushCompress};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use std::fmt;
use std::io::Cursor;

/// zlib's base-2 logarithm of the window: the largest, which is what `gzip` uses.
const GZ_WINDOW_BITS: u8 = 15;
/// What zlib means by level -1.
const GZ_LEVEL_DEFAULT: u32 = 6;
/// 0 lets libbz2 choose when to leave its fast sort.
const BZ2_WORK_FACTOR_DEFAULT: u32 = 0;
/// zstd's level 3 looks matches up in two tables. Its own sizes, 256 KiB and 512 KiB for a frame of 1 MiB, miss the caches of a
/// core: these leave room there for the frame. Measured with frames of 1 MiB: up to 40 % faster, hardly so what shrinks to less than a
/// tenth, and from 1.5 % smaller (WAL of documents) to 2 % larger (WAL of rows that are nearly the same).
const ZST_LEVEL_DEFAULT: i32 = Codec::Zst.default_level().get();
const ZST_SHORT_TABLE_LOG: u32 = 13;
const ZST_LONG_TABLE_LOG: u32 = 15;
/// Room for the wrappers of gzip and bzip2 around data that do not shrink.
const WRAPPER_BYTES: usize = 1024;

/// Compresses frames with one codec and level, and keeps the codec's tables between them.
pub struct Compressor {
    codec: Codec,
    context: Context,
}

enum Context {
    None,
    Lz4(CompressTable),
    Zst(zstd::bulk::Compressor<'static>),
    Gz(Deflate),
    /// libbz2 cannot reset a context, so each frame makes its own.
    Bz2(bzip2::Compression),
}

impl Compressor {
    /// lz4 has one speed here: its level is accepted, as pgBackRest's configurations carry one, and changes nothing.
    pub fn new(codec: Codec, level: Level) -> Result<Self, CodecError> {
        let level = Level::new(codec, level.get())?.get();
        let context = match codec {
            Codec::None => Context::None,
            Codec::Lz4 => Context::Lz4(CompressTable::large()),
            Codec::Zst => Context::Zst(zst(level).map_err(|e| internal(codec, e))?),
            Codec::Gz => {
                let level = u32::try_from(level).unwrap_or(GZ_LEVEL_DEFAULT);
                Context::Gz(Deflate::new_gzip(Compression::new(level), GZ_WINDOW_BITS))
            }
            Codec::Bz2 => {
                let level = u32::try_from(level).expect("levels of bzip2 are positive");
                Context::Bz2(bzip2::Compression::new(level))
            }
        };
        Ok(Compressor { codec, context })
    }

    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Appends `raw` as one frame of at most [`FRAME_RAW_BYTES_MAX`] raw bytes and says how it is stored: with this
    /// compressor's codec, or with [`Codec::None`] where that is not shorter.
    pub fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<Codec, CodecError> {
        check_limit(raw.len(), FRAME_RAW_BYTES_MAX)?;
        self.append(raw, out)
    }

    /// The same with the limit of a footer.
    pub fn compress_footer(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<Codec, CodecError> {
        check_limit(raw.len(), FOOTER_RAW_BYTES_MAX)?;
        self.append(raw, out)
    }

    fn append(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<Codec, CodecError> {
        let start = out.len();
        let result = match &mut self.context {
            Context::None => Ok(()),
            Context::Lz4(table) => append_lz4(table, raw, out),
            Context::Zst(context) => append_zst(context, raw, out),
            Context::Gz(context) => append_gz(context, raw, out),
            Context::Bz2(level) => append_bz2(*level, raw, out),
        };
        if let Err(error) = result {
            out.truncate(start);
            return Err(error);
        }
        if self.codec != Codec::None && out.len() - start < raw.len() {
            return Ok(self.codec);
        }
        out.truncate(start);
        out.extend_from_slice(raw);
        Ok(Codec::None)
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish_non_exhaustive()
    }
}

fn internal(codec: Codec, reason: impl fmt::Display) -> CodecError {
    CodecError::Internal { codec, reason: reason.to_string() }
}

fn zst(level: i32) -> std::io::Result<zstd::bulk::Compressor<'static>> {
    let mut context = zstd::bulk::Compressor::new(level)?;
    if level == ZST_LEVEL_DEFAULT {
        context.set_parameter(zstd::zstd_safe::CParameter::ChainLog(ZST_SHORT_TABLE_LOG))?;
        context.set_parameter(zstd::zstd_safe::CParameter::HashLog(ZST_LONG_TABLE_LOG))?;
    }
    Ok(context)
}

fn append_lz4(table: &mut CompressTable, raw: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    let start = out.len();
    out.resize(start + get_maximum_output_size(raw.len()), 0);
    let stored =
        compress_into_with_table(raw, &mut out[start..], table).map_err(|e| internal(Codec::Lz4, e))?;
    out.truncate(start + stored);
    Ok(())
}

/// One call per frame, so that zstd knows the size, fits its tables to it and writes it into the frame's head. It adds
/// no checksum: the frame's tag is one.
fn append_zst(
    context: &mut zstd::bulk::Compressor<'static>,
    raw: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
    let mut end = Cursor::new(&mut *out);
    end.set_position(u64::try_from(end.get_ref().len()).expect("a length fits 64 bits"));
    context.compress_to_buffer(raw, &mut end).map_err(|e| internal(Codec::Zst, e))?;
    Ok(())
}

fn append_gz(context: &mut Deflate, raw: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    context.reset();
    out.reserve(raw.len() + raw.len() / 8 + WRAPPER_BYTES);
    let mut taken = 0;
    loop {
        let before = context.total_in();
        let status = context
            .compress_vec(&raw[taken..], out, FlushCompress::Finish)
            .map_err(|e| internal(Codec::Gz, e))?;
        if status == flate2::Status::StreamEnd {
            return Ok(());
        }
        taken += usize::try_from(context.total_in() - before).expect("no more was taken than was given");
        out.reserve(WRAPPER_BYTES);
    }
}

fn append_bz2(level: bzip2::Compression, raw: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mut context = bzip2::Compress::new(level, BZ2_WORK_FACTOR_DEFAULT);
    out.reserve(raw.len() + raw.len() / 8 + WRAPPER_BYTES);
    let mut taken = 0;
    loop {
        let before = context.total_in();
        let status = context
            .compress_vec(&raw[taken..], out, bzip2::Action::Finish)
            .map_err(|e| internal(Codec::Bz2, e))?;
        if status == bzip2::Status::StreamEnd {
            return Ok(());
        }
        taken += usize::try_from(context.total_in() - before).expect("no more was taken than was given");
        out.reserve(WRAPPER_BYTES);
    }
}
