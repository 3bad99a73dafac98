//! Page checksums of what a unit reads: which pages fail, and whether they fail again when they are read again.

use super::reader::PartReader;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::pg::{PageSize, check_pages};
use pgconvoy_core::wire::UnitPart;

/// Page checksums of what was just read. A page that does not match is read again: one that changed meanwhile was being
/// written, and replay has its full image; one that did not is bad.
pub(super) fn check(
    page_size: PageSize,
    part: &UnitPart,
    offset: u64,
    bytes: &mut [u8],
    reader: &mut PartReader,
    bad_pages: &mut Vec<u32>,
) -> Result<u64, Failure> {
    let size = u64::from(page_size.bytes());
    let first_in_file = u32::try_from(offset / size).unwrap_or(u32::MAX);
    let first = reader.first_block_of_segment(part.class).saturating_add(first_in_file);
    for bad in check_pages(bytes, first, page_size).bad_blocks {
        let in_buffer = ((bad - first) as usize) * page_size.bytes() as usize;
        let page = &mut bytes[in_buffer..in_buffer + page_size.bytes() as usize];
        if !reader.reread(offset + in_buffer as u64, page)? {
            bad_pages.push(first_in_file + (bad - first));
        }
    }
    Ok(bytes.len() as u64 / size)
}
