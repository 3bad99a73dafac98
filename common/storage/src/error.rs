//! What can go wrong with a store, in classes that ask for different answers.
//!
//! Invariants
//! 1. Every error says which store and, where there is one, which key.
//! 2. `NotFound` is known absence. What merely could not be looked at has another class.
//! 3. `MayHelp` is said only where the same call, made again, is safe and can end differently.

use crate::ObjectKey;
use pgconvoy_core::failure::{Classify, ErrorCode, Retry};
use rustix::io::Errno;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Which store, and which key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub store: Arc<str>,
    pub key: Option<ObjectKey>,
}

impl Place {
    pub fn new(store: impl Into<Arc<str>>, key: Option<&ObjectKey>) -> Self {
        Place { store: store.into(), key: key.cloned() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "'{key}' in {}", self.store),
            None => f.write_str(&self.store),
        }
    }
}

/// What a store ran out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    Space,
    Quota,
}

impl Shortage {
    const fn words(self) -> &'static str {
        match self {
            Shortage::Space => "no space is left",
            Shortage::Quota => "the quota is used up",
        }
    }
}

/// What was being done when the system refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoAction {
    /// Anything: what is wrong shows before something is done.
    Use,
    Open,
    Read,
    Write,
    Sync,
    SyncPath,
    Publish,
    CreatePath,
    List,
    Remove,
}

impl IoAction {
    const fn words(self) -> &'static str {
        match self {
            IoAction::Use => "use",
            IoAction::Open => "open",
            IoAction::Read => "read",
            IoAction::Write => "write",
            IoAction::Sync => "sync",
            IoAction::SyncPath => "sync the directory of",
            IoAction::Publish => "publish",
            IoAction::CreatePath => "create the directory of",
            IoAction::List => "list",
            IoAction::Remove => "remove",
        }
    }

    pub(crate) const fn code(self) -> ErrorCode {
        match self {
            IoAction::Use | IoAction::Open => ErrorCode::FileOpen,
            IoAction::Read => ErrorCode::FileRead,
            IoAction::Write => ErrorCode::FileWrite,
            IoAction::Sync => ErrorCode::FileSync,
            IoAction::SyncPath => ErrorCode::PathSync,
            IoAction::Publish => ErrorCode::FileMove,
            IoAction::CreatePath => ErrorCode::PathCreate,
            IoAction::List => ErrorCode::PathOpen,
            IoAction::Remove => ErrorCode::FileRemove,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    #[error("{at} does not exist")]
    NotFound { at: Place },
    #[error("{at} exists already")]
    AlreadyExists { at: Place },
    /// What was to be copied is not what was looked at before.
    #[error("{at} has changed since it was read")]
    Changed { at: Place },
    #[error("{at} ends at byte {size}, but byte {wanted} was asked for")]
    Truncated { at: Place, size: u64, wanted: u64 },
    #[error("{at} has {size} bytes, more than the {size_max} that are expected at most")]
    TooLarge { at: Place, size: u64, size_max: u64 },
    /// A key would be the prefix of another key, or something that is no object is in its place.
    #[error("{at} is obstructed: {reason}")]
    Obstructed { at: Place, reason: String },
    #[error("unable to {} {at}: permission denied{}", action.words(), Detail(reason))]
    Access { at: Place, action: IoAction, reason: String },
    /// It does not go as it is configured, here or at the store: a key, a certificate, a name, a right. Somebody has to change
    /// something, and the hint says what.
    #[error("unable to {} {at}: {reason}", action.words())]
    Refused { at: Place, action: IoAction, code: ErrorCode, reason: String, hint: String },
    /// A retention or a hold keeps it: only time, or whoever set that, can help.
    #[error("unable to remove {at}: it is kept there{}", Detail(reason))]
    Kept { at: Place, reason: String },
    #[error("unable to {} {at}: the store is read-only", action.words())]
    ReadOnly { at: Place, action: IoAction },
    #[error("unable to {} {at}: {}", action.words(), shortage.words())]
    Full { at: Place, action: IoAction, shortage: Shortage },
    /// The store cannot be reached or is busy; nothing is known about the object.
    #[error("{at} is not available: {reason}")]
    Unavailable { at: Place, reason: String },
    /// It has too much to do and says so; nothing was done.
    #[error("{at} asks for patience: {reason}")]
    Throttled {
        at: Place,
        reason: String,
        /// How long to leave it alone, if it said that.
        retry_after: Option<Duration>,
    },
    #[error("{at} did not answer in time: {reason}")]
    Timeout { at: Place, reason: String },
    /// Somebody else on this host has the turn at the object, longer than one should; nothing was done.
    #[error("{at} cannot be created: {reason}")]
    Busy { at: Place, reason: String },
    #[error("{at}: {reason}")]
    NotSupported { at: Place, reason: String },
    #[error("unable to {} {at}: {reason}", action.words())]
    Io { at: Place, action: IoAction, reason: String },
}

/// `: detail`, or nothing.
struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

impl StorageError {
    /// The store says no to whoever asks as they are configured.
    pub fn refused(at: Place, action: IoAction, reason: String, hint: impl Into<String>) -> StorageError {
        StorageError::Refused { at, action, code: ErrorCode::Access, reason, hint: hint.into() }
    }

    /// What is configured to reach the store cannot be used.
    pub fn unusable(at: Place, code: ErrorCode, reason: String, hint: impl Into<String>) -> StorageError {
        StorageError::Refused { at, action: IoAction::Use, code, reason, hint: hint.into() }
    }

    pub fn at(&self) -> &Place {
        match self {
            StorageError::NotFound { at }
            | StorageError::AlreadyExists { at }
            | StorageError::Changed { at }
            | StorageError::Truncated { at, .. }
            | StorageError::TooLarge { at, .. }
            | StorageError::Obstructed { at, .. }
            | StorageError::Access { at, .. }
            | StorageError::Refused { at, .. }
            | StorageError::Kept { at, .. }
            | StorageError::ReadOnly { at, .. }
            | StorageError::Full { at, .. }
            | StorageError::Unavailable { at, .. }
            | StorageError::Throttled { at, .. }
            | StorageError::Timeout { at, .. }
            | StorageError::Busy { at, .. }
            | StorageError::NotSupported { at, .. }
            | StorageError::Io { at, .. } => at,
        }
    }

    /// How long the store asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            StorageError::Throttled { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, StorageError::NotFound { .. })
    }

    /// It cannot be removed yet, and nothing is wrong.
    pub fn is_kept(&self) -> bool {
        matches!(self, StorageError::Kept { .. })
    }

    pub fn is_already_exists(&self) -> bool {
        matches!(self, StorageError::AlreadyExists { .. })
    }

    /// Sorts an error of the operating system. Only opening and reading can find that something does not exist.
    pub fn from_errno(at: Place, action: IoAction, errno: Errno) -> Self {
        let reason = std::io::Error::from(errno).to_string();
        match errno {
            Errno::ACCESS | Errno::PERM => StorageError::Access { at, action, reason: String::new() },
            Errno::ROFS => StorageError::ReadOnly { at, action },
            Errno::NOSPC => StorageError::Full { at, action, shortage: Shortage::Space },
            Errno::DQUOT => StorageError::Full { at, action, shortage: Shortage::Quota },
            // A failed sync may have dropped the very pages it was to write: no later success says anything about them.
            _ if matches!(action, IoAction::Sync | IoAction::SyncPath) => {
                StorageError::Io { at, action, reason }
            }
            Errno::NOENT if matches!(action, IoAction::Open | IoAction::Read) => {
                StorageError::NotFound { at }
            }
            Errno::EXIST if action == IoAction::Publish => StorageError::AlreadyExists { at },
            Errno::NOTDIR | Errno::ISDIR | Errno::LOOP => StorageError::Obstructed { at, reason },
            Errno::TIMEDOUT => StorageError::Timeout { at, reason },
            Errno::STALE
            | Errno::AGAIN
            | Errno::BUSY
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            | Errno::NOTCONN
            | Errno::CONNRESET
            | Errno::CONNREFUSED
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::NETDOWN => StorageError::Unavailable { at, reason },
            // EIO among them: a medium that fails is somebody's job, not a loop's.
            _ => StorageError::Io { at, action, reason },
        }
    }
}

impl Classify for StorageError {
    fn code(&self) -> ErrorCode {
        match self {
            StorageError::NotFound { .. } => ErrorCode::FileMissing,
            StorageError::AlreadyExists { .. } => ErrorCode::Exists,
            StorageError::Truncated { .. } => ErrorCode::FileRead,
            StorageError::TooLarge { .. }
            | StorageError::Obstructed { .. }
            | StorageError::Changed { .. } => ErrorCode::FileInvalid,
            StorageError::Access { .. } => ErrorCode::Access,
            StorageError::Refused { code, .. } => *code,
            StorageError::Kept { .. } => ErrorCode::FileRemove,
            StorageError::ReadOnly { .. } | StorageError::Full { .. } => ErrorCode::FileWrite,
            StorageError::Unavailable { .. }
            | StorageError::Throttled { .. }
            | StorageError::Timeout { .. } => ErrorCode::HostConnect,
            StorageError::Busy { .. } => ErrorCode::LockAcquire,
            StorageError::NotSupported { .. } => ErrorCode::NotSupported,
            StorageError::Io { action, .. } => action.code(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            StorageError::Unavailable { .. }
            | StorageError::Throttled { .. }
            | StorageError::Timeout { .. }
            | StorageError::Busy { .. } => Retry::MayHelp,
            _ => Retry::IsFutile,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            StorageError::Refused { hint, .. } => hint.as_str(),
            StorageError::Access { .. } => {
                "check that the user running this process may use the store, and its credentials"
            }
            StorageError::Kept { .. } => {
                "it can be removed when its lock (lock-period), or the store's own retention or hold, has ended; until then nothing is lost but room"
            }
            StorageError::ReadOnly { .. } => {
                "check how the store is mounted; a filesystem turns read-only after errors of its disk"
            }
            StorageError::Busy { .. } => {
                "wait for that process; one that hangs, or is stopped, has to be continued or ended"
            }
            StorageError::Full { shortage: Shortage::Space, .. } => {
                "free space in the store or enlarge it; a shorter retention frees space at the next expire"
            }
            StorageError::Full { shortage: Shortage::Quota, .. } => {
                "raise the quota of the user or project that owns the store"
            }
            StorageError::Truncated { .. } => {
                "the object is damaged or was written by something else; verify finds what else is"
            }
            StorageError::Obstructed { .. } => "something other than this program put it there; move it away",
            StorageError::Io { .. } => "look into the kernel's log for errors of the disk or the mount",
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

#[cfg(test)]
mod tests;
