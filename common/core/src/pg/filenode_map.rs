//! `pg_filenode.map`: which files hold the catalogs that cannot say so themselves.
//!
//! Only its soundness is checked: a map read while the server replaced it must not go into a backup, since nothing in the
//! WAL repairs it. A map that does not validate is read again.
//!
//! Source: `utils/cache/relmapper.c`. With 16 the map grew by two entries, which moved its CRC and its end.

use crate::failure::{Classify, ErrorCode, Retry};
use crate::pg::PgVersion;
use crate::pg::bytes::u32_at;

/// RELMAPPER_FILEMAGIC.
const MAGIC: u32 = 0x0059_2717;
const COUNT_AT: usize = 4;
const ENTRIES_AT: usize = 8;
/// A catalog's OID and the number of its file.
const ENTRY_SIZE: usize = 8;

/// Why a map is not sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilenodeMapError {
    #[error("pg_filenode.map of PostgreSQL {version} has {bytes} bytes, not {expected}")]
    Size { version: PgVersion, bytes: usize, expected: usize },
    #[error("pg_filenode.map starts with {found:08x}, not with {MAGIC:08x}")]
    Magic { found: u32 },
    #[error("pg_filenode.map counts {found} entries, more than the {most} it has room for")]
    Count { found: u32, most: usize },
    #[error("pg_filenode.map has checksum {stored:08x}, but its bytes give {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
}

/// All of them may come from a read that met a write.
impl Classify for FilenodeMapError {
    fn code(&self) -> ErrorCode {
        match self {
            FilenodeMapError::Checksum { .. } => ErrorCode::Checksum,
            _ => ErrorCode::FileInvalid,
        }
    }

    fn retry(&self) -> Retry {
        Retry::MayHelp
    }
}

/// The most entries and the size of the whole file. Before 16 four bytes of padding follow the CRC.
fn shape(version: PgVersion) -> (usize, usize) {
    if version >= PgVersion::V16 { (64, 524) } else { (62, 512) }
}

/// The size that this version gives the file, in bytes.
pub fn filenode_map_size(version: PgVersion) -> usize {
    shape(version).1
}

/// Whether these are the bytes of a whole map of this version.
pub fn validate_filenode_map(version: PgVersion, bytes: &[u8]) -> Result<(), FilenodeMapError> {
    let (most, expected) = shape(version);
    if bytes.len() != expected {
        return Err(FilenodeMapError::Size { version, bytes: bytes.len(), expected });
    }
    let magic = u32_at(bytes, 0);
    if magic != MAGIC {
        return Err(FilenodeMapError::Magic { found: magic });
    }
    let count = u32_at(bytes, COUNT_AT);
    if !usize::try_from(count).is_ok_and(|count| count <= most) {
        return Err(FilenodeMapError::Count { found: count, most });
    }
    let crc_at = ENTRIES_AT + most * ENTRY_SIZE;
    let (stored, computed) = (u32_at(bytes, crc_at), crc32c::crc32c(&bytes[..crc_at]));
    if stored != computed {
        return Err(FilenodeMapError::Checksum { stored, computed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP_15: &[u8] = include_bytes!("../../testdata/pg/pg_filenode.map_15");
    const MAP_16: &[u8] = include_bytes!("../../testdata/pg/pg_filenode.map_16");

    #[test]
    fn maps_that_servers_wrote_are_sound() {
        assert_eq!(validate_filenode_map(PgVersion::V15, MAP_15), Ok(()));
        assert_eq!(validate_filenode_map(PgVersion::V9_6, MAP_15), Ok(()));
        assert_eq!(validate_filenode_map(PgVersion::V16, MAP_16), Ok(()));
        assert_eq!(validate_filenode_map(PgVersion::V18, MAP_16), Ok(()));
    }

    #[test]
    fn a_map_of_the_other_size_is_refused_by_name() {
        let error = validate_filenode_map(PgVersion::V16, MAP_15).expect_err("512 bytes are no map of 16");
        assert_eq!(error.to_string(), "pg_filenode.map of PostgreSQL 16 has 512 bytes, not 524");
        assert!(validate_filenode_map(PgVersion::V15, MAP_16).is_err());
    }

    #[test]
    fn no_flipped_bit_before_the_end_of_the_crc_goes_unnoticed() {
        for (version, map, covered) in [(PgVersion::V15, MAP_15, 508), (PgVersion::V16, MAP_16, 524)] {
            for index in 0..covered {
                let mut damaged = map.to_vec();
                damaged[index] ^= 0x10;
                assert!(validate_filenode_map(version, &damaged).is_err(), "{version}, byte {index}");
            }
        }
    }
}
