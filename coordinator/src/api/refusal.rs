//! What is not done, in HTTP's numbers and in the words of a command: `{"error":{"code","message","hints"}}`.

use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use pgconvoy_core::failure::{ErrorCode, Failure, Retry};
use serde_json::json;
use std::fmt;

/// When whoever found no leader may ask again: a new one is there within seconds.
const RETRY_AFTER_SECONDS: u8 = 1;

#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    failure: Failure,
    /// Nothing was done, and trying again may help.
    may_be_repeated: bool,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { status, failure: Failure::new(code, message), may_be_repeated: false }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.failure.code
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.failure = self.failure.hint(hint);
        self
    }

    /// Nothing was done, and somebody else or a later moment may answer.
    pub(crate) fn unavailable(message: impl Into<String>) -> Refusal {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::HostConnect, message);
        Refusal { may_be_repeated: true, ..refusal }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, ErrorCode::ParamInvalid, message)
    }

    /// What somebody asked for makes no sense.
    pub(crate) fn misunderstood(failure: Failure) -> Refusal {
        Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, failure, may_be_repeated: false }
    }

    /// The body is not what it should be.
    pub(crate) fn malformed(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::Format, message)
    }

    /// It contradicts how things stand.
    pub(crate) fn conflict(failure: Failure) -> Refusal {
        Refusal { status: StatusCode::CONFLICT, failure, may_be_repeated: false }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let status = match failure.code {
            _ if failure.retry == Retry::MayHelp => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::LockAcquire => StatusCode::CONFLICT,
            ErrorCode::OptionInvalid
            | ErrorCode::OptionInvalidValue
            | ErrorCode::OptionRequired
            | ErrorCode::ParamInvalid
            | ErrorCode::ParamRequired
            | ErrorCode::CommandInvalid
            | ErrorCode::NotSupported
            | ErrorCode::BackupSetInvalid
            | ErrorCode::TablespaceMap
            | ErrorCode::LinkMap => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal { status, failure, may_be_repeated: false }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let Failure { code, message, hints, .. } = &self.failure;
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        if self.may_be_repeated {
            response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS.to_string()));
        }
        response.json(json!({"error": {"code": code.number(), "message": message, "hints": hints}}))
    }
}
