//! From what a store answers to errors with a class, and for an operator with a hint.
//!
//! The store's own word decides; HTTP's status only where it has none.

use crate::credentials::CredentialsFailure;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use pgconvoy_storage::http::{Refusal, refused, retry_after, unanswered};
use pgconvoy_storage::{IoAction, Place, Shortage, StorageError};
use std::error::Error;
use std::time::Duration;

const ENABLE_LOCK: &str = "enable Object Lock on the bucket (AWS does so for existing buckets with versioning), or remove lock-mode and lock-period";
const REQUEST_NUMBER: &str = "x-amz-request-id";

/// What a store said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub retry_after: Option<Duration>,
    /// The region that it says is the right one.
    pub region: Option<String>,
    /// It bears the number that S3 gives to every request, which nothing in front of a store does.
    pub is_numbered: bool,
}

impl Answer {
    /// An object that must not exist does.
    pub(crate) fn is_lost_race(&self) -> bool {
        self.status == 412 || self.code == "PreconditionFailed"
    }

    /// Somebody else creates or deletes it at this moment.
    pub(crate) fn is_conflict(&self) -> bool {
        self.status == 409 && self.code == "ConditionalRequestConflict"
    }

    /// AWS and others have no word of their own for it, only a message.
    fn is_about_a_lock(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        matches!(self.status, 400 | 403)
            && ["object lock", "worm protected", "under legal hold", "retention"]
                .iter()
                .any(|words| message.contains(words))
    }

    /// Nothing is there, says something that need not be the store: it gives neither a number nor a word.
    pub(crate) fn is_absence_by_a_stranger(&self) -> bool {
        !self.is_numbered && self.code.is_empty() && matches!(self.status, 404 | 405 | 410)
    }
}

/// How a request ended that is no success.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Answer),
    /// No answer, or none that makes sense.
    Failed(StorageError),
}

pub(crate) fn outcome<E>(at: &Place, action: IoAction, error: &SdkError<E, HttpResponse>) -> Outcome
where
    E: Error + ProvideErrorMetadata + 'static,
{
    if let Some(failure) = cause::<CredentialsFailure>(error) {
        return Outcome::Failed(failure.at(at.clone(), action));
    }
    match error {
        // Success in words that the SDK does not understand.
        SdkError::ServiceError(service)
            if service.raw().status().is_success() && service.err().code().is_none() =>
        {
            Outcome::Failed(interrupted(at, action, error))
        }
        SdkError::ServiceError(service) => {
            let mut answer = answer(service.raw());
            answer.code = service.err().code().unwrap_or_default().to_owned();
            answer.message = service.err().message().unwrap_or_default().to_owned();
            Outcome::Answered(answer)
        }
        // An error whose words broke off says nothing.
        SdkError::ResponseError(response)
            if cause::<reqwest::Error>(error).is_none() && response.raw().status().as_u16() >= 300 =>
        {
            Outcome::Answered(answer(response.raw()))
        }
        SdkError::DispatchFailure(dispatch) => {
            let source = dispatch.as_connector_error().and_then(Error::source);
            let failed = source.map_or_else(
                || unavailable(at, "the request was not sent".to_owned()),
                |source| unanswered(at.clone(), action, source),
            );
            Outcome::Failed(failed)
        }
        other => Outcome::Failed(interrupted(at, action, other)),
    }
}

fn answer(raw: &HttpResponse) -> Answer {
    let header = |name| raw.headers().get(name);
    let body = raw.body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
    let region = header("x-amz-bucket-region").or_else(|| xml_text(&body, "Region"));
    Answer {
        status: raw.status().as_u16(),
        retry_after: retry_after(header("retry-after")),
        region: region.map(str::to_owned),
        is_numbered: header(REQUEST_NUMBER).is_some(),
        ..Answer::default()
    }
}

/// The text of an element that has only text.
pub(crate) fn xml_text<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// A body that broke off, or an answer that cannot be read.
pub(crate) fn interrupted(at: &Place, action: IoAction, error: &(dyn Error + 'static)) -> StorageError {
    match cause::<reqwest::Error>(error) {
        Some(broken) => unanswered(at.clone(), action, broken),
        None => unavailable(at, format!("its answer cannot be read: {}", deepest(error))),
    }
}

pub(crate) fn unavailable(at: &Place, reason: String) -> StorageError {
    StorageError::Unavailable { at: at.clone(), reason }
}

fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// An error of this type among the causes.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whom the store serves, as far as messages may tell.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub bucket: String,
    pub region: String,
    pub endpoint: String,
    /// Credentials come and go: an expired one is renewed at the next try.
    pub renews: bool,
    /// Puts ask for a retention.
    pub locks: bool,
}

impl Asker {
    pub(crate) fn sort(&self, at: Place, action: IoAction, answer: &Answer) -> StorageError {
        let Answer { status, code, message, .. } = answer;
        match code.as_str() {
            "NoSuchKey" | "NoSuchUpload" => return StorageError::NotFound { at },
            "RequestTimeout" => return StorageError::Timeout { at, reason: answer.words() },
            "SlowDown"
            | "ServiceUnavailable"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "Busy" => {
                return StorageError::Throttled {
                    at,
                    reason: answer.words(),
                    retry_after: answer.retry_after,
                };
            }
            "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" | "InvalidDigest" => {
                let reason = format!("what arrived there is not what was sent ({code})");
                return unavailable(&at, reason);
            }
            "OperationAborted" | "ConditionalRequestConflict" | "InternalError" => {
                return unavailable(&at, answer.words());
            }
            "NotImplemented" => return StorageError::NotSupported { at, reason: answer.words() },
            "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => {
                return StorageError::Full { at, action, shortage: Shortage::Quota };
            }
            "ExpiredToken" | "TokenRefreshRequired" if self.renews => {
                return unavailable(&at, answer.words());
            }
            _ => {}
        }
        if action == IoAction::Remove && answer.is_about_a_lock() {
            return StorageError::Kept { at, reason: answer.words() };
        }
        if let Some((reason, hint)) = self.advice(action, answer) {
            return StorageError::refused(at, action, reason, hint);
        }
        // With its own word on it an answer of 2xx can be an error too: the head was sent before it was known.
        let status = if *status < 300 { 500 } else { *status };
        refused(at, action, Refusal { status, code, message, retry_after: answer.retry_after })
    }

    /// What is asked for cannot be had there.
    pub(crate) fn without_lock(&self, at: Place) -> StorageError {
        let reason = format!("lock-mode is set, and bucket '{}' has no Object Lock", self.bucket);
        StorageError::refused(at, IoAction::Use, reason, ENABLE_LOCK)
    }

    /// What is wrong, and what to do about it.
    fn advice(&self, action: IoAction, answer: &Answer) -> Option<(String, String)> {
        let Asker { bucket, region, endpoint, .. } = self;
        let Answer { status, code, .. } = answer;
        let (reason, hint) = match (code.as_str(), status) {
            ("NoSuchBucket", _) => (
                format!("bucket '{bucket}' does not exist at {endpoint}"),
                "create the bucket, or correct 'bucket' or 'endpoint' of the repository".to_owned(),
            ),
            ("NoSuchVersion", _) => (
                "a version that was there is not there any more".to_owned(),
                "a lifecycle rule of the bucket, or somebody, has removed it since; try an earlier or a later time".to_owned(),
            ),
            ("InvalidAccessKeyId", _) => (
                "the store does not know the access key".to_owned(),
                "correct 'key' of the repository; keys are made for one endpoint or account".to_owned(),
            ),
            ("SignatureDoesNotMatch", _) => (
                "the signature is wrong".to_owned(),
                "'key-secret' does not belong to 'key', or something between here and the store changes requests"
                    .to_owned(),
            ),
            ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => (
                format!("the session token is not valid any more ({code})"),
                "set a new 'token' with its 'key' and 'key-secret', or a 'key-type' that renews them".to_owned(),
            ),
            (
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "Redirect"
                | "IllegalLocationConstraintException",
                _,
            )
            | (_, 301 | 307) => wrong_region(region, endpoint, answer),
            ("RequestTimeTooSkewed", _) => (
                "the clocks of this host and of the store are too far apart".to_owned(),
                "set this host's clock; a time service such as chrony keeps it right".to_owned(),
            ),
            ("InvalidObjectState", _) => (
                "the object is in an archive class, from which nothing can be read at once".to_owned(),
                "restore the object first, and keep lifecycle rules that archive away from the repository".to_owned(),
            ),
            // All that a bucket without Object Lock says to a put with a retention.
            ("InvalidRequest", 400) if self.locks && matches!(action, IoAction::Write | IoAction::Publish) => {
                (format!("the retention of lock-mode may be what it does not take: {}", answer.words()), ENABLE_LOCK.to_owned())
            }
            (kms, _) if kms.starts_with("KMS.") => {
                (answer.words(), "check 'kms-key-id' and that the credentials may use that key".to_owned())
            }
            (_, 401 | 403) => (format!("access is denied: {}", answer.words()), denied(action).to_owned()),
            // Absence is said in the store's own words; this is something else that answers.
            (_, 404 | 405 | 410) => (
                answer.words(),
                format!("check that {endpoint} is the address of an S3 service, and 'uri-style'"),
            ),
            _ => return None,
        };
        Some((reason, hint))
    }
}

impl Answer {
    pub(crate) fn words(&self) -> String {
        let Answer { status, code, message, .. } = self;
        match (code.as_str(), message.as_str()) {
            ("", "") => format!("it answered {status}"),
            (word, "") | ("", word) => format!("it answered {status} ({word})"),
            (code, message) => format!("it answered {status} ({code}: {message})"),
        }
    }
}

fn wrong_region(region: &str, endpoint: &str, answer: &Answer) -> (String, String) {
    match &answer.region {
        Some(right) if right != region => (
            format!("the bucket is in region {right}, not in {region}"),
            format!("set region = \"{right}\", and an endpoint of that region"),
        ),
        _ => (
            format!("the bucket is served by another endpoint than {endpoint} ({})", answer.words()),
            "correct 'region' and 'endpoint' of the repository".to_owned(),
        ),
    }
}

fn denied(action: IoAction) -> &'static str {
    match action {
        IoAction::Remove => {
            "the credentials need s3:DeleteObject and s3:AbortMultipartUpload; what Object Lock protects goes \
             only after its retention"
        }
        IoAction::List => {
            "the credentials need s3:ListBucket and s3:ListBucketMultipartUploads on the bucket (and s3:ListBucketVersions to look into the past)"
        }
        IoAction::Write | IoAction::Publish => {
            "the credentials need s3:PutObject (and s3:PutObjectTagging with tags, s3:PutObjectRetention with lock-mode), and the right to use the KMS key"
        }
        _ => {
            "the credentials need s3:GetObject (and s3:GetObjectVersion to look into the past), and s3:ListBucket: without it a missing object looks like a denied one"
        }
    }
}

#[cfg(test)]
mod tests;
