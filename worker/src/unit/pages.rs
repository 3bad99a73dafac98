//! Page checksums of what a unit reads: which pages fail, and whether they still fail when they are read again.
//!
//! A read is not atomic against the server's writes: it can have one half of a page from before a write and one from after it.
//! Such a page changes before long, and replay has a full image of it, since it was written during the backup. So a page that
//! changed is taken as it is then; one that stays as it was is bad.
//!
//! Invariant: every page is looked at, and one that fails is told unless it changed.

use super::reader::PartReader;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::pg::{PageSize, check_pages};
use pgconvoy_core::wire::UnitPart;
use std::time::Duration;

/// Between looks at pages that fail. A write is interrupted between two halves of a page as long as its process waits for a
/// processor, or for the kernel to have fewer dirty pages (200 ms at a time).
const PAUSES: [Duration; 4] = [
    Duration::from_millis(5),
    Duration::from_millis(45),
    Duration::from_millis(250),
    Duration::from_millis(700),
];
/// Spent in vain by one slot of a job, it makes one look do for all that comes: files of rubbish must not take hours.
const PATIENCE: Duration = Duration::from_secs(5);

/// The check of one range of one file.
pub(super) struct PageChecker<'a> {
    page_size: PageSize,
    part: &'a UnitPart,
    checked: u64,
    waited_in_vain: &'a mut Duration,
}

impl<'a> PageChecker<'a> {
    /// `waited_in_vain` is what the slot has spent so far.
    pub(super) fn new(page_size: PageSize, part: &'a UnitPart, waited_in_vain: &'a mut Duration) -> Self {
        PageChecker { page_size, part, checked: 0, waited_in_vain }
    }

    pub(super) fn checked(&self) -> u64 {
        self.checked
    }

    /// `bytes` were just read from that offset; pages that changed meanwhile are replaced in them. Bad pages are told by their
    /// number in the file.
    pub(super) fn check(
        &mut self,
        offset: u64,
        bytes: &mut [u8],
        reader: &mut PartReader<'_>,
        bad_pages: &mut Vec<u32>,
    ) -> Result<(), Failure> {
        let size = self.page_size.bytes() as usize;
        let first_in_file = u32::try_from(offset / size as u64).unwrap_or(u32::MAX);
        let first = reader.first_block_of_segment(self.part.class).saturating_add(first_in_file);
        self.checked += (bytes.len() / size) as u64;
        let mut suspects: Vec<u32> =
            check_pages(bytes, first, self.page_size).bad_blocks.iter().map(|bad| bad - first).collect();
        for pause in self.pauses() {
            if suspects.is_empty() {
                return Ok(());
            }
            std::thread::sleep(*pause);
            let mut same = Vec::new();
            for suspect in suspects {
                let at = suspect as usize * size;
                if reader.reread(offset + at as u64, &mut bytes[at..at + size])? {
                    let (path, page) = (&self.part.path, first_in_file + suspect);
                    tracing::debug!("page {page} of {path} was being written: it was read again");
                } else {
                    same.push(suspect);
                }
            }
            suspects = same;
        }
        if !suspects.is_empty() {
            *self.waited_in_vain += self.pauses().iter().sum::<Duration>();
            bad_pages.extend(suspects.into_iter().map(|suspect| first_in_file + suspect));
        }
        Ok(())
    }

    fn pauses(&self) -> &'static [Duration] {
        if *self.waited_in_vain < PATIENCE { &PAUSES } else { &PAUSES[..1] }
    }
}
