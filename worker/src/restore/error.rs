//! What can go wrong with the target of a restore.

use pgconvoy_core::failure::{Classify, ErrorCode, Failure};
use pgconvoy_core::units::ByteCount;
use pgconvoy_repository::RepositoryError;
use std::io;
use std::path::{Path, PathBuf};

/// What was being done when the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    LookAt,
    Create,
    CreateDirectory,
    CreateLink,
    Open,
    Read,
    Write,
    Sync,
    Remove,
    Rename,
    GiveAway,
}

impl Action {
    const fn words(self) -> &'static str {
        match self {
            Action::LookAt => "look at",
            Action::Create => "create",
            Action::CreateDirectory => "create directory",
            Action::CreateLink => "create link",
            Action::Open => "open",
            Action::Read => "read",
            Action::Write => "write",
            Action::Sync => "sync",
            Action::Remove => "remove",
            Action::Rename => "rename",
            Action::GiveAway => "set owner, mode and time of",
        }
    }

    const fn code(self) -> ErrorCode {
        match self {
            Action::LookAt => ErrorCode::PathOpen,
            Action::Create | Action::Open => ErrorCode::FileOpen,
            Action::CreateDirectory => ErrorCode::PathCreate,
            Action::CreateLink => ErrorCode::LinkDestination,
            Action::Read => ErrorCode::FileRead,
            Action::Write => ErrorCode::FileWrite,
            Action::Sync => ErrorCode::FileSync,
            Action::Remove => ErrorCode::FileRemove,
            Action::Rename => ErrorCode::FileMove,
            Action::GiveAway => ErrorCode::FileOwner,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error("cannot {} {}: {source}", action.words(), path.display())]
    File { action: Action, path: PathBuf, source: io::Error },
    #[error("data directory {} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("data directory {} bears the marker of a restore, but a cluster lives in it", path.display())]
    Alive { path: PathBuf },
    #[error("another process restores into {}", path.display())]
    Busy { path: PathBuf },
    #[error("{what} would go to {}, which {obstacle}", path.display())]
    Occupied { what: String, path: PathBuf, obstacle: &'static str, option: &'static str },
    #[error("{first} and {second} would share {}", path.display())]
    Shared { first: String, second: String, path: PathBuf, code: ErrorCode },
    #[error(
        "the filesystem of {} has {} free, and the restore needs {} there", path.display(), ByteCount(*free), ByteCount(*needed)
    )]
    Space { path: PathBuf, free: u64, needed: u64 },
    #[error("{} does not match its checksum in the manifest", path.display())]
    FileChecksum { path: PathBuf },
    #[error("{} has {size} bytes, not {planned}", path.display())]
    Staged { path: PathBuf, size: u64, planned: u64 },
    #[error("{done} of {planned} {what} were restored, though no error was seen")]
    Incomplete { what: &'static str, done: u64, planned: u64 },
    #[error("the backup's global/pg_control is not usable: {reason}")]
    Control { reason: String },
}

impl RestoreError {
    /// For `map_err`.
    pub(super) fn file(action: Action, path: &Path) -> impl FnOnce(io::Error) -> RestoreError + '_ {
        move |source| RestoreError::File { action, path: path.to_owned(), source }
    }
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl Classify for RestoreError {
    fn code(&self) -> ErrorCode {
        match self {
            RestoreError::File { source, .. } if is_out_of_space(source) => ErrorCode::FileWrite,
            RestoreError::File { action, .. } => action.code(),
            RestoreError::NotEmpty { .. } | RestoreError::Alive { .. } | RestoreError::Occupied { .. } => {
                ErrorCode::PathNotEmpty
            }
            RestoreError::Busy { .. } => ErrorCode::LockAcquire,
            RestoreError::Shared { code, .. } => *code,
            RestoreError::Space { .. } => ErrorCode::FileWrite,
            RestoreError::FileChecksum { .. } | RestoreError::Control { .. } => ErrorCode::Checksum,
            RestoreError::Staged { .. } => ErrorCode::FileInvalid,
            RestoreError::Incomplete { .. } => ErrorCode::Assert,
        }
    }

    fn hints(&self) -> Vec<String> {
        let one = |hint: &str| vec![hint.to_owned()];
        match self {
            RestoreError::File { source, .. } if is_out_of_space(source) => {
                one("free space, then run the same restore again: it begins anew by itself")
            }
            RestoreError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                one("run it as the user that PostgreSQL runs as, and check who owns the directories above")
            }
            RestoreError::File { .. } => {
                one("look into the kernel's log for errors of the disk or the mount")
            }
            RestoreError::NotEmpty { .. } => one(
                "empty it first if nothing in it is needed any more, or name another place with --pg-path",
            ),
            RestoreError::Alive { path } => vec![
                format!("if it is in use, remove {} only", path.join(super::marker::MARKER).display()),
                "empty the directory if nothing in it is needed any more".into(),
            ],
            RestoreError::Busy { .. } => one("wait for it, or stop that process"),
            RestoreError::Occupied { option, .. } => {
                vec![format!(
                    "it may belong to a living cluster and is not touched: choose another place with {option}"
                )]
            }
            RestoreError::Shared { .. } => one("give each a place of its own"),
            RestoreError::Space { .. } => one("free space there, or restore to another place"),
            RestoreError::FileChecksum { .. } | RestoreError::Control { .. } => {
                one("run verify to learn what is damaged; restore another backup, or from another repository")
            }
            RestoreError::Staged { .. } => {
                one("is the target a filesystem that all workers of the restore see alike?")
            }
            RestoreError::Incomplete { .. } => one("please report this with the log of the restore"),
        }
    }
}

/// As a failure of the restore: damage has one code.
pub(super) fn as_failure(error: RepositoryError) -> Failure {
    let damage = error.is_damage();
    let mut failure = Failure::from(error);
    if damage {
        failure.code = ErrorCode::Checksum;
    }
    failure
}
