//! What can go wrong at a lease store, and whether trying again helps.

use crate::keys::Key;
use crate::store::LeaseId;
use pgconvoy_core::failure::{Classify, ErrorCode, Retry};
use pgconvoy_core::ids::{FencingToken, IdError};

/// Cloned to every watcher that a fault ends, hence values only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The guard or the released key is not held with this token any more: the caller acts for a past that is over.
    #[error("'{key}' is no longer held with token {token}")]
    Fenced { key: Key, token: FencingToken },
    /// The lease expired or was revoked, and what was bound to it is free.
    #[error("lease {lease} has expired or was revoked")]
    Lost { lease: LeaseId },
    /// Somebody holds this key, and a put does not take it away.
    #[error("'{key}' is held by '{holder}'")]
    Held { key: Key, holder: String },
    /// A record is not in the revision that the writer had read.
    #[error("'{key}' was changed by somebody else")]
    Conflict { key: Key },
    #[error("{count} keys in one transaction are more than the {max} allowed")]
    TooMany { count: usize, max: usize },
    /// One transaction touches a key twice: its outcome would depend on an order that stores do not promise.
    #[error("'{key}' appears twice in one transaction")]
    Repeated { key: Key },
    #[error("value of {bytes} bytes for '{key}' is larger than the {max} allowed")]
    TooLarge { key: Key, bytes: usize, max: usize },
    #[error(transparent)]
    Name(#[from] IdError),
    /// The reader was slower than the changes. What it has not seen is lost: open a new watch and list again.
    #[error("the watch of '{prefix}' fell behind and has ended")]
    Lagged { prefix: String },
    /// The store does not know this process, or does not let it at these keys. Nothing took place.
    #[error("the lease store denies access: {reason}")]
    Denied { reason: String },
    /// The store answered that it does not do this, for a reason that is none of the others. Nothing took place.
    #[error("the lease store refused: {reason}")]
    Refused { reason: String },
    /// The store cannot be reached with these options, whatever it does.
    #[error("the options for the lease store do not fit: {reason}")]
    Options { reason: String },
    /// No answer. A write may or may not have taken place.
    #[error("the lease store did not answer: {reason}")]
    Unavailable { reason: String },
}

impl Classify for LeaseError {
    fn code(&self) -> ErrorCode {
        match self {
            LeaseError::Fenced { .. }
            | LeaseError::Lost { .. }
            | LeaseError::Held { .. }
            | LeaseError::Conflict { .. } => ErrorCode::LockAcquire,
            LeaseError::TooMany { .. } | LeaseError::Repeated { .. } | LeaseError::TooLarge { .. } => {
                ErrorCode::Assert
            }
            LeaseError::Name(_) => ErrorCode::ParamInvalid,
            LeaseError::Options { .. } => ErrorCode::OptionInvalidValue,
            LeaseError::Denied { .. } => ErrorCode::Access,
            LeaseError::Refused { .. } => ErrorCode::Protocol,
            LeaseError::Lagged { .. } | LeaseError::Unavailable { .. } => ErrorCode::HostConnect,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            LeaseError::Lagged { .. } | LeaseError::Unavailable { .. } => Retry::MayHelp,
            _ => Retry::IsFutile,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            LeaseError::Held { .. } => "is another pgconvoy process running?",
            LeaseError::Fenced { .. } | LeaseError::Lost { .. } => {
                "this process was cut off or frozen for longer than its lease; another one has taken over"
            }
            LeaseError::Denied { .. } => {
                "check the user, its password, and that its role may read and write under /pgconvoy/"
            }
            LeaseError::Unavailable { .. } => {
                "check that etcd runs and that its endpoints can be reached from here"
            }
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}
