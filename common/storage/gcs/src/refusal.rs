//! What Google's answers mean, in the classes of [`StorageError`].
//!
//! Invariants
//! 1. A bucket that is not there is an error of the configuration, never the absence of an object.
//! 2. Damage on the way is worth another try; a refusal by policy is not, and says which policy.

use pgconvoy_core::failure::ErrorCode;
use pgconvoy_storage::http::{Refusal, refused};
use pgconvoy_storage::{IoAction, Place, StorageError};
use serde::Deserialize;
use std::time::Duration;

/// What of an error's text is told; bodies that are no JSON may be pages.
const TEXT_MAX: usize = 400;

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Google's word for it, `retentionPolicyNotMet`; empty where it has none.
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Deserialize)]
struct Envelope {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    reason: String,
}

impl Answer {
    pub(crate) fn new(status: u16, body: &[u8], retry_after: Option<Duration>) -> Answer {
        let (reason, message) = match serde_json::from_slice::<Envelope>(body) {
            Ok(Envelope { error }) => {
                let reason = error.errors.into_iter().next().map_or(String::new(), |detail| detail.reason);
                (reason, error.message)
            }
            Err(_) => (String::new(), String::from_utf8_lossy(body).trim().to_owned()),
        };
        let message = message.chars().take(TEXT_MAX).collect();
        Answer { status, reason, message, retry_after }
    }

    pub(crate) fn says(&self, words: &str) -> bool {
        self.message.to_ascii_lowercase().contains(words)
    }

    /// 404 is said of objects and of buckets; the text tells them apart, if it is Google's.
    pub(crate) fn absence(&self) -> Absence {
        if self.says("no such object") {
            Absence::Object
        } else if self.says("bucket does not exist") {
            Absence::Bucket
        } else {
            Absence::Unclear
        }
    }

    fn words(&self) -> String {
        match (self.reason.as_str(), self.message.as_str()) {
            ("", "") => format!("it answered {}", self.status),
            ("", said) | (said, "") => format!("it answered {} ({said})", self.status),
            (reason, message) => format!("it answered {} ({reason}: {message})", self.status),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    Object,
    Bucket,
    Unclear,
}

/// The error that an answer is. What 412 means is the caller's to say, and which of both 404 means.
pub(crate) fn sort(at: Place, action: IoAction, answer: &Answer) -> StorageError {
    let setup = |code, hint: &str| StorageError::unusable(at.clone(), code, answer.words(), hint);
    let access = |reason: String| StorageError::Access { at: at.clone(), action, reason };
    match (answer.status, answer.reason.as_str()) {
        (400, _) if answer.says("crc32c") || answer.says("checksum") => StorageError::Unavailable {
            at,
            reason: format!("the body was damaged on its way: {}", answer.words()),
        },
        (400, _) if answer.says("requester pays") || answer.says("user project") => {
            setup(ErrorCode::OptionRequired, "set user-project to the project that pays for the requests")
        }
        (400 | 412, _) if answer.says("retention") => setup(ErrorCode::OptionInvalid, crate::lock::ENABLE),
        (403, "retentionPolicyNotMet" | "objectUnderActiveHold") if action == IoAction::Remove => {
            StorageError::Kept { at, reason: answer.words() }
        }
        (401, _) => setup(
            ErrorCode::Access,
            "the token has expired or is no token of this service: with key-type token write a new one into key-file, else look at key-file and this host's clock",
        ),
        (403, "rateLimitExceeded" | "userRateLimitExceeded") => {
            StorageError::Throttled { at, reason: answer.words(), retry_after: answer.retry_after }
        }
        (403, "retentionPolicyNotMet" | "objectUnderActiveHold") => {
            access(format!("a retention policy or a hold keeps the object: {}", answer.words()))
        }
        (403, _) => setup(
            ErrorCode::Access,
            "the account of the credentials needs the role Storage Object User (roles/storage.objectUser) on the bucket, and with lock-mode also storage.objects.setRetention",
        ),
        _ => {
            let Answer { status, reason, message, retry_after } = answer;
            refused(at, action, Refusal { status: *status, code: reason, message, retry_after: *retry_after })
        }
    }
}

pub(crate) fn no_bucket(at: Place, bucket: &str) -> StorageError {
    let reason = format!("there is no bucket '{bucket}'");
    let hint = "create the bucket, or look at bucket and endpoint in the configuration";
    StorageError::unusable(at, ErrorCode::PathMissing, reason, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::failure::{Classify, Retry};

    fn answer(status: u16, reason: &str, message: &str) -> Answer {
        let body = serde_json::json!({
            "error": { "code": status, "message": message, "errors": [{ "reason": reason, "message": message }] }
        });
        Answer::new(status, body.to_string().as_bytes(), None)
    }

    fn sorted(answer: &Answer) -> StorageError {
        sort(Place::new("gcs:b", None), IoAction::Write, answer)
    }

    #[test]
    fn both_forms_of_an_error_are_understood() {
        let json = answer(403, "forbidden", "svc does not have storage.objects.create access");
        assert_eq!((json.reason.as_str(), json.status), ("forbidden", 403));
        let text = Answer::new(404, b"No such object: b/a\n", None);
        assert_eq!((text.message.as_str(), text.absence()), ("No such object: b/a", Absence::Object));
        assert_eq!(
            answer(404, "notFound", "The specified bucket does not exist.").absence(),
            Absence::Bucket
        );
        assert_eq!(answer(404, "notFound", "Not Found").absence(), Absence::Unclear);
        assert_eq!(Answer::new(502, &[b'x'; 9999], None).message.len(), TEXT_MAX);
    }

    #[test]
    fn what_may_pass_is_told_from_what_somebody_must_mend() {
        let table = [
            (
                answer(400, "invalid", "Provided CRC32C \"a\" doesn't match calculated CRC32C \"b\"."),
                Retry::MayHelp,
            ),
            (
                answer(400, "required", "Bucket is a requester pays bucket but no user project provided."),
                Retry::IsFutile,
            ),
            (answer(401, "authError", "Invalid Credentials"), Retry::IsFutile),
            (answer(403, "rateLimitExceeded", "slow"), Retry::MayHelp),
            (answer(403, "retentionPolicyNotMet", "kept"), Retry::IsFutile),
            (answer(403, "forbidden", "no"), Retry::IsFutile),
            (answer(429, "rateLimitExceeded", "slow"), Retry::MayHelp),
            (answer(503, "backendError", "busy"), Retry::MayHelp),
        ];
        for (answer, retry) in table {
            let error = sorted(&answer);
            assert_eq!(error.retry(), retry, "{error}");
            assert!(error.to_string().contains(&answer.message), "{error}");
        }
        assert!(!sorted(&answer(401, "authError", "Invalid Credentials")).hints().is_empty());
    }
}
