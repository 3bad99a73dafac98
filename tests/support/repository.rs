//! Where the objects of a POSIX repository lie (`common/core/src/format/FORMAT.md`). What they hold is not read here.

use super::config::STANZA;
use super::{Result, ensure, files};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct RepositoryFiles {
    root: PathBuf,
}

impl RepositoryFiles {
    pub fn at(root: &Path) -> RepositoryFiles {
        RepositoryFiles { root: root.to_owned() }
    }

    pub fn stanza(&self) -> PathBuf {
        self.root.join(STANZA)
    }

    pub fn backup(&self, label: &str) -> PathBuf {
        self.stanza().join("backup").join(label)
    }

    /// Of a repository that keeps files as such.
    pub fn data(&self, label: &str) -> PathBuf {
        self.backup(label).join("data")
    }

    /// The packs of a backup, largest first.
    pub fn packs(&self, label: &str) -> Result<Vec<PathBuf>> {
        let mut packs = files::walk(&self.backup(label).join("pack"))?;
        packs.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |data| data.len())));
        ensure!(!packs.is_empty(), "backup {label} has no packs");
        Ok(packs)
    }

    pub fn manifest(&self, label: &str) -> PathBuf {
        self.backup(label).join("manifest")
    }

    pub fn catalogue_entry(&self, label: &str) -> PathBuf {
        self.stanza().join("catalogue").join(label)
    }

    /// Archived segments in order, without history files.
    pub fn segments(&self) -> Result<Vec<PathBuf>> {
        let mut found = files::walk(&self.stanza().join("wal"))?;
        found.retain(|path| segment_name(path).is_some());
        found.sort_by_key(|path| segment_name(path).map(str::to_owned));
        Ok(found)
    }

    pub fn segment(&self, name: &str) -> Result<PathBuf> {
        let found = self.segments()?.into_iter().find(|path| segment_name(path) == Some(name));
        found.ok_or_else(|| super::anyhow!("segment {name} is not in {}", self.root.display()))
    }

    /// Whether some backup has begun to store packs, published or not.
    pub fn holds_a_pack(&self) -> bool {
        files::walk(&self.stanza().join("backup")).is_ok_and(|found| {
            found.iter().any(|path| path.components().any(|part| part.as_os_str() == "pack"))
        })
    }
}

/// The 24 hexadecimal digits of a whole segment's name, whatever suffix the store adds.
fn segment_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?.get(..24)?;
    name.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(name)
}

/// How an object is called in messages: its file name at least.
pub fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
