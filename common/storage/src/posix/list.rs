//! Listing directories in the order of object stores.
//!
//! A page holds the names of the directories on the path to its end in memory, of each at most one.

use super::root::{Root, open_directory};
use crate::listing::order;
use crate::{IoAction, ListAfter, ListDepth, ListPage, ObjectKey, StorageError};
use rustix::fs::{self, AtFlags, FileType, RawDir};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

/// What the C library takes: some hundred names for one system call.
const READ_BUFFER_BYTES: usize = 32 * 1024;
/// The checker's own directory at the top of ext filesystems, for root's eyes only.
const LOST_AND_FOUND: &str = "lost+found";

/// A name in a directory. Names that are no text cannot be keys and are left out.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: FileType,
}

/// All names of a directory that `key` leads to. It must have been opened for this call: reading moves its position.
pub(super) fn entries(
    root: &Root,
    directory: BorrowedFd<'_>,
    key: Option<&ObjectKey>,
) -> Result<Vec<Entry>, StorageError> {
    let error = |errno| root.error(key, IoAction::List, errno);
    let mut buffer = vec![MaybeUninit::uninit(); READ_BUFFER_BYTES];
    let mut names = RawDir::new(directory, &mut buffer);
    let mut entries = Vec::new();
    while let Some(entry) = names.next() {
        let entry = entry.map_err(error)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let is_foreign = key.is_none() && name == LOST_AND_FOUND;
        if matches!(name, "." | "..") || is_foreign {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(error(errno)),
            },
            kind => kind,
        };
        entries.push(Entry { name: name.to_owned(), kind });
    }
    Ok(entries)
}

pub(super) fn page(
    root: &Root,
    prefix: Option<&ObjectKey>,
    depth: ListDepth,
    after: Option<&ListAfter>,
    limit: usize,
) -> Result<ListPage, StorageError> {
    let found = root.find_directory(prefix).map_err(|errno| root.error(prefix, IoAction::List, errno))?;
    let Some(directory) = found else {
        root.check_still_there()?;
        return Ok(ListPage::default());
    };
    let mut walk = Walk { root, depth, after, limit, page: ListPage::default(), last: None };
    let _ = walk.visit(directory.as_fd(), prefix)?;
    if walk.last.is_none() {
        root.check_still_there()?;
    }
    Ok(walk.page)
}

struct Walk<'a> {
    root: &'a Root,
    depth: ListDepth,
    after: Option<&'a ListAfter>,
    limit: usize,
    page: ListPage,
    last: Option<ListAfter>,
}

impl Walk<'_> {
    /// Breaks when the page is full and something is left.
    fn visit(
        &mut self,
        directory: BorrowedFd<'_>,
        key: Option<&ObjectKey>,
    ) -> Result<ControlFlow<()>, StorageError> {
        for (child, kind) in children(self.root, directory, key)? {
            let flow = match (kind, self.depth) {
                (FileType::Directory, ListDepth::Recursive) => self.descend(directory, &child)?,
                (FileType::Directory, ListDepth::Children) => self.add_prefix(directory, child)?,
                _ => self.add_object(directory, child)?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn descend(
        &mut self,
        directory: BorrowedFd<'_>,
        child: &ObjectKey,
    ) -> Result<ControlFlow<()>, StorageError> {
        if self.after.is_some_and(|after| !after.precedes_some_under(child)) {
            return Ok(ControlFlow::Continue(()));
        }
        let below = open_directory(directory, child.name());
        match below.map_err(|errno| self.root.error(Some(child), IoAction::List, errno))? {
            Some(below) => self.visit(below.as_fd(), Some(child)),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    fn add_prefix(
        &mut self,
        directory: BorrowedFd<'_>,
        child: ObjectKey,
    ) -> Result<ControlFlow<()>, StorageError> {
        if self.after.is_some_and(|after| !after.precedes_prefix(&child))
            || !holds_object(self.root, directory, &child)?
        {
            return Ok(ControlFlow::Continue(()));
        }
        Ok(self.add(ListAfter::Prefix(child.clone()), |page| page.prefixes.push(child)))
    }

    fn add_object(
        &mut self,
        directory: BorrowedFd<'_>,
        child: ObjectKey,
    ) -> Result<ControlFlow<()>, StorageError> {
        if self.after.is_some_and(|after| !after.precedes_object(&child)) {
            return Ok(ControlFlow::Continue(()));
        }
        let info = match fs::statat(directory, child.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.root.info(&child, &stat)?,
            // Deleted since its name was read.
            Err(Errno::NOENT) => return Ok(ControlFlow::Continue(())),
            Err(errno) => return Err(self.root.error(Some(&child), IoAction::List, errno)),
        };
        Ok(self.add(ListAfter::Object(child), |page| page.objects.push(info)))
    }

    fn add(&mut self, entry: ListAfter, push: impl FnOnce(&mut ListPage)) -> ControlFlow<()> {
        if self.page.objects.len() + self.page.prefixes.len() == self.limit {
            self.page.more = self.last.take();
            return ControlFlow::Break(());
        }
        push(&mut self.page);
        self.last = Some(entry);
        ControlFlow::Continue(())
    }
}

/// The entries of a directory that are keys, in order.
fn children(
    root: &Root,
    directory: BorrowedFd<'_>,
    key: Option<&ObjectKey>,
) -> Result<Vec<(ObjectKey, FileType)>, StorageError> {
    let mut children = Vec::new();
    for Entry { name, kind } in entries(root, directory, key)? {
        let child = match key {
            Some(key) => key.join(&name),
            None => name.parse(),
        };
        if let Ok(child) = child {
            children.push((child, kind));
        }
    }
    let is_prefix = |kind: &FileType| *kind == FileType::Directory;
    children
        .sort_unstable_by(|(a, a_kind), (b, b_kind)| order((a, is_prefix(a_kind)), (b, is_prefix(b_kind))));
    Ok(children)
}

/// Whether anything below this directory would be listed, or be an error that a listing below it must show.
fn holds_object(root: &Root, directory: BorrowedFd<'_>, key: &ObjectKey) -> Result<bool, StorageError> {
    let opened = open_directory(directory, key.name());
    let Some(below) = opened.map_err(|errno| root.error(Some(key), IoAction::List, errno))? else {
        return Ok(false);
    };
    for (child, kind) in children(root, below.as_fd(), Some(key))? {
        if kind != FileType::Directory || holds_object(root, below.as_fd(), &child)? {
            return Ok(true);
        }
    }
    Ok(false)
}
