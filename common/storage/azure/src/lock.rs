//! Immutability policies of single blobs, which Azure keeps in containers with version-level immutability.
//!
//! Governance is a policy that is unlocked: whoever has the right can shorten or delete it. Compliance is a locked one.

use crate::AzureStorage;
use azure_core::http::headers::HeaderName;
use azure_core::time::OffsetDateTime;
use azure_storage_blob::models::ImmutabilityPolicyMode;
use pgconvoy_storage::{IoAction, LockMode, LockProof, ObjectKey, StorageError};
use std::time::SystemTime;

const VERSIONED_IMMUTABILITY: HeaderName =
    HeaderName::from_static("x-ms-immutable-storage-with-versioning-enabled");

/// What a put says of it: both or neither.
pub(crate) type Policy = (Option<OffsetDateTime>, Option<ImmutabilityPolicyMode>);

impl AzureStorage {
    pub(crate) fn policy(&self, key: &ObjectKey) -> Policy {
        let lock = self.0.lock.as_ref();
        let until = lock.and_then(|lock| Some((lock.mode, lock.until(key, SystemTime::now())?)));
        let policy = until.map(|(mode, until)| {
            let mode = match mode {
                LockMode::Governance => ImmutabilityPolicyMode::Unlocked,
                LockMode::Compliance => ImmutabilityPolicyMode::Locked,
            };
            (OffsetDateTime::from(until), mode)
        });
        policy.unzip()
    }

    pub(crate) async fn look_at_lock(&self) -> Result<LockProof, StorageError> {
        let Some(lock) = &self.0.lock else { return Ok(LockProof::NotAsked) };
        let asked = self.ask(None, IoAction::Use, Box::pin(self.0.container.get_properties(None))).await;
        let answer = match asked {
            Ok(answer) => answer,
            // Signatures and roles for blobs do not cover what a container is.
            Err(error @ (StorageError::Refused { .. } | StorageError::Access { .. })) => {
                return Ok(LockProof::Untold(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        match answer.headers().get_optional_str(&VERSIONED_IMMUTABILITY) {
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(LockProof::Kept(lock.words())),
            _ => {
                let container = &self.0.config.container;
                let reason = format!(
                    "lock-mode is set, and container '{container}' has no version-level immutability"
                );
                let hint = "enable version-level immutability support on the container (or the account), or remove lock-mode and lock-period";
                Err(StorageError::refused(self.place(None), IoAction::Use, reason, hint))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use crate::testing::{Answer, Server, locking};
    use pgconvoy_storage::{LockProof, PutMode, Storage as _, parts::PartStore as _};

    const MODE: &str = "x-ms-immutability-policy-mode: locked";
    const UNTIL: &str = "x-ms-immutability-policy-until-date: ";

    #[tokio::test]
    async fn what_lasts_is_put_and_committed_with_a_policy_and_nothing_else_is() {
        let server = Server::start(|_, _| Answer::new("201 Created\r\netag: \"1\"", "")).await;
        let store = locking(&server);
        let (lasting, brief) = ("a/lasting".parse().unwrap(), "a/brief".parse().unwrap());
        for key in [&lasting, &brief] {
            store.put(key, PutMode::Create, "body".into()).await.unwrap();
            let ticket = store.begin_parts(key, PutMode::Create).await.unwrap();
            store.join_parts(&ticket, &[b"block".to_vec()]).await.unwrap();
        }
        let asked = server.seen();
        let bears = |request: &String| {
            let request = request.to_ascii_lowercase();
            request.contains(MODE) && request.contains(UNTIL)
        };
        assert_eq!(asked.iter().map(bears).collect::<Vec<_>>(), [true, true, false, false], "{asked:#?}");
    }

    #[tokio::test]
    async fn a_container_that_cannot_lock_is_an_error_with_a_hint_and_one_that_does_not_tell_is_said() {
        let header = "x-ms-immutable-storage-with-versioning-enabled";
        let refusal = "403 No\r\nx-ms-error-code: AuthorizationPermissionMismatch";
        for (head, is_kept) in [
            (format!("200 OK\r\n{header}: true"), Some(true)),
            (format!("200 OK\r\n{header}: false"), Some(false)),
            ("200 OK".to_owned(), Some(false)),
            (refusal.to_owned(), None),
        ] {
            let server = Server::start(move |_, _| Answer::new(&head, "")).await;
            let proof = locking(&server).prove_lock().await;
            match is_kept {
                Some(true) => assert_eq!(proof, Ok(LockProof::Kept("compliance for 1d".into()))),
                Some(false) => {
                    let error = proof.unwrap_err();
                    assert!(error.to_string().contains("version-level immutability"), "{error}");
                }
                None => assert!(matches!(proof, Ok(LockProof::Untold(_))), "{proof:?}"),
            }
        }
    }
}
