//! How large the blocks of a file are: the grain at which incremental backups see change.
//!
//! Smaller blocks store less of a file that changed a little, larger ones need a smaller map. A block map costs 16 bytes a block,
//! so the table below keeps it under 0.2 % of small files and under 0.03 % of large ones.

use crate::units::{KIB, MIB};

/// `(files from this size, have blocks of this size)`, largest first.
const TABLE: [(u64, u64); 4] =
    [(256 * MIB, 64 * KIB), (64 * MIB, 32 * KIB), (8 * MIB, 16 * KIB), (0, 8 * KIB)];

/// Every block size divides it.
pub const BLOCK_SIZE_MAX: u64 = 64 * KIB;

/// The block size of a file that has no prior: a multiple of PostgreSQL's page size, which is 32 KiB at most.
pub fn block_size(file_size: u64, page_size: u32) -> u32 {
    let (_, size) =
        TABLE.into_iter().find(|(from, _)| file_size >= *from).expect("the last row takes every size");
    u32::try_from(size).expect("the table holds small numbers").max(page_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_pages_whatever_the_page_size() {
        for page_size in [1024, 2048, 4096, 8192, 16384, 32768] {
            for size in [0, 1, MIB, 8 * MIB, 100 * MIB, 1024 * MIB] {
                let block = block_size(size, page_size);
                assert_eq!(block % page_size, 0);
                assert!(block <= 64 * 1024);
            }
        }
    }
}
