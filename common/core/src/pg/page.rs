//! Pages of relations: their header and their checksum.
//!
//! Not here: reading a page again whose checksum does not hold. A page may be read while the server writes it; only a page
//! that is bad twice *and did not change in between* is corrupt.
//!
//! Invariants
//! 1. The block number in a checksum counts within the relation, over all its segments.
//! 2. A page of zeros is good: PostgreSQL extends relations with them. A page that looks new but holds anything is bad.
//!
//! Source: `storage/checksum_impl.h`, `storage/bufpage.h`, and `PageIsVerified` for what counts as valid.

use crate::pg::bytes::{array_at, u16_at, u32_at};
use crate::pg::{Lsn, PgFormatError};
use serde::{Deserialize, Serialize};

/// BLCKSZ of a cluster: a power of two from 1 to 32 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PageSize(u32);

impl PageSize {
    /// What nearly all builds use.
    pub const DEFAULT: PageSize = PageSize(8192);

    pub fn new(bytes: u32) -> Result<Self, PgFormatError> {
        if bytes.is_power_of_two() && (1 << 10..=1 << 15).contains(&bytes) {
            Ok(PageSize(bytes))
        } else {
            let reason = "it is not a power of two from 1 KiB to 32 KiB";
            Err(PgFormatError::new("page size", &bytes.to_string(), reason))
        }
    }

    pub fn bytes(self) -> u32 {
        self.0
    }

    fn len(self) -> usize {
        usize::try_from(self.0).expect("32 KiB fit every address space")
    }
}

impl TryFrom<u32> for PageSize {
    type Error = PgFormatError;
    fn try_from(bytes: u32) -> Result<Self, PgFormatError> {
        PageSize::new(bytes)
    }
}

impl From<PageSize> for u32 {
    fn from(size: PageSize) -> u32 {
        size.0
    }
}

const CHECKSUM_AT: usize = 8;
const LOWER_AT: usize = 12;
const UPPER_AT: usize = 14;
const HEADER_SIZE: usize = 24;

/// The fields at the start of a page that matter outside the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// The end of the last WAL record that changed the page.
    pub lsn: Lsn,
    pub checksum: u16,
    /// The free space lies between `lower` and `upper`.
    pub lower: u16,
    pub upper: u16,
}

impl PageHeader {
    /// None for fewer bytes than a header has.
    pub fn read(page: &[u8]) -> Option<PageHeader> {
        (page.len() >= HEADER_SIZE).then(|| PageHeader {
            lsn: Lsn(u64::from(u32_at(page, 0)) << 32 | u64::from(u32_at(page, 4))),
            checksum: u16_at(page, CHECKSUM_AT),
            lower: u16_at(page, LOWER_AT),
            upper: u16_at(page, UPPER_AT),
        })
    }

    /// PageIsNew: never initialised.
    pub fn is_new(&self) -> bool {
        self.upper == 0
    }
}

/// What [`check_pages`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageCheck {
    /// Block numbers within the relation whose page does not verify, ascending.
    pub bad_blocks: Vec<u32>,
    /// Bytes behind the last whole page (0 = none), which no checksum covers: a page torn by an extension under way.
    pub partial_bytes: u32,
}

/// Verifies every whole page of `buffer`. `first_block` is the first one's number within the relation: segment number times
/// RELSEG_SIZE plus its place in the file.
pub fn check_pages(buffer: &[u8], first_block: u32, page_size: PageSize) -> PageCheck {
    let pages = buffer.chunks_exact(page_size.len());
    let partial_bytes = u32::try_from(pages.remainder().len()).expect("a part of a page is below 32 KiB");
    let blocks = (0..).map(|index: u32| first_block.saturating_add(index));
    let bad_blocks =
        blocks.zip(pages).filter(|(block, page)| !verifies(page, *block)).map(|(block, _)| block).collect();
    PageCheck { bad_blocks, partial_bytes }
}

/// The rule of the server's own PageIsVerified.
fn verifies(page: &[u8], block: u32) -> bool {
    if u16_at(page, UPPER_AT) == 0 {
        is_zero(page)
    } else {
        page_checksum(page, block) == u16_at(page, CHECKSUM_AT)
    }
}

/// Without an early exit inside a stretch, so that the compiler can take many bytes at a time.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(512).all(|stretch| stretch.iter().fold(0, |seen, byte| seen | byte) == 0)
}

/// The checksum runs in so many independent lanes, one 32-bit word each, which is what makes it fast.
const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;
const FNV_PRIME: u32 = 16_777_619;

/// Where each lane starts; chosen at random by the algorithm's author, fixed for ever.
const LANE_SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum a page should have, computed as if its checksum field were zero. `page` is a whole page.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    let mut lanes = LANE_SEEDS;
    let mut rest = rows.iter();
    if let Some(first) = rest.next() {
        let mut first = *first;
        first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
        mix_row(&mut lanes, &first);
    }
    for row in rest {
        mix_row(&mut lanes, row);
    }
    for _ in 0..2 {
        mix_row(&mut lanes, &[0; ROW_BYTES]);
    }
    let folded = lanes.iter().fold(0, |sum, lane| sum ^ lane) ^ block;
    u16::try_from(folded % 65_535 + 1).expect("a remainder of 65535, plus one, fits 16 bits")
}

#[inline(always)]
fn mix_row(lanes: &mut [u32; LANES], row: &[u8; ROW_BYTES]) {
    for (index, lane) in lanes.iter_mut().enumerate() {
        let mixed = *lane ^ u32::from_le_bytes(array_at(row, index * 4));
        *lane = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests;
