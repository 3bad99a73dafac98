//! Copies within one filesystem, which need not bring bytes to this host.

use super::root::{Root, etag};
use super::temporary::Temporary;
use crate::{IoAction, ObjectInfo, ObjectKey, PutMode, StorageError};
use rustix::fs;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What is copied is one open file, which is compared before and after.
pub(super) fn copy(
    root: &Arc<Root>,
    source: &Root,
    object: &ObjectInfo,
    key: &ObjectKey,
) -> Result<(), StorageError> {
    let (file, size) = source.open_object(&object.key)?;
    check_unchanged(source, &file, object)?;
    let mut temporary = Temporary::create(root, key)?;
    if temporary.append_file(&file, size)? != size {
        return Err(StorageError::Changed { at: source.place(Some(&object.key)) });
    }
    check_unchanged(source, &file, object)?;
    temporary.publish(PutMode::Create)
}

fn check_unchanged(source: &Root, file: &OwnedFd, object: &ObjectInfo) -> Result<(), StorageError> {
    let at = || source.place(Some(&object.key));
    let found = fs::fstat(file).map_err(|errno| source.error(Some(&object.key), IoAction::Read, errno))?;
    if etag(&found) == object.known_etag(at)? { Ok(()) } else { Err(StorageError::Changed { at: at() }) }
}

/// The filesystem cannot do it, or what lies below the two roots is not one filesystem.
pub(super) fn is_incapable(errno: Errno) -> bool {
    matches!(errno, Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
}
