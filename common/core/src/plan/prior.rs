//! What a prior backup holds of the files that are there now, and which of them need not be read again.
//!
//! A file is taken over unread when its size and its time are those of the prior backup, the rule that every tool of the trade
//! has. Where time cannot be believed, everything is read and compared by the hashes of blocks.

use super::incremental::references;
use super::inventory::{FileIndex, Inventory};
use crate::format::manifest::{FileRecord, ManifestHead, RangeRecord};
use crate::format::{BackupLabel, BlockHash};
use crate::ids::WorkerName;
use crate::pg::FileClass;
use crate::units::Timestamp;
use std::cmp::Ordering;

/// One of these per file that was in the prior backup and is there now.
#[derive(Debug, Clone, Copy, PartialEq)]
struct PriorFile {
    file: FileIndex,
    first_range: u32,
    has_bad_pages: bool,
    size: u64,
    modified: i64,
    checksum: BlockHash,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Prior {
    label: BackupLabel,
    /// Ranges name their label by an index into these, plus one.
    references: Vec<BackupLabel>,
    workers: Vec<WorkerName>,
    files: Vec<PriorFile>,
    ranges: Vec<RangeRecord>,
    /// Files before this one are settled.
    cursor: u32,
}

/// A file as the prior backup has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known<'a> {
    pub size: u64,
    pub modified: i64,
    pub checksum: BlockHash,
    /// Some page of it was bad: it is stored again, never referred to.
    pub has_bad_pages: bool,
    pub ranges: &'a [RangeRecord],
}

impl Prior {
    pub fn new(head: &ManifestHead) -> Prior {
        Prior {
            label: head.label,
            references: references(&head.references, head.label),
            workers: head.workers.clone(),
            files: Vec::new(),
            ranges: Vec::new(),
            cursor: 0,
        }
    }

    /// Takes the next file of the prior's manifest, in its order, which is that of the inventory.
    pub fn push(&mut self, inventory: &Inventory, record: &FileRecord) {
        let own = u32::try_from(self.references.len()).expect("a manifest lists a few labels");
        while (self.cursor as usize) < inventory.file_count() {
            let file = FileIndex(self.cursor);
            match inventory.compare_path(file, &record.path) {
                Ordering::Less => self.cursor += 1,
                Ordering::Greater => return,
                Ordering::Equal => {
                    self.cursor += 1;
                    self.files.push(PriorFile {
                        file,
                        first_range: u32::try_from(self.ranges.len()).unwrap_or(u32::MAX),
                        has_bad_pages: !record.bad_pages.is_empty(),
                        size: record.size,
                        modified: record.modified,
                        checksum: record.checksum,
                    });
                    let label = |label| if label == 0 { own } else { label };
                    let range = |range: &RangeRecord| RangeRecord { label: label(range.label), ..*range };
                    return self.ranges.extend(record.ranges.iter().map(range));
                }
            }
        }
    }

    pub fn label(&self) -> BackupLabel {
        self.label
    }

    /// Every label that a backup may refer to which rests on this one.
    pub fn references(&self) -> &[BackupLabel] {
        &self.references
    }

    pub fn workers(&self) -> &[WorkerName] {
        &self.workers
    }

    pub fn file(&self, file: FileIndex) -> Option<Known<'_>> {
        let at = self.files.binary_search_by_key(&file, |known| known.file).ok()?;
        Some(self.known(at))
    }

    fn known(&self, at: usize) -> Known<'_> {
        let file = &self.files[at];
        let begin = file.first_range as usize;
        let end = self.files.get(at + 1).map_or(self.ranges.len(), |next| next.first_range as usize);
        Known {
            size: file.size,
            modified: file.modified,
            checksum: file.checksum,
            has_bad_pages: file.has_bad_pages,
            ranges: &self.ranges[begin..end],
        }
    }

    /// Why sizes and times of files cannot be believed, if so. `now` is the database's clock when the scan had ended.
    pub fn anomaly(&self, inventory: &Inventory, now: Timestamp) -> Option<String> {
        self.files.iter().find_map(|known| {
            let file = inventory.file(known.file);
            let what = if file.modified > now.seconds() {
                "its time lies in the future"
            } else if file.modified < known.modified {
                "its time is earlier than in the prior backup"
            } else if file.modified == known.modified && file.size != known.size {
                "it has another size than in the prior backup, and the same time"
            } else {
                return None;
            };
            Some(format!("{}: {what}", inventory.path(known.file)))
        })
    }

    /// Which files are taken over unread.
    pub fn unchanged(&self, inventory: &Inventory) -> Unchanged {
        let mut unchanged = Unchanged { files: vec![false; inventory.file_count()] };
        for known in &self.files {
            let file = inventory.file(known.file);
            // pg_control belongs to its own backup; a bad page may be a good one by now.
            unchanged.files[known.file.0 as usize] = file.size == known.size
                && file.modified == known.modified
                && !known.has_bad_pages
                && file.class != FileClass::Control;
        }
        unchanged
    }
}

/// Files that are taken over from the prior backup. By default none is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unchanged {
    files: Vec<bool>,
}

impl Unchanged {
    pub fn contains(&self, file: FileIndex) -> bool {
        self.files.get(file.0 as usize).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
