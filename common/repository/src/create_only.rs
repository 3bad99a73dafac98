//! Finds out what keeps one object from replacing another in a place: the store itself, or a lock among the processes of each host.

use crate::error::RepositoryError;
use pgconvoy_storage::{CreateOnly, ObjectKey, Storage, prove_create_only};

/// What keeps objects from being replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarding {
    ByStore,
    /// Only locks do: who does not share them is not kept from it.
    ByLock,
    /// Locks are asked for where the store would do without, for all hosts.
    ByNeedlessLock,
}

impl Guarding {
    /// What an operator should know of it; nothing where the store does it.
    pub const fn remark(self) -> Option<&'static str> {
        match self {
            Guarding::ByStore => None,
            Guarding::ByLock => Some(
                "the store lets one object replace another, and only locks on each host keep it from that (create-only = \"lock\"): \
                 WAL of a stanza must come from one host at a time, backups of it from one host or one fleet",
            ),
            Guarding::ByNeedlessLock => Some(
                "the store keeps objects from being replaced by itself: create-only = \"lock\" makes it weaker between hosts, remove it",
            ),
        }
    }
}

/// Tries it below `scratch`, and behind a guard the store as well. A place that does not keep them is refused.
pub async fn prove_guarding(storage: &dyn Storage, scratch: &ObjectKey) -> Result<Guarding, RepositoryError> {
    let place = || storage.describe();
    match prove_create_only(storage, scratch).await? {
        CreateOnly::Honoured => {}
        CreateOnly::Ignored => return Err(RepositoryError::Overwrites { place: place() }),
        CreateOnly::Refused { reason } => {
            return Err(RepositoryError::NoCreateOnly { place: place(), reason });
        }
    }
    let Some(bare) = storage.unguarded() else { return Ok(Guarding::ByStore) };
    match prove_create_only(bare, scratch).await {
        Ok(CreateOnly::Honoured) => Ok(Guarding::ByNeedlessLock),
        Ok(CreateOnly::Ignored | CreateOnly::Refused { .. }) => Ok(Guarding::ByLock),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::failure::{Classify, ErrorCode};
    use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, Operation, Rule};
    use pgconvoy_storage::decorate::guard::{GuardStorage, Stripes};
    use pgconvoy_storage::{MemoryStorage, list_all};
    use std::sync::Arc;

    fn guarded(store: Arc<dyn Storage>) -> GuardStorage {
        GuardStorage::new(store, Arc::new(Stripes::default()))
    }

    fn overwriting(memory: &MemoryStorage) -> Arc<dyn Storage> {
        let (storage, faults) = FaultStorage::new(Arc::new(memory.clone()));
        faults.add(Rule::always(Operation::Put, Effect::IgnoreCreateOnly));
        Arc::new(storage)
    }

    fn probe() -> ObjectKey {
        "probe".parse().expect("a valid key")
    }

    #[tokio::test]
    async fn a_store_that_overwrites_is_refused_without_locks_and_remarked_upon_with_them() {
        let memory = MemoryStorage::new();
        let store = overwriting(&memory);
        let refused = prove_guarding(store.as_ref(), &probe()).await.expect_err("it overwrites");
        assert_eq!(refused.code(), ErrorCode::RepoInvalid);
        assert!(refused.hints().iter().any(|hint| hint.contains("create-only = \"lock\"")), "{refused:?}");
        let guarding = prove_guarding(&guarded(store), &probe()).await.expect("the locks keep it");
        assert_eq!(guarding, Guarding::ByLock);
        assert!(guarding.remark().is_some_and(|remark| remark.contains("must come from one host")));
        assert_eq!(list_all(&memory, None).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn locks_that_a_store_does_not_need_are_remarked_upon() {
        let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let guarding = prove_guarding(memory.as_ref(), &probe()).await.expect("it creates");
        assert_eq!((guarding, guarding.remark()), (Guarding::ByStore, None));
        let guarding = prove_guarding(&guarded(memory), &probe()).await.expect("it creates");
        assert_eq!(guarding, Guarding::ByNeedlessLock);
        assert!(guarding.remark().is_some_and(|remark| remark.contains("remove it")));
    }
}
