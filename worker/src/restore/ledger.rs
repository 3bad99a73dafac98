//! The books: which parts of which files are written. Complete is what adds up, not what met no error.

use super::error::RestoreError;
use super::places::Places;
use pgconvoy_core::format::manifest::file_checksum;
use pgconvoy_core::format::{BlockHash, HashSecret};
use pgconvoy_core::plan::restore::{PlannedFile, RestorePlan};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A part that is written, every block of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartDone {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) checksum: BlockHash,
    /// CRC-32C, where it is wanted.
    pub(super) crc: Option<u32>,
}

#[derive(Debug, Default)]
struct Books {
    /// Files that have some of their parts.
    open: BTreeMap<u32, Vec<PartDone>>,
    files: u64,
    bytes: u64,
    crcs: Vec<Option<u32>>,
}

#[derive(Debug)]
pub(super) struct Ledger<'a> {
    plan: &'a RestorePlan,
    places: &'a Places,
    secret: &'a HashSecret,
    books: Mutex<Books>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(
        plan: &'a RestorePlan,
        places: &'a Places,
        secret: &'a HashSecret,
        with_crcs: bool,
    ) -> Self {
        let crcs = if with_crcs { vec![None; plan.files.len()] } else { Vec::new() };
        Ledger { plan, places, secret, books: Mutex::new(Books { crcs, ..Books::default() }) }
    }

    /// Whether the file is whole with this part. A whole file is what the manifest says, or an error.
    pub(super) fn enter(&self, file: u32, part: PartDone) -> Result<bool, RestoreError> {
        let planned = &self.plan.files[file as usize];
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.bytes += part.length;
        let parts = books.open.entry(file).or_default();
        parts.push(part);
        if parts.len() < planned.parts as usize {
            return Ok(false);
        }
        let mut parts = books.open.remove(&file).unwrap_or_default();
        books.files += 1;
        if let Some(place) = books.crcs.get_mut(file as usize) {
            parts.sort_unstable();
            *place = Some(crc_of(&parts));
        }
        drop(books);
        self.check(planned, parts)
    }

    /// A part of a file that is taken for the backup's as it is. Whether all of the file's parts were.
    pub(super) fn believe(&self, file: u32, length: u64) -> bool {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.bytes += length;
        let parts = books.open.entry(file).or_default();
        parts.push(PartDone { offset: 0, length, checksum: BlockHash([0; 16]), crc: None });
        if parts.len() < self.plan.files[file as usize].parts as usize {
            return false;
        }
        books.open.remove(&file);
        books.files += 1;
        true
    }

    /// Whole files that a mate wrote and checked by books of its own. `crcs` has one of each, if they are wanted.
    pub(super) fn adopt(&self, files: &[u32], bytes: u64, crcs: &[u32]) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.files += files.len() as u64;
        books.bytes += bytes;
        for (file, crc) in files.iter().zip(crcs) {
            if let Some(place) = books.crcs.get_mut(*file as usize) {
                *place = Some(*crc);
            }
        }
    }

    /// Of whole files; none if they were not wanted.
    pub(super) fn crcs_of(&self, files: &[u32]) -> Vec<u32> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().filter_map(|file| books.crcs.get(*file as usize).copied().flatten()).collect()
    }

    fn check(&self, planned: &PlannedFile, mut parts: Vec<PartDone>) -> Result<bool, RestoreError> {
        parts.sort_unstable();
        let checksums: Vec<BlockHash> = parts.iter().map(|part| part.checksum).collect();
        if file_checksum(self.secret, &checksums) == planned.checksum {
            return Ok(true);
        }
        Err(RestoreError::FileChecksum { path: self.places.of(&planned.path) })
    }

    /// Everything that was planned is written; the CRC of each file, if they were wanted.
    pub(super) fn close(self) -> Result<Vec<Option<u32>>, RestoreError> {
        let books = self.books.into_inner().unwrap_or_else(PoisonError::into_inner);
        let planned = self.plan.files.iter().filter(|file| file.parts > 0).count() as u64;
        if books.files != planned || !books.open.is_empty() {
            return Err(RestoreError::Incomplete { what: "files", done: books.files, planned });
        }
        if books.bytes != self.plan.bytes {
            return Err(RestoreError::Incomplete {
                what: "bytes",
                done: books.bytes,
                planned: self.plan.bytes,
            });
        }
        Ok(books.crcs)
    }
}

/// Gaps between the parts are zeros.
fn crc_of(parts: &[PartDone]) -> u32 {
    let (crc, _) = parts.iter().fold((0, 0), |(crc, end), part| {
        let crc = append_zeros(crc, part.offset.saturating_sub(end));
        (combine(crc, part.crc.unwrap_or_default(), part.length), part.offset + part.length)
    });
    crc
}

pub(super) fn combine(first: u32, second: u32, second_bytes: u64) -> u32 {
    let length = usize::try_from(second_bytes).expect("a part of a file fits this machine's addresses");
    crc32c::crc32c_combine(first, second, length)
}

fn append_zeros(mut crc: u32, mut count: u64) -> u32 {
    const ZEROS: [u8; 8192] = [0; 8192];
    while count > 0 {
        let bytes = &ZEROS[..usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len())];
        crc = crc32c::crc32c_append(crc, bytes);
        count -= bytes.len() as u64;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, bytes: &[u8]) -> PartDone {
        let checksum = BlockHash([0; 16]);
        PartDone { offset, length: bytes.len() as u64, checksum, crc: Some(crc32c::crc32c(bytes)) }
    }

    #[test]
    fn the_crc_of_a_file_counts_gaps_as_zeros() {
        let mut whole = vec![0u8; 20_000];
        whole[10_000..10_003].copy_from_slice(b"abc");
        whole[19_998..].copy_from_slice(b"yz");
        let parts = [part(10_000, b"abc"), part(19_998, b"yz")];
        assert_eq!(crc_of(&parts), crc32c::crc32c(&whole));
        assert_eq!(crc_of(&[]), crc32c::crc32c(b""));
    }
}
