//! Which blocks of a range a file has already.

use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::pack::PackRange;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Read at once: many blocks, and little of a slot's memory.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Runs of blocks that are not there, or are others.
    pub(super) differing: Vec<Range<u32>>,
    pub(super) same_bytes: u64,
    /// Of each block that is the same: its number, CRC-32C and length.
    pub(super) crcs: Vec<(u32, u32, u64)>,
}

impl Comparison {
    /// `offset` is where the range begins in the file.
    pub(super) fn of(
        file: &File,
        offset: u64,
        range: &PackRange,
        secret: &HashSecret,
    ) -> io::Result<Comparison> {
        let block_size = range.block_size as usize;
        let blocks_at_once = (READ_BYTES / block_size).max(1);
        let mut buffer = vec![0; blocks_at_once * block_size];
        let mut comparison = Comparison::default();
        let (mut done, mut number) = (0u64, 0u32);
        while done < range.length {
            let wanted = usize::try_from(range.length - done).unwrap_or(buffer.len()).min(buffer.len());
            let found = read(file, &mut buffer[..wanted], offset + done)?;
            for (place, block) in buffer[..wanted].chunks(block_size).enumerate() {
                let is_there = place * block_size + block.len() <= found;
                let is_same = is_there && range.hash(number as usize) == Some(secret.hash(block));
                comparison.add(number, block, is_same);
                number += 1;
            }
            done += wanted as u64;
        }
        Ok(comparison)
    }

    fn add(&mut self, number: u32, block: &[u8], is_same: bool) {
        if is_same {
            self.same_bytes += block.len() as u64;
            self.crcs.push((number, crc32c::crc32c(block), block.len() as u64));
            return;
        }
        match self.differing.last_mut().filter(|run| run.end == number) {
            Some(run) => run.end += 1,
            None => self.differing.push(number..number + 1),
        }
    }
}

/// As much as there is; the rest of the buffer is zeros.
fn read(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer[length..].fill(0);
    Ok(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use pgconvoy_core::format::BlockHash;
    use std::io::Write;

    const BLOCK: usize = 8;
    const OFFSET: u64 = 16;

    fn secret() -> HashSecret {
        HashSecret::from_random_bytes([7; HashSecret::BYTES])
    }

    /// A range that holds these bytes.
    fn range(bytes: &[u8]) -> PackRange {
        PackRange {
            path: "base/1/1".into(),
            offset: OFFSET,
            length: bytes.len() as u64,
            block_size: u32::try_from(BLOCK).unwrap(),
            checksum: BlockHash([0; 16]),
            runs: Vec::new(),
            hashes: bytes.chunks(BLOCK).flat_map(|block| secret().hash(block).0).collect(),
            bad_pages: Vec::new(),
            sha1: None,
        }
    }

    /// What a file with these bytes behind the offset lacks, from block to block, and how much it has.
    fn compare(there: &[u8], wanted: &[u8]) -> (Vec<(u32, u32)>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 16]).unwrap();
        file.write_all(there).unwrap();
        let compared = Comparison::of(&file, OFFSET, &range(wanted), &secret()).unwrap();
        (compared.differing.iter().map(|run| (run.start, run.end)).collect(), compared.same_bytes)
    }

    #[test]
    fn blocks_that_differ_come_in_runs() {
        let wanted: Vec<u8> = (0..44).collect();
        assert_eq!(compare(&wanted, &wanted), (vec![], 44));
        let mut there = wanted.clone();
        there[9] = 0;
        there[17] = 0;
        there[43] = 0;
        assert_eq!(compare(&there, &wanted), (vec![(1, 3), (5, 6)], 24));
    }

    #[test]
    fn what_a_short_file_does_not_have_differs_even_if_it_is_zeros() {
        let wanted = [[1; BLOCK], [0; BLOCK]].concat();
        assert_eq!(compare(&wanted[..BLOCK], &wanted), (vec![(1, 2)], 8));
        assert_eq!(compare(&[], &wanted), (vec![(0, 2)], 0));
        assert_eq!(compare(&wanted[..BLOCK + 3], &wanted), (vec![(1, 2)], 8));
    }

    #[test]
    fn more_than_is_read_at_once_is_compared_to_its_end() {
        let wanted: Vec<u8> = (0..READ_BYTES + 3 * BLOCK).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut there = wanted.clone();
        there[READ_BYTES + BLOCK] ^= 1;
        let number = u32::try_from(READ_BYTES / BLOCK + 1).unwrap();
        assert_eq!(
            compare(&there, &wanted),
            (vec![(number, number + 1)], wanted.len() as u64 - BLOCK as u64)
        );
    }
}
