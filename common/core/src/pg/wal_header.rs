//! The long page header at the start of every WAL segment: whose WAL it is.
//!
//! It is how a segment of another cluster, version or segment size is kept out of an archive. Whether the records behind it
//! are sound is PostgreSQL's to find out.
//!
//! Source: `access/xlog_internal.h` (XLogLongPageHeaderData); from 10 on held against segments that servers wrote.

use crate::failure::{Classify, ErrorCode};
use crate::ids::SystemId;
use crate::pg::bytes::{u16_at, u32_at, u64_at};
use crate::pg::version::VersionError;
use crate::pg::{Lsn, PgVersion, TimelineId, WalSegmentName, WalSegmentSize};

/// So many bytes of a segment are looked at.
pub const WAL_SEGMENT_HEADER_SIZE: usize = 40;
/// XLP_LONG_HEADER.
const LONG_HEADER_FLAG: u16 = 0x0002;

/// Who wrote a segment, and which one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSegmentHeader {
    pub version: PgVersion,
    pub system_id: SystemId,
    /// The timeline of the segment's first page, the one in its name.
    pub timeline: TimelineId,
    pub start: Lsn,
    pub segment_size: WalSegmentSize,
    pub wal_page_size: u32,
}

/// Why some bytes are not the start of a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalHeaderError {
    #[error("WAL segment has {bytes} bytes, fewer than its header")]
    TooShort { bytes: usize },
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("WAL segment does not begin with a long page header")]
    NotLong,
    #[error("WAL segment's header has a segment size of {bytes} bytes, which PostgreSQL never writes")]
    SegmentSize { bytes: u32 },
    #[error("WAL segment's header has position {start}, which is not the start of a segment")]
    Start { start: Lsn },
}

impl Classify for WalHeaderError {
    fn code(&self) -> ErrorCode {
        match self {
            WalHeaderError::Version(error) => error.code(),
            _ => ErrorCode::Format,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            WalHeaderError::Version(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

impl WalSegmentHeader {
    /// Reads the first [`WAL_SEGMENT_HEADER_SIZE`] bytes of a segment.
    pub fn parse(bytes: &[u8]) -> Result<Self, WalHeaderError> {
        if bytes.len() < WAL_SEGMENT_HEADER_SIZE {
            return Err(WalHeaderError::TooShort { bytes: bytes.len() });
        }
        let version = PgVersion::from_wal_magic(u16_at(bytes, 0))?;
        if u16_at(bytes, 2) & LONG_HEADER_FLAG == 0 {
            return Err(WalHeaderError::NotLong);
        }
        let size = u32_at(bytes, 32);
        let segment_size =
            WalSegmentSize::new(size.into()).map_err(|_| WalHeaderError::SegmentSize { bytes: size })?;
        let start = Lsn(u64_at(bytes, 8));
        if !start.0.is_multiple_of(segment_size.bytes()) {
            return Err(WalHeaderError::Start { start });
        }
        Ok(WalSegmentHeader {
            version,
            system_id: SystemId(u64_at(bytes, 24)),
            timeline: TimelineId(u32_at(bytes, 4)),
            start,
            segment_size,
            wal_page_size: u32_at(bytes, 36),
        })
    }

    /// The name that a segment with this header bears. A recycled segment still has the header of its former life.
    pub fn segment_name(&self) -> WalSegmentName {
        WalSegmentName::containing(self.timeline, self.start, self.segment_size)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    /// The first 40 bytes of a segment of each version from 10, and the system identifier its server told.
    const GOLDEN: [(PgVersion, &str, u64); 9] = [
        (
            PgVersion::V10,
            "97d002000100000000000001000000000000000000000000558faa566afa036b0000000100200000",
            7711282321615916885,
        ),
        (
            PgVersion::V11,
            "98d002000100000000000002000000000000000000000000696f0d206bfa036b0000000100200000",
            7711282324994617193,
        ),
        (
            PgVersion::V12,
            "01d1020001000000000000020000000000000000000000007c4ff5cb6bfa036b0000000100200000",
            7711282327878717308,
        ),
        (
            PgVersion::V13,
            "06d1020001000000000000020000000000000000000000008adfd37e6cfa036b0000000100200000",
            7711282330879647626,
        ),
        (
            PgVersion::V14,
            "0dd102000100000000000002000000000000000000000000985fe3376dfa036b0000000100200000",
            7711282333984448408,
        ),
        (
            PgVersion::V15,
            "10d102000100000000000002000000000000000000000000c1affe086efa036b0000000100200000",
            7711282337492676545,
        ),
        (
            PgVersion::V16,
            "13d102000100000000000002000000000000000000000000cfefba986efa036b0000000100200000",
            7711282339904155599,
        ),
        (
            PgVersion::V17,
            "16d102000100000000000002000000000000000000000000dd0f46566ffa036b0000000100200000",
            7711282343084167133,
        ),
        (
            PgVersion::V18,
            "18d102000100000000000002000000000000000000000000eb1f910470fa036b0000000100200000",
            7711282346008322027,
        ),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_header_of_every_version_from_10_reads_as_its_server_said() {
        for (version, hex, system_id) in GOLDEN {
            let header = WalSegmentHeader::parse(&bytes(hex)).unwrap();
            assert_eq!(
                (header.version, header.system_id, header.timeline),
                (version, SystemId(system_id), TimelineId(1))
            );
            assert_eq!((header.segment_size, header.wal_page_size), (WalSegmentSize::DEFAULT, 8192));
        }
        let name = WalSegmentHeader::parse(&bytes(GOLDEN[8].1)).unwrap().segment_name();
        assert_eq!(name.to_string(), "000000010000000000000002");
    }

    #[test]
    fn bytes_that_are_no_start_of_a_segment_are_refused() {
        let with = |at: usize, value: &[u8]| {
            let mut bytes = bytes(GOLDEN[5].1);
            bytes[at..at + value.len()].copy_from_slice(value);
            WalSegmentHeader::parse(&bytes).unwrap_err()
        };
        assert!(matches!(with(0, &[0xFF, 0xD2]), WalHeaderError::Version(_)));
        assert_eq!(with(2, &[0, 0]), WalHeaderError::NotLong);
        assert!(matches!(with(32, &[1]), WalHeaderError::SegmentSize { .. }));
        assert!(matches!(with(8, &[0, 0x20]), WalHeaderError::Start { .. }));
        assert_eq!(WalSegmentHeader::parse(&[0; 39]), Err(WalHeaderError::TooShort { bytes: 39 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(tail in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = WalSegmentHeader::parse(&tail);
            let _ = WalSegmentHeader::parse(&[&[0x18, 0xD1, 2, 0], tail.as_slice()].concat()).map(|header| header.segment_name());
        }
    }
}
