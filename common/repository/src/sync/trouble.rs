//! What an error costs: one object and what needs it, or the whole synchronisation.

use crate::error::RepositoryError;
use crate::verify::Interrupted;
use pgconvoy_core::failure::{Classify, Failure, Retry};
use pgconvoy_storage::StorageError;

#[derive(Debug)]
pub(super) enum Trouble {
    /// Of one object; others may be well.
    Failed(Failure),
    /// The same: what the target has under a name is not what the source has.
    Differs(Failure),
    /// Of an upload: another try may end otherwise.
    Passing(Failure),
    /// Of a store: whatever comes next would end alike.
    Fatal(Failure),
    Interrupted,
}

impl Trouble {
    pub(super) fn told(self) -> Failure {
        match self {
            Trouble::Failed(failure)
            | Trouble::Differs(failure)
            | Trouble::Passing(failure)
            | Trouble::Fatal(failure) => failure,
            Trouble::Interrupted => RepositoryError::Interrupted { what: "repo-sync" }.into(),
        }
    }

    /// Of the target, which every object needs: whoever may not write one may write none.
    pub(super) fn of_target(error: impl Into<RepositoryError>) -> Trouble {
        let error = error.into();
        match &error {
            RepositoryError::Storage(
                StorageError::Access { .. }
                | StorageError::Refused { .. }
                | StorageError::NotSupported { .. },
            ) => Trouble::Fatal(error.into()),
            _ => error.into(),
        }
    }

    /// Of an object on its way to the target: its beginning is gone, so nobody else could try again.
    pub(super) fn of_upload(error: StorageError) -> Trouble {
        match error.retry() {
            Retry::MayHelp => Trouble::Passing(error.into()),
            Retry::IsFutile => Trouble::of_target(error),
        }
    }
}

/// What ends a single call may end one object only; what says something of the store ends it all.
impl From<RepositoryError> for Trouble {
    fn from(error: RepositoryError) -> Trouble {
        let is_fatal = match &error {
            RepositoryError::Storage(error) => matches!(
                error,
                StorageError::ReadOnly { .. }
                    | StorageError::Full { .. }
                    | StorageError::Unavailable { .. }
                    | StorageError::Timeout { .. }
                    | StorageError::Throttled { .. }
            ),
            RepositoryError::Unreachable { .. } => true,
            _ => false,
        };
        if is_fatal { Trouble::Fatal(error.into()) } else { Trouble::Failed(error.into()) }
    }
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Trouble {
        RepositoryError::from(error).into()
    }
}

impl From<Interrupted> for Trouble {
    fn from(_: Interrupted) -> Trouble {
        Trouble::Interrupted
    }
}
