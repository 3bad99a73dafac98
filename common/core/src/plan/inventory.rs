//! What a data directory holds, kept small: the coordinator has one of these per running backup, and a cluster may have
//! millions of files.
//!
//! Memory per file is an entry of 40 bytes, its name, and a share of its directory's path: some 60 bytes for a relation.

use crate::failure::{Classify, ErrorCode};
use crate::format::manifest::{NO_OWNER, Ownership};
use crate::pg::{FileClass, RelativePath};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// One thing found by a scan, as it crosses the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScannedEntry {
    pub path: RelativePath,
    pub kind: EntryKind,
    pub mode: u16,
    pub user: Option<String>,
    pub group: Option<String>,
    /// Seconds since 1970.
    pub modified: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    File { size: u64, class: FileClass },
    Directory,
    Link { destination: String },
}

/// Position of a file in its inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileIndex(pub u32);

/// A file without its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileEntry {
    pub size: u64,
    pub modified: i64,
    name: NameSpan,
    pub ownership: Ownership,
    pub class: FileClass,
}

/// Where a path lies: which directory, and which bytes of the name arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NameSpan {
    directory: u32,
    begin: u32,
    length: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub path: RelativePath,
    pub ownership: Ownership,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEntry {
    pub path: RelativePath,
    pub destination: String,
    pub ownership: Ownership,
}

/// Where each entry stands in the order of the scan, which is the order of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Directory(u32),
    Link(u32),
    File(u32),
}

#[derive(Debug, Clone, Copy)]
pub enum InventoryItem<'a> {
    Directory(&'a DirectoryEntry),
    Link(&'a LinkEntry),
    File(FileIndex, &'a FileEntry),
}

/// A scan that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    #[error("the scan of the data directory named '{path}' after '{after}'")]
    OutOfOrder { path: RelativePath, after: String },
    #[error("the scan of the data directory named '{path}' without its directory")]
    Orphan { path: RelativePath },
    #[error("the data directory holds more than {0} of one kind, which is beyond what a backup can list")]
    TooMany(u64),
}

impl Classify for InventoryError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Assert
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    names: String,
    /// The data directory itself is the empty path, at index 0.
    parents: Vec<String>,
    files: Vec<FileEntry>,
    directories: Vec<DirectoryEntry>,
    links: Vec<LinkEntry>,
    order: Vec<Position>,
    users: Names,
    groups: Names,
    last: Option<String>,
    bytes: u64,
}

/// Owners' names, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    list: Vec<String>,
    index: BTreeMap<String, u16>,
}

impl Names {
    fn intern(&mut self, name: Option<String>) -> u16 {
        let Some(name) = name else { return NO_OWNER };
        if let Some(known) = self.index.get(&name) {
            return *known;
        }
        // More than 65,534 owners of files in one cluster: the later ones are restored as if unknown.
        let Some(number) = u16::try_from(self.list.len()).ok().filter(|number| *number != NO_OWNER) else {
            return NO_OWNER;
        };
        self.list.push(name.clone());
        self.index.insert(name, number);
        number
    }
}

impl Inventory {
    /// Takes the next entry. Entries come in order of path, compared part by part, directories before what they hold.
    pub fn push(&mut self, entry: ScannedEntry) -> Result<(), InventoryError> {
        let path = entry.path;
        // The content of a link to a file comes under the link's own path.
        let behind_link = matches!(entry.kind, EntryKind::File { .. })
            && self
                .links
                .last()
                .is_some_and(|link| link.path == path && self.last.as_deref() == Some(path.as_str()));
        if let Some(last) = &self.last
            && !behind_link
            && !parts(path.as_str()).gt(parts(last))
        {
            return Err(InventoryError::OutOfOrder { path, after: last.clone() });
        }
        let ownership = Ownership {
            mode: entry.mode,
            user: self.users.intern(entry.user),
            group: self.groups.intern(entry.group),
        };
        self.last = Some(path.as_str().to_owned());
        match entry.kind {
            EntryKind::Directory => {
                self.order.push(Position::Directory(count(self.directories.len())?));
                self.parents.push(path.as_str().to_owned());
                self.directories.push(DirectoryEntry { path, ownership });
            }
            EntryKind::Link { destination } => {
                self.order.push(Position::Link(count(self.links.len())?));
                self.parents.push(path.as_str().to_owned());
                self.links.push(LinkEntry { path, destination, ownership });
            }
            EntryKind::File { size, class } => {
                let name = self.place(&path)?;
                self.order.push(Position::File(count(self.files.len())?));
                self.bytes = self.bytes.saturating_add(size);
                self.files.push(FileEntry { size, modified: entry.modified, name, ownership, class });
            }
        }
        Ok(())
    }

    fn place(&mut self, path: &RelativePath) -> Result<NameSpan, InventoryError> {
        let orphan = || InventoryError::Orphan { path: path.clone() };
        let parent = path.parent().unwrap_or("");
        // Entries come in order: the directory of a file is among the last few that came.
        let directory = match parent {
            "" => 0,
            _ => 1 + self.parents.iter().rposition(|known| known == parent).ok_or_else(orphan)?,
        };
        let name = path.file_name();
        let begin = count(self.names.len())?;
        let length = u16::try_from(name.len()).map_err(|_| InventoryError::TooMany(u64::from(u16::MAX)))?;
        self.names.push_str(name);
        Ok(NameSpan { directory: count(directory)?, begin, length })
    }

    pub fn path(&self, file: FileIndex) -> RelativePath {
        let span = self.file(file).name;
        let begin = span.begin as usize;
        let name = &self.names[begin..begin + span.length as usize];
        let path = match span.directory {
            0 => name.to_owned(),
            number => format!("{}/{name}", self.parents[number as usize - 1]),
        };
        RelativePath::new(path).expect("it was cut from a valid path")
    }

    pub fn find(&self, path: &RelativePath) -> Option<FileIndex> {
        let (mut begin, mut end) = (0, u32::try_from(self.files.len()).ok()?);
        while begin < end {
            let middle = FileIndex(begin + (end - begin) / 2);
            match self.compare_path(middle, path) {
                Ordering::Less => begin = middle.0 + 1,
                Ordering::Greater => end = middle.0,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// In the order of a scan, without making a path of it.
    pub fn compare_path(&self, file: FileIndex, other: &RelativePath) -> Ordering {
        let span = self.file(file).name;
        let begin = span.begin as usize;
        let name = &self.names[begin..begin + span.length as usize];
        let directory = span.directory.checked_sub(1).map(|at| parts(&self.parents[at as usize]));
        directory.into_iter().flatten().chain([name]).cmp(parts(other.as_str()))
    }

    /// Bytes of the file's path.
    pub fn path_length(&self, file: FileIndex) -> usize {
        let span = self.file(file).name;
        let directory = match span.directory {
            0 => 0,
            number => self.parents[number as usize - 1].len() + 1,
        };
        directory + usize::from(span.length)
    }

    pub fn file(&self, file: FileIndex) -> &FileEntry {
        &self.files[file.0 as usize]
    }

    pub fn files(&self) -> impl ExactSizeIterator<Item = (FileIndex, &FileEntry)> {
        self.files.iter().enumerate().map(|(index, file)| {
            (FileIndex(u32::try_from(index).expect("push lets no more than u32::MAX files in")), file)
        })
    }

    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files, as the scan saw them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Everything in the order of the manifest.
    pub fn items(&self) -> impl ExactSizeIterator<Item = InventoryItem<'_>> {
        self.order.iter().map(|position| match *position {
            Position::Directory(at) => InventoryItem::Directory(&self.directories[at as usize]),
            Position::Link(at) => InventoryItem::Link(&self.links[at as usize]),
            Position::File(at) => InventoryItem::File(FileIndex(at), &self.files[at as usize]),
        })
    }

    pub fn users(&self) -> &[String] {
        &self.users.list
    }

    pub fn groups(&self) -> &[String] {
        &self.groups.list
    }

    pub fn links(&self) -> &[LinkEntry] {
        &self.links
    }
}

fn count(number: usize) -> Result<u32, InventoryError> {
    u32::try_from(number).map_err(|_| InventoryError::TooMany(u64::from(u32::MAX)))
}

fn parts(path: &str) -> std::str::Split<'_, char> {
    path.split('/')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> ScannedEntry {
        ScannedEntry {
            path: path.parse().unwrap(),
            kind,
            mode: 0o600,
            user: Some("postgres".into()),
            group: None,
            modified: 7,
        }
    }

    fn file(path: &str, size: u64) -> ScannedEntry {
        entry(path, EntryKind::File { size, class: FileClass::Other })
    }

    #[test]
    fn paths_and_order_survive_the_compact_form() {
        let mut inventory = Inventory::default();
        for next in [
            file("PG_VERSION", 3),
            entry("base", EntryKind::Directory),
            entry("base/1", EntryKind::Directory),
            file("base/1/1259", 8192),
            entry("base/1.5", EntryKind::Directory),
            file("base/1.5/x", 1),
            file("postgresql.conf", 100),
        ] {
            inventory.push(next).unwrap();
        }
        let paths: Vec<String> =
            inventory.files().map(|(index, _)| inventory.path(index).to_string()).collect();
        assert_eq!(paths, ["PG_VERSION", "base/1/1259", "base/1.5/x", "postgresql.conf"]);
        for (index, _) in inventory.files() {
            assert_eq!(inventory.path_length(index), inventory.path(index).as_str().len());
        }
        for (index, _) in inventory.files() {
            assert_eq!(inventory.find(&inventory.path(index)), Some(index));
        }
        for absent in ["A", "base", "base/1/1", "base/1/12590", "base/2", "z"] {
            assert_eq!(inventory.find(&absent.parse().unwrap()), None, "{absent}");
        }
        assert_eq!(inventory.items().len(), 7);
        assert_eq!(inventory.bytes(), 8296);
        assert_eq!(inventory.users(), ["postgres"]);
    }

    #[test]
    fn a_scan_that_repeats_or_orphans_a_path_is_refused() {
        let mut inventory = Inventory::default();
        inventory.push(file("b", 1)).unwrap();
        assert!(matches!(inventory.push(file("a", 1)), Err(InventoryError::OutOfOrder { .. })));
        assert!(matches!(inventory.push(file("b", 1)), Err(InventoryError::OutOfOrder { .. })));
        assert!(matches!(inventory.push(file("c/d", 1)), Err(InventoryError::Orphan { .. })));
    }

    #[test]
    fn an_entry_stays_within_its_memory() {
        assert!(std::mem::size_of::<FileEntry>() <= 48, "{}", std::mem::size_of::<FileEntry>());
        assert!(std::mem::size_of::<Position>() <= 8);
    }
}
