//! The repository on disk: names, bytes and versions. `FORMAT.md` beside this module is the authority.
//!
//! Here are encodings only: sealing and compressing frames, and storing objects, belong to the repository package.
//!
//! Invariants
//! 1. Decoding any byte string ends in a value or an error, and allocates no more than a small multiple of its length.
//! 2. Golden files never change: a new form gets a new version number.

pub mod catalogue;
pub mod cluster;
pub mod label;
pub mod layout;
pub mod manifest;
pub mod object;
pub mod pack;
pub mod plain;
pub mod plan;
pub mod wal;

use crate::failure::{Classify, ErrorCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use label::{BackupKind, BackupLabel};
pub use object::{Cipher, FrameEntry, Kind};

/// Stored bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{what} is {found} bytes long, which is too short")]
    Short { what: &'static str, found: usize },
    #[error("{what} does not begin or end with its magic number")]
    Magic { what: &'static str },
    #[error("{what} has version {found}, and this program knows up to {known}")]
    Version { what: &'static str, found: u16, known: u16 },
    #[error("{what} does not match its checksum")]
    Checksum { what: &'static str },
    #[error("{what} is of another kind ({found:?}) than expected ({expected:?})")]
    Kind { what: &'static str, found: Kind, expected: Kind },
    #[error("{what} cannot be decoded: {reason}")]
    Decode { what: &'static str, reason: String },
    #[error("{what} contradicts itself: {reason}")]
    Inconsistent { what: &'static str, reason: String },
}

impl Classify for FormatError {
    fn code(&self) -> ErrorCode {
        match self {
            FormatError::Version { .. } => ErrorCode::Format,
            _ => ErrorCode::Checksum,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            FormatError::Version { .. } => vec!["a newer pgconvoy wrote it: use that version or a later one".into()],
            _ => vec!["the object is damaged; run verify to learn what else is, and take it from another repository".into()],
        }
    }
}

/// MessagePack with field names: for bodies, of which there is one per object.
pub fn encode_named<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("the types of this module always serialise into memory")
}

/// Reads one value and insists that nothing follows it.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, FormatError> {
    let mut rest = bytes;
    let value = decode_next(what, &mut rest)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(FormatError::Inconsistent { what, reason: format!("{} bytes follow its end", rest.len()) })
    }
}

/// Reads one value and leaves `bytes` at what follows it.
pub fn decode_next<T: DeserializeOwned>(what: &'static str, bytes: &mut &[u8]) -> Result<T, FormatError> {
    // Reading through a `Read` takes what is there: a length that lies cannot make it allocate more.
    let mut deserializer = rmp_serde::Deserializer::new(&mut *bytes);
    deserializer.set_max_depth(DECODE_DEPTH_MAX);
    let value = T::deserialize(&mut deserializer)
        .map_err(|error| FormatError::Decode { what, reason: error.to_string() })?;
    Ok(value)
}

/// Nesting of our own structures is below ten; a hostile object must not exhaust the stack.
const DECODE_DEPTH_MAX: usize = 32;

/// A keyed xxh3-128, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockHash(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl std::fmt::Display for BlockHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// The stanza's secret that keys all block hashes. Users of a database choose page contents, so an unkeyed fast hash
/// must not decide that a block is unchanged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HashSecret(#[serde(with = "serde_bytes")] Vec<u8>);

impl HashSecret {
    /// xxh3 takes its default secret's length; at least 136 are required.
    pub const BYTES: usize = 192;

    pub fn from_random_bytes(bytes: [u8; Self::BYTES]) -> Self {
        HashSecret(bytes.to_vec())
    }

    /// A decoded secret may have any length; a short one would panic deep inside the hash.
    pub fn is_valid(&self) -> bool {
        self.0.len() == Self::BYTES
    }

    pub fn hash(&self, bytes: &[u8]) -> BlockHash {
        BlockHash(xxhash_rust::xxh3::xxh3_128_with_secret(bytes, &self.0).to_be_bytes())
    }
}

impl std::fmt::Debug for HashSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashSecret(..)")
    }
}

#[cfg(test)]
mod tests;
