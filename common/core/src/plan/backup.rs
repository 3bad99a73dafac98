//! Splits an inventory into work units.
//!
//! Properties
//! A. Every byte of every file that is not taken over from a prior backup belongs to exactly one unit; so does every such
//!    file without bytes that is read to its end.
//! B. Only relation forks are split (everything else is read whole, by one reader, in one unit), at multiples of the
//!    file's block size; and none where a repository keeps files as such.
//! C. No unit has more bytes than the unit size, unless it is a single file that is not split.
//! D. Largest first; pg_control alone and last.
//! E. Files that must come from the primary share no unit with files that need not.
//! F. The unit size doubles until there are at most [`UNITS_MAX`] units.

use super::blocks::{BLOCK_SIZE_MAX, block_size};
use super::inventory::{FileEntry, FileIndex, Inventory};
use super::prior::Unchanged;
use crate::pg::FileClass;
use serde::{Deserialize, Serialize};

/// More units than this cost the coordinator more than their size gains (16 million units a night for a fleet of 800).
pub const UNITS_MAX: usize = 20_000;
/// Bounds a pack's footer when files are tiny.
const FILES_PER_UNIT_MAX: usize = 2_048;
/// An order stays below 1 MiB: half of it for paths, the rest for what it says beside them.
pub const PATH_BYTES_PER_UNIT_MAX: usize = 512 << 10;
const PART_BYTES_PER_UNIT_MAX: usize = 508 << 10;
/// What an order says of a file beside its path, at most, and of each range that a prior has of it.
const BYTES_PER_PART: usize = 114;
const BYTES_PER_PRIOR_RANGE: usize = 65;
/// A splittable file or another of at least a fourth of a unit is a unit of its own: bundling it would save nothing.
const BUNDLE_SHARE: u64 = 4;

/// Who may read a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// The primary, or a standby that has replayed past the backup's start.
    Any,
    Primary,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    Range { file: FileIndex, offset: u64, length: u64 },
    Files(Vec<FileIndex>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub work: Work,
    /// Planned bytes.
    pub bytes: u64,
    pub source: Source,
    /// Read after all others have been accepted, and before the session ends.
    pub last: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupPlan {
    /// What was asked for, doubled as often as it took.
    pub unit_size: u64,
    pub units: Vec<Unit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitOptions {
    pub unit_size: u64,
    pub page_size: u32,
    pub units_max: usize,
    /// How many earlier backups and attempts may have some of a file. It may have the blocks that one of them gave it, whatever
    /// its size is now; and an order says of each where.
    pub priors: usize,
    /// Nothing is split: a repository keeps files as such.
    pub whole_files: bool,
}

impl SplitOptions {
    pub fn new(unit_size: u64, page_size: u32) -> Self {
        SplitOptions { unit_size, page_size, units_max: UNITS_MAX, priors: 0, whole_files: false }
    }

    fn files_max(&self) -> usize {
        let bytes = BYTES_PER_PART + self.priors * BYTES_PER_PRIOR_RANGE;
        FILES_PER_UNIT_MAX.min(PART_BYTES_PER_UNIT_MAX / bytes)
    }
}

/// What is `unchanged` since the prior backup belongs to no unit.
pub fn plan_backup(inventory: &Inventory, unchanged: &Unchanged, options: SplitOptions) -> BackupPlan {
    let mut unit_size = options.unit_size.max(u64::from(options.page_size));
    loop {
        let units = split(inventory, unchanged, SplitOptions { unit_size, ..options });
        // Files that are never split or bundled further leave nothing to gain from doubling once a unit holds everything.
        if units.len() <= options.units_max || unit_size >= inventory.bytes().max(1) {
            return BackupPlan { unit_size, units };
        }
        unit_size = unit_size.saturating_mul(2);
    }
}

fn split(inventory: &Inventory, unchanged: &Unchanged, options: SplitOptions) -> Vec<Unit> {
    let SplitOptions { unit_size, .. } = options;
    let mut units = Vec::new();
    let mut bundles = [Bundle::new(Source::Any), Bundle::new(Source::Primary)];
    for (index, file) in inventory.files().filter(|(index, _)| !unchanged.contains(*index)) {
        if file.class == FileClass::Control {
            units.push(Unit {
                work: Work::Files(vec![index]),
                bytes: file.size,
                source: Source::Primary,
                last: true,
            });
        } else if !needs_reading(file) {
            // An empty relation file is complete as it is: whatever it grows to is in the WAL.
        } else if file.class.splittable() && file.size > unit_size && !options.whole_files {
            split_file(index, file, options, &mut units);
        } else if file.size >= unit_size / BUNDLE_SHARE && file.size > 0 {
            units.push(Unit {
                work: Work::Files(vec![index]),
                bytes: file.size,
                source: source(file),
                last: false,
            });
        } else {
            bundles[usize::from(source(file) == Source::Primary)].add(index, inventory, options, &mut units);
        }
    }
    bundles.into_iter().for_each(|bundle| bundle.close(&mut units));
    // Sorting is stable, so units of equal size keep the order of the inventory.
    units.sort_by_key(|unit| (unit.last, std::cmp::Reverse(unit.bytes)));
    units
}

/// What WAL protects and is empty needs no reading; any other file is read to its end, wherever that is by then.
fn needs_reading(file: &FileEntry) -> bool {
    file.size > 0 || !file.class.wal_protected()
}

fn source(file: &FileEntry) -> Source {
    if file.class.primary_only() { Source::Primary } else { Source::Any }
}

/// Even ranges, so that no tail of a few pages becomes a unit.
fn split_file(index: FileIndex, file: &FileEntry, options: SplitOptions, units: &mut Vec<Unit>) {
    let own = u64::from(block_size(file.size, options.page_size));
    let block = if options.priors > 0 { BLOCK_SIZE_MAX } else { own };
    let largest = (options.unit_size / block * block).max(block);
    let parts = file.size.div_ceil(largest);
    let step = file.size.div_ceil(parts).next_multiple_of(block);
    let mut offset = 0;
    while offset < file.size {
        let length = step.min(file.size - offset);
        let work = Work::Range { file: index, offset, length };
        units.push(Unit { work, bytes: length, source: source(file), last: false });
        offset += length;
    }
}

/// Small files in the order of the inventory: neighbours are restored together.
struct Bundle {
    source: Source,
    files: Vec<FileIndex>,
    bytes: u64,
    path_bytes: usize,
}

impl Bundle {
    fn new(source: Source) -> Self {
        Bundle { source, files: Vec::new(), bytes: 0, path_bytes: 0 }
    }

    fn add(&mut self, file: FileIndex, inventory: &Inventory, options: SplitOptions, units: &mut Vec<Unit>) {
        let (size, path_bytes) = (inventory.file(file).size, inventory.path_length(file));
        if self.bytes + size > options.unit_size
            || self.files.len() == options.files_max()
            || self.path_bytes + path_bytes > PATH_BYTES_PER_UNIT_MAX
        {
            let full = std::mem::replace(self, Bundle::new(self.source));
            full.close(units);
        }
        self.files.push(file);
        self.bytes += size;
        self.path_bytes += path_bytes;
    }

    fn close(self, units: &mut Vec<Unit>) {
        if !self.files.is_empty() {
            units.push(Unit {
                work: Work::Files(self.files),
                bytes: self.bytes,
                source: self.source,
                last: false,
            });
        }
    }
}

#[cfg(test)]
mod tests;
