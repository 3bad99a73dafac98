//! Compression of one frame at a time.
//!
//! What it is: the five codecs of the format behind one pair of types that keep their contexts between frames. What it
//! is not: a stream. A frame is compressed alone, so that a restore can fetch and open any one of them.
//!
//! Invariants
//! 1. Both directions append to the caller's buffer and leave what is in it alone, also when they fail.
//! 2. Decompressing gives exactly the length it was promised or an error. It reserves that length and a byte at
//!    most; beside it a codec's working memory is bounded by its format (bzip2: 4 MB, gzip: 64 KiB, zstd: 200 KiB).
//! 3. What would be read as too large is not written: both directions keep to the same limits.
//! 4. A frame that compression would enlarge is stored as it is, and its codec says so.
//!
//! Failure story: stored bytes come from a store that may lie. Garbage, a bomb or a cut frame ends in [`CodecError`];
//! the tag of the frame ([`crate::seal`]) has usually found it before.

mod compress;
mod decompress;

pub use compress::Compressor;
pub use decompress::Decompressor;

use pgconvoy_core::config::CompressType;
use pgconvoy_core::failure::{Classify, ErrorCode};
use pgconvoy_core::format::object;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The largest frame either direction takes.
pub const FRAME_RAW_BYTES_MAX: usize = object::FRAME_RAW_BYTES_MAX as usize;
/// The same for a footer, which is one frame whatever the size of the object.
pub const FOOTER_RAW_BYTES_MAX: usize = object::FOOTER_RAW_BYTES_MAX as usize;

/// How the bytes of a frame were compressed. The numbers are stored: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    None = 0,
    /// The block format, without a frame of its own.
    Lz4 = 1,
    Zst = 2,
    /// Deflate in a gzip wrapper.
    Gz = 3,
    Bz2 = 4,
}

impl Codec {
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Lz4, Codec::Zst, Codec::Gz, Codec::Bz2];

    pub const fn number(self) -> u8 {
        self as u8
    }

    pub fn from_number(number: u8) -> Result<Codec, CodecError> {
        Codec::ALL
            .into_iter()
            .find(|codec| codec.number() == number)
            .ok_or(CodecError::UnknownNumber { number })
    }

    pub const fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zst => "zst",
            Codec::Gz => "gz",
            Codec::Bz2 => "bz2",
        }
    }

    /// pgBackRest's ranges for `compress-level`.
    pub const fn levels(self) -> RangeInclusive<i32> {
        match self {
            Codec::None => 0..=0,
            Codec::Lz4 => -5..=12,
            Codec::Zst => -7..=22,
            Codec::Gz => -1..=9,
            Codec::Bz2 => 1..=9,
        }
    }

    pub const fn default_level(self) -> Level {
        Level(match self {
            Codec::None => 0,
            Codec::Lz4 => 1,
            Codec::Zst => 3,
            Codec::Gz => 6,
            Codec::Bz2 => 9,
        })
    }
}

/// What the configuration calls it.
impl From<CompressType> for Codec {
    fn from(configured: CompressType) -> Codec {
        match configured {
            CompressType::None => Codec::None,
            CompressType::Lz4 => Codec::Lz4,
            CompressType::Zst => Codec::Zst,
            CompressType::Gz => Codec::Gz,
            CompressType::Bz2 => Codec::Bz2,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Self, CodecError> {
        Codec::ALL
            .into_iter()
            .find(|codec| codec.name() == text)
            .ok_or_else(|| CodecError::UnknownName { name: text.to_owned() })
    }
}

/// A level that was valid for the codec it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i32);

impl Level {
    pub fn new(codec: Codec, level: i32) -> Result<Self, CodecError> {
        if codec.levels().contains(&level) {
            Ok(Level(level))
        } else {
            Err(CodecError::Level { codec, level })
        }
    }

    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("compression type '{name}' is not known")]
    UnknownName { name: String },
    #[error("codec number {number} is not known")]
    UnknownNumber { number: u8 },
    #[error("compression level {level} is outside {} to {} of {codec}", .codec.levels().start(), .codec.levels().end())]
    Level { codec: Codec, level: i32 },
    #[error("a frame of {raw_bytes} bytes is larger than the {limit_bytes} that the format allows")]
    TooLarge { raw_bytes: usize, limit_bytes: usize },
    #[error("{codec} data cannot be decompressed: {reason}")]
    Corrupt { codec: Codec, reason: String },
    #[error("{codec} data hold {found} bytes instead of {expected}")]
    Length { codec: Codec, expected: usize, found: LengthFound },
    #[error("{codec} failed to compress: {reason}")]
    Internal { codec: Codec, reason: String },
}

/// What decompressing found where another length was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthFound {
    Exactly(usize),
    /// It stopped at the limit: how many there would have been stays unknown.
    More,
}

impl fmt::Display for LengthFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LengthFound::Exactly(bytes) => bytes.fmt(f),
            LengthFound::More => f.write_str("more"),
        }
    }
}

impl Classify for CodecError {
    fn code(&self) -> ErrorCode {
        match self {
            CodecError::UnknownName { .. } | CodecError::Level { .. } => ErrorCode::OptionInvalidValue,
            CodecError::UnknownNumber { .. } | CodecError::Corrupt { .. } | CodecError::Length { .. } => {
                ErrorCode::Format
            }
            CodecError::TooLarge { .. } => ErrorCode::Format,
            CodecError::Internal { .. } => ErrorCode::Assert,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            CodecError::UnknownName { .. } => {
                vec![format!("known types are {}.", Codec::ALL.map(Codec::name).join(", "))]
            }
            CodecError::UnknownNumber { .. } => {
                vec!["a newer pgconvoy may have written it: try with that version.".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Refuses what the other side of the format would refuse.
fn check_limit(raw_bytes: usize, limit_bytes: usize) -> Result<(), CodecError> {
    if raw_bytes > limit_bytes { Err(CodecError::TooLarge { raw_bytes, limit_bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
