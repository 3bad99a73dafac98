//! The walk itself: directories by descriptor, so that a directory that is renamed or replaced meanwhile cannot lead astray.

use super::links::{Links, TABLESPACE_LINKS};
use super::names::Names;
use super::owners::Owners;
use super::{ScanReport, ScanRequest, ScanWarning};
use crate::PostgresError;
use crate::tablespaces::{created, is_dropped};
use pgconvoy_core::ids::Oid;
use pgconvoy_core::pg::{DirectoryDecision, FileClass, RelativePath, unlogged_main_forks};
use pgconvoy_core::plan::inventory::{EntryKind, ScannedEntry};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A cluster has these, or it is none: an empty mount point, a directory half copied.
const MUST_EXIST: [&str; 2] = ["PG_VERSION", "global/pg_control"];
/// Permission bits, with set-id and sticky.
const MODE_BITS: u32 = 0o7777;

/// Why a walk ends early.
#[derive(Debug)]
pub(super) enum Halt {
    Stopped,
    Failed(PostgresError),
}

impl From<PostgresError> for Halt {
    fn from(error: PostgresError) -> Self {
        Halt::Failed(error)
    }
}

type Step = Result<(), Halt>;

pub(super) struct Walk<'a> {
    request: ScanRequest<'a>,
    on_page: &'a mut dyn FnMut(Vec<ScannedEntry>) -> ControlFlow<()>,
    page: Vec<ScannedEntry>,
    page_entries_max: usize,
    owners: Owners,
    links: Links,
    warnings: Vec<ScanWarning>,
    entries: u64,
    missing: Vec<&'static str>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        request: ScanRequest<'a>,
        page_entries_max: usize,
        on_page: &'a mut dyn FnMut(Vec<ScannedEntry>) -> ControlFlow<()>,
    ) -> Result<Self, PostgresError> {
        Ok(Walk {
            links: Links::new(request.directory)?,
            request,
            on_page,
            page: Vec::new(),
            page_entries_max,
            owners: Owners::new(),
            warnings: Vec::new(),
            entries: 0,
            missing: MUST_EXIST.to_vec(),
        })
    }

    pub(super) fn run(mut self) -> Result<ScanReport, Halt> {
        let directory = self.request.directory;
        let fd = open_directory(CWD, directory, OFlags::empty())
            .map_err(|error| PostgresError::file("open", directory, error))?;
        let status =
            rustix::fs::fstat(&fd).map_err(|error| PostgresError::file("look at", directory, error))?;
        self.directory(fd.as_fd(), "")?;
        self.roots_stand()?;
        if let Some(path) = self.missing.first() {
            return Err(PostgresError::Missing { path: directory.join(path) }.into());
        }
        self.turn_page()?;
        Ok(ScanReport {
            mode: mode(&status),
            user: self.owners.user(status.st_uid),
            group: self.owners.group(status.st_gid),
            entries: self.entries,
            warnings: self.warnings,
            roots: self.request.roots,
        })
    }

    /// Everything in a directory. `path` is relative to the data directory, empty for itself.
    fn directory(&mut self, fd: BorrowedFd<'_>, path: &str) -> Step {
        let names = Names::read(fd, &self.absolute(path))?;
        let unlogged = match self.request.rules.holds_relations(path) {
            true => unlogged_main_forks(names.iter()),
            false => BTreeSet::new(),
        };
        for name in names.iter().filter(|name| !unlogged.contains(name)) {
            self.name(fd, path, name)?;
        }
        Ok(())
    }

    fn name(&mut self, parent: BorrowedFd<'_>, parent_path: &str, name: &str) -> Step {
        let path = self.join(parent_path, name)?;
        let status = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            Err(error) => return self.vanished_or("look at", &path, error),
        };
        let file_type = FileType::from_raw_mode(status.st_mode);
        if parent_path == TABLESPACE_LINKS && file_type != FileType::Symlink {
            return Err(PostgresError::LinkExpected { path: path.into() }.into());
        }
        match file_type {
            FileType::RegularFile => self.file(path, &status),
            FileType::Directory => self.real_directory(parent, name, path, &status),
            FileType::Symlink if parent_path == TABLESPACE_LINKS => self.tablespace(parent, name, path),
            FileType::Symlink => self.link(parent, name, path),
            _ => {
                self.warnings.push(ScanWarning::SpecialFile(path));
                Ok(())
            }
        }
    }

    fn file(&mut self, path: RelativePath, status: &Stat) -> Step {
        let Some(class) = self.request.rules.file(path.as_str()) else { return Ok(()) };
        self.missing.retain(|missing| *missing != path.as_str());
        self.emit(path, file_kind(class, status), status)
    }

    fn real_directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &str,
        path: RelativePath,
        status: &Stat,
    ) -> Step {
        let decision = self.request.rules.directory(path.as_str());
        if decision == DirectoryDecision::Skip {
            return Ok(());
        }
        let fd = match open_directory(parent, Path::new(name), OFlags::NOFOLLOW) {
            Ok(fd) => fd,
            Err(error) => return self.vanished_or("open", &path, error),
        };
        self.emit(path.clone(), EntryKind::Directory, status)?;
        match decision {
            DirectoryDecision::Descend => self.directory(fd.as_fd(), path.as_str()),
            DirectoryDecision::KeepEmpty | DirectoryDecision::Skip => Ok(()),
        }
    }

    /// A link to a directory or file elsewhere.
    fn link(&mut self, parent: BorrowedFd<'_>, name: &str, path: RelativePath) -> Step {
        let decision = self.request.rules.directory(path.as_str());
        if decision == DirectoryDecision::Skip {
            return Ok(());
        }
        let text = match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Ok(text) => text,
            Err(error) => return self.vanished_or("read", &path, error),
        };
        let holder = self.absolute(path.parent().unwrap_or_default());
        let status = match rustix::fs::statat(parent, name, AtFlags::empty()) {
            Ok(status) => Some(status),
            Err(Errno::NOENT | Errno::LOOP) => None,
            Err(error) => return Err(self.failed("look at", &path, error)),
        };
        let file_type = status.map(|status| FileType::from_raw_mode(status.st_mode));
        // What is left out is left out before anything is asked of it.
        let class = self.request.rules.file(path.as_str());
        if file_type != Some(FileType::Directory) && class.is_none() {
            return Ok(());
        }
        let destination = self.links.follow(path.as_str(), &holder, OsStr::from_bytes(text.to_bytes()))?;
        let kind = EntryKind::Link { destination: destination.text };
        match (file_type, class, status) {
            (Some(FileType::RegularFile), Some(class), Some(status)) => {
                self.missing.retain(|missing| *missing != path.as_str());
                self.emit(path.clone(), kind, &status)?;
                self.emit(path, file_kind(class, &status), &status)
            }
            (Some(FileType::Directory), _, Some(status)) => {
                let fd = open_directory(CWD, &destination.real, OFlags::NOFOLLOW)
                    .map_err(|error| self.failed("open", &path, error))?;
                self.request.roots.add(path.as_str(), None)?;
                self.emit(path.clone(), kind, &status)?;
                match decision {
                    DirectoryDecision::Descend => self.directory(fd.as_fd(), path.as_str()),
                    DirectoryDecision::KeepEmpty | DirectoryDecision::Skip => Ok(()),
                }
            }
            _ => {
                self.warnings.push(ScanWarning::SpecialFile(path));
                Ok(())
            }
        }
    }

    /// A link in `pg_tblspc`. Whatever goes wrong behind it is no error if the tablespace is being dropped.
    fn tablespace(&mut self, parent: BorrowedFd<'_>, name: &str, path: RelativePath) -> Step {
        let oid = self.tablespace_of(name)?;
        match self.behind_tablespace_link(parent, name, path, oid) {
            Err(Halt::Failed(error)) => self.dropped_or(oid, error),
            other => other,
        }
    }

    fn tablespace_of(&mut self, name: &str) -> Result<Oid, PostgresError> {
        let known = self.request.tablespaces.iter().find(|known| known.oid.to_string() == name);
        if let Some(known) = known {
            return Ok(known.oid);
        }
        let found = created(self.request.ask_tablespaces, name)?
            .ok_or_else(|| PostgresError::TablespaceUnknown { oid: name.to_owned() })?;
        let oid = found.oid;
        self.warnings.push(ScanWarning::TablespaceCreated(found));
        Ok(oid)
    }

    /// Only the directory of this version is ours.
    fn behind_tablespace_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &str,
        path: RelativePath,
        oid: Oid,
    ) -> Step {
        let text = match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Ok(text) => text,
            Err(error) => return self.vanished_or("read", &path, error),
        };
        let holder = self.absolute(TABLESPACE_LINKS);
        let destination = self.links.follow(path.as_str(), &holder, OsStr::from_bytes(text.to_bytes()))?;
        let fd = open_directory(CWD, &destination.real, OFlags::NOFOLLOW)
            .map_err(|error| self.failed("open", &path, error))?;
        let status = rustix::fs::fstat(&fd).map_err(|error| self.failed("look at", &path, error))?;
        self.emit(path.clone(), EntryKind::Link { destination: destination.text }, &status)?;

        let version = self.request.version.tablespace_directory();
        let inside = self.join(path.as_str(), &version)?;
        self.request.roots.add(inside.as_str(), Some(oid))?;
        self.name(fd.as_fd(), path.as_str(), &version)
    }

    fn dropped_or(&mut self, oid: Oid, error: PostgresError) -> Step {
        if !is_dropped(self.request.ask_tablespaces, oid)? {
            return Err(error.into());
        }
        self.request.roots.mark_dropped(oid);
        Ok(())
    }

    fn roots_stand(&mut self) -> Step {
        while let Err(error) = self.request.roots.all_still_there() {
            match error {
                PostgresError::RootGone { tablespace: Some(oid), .. } => self.dropped_or(oid, error)?,
                other => return Err(other.into()),
            }
        }
        Ok(())
    }

    fn emit(&mut self, path: RelativePath, kind: EntryKind, status: &Stat) -> Step {
        self.page.push(ScannedEntry {
            path,
            kind,
            mode: mode(status),
            user: self.owners.user(status.st_uid),
            group: self.owners.group(status.st_gid),
            modified: status.st_mtime,
        });
        self.entries += 1;
        if self.page.len() >= self.page_entries_max { self.turn_page() } else { Ok(()) }
    }

    fn turn_page(&mut self) -> Step {
        if self.page.is_empty() {
            return Ok(());
        }
        match (self.on_page)(std::mem::take(&mut self.page)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Halt::Stopped),
        }
    }

    /// Listed a moment ago and gone now: PostgreSQL removes relations, databases and logs at any time. Nothing that must
    /// exist gets lost here, because the end of the scan asks for it by name.
    fn vanished_or(&self, what: &'static str, path: &RelativePath, error: Errno) -> Step {
        if error != Errno::NOENT {
            return Err(self.failed(what, path, error));
        }
        Ok(self.request.roots.still_there(path.as_str())?)
    }

    fn failed(&self, what: &'static str, path: &RelativePath, error: Errno) -> Halt {
        PostgresError::file(what, self.absolute(path.as_str()), error).into()
    }

    fn absolute(&self, path: &str) -> PathBuf {
        self.request.directory.join(path)
    }

    fn join(&self, parent: &str, name: &str) -> Result<RelativePath, PostgresError> {
        let text = if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        RelativePath::new(text.as_str()).map_err(|error| PostgresError::FileInvalid {
            path: self.absolute(&text),
            reason: error.to_string(),
        })
    }
}

fn open_directory(parent: impl AsFd, path: &Path, more: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        parent,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more,
        Mode::empty(),
    )
}

fn file_kind(class: FileClass, status: &Stat) -> EntryKind {
    let size = u64::try_from(status.st_size).expect("the kernel gives no file a negative size");
    EntryKind::File { size, class }
}

fn mode(status: &Stat) -> u16 {
    u16::try_from(status.st_mode & MODE_BITS).expect("twelve bits fit into sixteen")
}
