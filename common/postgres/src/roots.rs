//! Remembers which directories a backup reads from, by device and inode, so that "the file is gone" can be told from "its
//! file system is gone". Blocks.
//!
//! An unmounted tablespace shows an empty mount point: every file under it is ENOENT, and a backup that believed it would
//! be complete, valid and without data. So ENOENT is believed only while the root is the one that was recorded.
//!
//! A tablespace's root may go with its tablespace: whether it was dropped, only PostgreSQL can tell (`tablespaces`).
//!
//! Roots are the data directory, each directory directly in it (`base` or `pg_xact` may be mounts or links of their own),
//! the version directory of each tablespace, and every linked directory that a scan follows.

use crate::PostgresError;
use crate::catalog::Tablespace;
use pgconvoy_core::ids::Oid;
use pgconvoy_core::pg::{FileClass, PgVersion, RelativePath};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a directory is, whatever its path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    /// Relative to the data directory; empty for itself.
    path: String,
    id: FileId,
    tablespace: Option<Oid>,
    /// Its tablespace was dropped since: nobody expects it to be there.
    is_dropped: bool,
}

impl Root {
    /// Whether `path` lies under this root or is it.
    fn covers(&self, path: &str) -> bool {
        match path.strip_prefix(self.path.as_str()) {
            Some(rest) => self.path.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    directory: PathBuf,
    roots: Vec<Root>,
}

impl Roots {
    /// Looks at the data directory as it is now. For an online backup call it through `proof`, after the session started.
    pub fn record(
        directory: &Path,
        version: PgVersion,
        tablespaces: &[Tablespace],
    ) -> Result<Self, PostgresError> {
        let mut roots = Roots { directory: directory.to_owned(), roots: Vec::new() };
        roots.add("", None)?;
        for name in directories_in(directory)? {
            roots.add(&name, None)?;
        }
        for tablespace in tablespaces {
            let path = format!("pg_tblspc/{}/{}", tablespace.oid, version.tablespace_directory());
            roots.add(&path, Some(tablespace.oid))?;
        }
        Ok(roots)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A root more, unless it is one already.
    pub(crate) fn add(&mut self, path: &str, tablespace: Option<Oid>) -> Result<(), PostgresError> {
        if self.roots.iter().all(|root| root.path != path) {
            let id = self.look(path, tablespace)?;
            self.roots.push(Root { path: path.to_owned(), id, tablespace, is_dropped: false });
        }
        Ok(())
    }

    /// Everything under the root of a tablespace that PostgreSQL does not list any more has vanished.
    pub(crate) fn mark_dropped(&mut self, tablespace: Oid) {
        for root in self.roots.iter_mut().filter(|root| root.tablespace == Some(tablespace)) {
            root.is_dropped = true;
        }
    }

    /// Whether every root that `path` lies under is still the recorded one. Call it *after* the ENOENT.
    pub fn still_there(&self, path: &str) -> Result<(), PostgresError> {
        self.roots.iter().filter(|root| root.covers(path)).try_for_each(|root| self.check(root))
    }

    /// Whether every root is still the recorded one. Call it *after* a listing: an unmounted directory lists as empty,
    /// without any ENOENT.
    pub fn all_still_there(&self) -> Result<(), PostgresError> {
        self.roots.iter().try_for_each(|root| self.check(root))
    }

    fn check(&self, root: &Root) -> Result<(), PostgresError> {
        if root.is_dropped || self.look(&root.path, root.tablespace)? == root.id {
            Ok(())
        } else {
            Err(self.gone(&root.path, root.tablespace))
        }
    }

    /// Judges an ENOENT for a file of the inventory: fine if it may vanish, by itself or with its database's directory, and
    /// its roots are still there.
    pub fn vanished(&self, path: &RelativePath, class: FileClass) -> Result<(), PostgresError> {
        self.still_there(path.as_str())?;
        if self.roots.iter().any(|root| root.is_dropped && root.covers(path.as_str())) {
            return Ok(());
        }
        let directory_is_gone = || {
            let directory = self.directory.join(path.parent().unwrap_or_default());
            matches!(std::fs::metadata(directory), Err(error) if error.kind() == ErrorKind::NotFound)
        };
        if class.may_vanish() || class.vanishes_with_its_directory() && directory_is_gone() {
            Ok(())
        } else {
            Err(PostgresError::Missing { path: self.directory.join(path.as_str()) })
        }
    }

    fn look(&self, path: &str, tablespace: Option<Oid>) -> Result<FileId, PostgresError> {
        let absolute = self.directory.join(path);
        match std::fs::metadata(&absolute) {
            Ok(metadata) => Ok(FileId::of(&metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.gone(path, tablespace)),
            Err(error) => Err(PostgresError::file("look at", absolute, error)),
        }
    }

    fn gone(&self, path: &str, tablespace: Option<Oid>) -> PostgresError {
        PostgresError::RootGone { path: self.directory.join(path), tablespace }
    }
}

/// Names of the directories in the data directory, links to directories included.
fn directories_in(directory: &Path) -> Result<Vec<String>, PostgresError> {
    let failed = |error| PostgresError::file("list", directory, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A dangling link or a name that is not UTF-8 is for the scan to judge.
        let is_directory = std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir());
        if let (true, Ok(name)) = (is_directory, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use std::fs;

    fn cluster() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["base/5", "global", "pg_tblspc", "elsewhere/PG_15_202209061"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(
            directory.path().join("elsewhere"),
            directory.path().join("pg_tblspc/16400"),
        )
        .unwrap();
        directory
    }

    fn tablespace(directory: &Path) -> Tablespace {
        Tablespace { oid: Oid(16400), name: "fast".into(), location: directory.join("elsewhere") }
    }

    fn relation() -> FileClass {
        FileClass::Relation { fork: pgconvoy_core::pg::Fork::Main, segment: 0 }
    }

    #[test]
    fn a_relation_may_vanish_while_its_roots_stand() {
        let directory = cluster();
        let roots = Roots::record(directory.path(), PgVersion::V15, &[]).unwrap();
        fs::remove_dir(directory.path().join("base/5")).unwrap();
        roots.vanished(&"base/5/16384".parse().unwrap(), relation()).unwrap();
    }

    #[test]
    fn a_file_that_must_exist_never_counts_as_vanished() {
        let directory = cluster();
        let roots = Roots::record(directory.path(), PgVersion::V15, &[]).unwrap();
        let error = roots.vanished(&"global/pg_control".parse().unwrap(), FileClass::Control).unwrap_err();
        assert!(matches!(error, PostgresError::Missing { .. }), "{error}");
    }

    #[test]
    fn nothing_has_vanished_from_a_directory_that_was_replaced() {
        let directory = cluster();
        let roots = Roots::record(directory.path(), PgVersion::V15, &[]).unwrap();
        // As an unmount does: the same path is another, empty directory.
        fs::rename(directory.path().join("base"), directory.path().join("unmounted")).unwrap();
        fs::create_dir_all(directory.path().join("base")).unwrap();
        let error = roots.vanished(&"base/5/16384".parse().unwrap(), relation()).unwrap_err();
        assert!(matches!(error, PostgresError::RootGone { tablespace: None, .. }), "{error}");
    }

    #[test]
    fn a_lost_tablespace_is_named_by_its_oid() {
        let directory = cluster();
        let roots = Roots::record(directory.path(), PgVersion::V15, &[tablespace(directory.path())]).unwrap();
        fs::remove_dir(directory.path().join("elsewhere/PG_15_202209061")).unwrap();
        let path = "pg_tblspc/16400/PG_15_202209061/5/16384".parse().unwrap();
        let error = roots.vanished(&path, relation()).unwrap_err();
        assert!(matches!(error, PostgresError::RootGone { tablespace: Some(Oid(16400)), .. }), "{error}");
    }

    #[test]
    fn all_that_a_dropped_tablespace_held_has_vanished_and_nothing_else() {
        let directory = cluster();
        let mut roots =
            Roots::record(directory.path(), PgVersion::V15, &[tablespace(directory.path())]).unwrap();
        fs::remove_dir(directory.path().join("elsewhere/PG_15_202209061")).unwrap();
        roots.mark_dropped(Oid(16400));
        roots.all_still_there().unwrap();
        let path = "pg_tblspc/16400/PG_15_202209061/5/PG_VERSION".parse().unwrap();
        roots.vanished(&path, FileClass::DatabaseVersion).unwrap();
        let elsewhere = "base/5/note".parse().unwrap();
        roots.vanished(&elsewhere, FileClass::Other).unwrap_err();
    }

    #[test]
    fn a_root_covers_what_is_under_it_and_not_what_only_begins_alike() {
        let root = Root {
            path: "pg_wal".into(),
            id: FileId { device: 1, inode: 1 },
            tablespace: None,
            is_dropped: false,
        };
        assert!(root.covers("pg_wal/archive_status"));
        assert!(root.covers("pg_wal"));
        assert!(!root.covers("pg_wal_old/x"));
    }
}
