//! pgBackRest's status codes.

use pgconvoy_core::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusCode {
    Ok,
    MissingStanzaPath,
    NoBackups,
    MissingStanzaData,
    Mixed,
    DatabaseMismatch,
    BackupMissing,
    Other,
}

impl StatusCode {
    pub const fn number(self) -> u8 {
        match self {
            StatusCode::Ok => 0,
            StatusCode::MissingStanzaPath => 1,
            StatusCode::NoBackups => 2,
            StatusCode::MissingStanzaData => 3,
            StatusCode::Mixed => 4,
            StatusCode::DatabaseMismatch => 5,
            StatusCode::BackupMissing => 6,
            StatusCode::Other => 99,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            StatusCode::Ok => "ok",
            StatusCode::MissingStanzaPath => "missing stanza path",
            StatusCode::NoBackups => "no valid backups",
            StatusCode::MissingStanzaData => "missing stanza data",
            StatusCode::Mixed => "different across repos",
            StatusCode::DatabaseMismatch => "database mismatch across repos",
            StatusCode::BackupMissing => "requested backup not found",
            StatusCode::Other => "other",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: StatusCode,
    /// pgBackRest's text; what happened, where the code is `Other`.
    pub message: String,
}

impl Status {
    pub fn of(code: StatusCode) -> Self {
        Status { code, message: code.message().to_owned() }
    }

    pub fn other(failure: &Failure) -> Self {
        Status { code: StatusCode::Other, message: format!("[{}] {failure}", failure.code) }
    }

    /// As it stands in a line of text: a cause of its own gets a line of its own.
    pub(super) fn text(&self) -> String {
        match self.code {
            StatusCode::Ok => "ok".to_owned(),
            StatusCode::Mixed => "mixed".to_owned(),
            code => format!("error ({})", code.message()),
        }
    }
}
