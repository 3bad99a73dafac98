//! From what a server answers to the classes of [`StorageError`].
//!
//! SFTP 3 has one word, "failure", for a name that exists, a full disk and a read-only one. So what follows such an answer
//! asks further before it says what it was; here is what an answer says by itself.

use crate::session::Fault;
use crate::wire::{FileSystem, code};
use pgconvoy_storage::{IoAction, Place, Shortage, StorageError};

pub(crate) fn error(at: Place, action: IoAction, fault: Fault) -> StorageError {
    let status = match fault {
        Fault::Lost(reason) => return StorageError::Unavailable { at, reason: reason.to_string() },
        Fault::Refused(status) => status,
    };
    let reason = if status.message.is_empty() {
        format!("the server answers with status {}", status.code)
    } else {
        format!("the server answers '{}'", status.message)
    };
    match status.code {
        code::NO_SUCH_FILE if matches!(action, IoAction::Open | IoAction::Read) => {
            StorageError::NotFound { at }
        }
        code::PERMISSION_DENIED => StorageError::Access { at, action, reason: String::new() },
        code::WRITE_PROTECT => StorageError::ReadOnly { at, action },
        code::NO_SPACE_ON_FILESYSTEM => StorageError::Full { at, action, shortage: Shortage::Space },
        code::QUOTA_EXCEEDED => StorageError::Full { at, action, shortage: Shortage::Quota },
        code::FILE_ALREADY_EXISTS if action == IoAction::Publish => StorageError::AlreadyExists { at },
        code::OP_UNSUPPORTED => StorageError::NotSupported { at, reason },
        code::NO_CONNECTION | code::CONNECTION_LOST => StorageError::Unavailable { at, reason },
        _ => StorageError::Io { at, action, reason },
    }
}

/// What a bare "failure" of a write must have been, as the state of the file system tells.
pub(crate) fn explain(error: StorageError, found: Option<FileSystem>) -> StorageError {
    let (StorageError::Io { at, action, .. }, Some(found)) = (&error, found) else { return error };
    let (at, action) = (at.clone(), *action);
    if found.is_read_only {
        StorageError::ReadOnly { at, action }
    } else if found.blocks_available == 0 || (found.files > 0 && found.files_available == 0) {
        StorageError::Full { at, action, shortage: Shortage::Space }
    } else {
        error
    }
}

pub(crate) fn is_refused_with(fault: &Fault, wanted: u32) -> bool {
    matches!(fault, Fault::Refused(status) if status.code == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Status;
    use pgconvoy_core::failure::{Classify as _, Retry};

    fn refused(code: u32) -> Fault {
        Fault::Refused(Status { code, message: "said so".to_owned() })
    }

    fn place() -> Place {
        Place::new("sftp:u@h:22/r", None)
    }

    #[test]
    fn only_opening_and_reading_can_find_that_something_does_not_exist() {
        let missing = |action| error(place(), action, refused(code::NO_SUCH_FILE));
        assert!(missing(IoAction::Open).is_not_found());
        assert!(matches!(missing(IoAction::Publish), StorageError::Io { action: IoAction::Publish, .. }));
    }

    #[test]
    fn a_lost_session_may_be_tried_again_and_a_refusal_may_not() {
        let lost = error(place(), IoAction::Write, Fault::Lost("gone".into()));
        assert_eq!((lost.retry(), lost.to_string().contains("gone")), (Retry::MayHelp, true));
        for code in [3, 4, 5, 8, 11, 12, 14, 15, 99] {
            assert_eq!(error(place(), IoAction::Write, refused(code)).retry(), Retry::IsFutile, "{code}");
        }
    }

    #[test]
    fn a_bare_failure_is_explained_by_the_state_of_the_file_system() {
        let full = FileSystem {
            block_bytes: 4096,
            blocks: 10,
            blocks_available: 0,
            files: 10,
            files_available: 1,
            id: 1,
            is_read_only: false,
        };
        let failure = || error(place(), IoAction::Write, refused(4));
        assert!(matches!(explain(failure(), Some(full)), StorageError::Full { .. }));
        let read_only = FileSystem { is_read_only: true, ..full };
        assert!(matches!(explain(failure(), Some(read_only)), StorageError::ReadOnly { .. }));
        let no_names = FileSystem { blocks_available: 5, files_available: 0, ..full };
        assert!(matches!(explain(failure(), Some(no_names)), StorageError::Full { .. }));
        let healthy = FileSystem { blocks_available: 5, ..full };
        assert_eq!(explain(failure(), Some(healthy)), failure());
        assert_eq!(explain(failure(), None), failure());
    }
}
