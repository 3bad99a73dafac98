//! The container of every object: header, frames, footer, trailer (`FORMAT.md` section 2).

use super::FormatError;
use crate::ids::KeyGeneration;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

pub const HEADER_BYTES: usize = 64;
pub const TRAILER_BYTES: usize = 32;
/// Both ciphers' tags have this length, so that stored lengths do not depend on the cipher.
pub const TAG_BYTES: usize = 16;
/// A reader allocates a frame before it can know that it is sound.
pub const FRAME_RAW_BYTES_MAX: u32 = 8 << 20;
/// Bounds what a footer may expand to; a pack of 32 MiB has one of some 20 KiB.
pub const FOOTER_RAW_BYTES_MAX: u32 = 256 << 20;
/// Data frames close at this size: larger ones compress little better and cost a restore of one block more.
pub const FRAME_RAW_BYTES: usize = 1 << 20;

const CONTAINER_VERSION: u16 = 1;
const MAGIC_HEAD: &[u8; 8] = b"PGCONVOY";
const MAGIC_TAIL: &[u8; 8] = b"YOVNOCGP";

/// What an object is. Numbers are stored: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    Repository = 1,
    KeySlot = 2,
    Cluster = 3,
    Plan = 4,
    Pack = 5,
    Stop = 6,
    Manifest = 7,
    Catalogue = 8,
    Wal = 9,
    Heartbeat = 10,
    Dropped = 20,
    Copy = 21,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Repository,
        Kind::KeySlot,
        Kind::Cluster,
        Kind::Plan,
        Kind::Pack,
        Kind::Stop,
        Kind::Manifest,
        Kind::Catalogue,
        Kind::Wal,
        Kind::Heartbeat,
        Kind::Dropped,
        Kind::Copy,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Repository => "repository identity",
            Kind::KeySlot => "key slot",
            Kind::Cluster => "cluster object",
            Kind::Plan => "plan",
            Kind::Pack => "pack",
            Kind::Stop => "stop record",
            Kind::Manifest => "manifest",
            Kind::Catalogue => "catalogue entry",
            Kind::Wal => "WAL object",
            Kind::Heartbeat => "heartbeat",
            Kind::Dropped => "record of dropped WAL",
            Kind::Copy => "record of a copy",
        }
    }

    /// The newest format version of this kind, which is the one written.
    pub const fn version(self) -> u8 {
        1
    }

    /// Identity and key slots must be readable before there is a key; slots authenticate what they wrap.
    pub const fn is_always_plain(self) -> bool {
        matches!(self, Kind::Repository | Kind::KeySlot)
    }

    fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    #[serde(rename = "none")]
    None,
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
}

impl Cipher {
    pub const fn name(self) -> &'static str {
        match self {
            Cipher::None => "none",
            Cipher::Aes256Gcm => "aes-256-gcm",
        }
    }
}

/// How frames of one object are sealed, as its header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    None,
    Aes256Gcm { generation: KeyGeneration, salt: [u8; 32] },
}

impl Protection {
    pub const fn cipher(&self) -> Cipher {
        match self {
            Protection::None => Cipher::None,
            Protection::Aes256Gcm { .. } => Cipher::Aes256Gcm,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub version: u8,
    pub protection: Protection,
}

impl Header {
    pub fn new(kind: Kind, protection: Protection) -> Self {
        Header { kind, version: kind.version(), protection }
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC_HEAD);
        bytes[8..10].copy_from_slice(&CONTAINER_VERSION.to_be_bytes());
        bytes[10] = self.kind as u8;
        bytes[11] = self.version;
        if let Protection::Aes256Gcm { generation, salt } = &self.protection {
            bytes[12] = 1;
            bytes[16..20].copy_from_slice(&generation.0.to_be_bytes());
            bytes[24..56].copy_from_slice(salt);
        }
        let sum = xxh3_64(&bytes[..56]);
        bytes[56..64].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Checks magic, checksum, versions and that every reserved byte is zero.
    pub fn decode(bytes: &[u8]) -> Result<Header, FormatError> {
        const WHAT: &str = "object header";
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(FormatError::Short { what: WHAT, found: bytes.len() });
        };
        if &bytes[0..8] != MAGIC_HEAD {
            return Err(FormatError::Magic { what: WHAT });
        }
        if bytes[56..64] != xxh3_64(&bytes[..56]).to_be_bytes() {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let container = u16::from_be_bytes([bytes[8], bytes[9]]);
        if container != CONTAINER_VERSION {
            return Err(FormatError::Version { what: WHAT, found: container, known: CONTAINER_VERSION });
        }
        let inconsistent = |reason: String| FormatError::Inconsistent { what: WHAT, reason };
        let kind = Kind::from_number(bytes[10])
            .ok_or_else(|| inconsistent(format!("unknown kind {}", bytes[10])))?;
        let version = bytes[11];
        if version == 0 || version > kind.version() {
            return Err(FormatError::Version {
                what: kind.name(),
                found: u16::from(version),
                known: u16::from(kind.version()),
            });
        }
        let generation = KeyGeneration(be_u32(bytes, 16));
        let mut salt = [0u8; 32];
        salt.copy_from_slice(&bytes[24..56]);
        let protection = match bytes[12] {
            0 if generation.0 == 0 && salt == [0; 32] => Protection::None,
            1 if generation.0 > 0 => Protection::Aes256Gcm { generation, salt },
            other => return Err(inconsistent(format!("cipher {other} with generation {generation}"))),
        };
        if bytes[13..16] != [0; 3] || bytes[20..24] != [0; 4] {
            return Err(inconsistent("reserved bytes are in use".into()));
        }
        Ok(Header { kind, version, protection })
    }

    /// What a frame's tag binds besides its content: which object, in which repository. The frame's number and its
    /// last-flag follow.
    pub fn associated_data(
        encoded: &[u8; HEADER_BYTES],
        repository: &[u8; 16],
        object_name: &str,
    ) -> Vec<u8> {
        let length = u32::try_from(object_name.len()).expect("object names are bounded far below 4 GiB");
        let mut data = Vec::with_capacity(HEADER_BYTES + 16 + 4 + object_name.len() + 5);
        data.extend_from_slice(encoded);
        data.extend_from_slice(repository);
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(object_name.as_bytes());
        data
    }
}

/// Where the footer is. Read first; it is the last thing written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    pub footer_offset: u64,
    pub footer_stored: u32,
    pub frames: u32,
}

impl Trailer {
    pub fn encode(&self, header: &[u8; HEADER_BYTES]) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0u8; TRAILER_BYTES];
        bytes[0..8].copy_from_slice(&self.footer_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.footer_stored.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.frames.to_be_bytes());
        let sum = Self::checksum(header, &bytes);
        bytes[16..24].copy_from_slice(&sum.to_be_bytes());
        bytes[24..32].copy_from_slice(MAGIC_TAIL);
        bytes
    }

    /// `object_size` is the size the store tells: a cut or lengthened object is found before anything is allocated.
    pub fn decode(
        header: &[u8; HEADER_BYTES],
        bytes: &[u8],
        object_size: u64,
    ) -> Result<Trailer, FormatError> {
        const WHAT: &str = "object trailer";
        let Some(bytes) = bytes.first_chunk::<TRAILER_BYTES>() else {
            return Err(FormatError::Short { what: WHAT, found: bytes.len() });
        };
        if &bytes[24..32] != MAGIC_TAIL {
            return Err(FormatError::Magic { what: WHAT });
        }
        if bytes[16..24] != Self::checksum(header, bytes).to_be_bytes() {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let mut offset = [0u8; 8];
        offset.copy_from_slice(&bytes[0..8]);
        let trailer = Trailer {
            footer_offset: u64::from_be_bytes(offset),
            footer_stored: be_u32(bytes, 8),
            frames: be_u32(bytes, 12),
        };
        let end = trailer
            .footer_offset
            .checked_add(u64::from(trailer.footer_stored))
            .and_then(|end| end.checked_add(TRAILER_BYTES as u64));
        if end != Some(object_size) || trailer.footer_offset < HEADER_BYTES as u64 {
            return Err(FormatError::Inconsistent {
                what: WHAT,
                reason: format!("it does not fit an object of {object_size} bytes"),
            });
        }
        Ok(trailer)
    }

    fn checksum(header: &[u8; HEADER_BYTES], trailer: &[u8; TRAILER_BYTES]) -> u64 {
        let mut hasher = Xxh3::new();
        hasher.update(header);
        hasher.update(&trailer[..16]);
        hasher.digest()
    }
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// One frame in a footer's table: `[raw length, stored length with its tag, codec]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameEntry(pub u32, pub u32, pub u8);

impl FrameEntry {
    pub const fn raw_bytes(&self) -> u32 {
        self.0
    }

    pub const fn stored_bytes(&self) -> u32 {
        self.1
    }

    pub const fn codec(&self) -> u8 {
        self.2
    }
}

/// Where each frame begins, from the table; errors if the table does not end where the footer begins.
pub fn frame_offsets(frames: &[FrameEntry], trailer: &Trailer) -> Result<Vec<u64>, FormatError> {
    const WHAT: &str = "frame table";
    let inconsistent = |reason: String| FormatError::Inconsistent { what: WHAT, reason };
    if frames.len() != trailer.frames as usize {
        return Err(inconsistent(format!(
            "it lists {} frames, the trailer {}",
            frames.len(),
            trailer.frames
        )));
    }
    let mut offsets = Vec::with_capacity(frames.len());
    let mut offset = HEADER_BYTES as u64;
    for (number, frame) in frames.iter().enumerate() {
        if frame.raw_bytes() > FRAME_RAW_BYTES_MAX || (frame.stored_bytes() as usize) < TAG_BYTES {
            return Err(inconsistent(format!("frame {number} has an impossible length")));
        }
        offsets.push(offset);
        offset += u64::from(frame.stored_bytes());
    }
    if offset != trailer.footer_offset {
        return Err(inconsistent(format!(
            "frames end at {offset}, the footer begins at {}",
            trailer.footer_offset
        )));
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests;
