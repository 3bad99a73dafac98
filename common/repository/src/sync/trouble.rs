//! What an error costs: one object and what needs it, or the whole synchronisation.

use crate::error::RepositoryError;
use crate::verify::Interrupted;
use pgconvoy_core::failure::Failure;
use pgconvoy_storage::StorageError;

#[derive(Debug)]
pub(super) enum Trouble {
    /// Of one object; others may be well.
    Failed(Failure),
    /// The same: what the target has under a name is not what the source has.
    Differs(Failure),
    /// Of a store: whatever comes next would end alike.
    Fatal(Failure),
    Interrupted,
}

impl Trouble {
    pub(super) fn told(self) -> Failure {
        match self {
            Trouble::Failed(failure) | Trouble::Differs(failure) | Trouble::Fatal(failure) => failure,
            Trouble::Interrupted => RepositoryError::Interrupted { what: "repo-sync" }.into(),
        }
    }
}

impl From<RepositoryError> for Trouble {
    fn from(error: RepositoryError) -> Trouble {
        use StorageError as S;
        let is_fatal = match &error {
            RepositoryError::Storage(error) => matches!(
                error,
                S::ReadOnly { .. } | S::Full { .. } | S::Unavailable { .. } | S::Timeout { .. }
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
