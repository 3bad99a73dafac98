//! Looking at directories from outside: what is there, and whether anything changed.

use super::{Context, Result};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// Every file below `root`, sorted, links not followed.
pub fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Contents of every file below `root` (of a link: where it leads), as hashes.
pub fn snapshot(root: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let hash_of = |path: &Path| -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        if path.is_symlink() {
            std::fs::read_link(path)?.hash(&mut hasher);
        } else {
            std::fs::read(path)?.hash(&mut hasher);
        }
        Ok(hasher.finish())
    };
    walk(root)?.into_iter().map(|path| Ok((path.strip_prefix(root)?.to_owned(), hash_of(&path)?))).collect()
}

/// Which paths differ between two snapshots: empty when nothing changed.
pub fn changes(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> Vec<PathBuf> {
    let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    paths.filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

/// A directory without permissions, as long as the value lives: then it has again those it had.
pub struct Closed {
    path: PathBuf,
    before: std::fs::Permissions,
}

impl Closed {
    /// `mode` 0 closes it altogether, 0o500 leaves it readable.
    pub fn with_mode(path: &Path, mode: u32) -> Result<Closed> {
        use std::os::unix::fs::PermissionsExt as _;
        let before = std::fs::metadata(path)?.permissions();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Closed { path: path.to_owned(), before })
    }

    /// The directory and all directories below it: an open parent does not help when the leaf refuses.
    pub fn tree(root: &Path, mode: u32) -> Result<Vec<Closed>> {
        let mut directories = vec![root.to_owned()];
        let mut next = 0;
        while next < directories.len() {
            for entry in std::fs::read_dir(&directories[next])? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    directories.push(entry.path());
                }
            }
            next += 1;
        }
        // The root comes first in the list and opens first on drop, which a walk downwards needs.
        let closed: Result<Vec<Closed>> =
            directories.iter().rev().map(|path| Closed::with_mode(path, mode)).collect();
        let mut closed = closed?;
        closed.reverse();
        Ok(closed)
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        if let Err(error) = std::fs::set_permissions(&self.path, self.before.clone()) {
            super::note(format!("{} stays closed: {error}", self.path.display()));
        }
    }
}
