//! Writes summaries as PostgreSQL does, for tests.

use super::{CHUNK_BLOCKS, ENTRY_SIZE, MAGIC, NO_LIMIT};
use std::collections::{BTreeMap, BTreeSet};

/// Tablespace, database, relation and the number of the fork.
pub(crate) type Key = [u32; 4];

/// Limit and changed blocks of each fork.
pub(crate) type Table = BTreeMap<Key, (Option<u32>, BTreeSet<u32>)>;

/// Of more than these a bitmap is written.
const LISTED_MAX: usize = 4095;

pub(crate) fn encode(table: &Table) -> Vec<u8> {
    let mut out = MAGIC.to_le_bytes().to_vec();
    for (key, (limit, blocks)) in table {
        let chunks = blocks.last().map_or(0, |last| last / CHUNK_BLOCKS + 1);
        for number in key.iter().chain([&limit.unwrap_or(NO_LIMIT), &chunks]) {
            out.extend(number.to_le_bytes());
        }
        let words: Vec<Vec<u16>> = (0..chunks).map(|chunk| words(blocks, chunk)).collect();
        for chunk in &words {
            out.extend(u16::try_from(chunk.len()).expect("4096 words at most").to_le_bytes());
        }
        out.extend(words.iter().flatten().flat_map(|word| word.to_le_bytes()));
    }
    out.extend([0; ENTRY_SIZE]);
    seal(out)
}

/// Puts the checksum behind the bytes.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

fn words(blocks: &BTreeSet<u32>, chunk: u32) -> Vec<u16> {
    let first = chunk * CHUNK_BLOCKS;
    let of_chunk = blocks.range(first..=first + (CHUNK_BLOCKS - 1));
    // Backwards: PostgreSQL writes them in the order in which WAL changed them.
    let offsets: Vec<u16> =
        of_chunk.rev().map(|block| u16::try_from(block - first).expect("it is of the chunk")).collect();
    if offsets.len() <= LISTED_MAX {
        return offsets;
    }
    let mut bitmap = vec![0u16; 4096];
    for offset in offsets {
        bitmap[usize::from(offset / 16)] |= 1 << (offset % 16);
    }
    bitmap
}
