//! What goes wrong with Azure, in the classes of a store and in words for an operator.
//!
//! Invariants
//! 1. Only a 404 that says `BlobNotFound` is an absence. A container that is missing, a proxy that knows nothing: else
//!    somebody would take a wrong name in the configuration for an empty archive.
//! 2. Of what the server says only its code and the first line of its message are shown: what follows may quote what was
//!    signed.

mod denied;

use crate::access::{AccessFacts, TokenTrouble};
use azure_core::error::ErrorKind;
use azure_core::http::RawResponse;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::time::{OffsetDateTime, parse_rfc7231};
use denied::{Denial, kept, protection};
use pgconvoy_storage::http::{Refusal, refused, retry_after, unanswered};
use pgconvoy_storage::{IoAction, Place, StorageError};
use std::error::Error as _;
use std::time::Duration;

/// Azure refuses signatures that are older or newer than this.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);
/// What is shown of a server's message, in characters.
const MESSAGE_MAX: usize = 200;

/// What was asked of what, by whom.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Place,
    pub(crate) action: IoAction,
    pub(crate) container: String,
    pub(crate) account: String,
    pub(crate) host: String,
    pub(crate) access: AccessFacts,
}

impl Asked {
    pub(crate) fn trouble(self, error: &azure_core::Error) -> StorageError {
        if let ErrorKind::HttpResponse { status, raw_response, .. } = error.kind() {
            let said = Said::read(u16::from(*status), raw_response.as_deref());
            return self.refusal(&said, OffsetDateTime::now_utc());
        }
        let cause = error.source();
        if let Some(trouble) = cause.and_then(|cause| cause.downcast_ref::<TokenTrouble>()) {
            return match trouble {
                TokenTrouble::Away(reason) => {
                    StorageError::Unavailable { at: self.at, reason: reason.clone() }
                }
                TokenTrouble::Refused(reason) => {
                    let hint = "check the identity of this machine and AZURE_* of the environment".to_owned();
                    self.refused(Denial { reason: reason.clone(), hint }, "")
                }
            };
        }
        let is_unanswered = matches!(error.kind(), ErrorKind::Connection | ErrorKind::Io);
        match cause.filter(|_| is_unanswered) {
            Some(cause) => {
                let error = unanswered(self.at.clone(), self.action, cause);
                self.unreachable(error)
            }
            None => StorageError::NotSupported { at: self.at, reason: error.to_string() },
        }
    }

    /// The same of an answer that is no success, or of such a part of one.
    pub(crate) fn answered(self, answer: &RawResponse) -> StorageError {
        self.refusal(&Said::read(u16::from(answer.status()), Some(answer)), OffsetDateTime::now_utc())
    }

    /// An unknown host is a wrong account as often as a broken name service.
    fn unreachable(self, error: StorageError) -> StorageError {
        match error {
            StorageError::Unavailable { at, reason } if reason.contains("dns error") => {
                let host = &self.host;
                let reason = format!("no host {host} is known, is 'account' right? ({reason})");
                StorageError::Unavailable { at, reason }
            }
            other => other,
        }
    }

    fn refused(self, denial: Denial, code: &str) -> StorageError {
        let Denial { reason, hint } = denial;
        let reason = if code.is_empty() { reason } else { format!("{reason} ({code})") };
        StorageError::refused(self.at, self.action, reason, hint)
    }

    fn refusal(self, said: &Said, now: OffsetDateTime) -> StorageError {
        let shown = said.shown();
        match (said.status, said.code.as_str()) {
            (404, "BlobNotFound") => StorageError::NotFound { at: self.at },
            (409, "BlobAlreadyExists") | (412, "ConditionNotMet") => {
                StorageError::AlreadyExists { at: self.at }
            }
            (404, code @ "ContainerNotFound") => {
                let reason = format!("account {} has no container '{}'", self.account, self.container);
                let hint = "create the container, or correct 'container' and 'account'".to_owned();
                self.refused(Denial { reason, hint }, code)
            }
            // Neither a blob nor a container is missing: something else than the service, or than the account, was asked.
            (404 | 410, _) => {
                let reason = format!("{} answered {shown}", self.host);
                let hint = "check 'endpoint', 'account' and 'uri-style'".to_owned();
                self.refused(Denial { reason, hint }, "")
            }
            (409, "ContainerBeingDeleted" | "AccountBeingCreated") => {
                StorageError::Unavailable { at: self.at, reason: format!("it answered {shown}") }
            }
            (400, "Crc64Mismatch" | "Md5Mismatch") => {
                StorageError::Unavailable { at: self.at, reason: "what was sent arrived damaged".to_owned() }
            }
            (500 | 503, "OperationTimedOut") => {
                StorageError::Timeout { at: self.at, reason: format!("it answered {shown}") }
            }
            (409 | 412, code) => match (kept(code), protection(code)) {
                (Some(by), _) if self.action == IoAction::Remove => {
                    StorageError::Kept { at: self.at, reason: format!("it answered {shown}{by}") }
                }
                (_, Some(denial)) => self.refused(denial, code),
                _ => self.by_status(said),
            },
            (400 | 401 | 403, code) => match self.denial(said, now) {
                Some(denial) => self.refused(denial, code),
                None => self.by_status(said),
            },
            _ => self.by_status(said),
        }
    }

    fn by_status(self, said: &Said) -> StorageError {
        let Said { status, code, message, retry_after, .. } = said;
        refused(self.at, self.action, Refusal { status: *status, code, message, retry_after: *retry_after })
    }
}

/// The store's own word for why it refused.
pub(crate) fn code_of(error: &azure_core::Error) -> Option<&str> {
    match error.kind() {
        ErrorKind::HttpResponse { raw_response: Some(response), .. } => {
            header(response.headers(), "x-ms-error-code")
        }
        _ => None,
    }
}

/// An answer that is no success.
#[derive(Debug, Default)]
struct Said {
    status: u16,
    code: String,
    message: String,
    retry_after: Option<Duration>,
    /// The server's clock.
    date: Option<OffsetDateTime>,
    /// Never shown: it quotes what was signed.
    detail: String,
}

impl Said {
    fn read(status: u16, response: Option<&RawResponse>) -> Said {
        let Some(response) = response else { return Said { status, ..Said::default() } };
        let headers = response.headers();
        let body = String::from_utf8_lossy(response.body());
        let code = header(headers, "x-ms-error-code").or_else(|| element(&body, "Code"));
        let message = element(&body, "Message").unwrap_or_default();
        let milliseconds =
            header(headers, "x-ms-retry-after-ms").or_else(|| header(headers, "retry-after-ms"));
        let exact = milliseconds.and_then(|value| value.trim().parse().ok()).map(Duration::from_millis);
        Said {
            status,
            code: code.unwrap_or_default().to_owned(),
            message: message.lines().next().unwrap_or_default().chars().take(MESSAGE_MAX).collect(),
            retry_after: exact.or_else(|| retry_after(header(headers, "retry-after"))),
            date: header(headers, "date").and_then(|date| parse_rfc7231(date).ok()),
            detail: element(&body, "AuthenticationErrorDetail").unwrap_or_default().to_owned(),
        }
    }

    fn shown(&self) -> String {
        let Said { status, code, message, .. } = self;
        match (code.as_str(), message.as_str()) {
            ("", "") => status.to_string(),
            (code, "") => format!("{status} ({code})"),
            (code, message) => format!("{status} ({code}: {message})"),
        }
    }

    /// Some servers have no code of its own for that, only the same words.
    fn is_about_credentials(&self) -> bool {
        self.code == "AuthenticationFailed"
            || self.message.starts_with("Server failed to authenticate the request")
    }

    fn is_out_of_time(&self) -> bool {
        self.detail.contains("Signature not valid in the specified time frame")
            || self.detail.contains("Signed expiry time")
    }

    /// How far this host's clock is off, where that is too far.
    fn skew(&self, now: OffsetDateTime) -> Option<String> {
        let off = now - self.date?;
        let (seconds, direction) = match off.whole_seconds() {
            ahead @ 0.. => (ahead, "ahead of"),
            behind => (-behind, "behind"),
        };
        let is_too_far = Duration::from_secs(seconds.unsigned_abs()) >= SKEW_MAX;
        is_too_far.then(|| format!("this host's clock is {} minutes {direction} the store's", seconds / 60))
    }
}

fn header<'a>(headers: &'a Headers, name: &'static str) -> Option<&'a str> {
    headers.get_optional_str(&HeaderName::from_static(name))
}

/// The text of the first element of that name; Azure's errors have no nested ones.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

#[cfg(test)]
mod tests;
