//! The files of one attempt at a unit, as they are read.

use super::{DIRECTORY_MODE, FILE_MODE, PlainFiles, attempted};
use crate::error::RepositoryError;
use crate::open::Repository;
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::RelativePath;
use pgconvoy_storage::IoAction;
use rustix::fs::{CWD, Mode, OFlags};
use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

/// Behind a file's name, until it takes the place of what was written.
const LINK_SUFFIX: &str = ".pgconvoy-link";

/// Files come one after another. Calls block.
#[derive(Debug)]
pub struct PlainAttempt {
    files: PlainFiles,
    stanza: StanzaName,
    pack: PackName,
    open: Option<Open>,
    /// All directories that were made or found on the way to a file.
    directories: BTreeSet<String>,
    stored: u64,
}

#[derive(Debug)]
struct Open {
    path: String,
    name: String,
    file: File,
    length: u64,
}

impl Repository {
    /// `None`: this repository takes packs of frames.
    pub fn plain_attempt(&self, stanza: &StanzaName, pack: PackName) -> Option<PlainAttempt> {
        Some(PlainAttempt {
            files: self.plain()?.clone(),
            stanza: stanza.clone(),
            pack,
            open: None,
            directories: BTreeSet::new(),
            stored: 0,
        })
    }
}

impl PlainAttempt {
    /// The next bytes of that file, or the first of one that was not begun before.
    pub fn append(&mut self, path: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
        if self.open.is_none() {
            self.open = Some(self.create(path)?);
        }
        let Some(open) = self.open.as_mut().filter(|open| open.path == path) else {
            return Err(self.files.contradiction(path, "it was begun before the file before it was ended"));
        };
        open.file.write_all(bytes).map_err(self.files.failed(&open.name, IoAction::Write))?;
        open.length += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file at hand, if there is one: it is on disk and read-only then. Where `same` is a pack that has the very same content under
    /// that path, the file is a link to that one's.
    pub fn end_file(&mut self, same: Option<PackName>) -> Result<(), RepositoryError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if let Some(same) = same
            && self.link(&open, same)?
        {
            return Ok(());
        }
        let failed = |action| self.files.failed(&open.name, action);
        open.file.set_permissions(Permissions::from_mode(FILE_MODE)).map_err(failed(IoAction::Write))?;
        open.file.sync_all().map_err(failed(IoAction::Sync))?;
        self.stored += open.length;
        Ok(())
    }

    /// Puts all names on disk. Answers with the bytes that were stored, without those that are links.
    pub fn finish(self) -> Result<u64, RepositoryError> {
        if let Some(open) = &self.open {
            return Err(self.files.contradiction(&open.name, "it was not ended"));
        }
        // The deepest come first.
        self.directories.iter().rev().try_for_each(|name| self.files.sync_directory(name))?;
        if !self.directories.is_empty() {
            self.files.sync_directory(&layout::backups(&self.stanza))?;
        }
        Ok(self.stored)
    }

    fn create(&mut self, path: &str) -> Result<Open, RepositoryError> {
        let valid: RelativePath =
            path.parse().map_err(|_| self.files.contradiction(path, "it is no relative path"))?;
        let name = attempted(&self.stanza, self.pack, valid.as_str());
        self.make_directories(&name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, self.files.path(&name), flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| self.files.error(&name, IoAction::Open, errno))?;
        Ok(Open { path: path.to_owned(), name, file: file.into(), length: 0 })
    }

    /// From the label's own directory downwards: if what is above is gone, the repository is.
    fn make_directories(&mut self, name: &str) -> Result<(), RepositoryError> {
        let top = layout::partial(&self.stanza, self.pack.label);
        let ends = name.match_indices('/').map(|(at, _)| at).filter(|at| *at >= top.len());
        for end in ends {
            let directory = &name[..end];
            if !self.directories.contains(directory) {
                self.files.make_directory(directory, DIRECTORY_MODE)?;
                self.directories.insert(directory.to_owned());
            }
        }
        Ok(())
    }

    /// `false`: there is nothing to link to, or no way to do it, and what was written stays.
    fn link(&self, open: &Open, same: PackName) -> Result<bool, RepositoryError> {
        let Ok((file, known)) = self.files.open(&self.stanza, same, &open.path) else { return Ok(false) };
        let length = file.metadata().map_err(self.files.failed(&known, IoAction::Open))?.len();
        let beside = format!("{}{LINK_SUFFIX}", open.name);
        if length != open.length
            || std::fs::hard_link(self.files.path(&known), self.files.path(&beside)).is_err()
        {
            return Ok(false);
        }
        std::fs::rename(self.files.path(&beside), self.files.path(&open.name))
            .map_err(self.files.failed(&open.name, IoAction::Publish))?;
        Ok(true)
    }
}
