//! Puts a backup's data directory together: names for files that are there, and what PostgreSQL wants beside them.
//!
//! Repeating it is safe, and so is doing it twice at once: a file has one source, and a name that is there already must lead to
//! that very inode.

use super::{DIRECTORY_MODE, FILE_MODE, PlainFiles, attempted, blocking, published};
use crate::error::RepositoryError;
use crate::open::Repository;
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::format::manifest::{FileRecord, ManifestHead, Record};
use pgconvoy_core::format::plain::{
    TABLESPACE_LINKS, TABLESPACES, is_taken, link_to, place, tablespace_of_link,
};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::pg::RelativePath;
use pgconvoy_storage::IoAction;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::sync::Arc;

pub(super) const BACKUP_LABEL: &str = "backup_label";
/// Of the cluster's modes, what a directory keeps.
const DIRECTORY_MODE_MASK: u32 = 0o750;

impl Repository {
    /// Where files are kept as such: the data directory of a backup whose manifest is in place. `head` is the manifest's.
    pub(crate) async fn put_in_place(
        &self,
        stanza: &StanzaName,
        head: ManifestHead,
        contents: Arc<BackupContents>,
    ) -> Result<(), RepositoryError> {
        let Some(files) = self.plain().cloned() else { return Ok(()) };
        let stanza = stanza.clone();
        blocking("putting a data directory together", move || {
            let name = layout::data(&stanza, head.label);
            // It has had this name only since it was whole.
            if files.look(&name)?.is_some() {
                return Ok(());
            }
            let built = Tree::begin(&files, &stanza, &head)?.build(contents.records());
            let named = built.and_then(|tree| tree.give_name(&name));
            match named {
                // Somebody else who publishes this very backup was faster.
                Err(_) if files.look(&name)?.is_some() => Ok(()),
                named => named,
            }
        })
        .await
    }
}

struct Tree<'a> {
    files: &'a PlainFiles,
    stanza: &'a StanzaName,
    head: &'a ManifestHead,
    /// While it is built.
    root: String,
    directories: BTreeSet<String>,
}

impl<'a> Tree<'a> {
    fn begin(
        files: &'a PlainFiles,
        stanza: &'a StanzaName,
        head: &'a ManifestHead,
    ) -> Result<Tree<'a>, RepositoryError> {
        let partial = layout::partial(stanza, head.label);
        files.make_directory(&partial, DIRECTORY_MODE)?;
        let root = layout::partial_data(stanza, head.label);
        let mut tree = Tree { files, stanza, head, root, directories: BTreeSet::new() };
        tree.directory("", DIRECTORY_MODE)?;
        Ok(tree)
    }

    fn build(mut self, records: impl Iterator<Item = Record>) -> Result<Self, RepositoryError> {
        let mut records = records.peekable();
        while let Some(record) = records.next() {
            let path = record.path().as_str();
            if is_taken(path) {
                return Err(self.files.contradiction(path, "plain repositories keep tablespaces there"));
            }
            match &record {
                Record::Directory(directory) => {
                    self.entry(path, u32::from(directory.ownership.mode))?;
                }
                // What a link led to is here in its place: a copy must never lead back to the original.
                Record::Link(link) => {
                    let is_file = records.peek().is_some_and(|next| next.path() == &link.path);
                    if !is_file {
                        self.entry(path, DIRECTORY_MODE)?;
                    }
                }
                Record::File(file) => self.file(file)?,
            }
        }
        if let Some(text) = &self.head.backup_label {
            let name = self.name(BACKUP_LABEL);
            self.files.write(&name, text.as_bytes())?;
        }
        Ok(self)
    }

    fn name(&self, path: &str) -> String {
        format!("{}/{}", self.root, place(path))
    }

    /// A directory, or what stands for a tablespace.
    fn entry(&mut self, path: &str, mode: u32) -> Result<(), RepositoryError> {
        let mode = mode & DIRECTORY_MODE_MASK | DIRECTORY_MODE;
        let Some(tablespace) = tablespace_of_link(path) else { return self.directory(&place(path), mode) };
        self.directory(TABLESPACES, DIRECTORY_MODE)?;
        self.directory(&place(path), mode)?;
        let name = format!("{}/{TABLESPACE_LINKS}/{tablespace}", self.root);
        match symlink(link_to(tablespace), self.files.path(&name)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(self.files.failed(&name, IoAction::Publish)),
        }
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<(), RepositoryError> {
        let name = if path.is_empty() { self.root.clone() } else { format!("{}/{path}", self.root) };
        self.files.make_directory(&name, mode)?;
        std::fs::set_permissions(self.files.path(&name), Permissions::from_mode(mode))
            .map_err(self.files.failed(&name, IoAction::CreatePath))?;
        self.directories.insert(name);
        Ok(())
    }

    fn file(&self, file: &FileRecord) -> Result<(), RepositoryError> {
        let name = self.name(file.path.as_str());
        let range = match &file.ranges[..] {
            [] if file.size == 0 => return self.files.write(&name, b""),
            [range] if range.offset == 0 && range.length == file.size => range,
            _ => return Err(self.files.contradiction(&name, "its file is in several parts")),
        };
        let pack = self
            .head
            .pack_of(range)
            .ok_or_else(|| self.files.contradiction(&name, "its file is in a backup that is not listed"))?;
        let source = self.source(pack, &file.path)?;
        let found = self.files.look(&source)?;
        let found = found.ok_or_else(|| self.files.error(&source, IoAction::Open, Errno::NOENT))?;
        if !found.is_file() || found.len() != file.size {
            let reason = format!("it has not the {} bytes that its backup says", file.size);
            return Err(self.files.contradiction(&source, reason));
        }
        self.files.link(&source, &found, &name)
    }

    /// Of this backup an attempt's own file; of another what that one's data directory has.
    fn source(&self, pack: PackName, path: &RelativePath) -> Result<String, RepositoryError> {
        match pack.label == self.head.label {
            true => Ok(attempted(self.stanza, pack, path.as_str())),
            false => Ok(published(self.stanza, pack, path.as_str())),
        }
    }

    /// Everything on disk, then the name that the catalogue stands for.
    fn give_name(self, name: &str) -> Result<(), RepositoryError> {
        self.directories.iter().rev().try_for_each(|name| self.files.sync_directory(name))?;
        std::fs::rename(self.files.path(&self.root), self.files.path(name))
            .map_err(self.files.failed(name, IoAction::Publish))?;
        self.files.sync_directory(&layout::partial(self.stanza, self.head.label))?;
        self.files.sync_directory(&layout::backup(self.stanza, self.head.label))
    }
}

impl PlainFiles {
    /// A small file of our own.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(self.path(name));
        let mut file = match opened {
            // By whoever was here before; only if it was cut short is it made anew.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let found = self.look(name)?.filter(Metadata::is_file);
                if found.is_some_and(|found| found.len() == bytes.len() as u64) {
                    return Ok(());
                }
                std::fs::remove_file(self.path(name)).map_err(self.failed(name, IoAction::Remove))?;
                return self.write(name, bytes);
            }
            opened => opened.map_err(self.failed(name, IoAction::Open))?,
        };
        file.write_all(bytes).map_err(self.failed(name, IoAction::Write))?;
        file.set_permissions(Permissions::from_mode(FILE_MODE))
            .map_err(self.failed(name, IoAction::Write))?;
        file.sync_all().map_err(self.failed(name, IoAction::Sync))
    }

    /// One more name for a file. Where that cannot be had (too many links, or the file is another user's), a copy of it.
    fn link(&self, source: &str, found: &Metadata, name: &str) -> Result<(), RepositoryError> {
        let linked = std::fs::hard_link(self.path(source), self.path(name));
        let errno = |error: &io::Error| Errno::from_io_error(error);
        match linked {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let there = self.look(name)?;
                let is_same = |there: &Metadata| (there.dev(), there.ino()) == (found.dev(), found.ino());
                if there.as_ref().is_some_and(is_same) {
                    return Ok(());
                }
                Err(self.contradiction(name, "another file has its name already"))
            }
            Err(error) if matches!(errno(&error), Some(Errno::MLINK | Errno::PERM | Errno::XDEV)) => {
                self.copy(source, name)
            }
            linked => linked.map_err(self.failed(name, IoAction::Publish)),
        }
    }

    fn copy(&self, source: &str, name: &str) -> Result<(), RepositoryError> {
        std::fs::copy(self.path(source), self.path(name)).map_err(self.failed(name, IoAction::Write))?;
        let copied = File::open(self.path(name)).map_err(self.failed(name, IoAction::Open))?;
        copied
            .set_permissions(Permissions::from_mode(FILE_MODE))
            .map_err(self.failed(name, IoAction::Write))?;
        copied.sync_all().map_err(self.failed(name, IoAction::Sync))
    }
}
