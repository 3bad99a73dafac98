//! Why Azure refuses who asks or what is asked, and what to change.

use super::{Asked, Said};
use crate::access::AccessFacts;
use azure_core::time::OffsetDateTime;

/// A reason and a hint.
pub(super) struct Denial {
    pub(super) reason: String,
    pub(super) hint: String,
}

fn denial(reason: impl Into<String>, hint: impl Into<String>) -> Denial {
    Denial { reason: reason.into(), hint: hint.into() }
}

const NEW_SIGNATURE: &str =
    "make a new signature for the container and put it into 'key' (or the file that key comes from)";
/// What a repository does with a container.
const RIGHTS: &str = "a repository needs a signature with at least 'rwdl' ('racwdl' where it is an account's), and 't' for tags";

impl Asked {
    /// Credentials that do not do; `None` where the server's own words say it best.
    pub(super) fn denial(&self, said: &Said, now: OffsetDateTime) -> Option<Denial> {
        let code = said.code.as_str();
        // A HEAD that is refused has no body, but the date is always there.
        let are_credentials_wrong = code.is_empty() || said.is_about_credentials();
        if let Some(skew) = said.skew(now).filter(|_| are_credentials_wrong) {
            return Some(denial(skew, "set this host's clock, and keep it so with NTP"));
        }
        match &self.access {
            AccessFacts::Shared if said.is_about_credentials() => Some(denial(
                format!("the key is not one of account {}'s two access keys", self.account),
                "check 'account' and 'key' ('az storage account keys list' shows the keys; somebody may have rotated them)",
            )),
            AccessFacts::Shared => self.by_code(code),
            AccessFacts::Sas(sas) => match code {
                "AuthenticationFailed" | "AuthorizationFailure" | "" if sas.has_ended(now) => Some(denial(
                    format!("the shared access signature expired at {}", sas.expires),
                    NEW_SIGNATURE,
                )),
                _ if said.is_out_of_time() => {
                    Some(denial("the shared access signature is not valid at this time", NEW_SIGNATURE))
                }
                _ if said.is_about_credentials() => Some(denial(
                    format!("the shared access signature is none of account {}", self.account),
                    format!("it may be for another account or be taken back: {NEW_SIGNATURE}"),
                )),
                "AuthorizationPermissionMismatch" | "AuthorizationResourceTypeMismatch" => Some(denial(
                    format!("the shared access signature grants '{}', which is not enough", sas.permissions),
                    RIGHTS,
                )),
                "InvalidQueryParameterValue" if said.status == 403 => {
                    Some(denial("the shared access signature is malformed", NEW_SIGNATURE))
                }
                code => self.by_code(code),
            },
            AccessFacts::Token(whose) => match code {
                "AuthenticationFailed" | "InvalidAuthenticationInfo" => Some(denial(
                    format!("a token of {whose} is not accepted"),
                    "check that the identity belongs to the tenant of the storage account",
                )),
                "AuthorizationPermissionMismatch" => Some(denial(
                    format!("{whose} has no right to that"),
                    "give it the role Storage Blob Data Contributor on the container; that takes minutes to come into force",
                )),
                code => self.by_code(code),
            },
        }
    }

    fn by_code(&self, code: &str) -> Option<Denial> {
        let account = &self.account;
        Some(match code {
            "AuthorizationFailure" | "AuthorizationSourceIPMismatch" => denial(
                format!("account {account} does not allow this request"),
                "check 'key'; this address may also be missing in the account's networking rules or in the signature's",
            ),
            "AuthorizationProtocolMismatch" => {
                denial("the shared access signature is for https only", "correct 'endpoint'")
            }
            "KeyBasedAuthenticationNotPermitted" => denial(
                format!("account {account} takes no account keys"),
                "use key-type = \"auto\", or allow shared keys for the account",
            ),
            "NoAuthenticationInformation" => {
                denial("the store asks for other credentials", "use another key-type")
            }
            "AccountIsDisabled" => {
                denial(format!("account {account} is disabled"), "see the subscription in the portal")
            }
            _ => return None,
        })
    }
}

const BREAK_LEASE: &str = "find out who, or break it: az storage blob lease break";

/// What keeps a blob from being deleted and is no trouble: time will do, or whoever made the policy, the hold or the lease. What is to be
/// added to the server's own words.
pub(super) fn kept(code: &str) -> Option<String> {
    match code {
        "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold" | "ContainerImmutabilityPolicyFailure" => {
            Some(String::new())
        }
        "LeaseIdMissing" => Some(format!("; somebody holds a lease on it, {BREAK_LEASE}")),
        _ => None,
    }
}

/// What keeps a blob from being replaced, deleted or read.
pub(super) fn protection(code: &str) -> Option<Denial> {
    Some(match code {
        "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold" => denial(
            "an immutability policy or a legal hold protects it",
            "it can be removed when that has ended; let retention be longer than the policy",
        ),
        "ContainerImmutabilityPolicyFailure" | "ContainerProtectedFromDeletion" => denial(
            "an immutability policy of the container protects it",
            "it can be removed when that has ended; let retention be longer than the policy",
        ),
        "LeaseIdMissing" | "LeaseIdMismatchWithBlobOperation" | "LeaseIdMismatchWithContainerOperation" => {
            denial("somebody holds a lease on it", BREAK_LEASE)
        }
        "SnapshotsPresent" => denial("it has snapshots, which somebody else made", "delete them first"),
        "BlobArchived" => denial(
            "it was moved to the archive tier",
            "rehydrate it, and keep lifecycle rules off the repository's path",
        ),
        "BlobBeingRehydrated" => {
            denial("it is on its way back from the archive tier", "try again in some hours")
        }
        _ => return None,
    })
}
