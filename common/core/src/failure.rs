//! Errors as an operator sees them: a stable number, one line of what happened, and hints.
//!
//! Every seam (storage, repository, server, transport ...) has an enum of its own that says, through [`Classify`], which
//! number it maps to, whether trying again helps, and what to do. [`Failure`] is what reaches the top.
//!
//! The numbers are pgBackRest's wherever the meaning is the same (`build/error.yaml` there), so that scripts carry over.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! error_codes {
    ($( $(#[$meta:meta])* $name:ident = $number:literal, $text:literal; )*) => {
        /// The registry of exit codes. One table, nowhere else.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $( $(#[$meta])* $name, )* }

        impl ErrorCode {
            pub const ALL: &'static [ErrorCode] = &[ $( ErrorCode::$name, )* ];

            /// The process exit status.
            pub const fn number(self) -> u8 {
                match self { $( ErrorCode::$name => $number, )* }
            }

            /// A short stable name for logs and JSON.
            pub const fn name(self) -> &'static str {
                match self { $( ErrorCode::$name => $text, )* }
            }
        }
    };
}

error_codes! {
    Assert = 25, "assert";
    /// A stored object or a page does not match its checksum.
    Checksum = 26, "checksum";
    Config = 27, "config";
    FileInvalid = 28, "file-invalid";
    Format = 29, "format";
    CommandRequired = 30, "command-required";
    OptionInvalid = 31, "option-invalid";
    OptionInvalidValue = 32, "option-value";
    OptionRequired = 37, "option-required";
    PgRunning = 38, "postmaster-running";
    Protocol = 39, "protocol";
    PathNotEmpty = 40, "path-not-empty";
    FileOpen = 41, "file-open";
    FileRead = 42, "file-read";
    ParamRequired = 43, "param-required";
    ArchiveMismatch = 44, "archive-mismatch";
    ArchiveDuplicate = 45, "archive-duplicate";
    VersionNotSupported = 46, "version-not-supported";
    PathCreate = 47, "path-create";
    CommandInvalid = 48, "command-invalid";
    HostConnect = 49, "host-connect";
    LockAcquire = 50, "lock";
    BackupMismatch = 51, "backup-mismatch";
    FileSync = 52, "file-sync";
    PathOpen = 53, "path-open";
    PathSync = 54, "path-sync";
    FileMissing = 55, "file-missing";
    DbConnect = 56, "db-connect";
    DbQuery = 57, "db-query";
    DbMismatch = 58, "db-mismatch";
    FileRemove = 60, "file-remove";
    PathRemove = 61, "path-remove";
    Stop = 62, "stop";
    Term = 63, "term";
    FileWrite = 64, "file-write";
    NotSupported = 67, "not-supported";
    ArchiveCommandInvalid = 68, "archive-command-invalid";
    LinkExpected = 69, "link-expected";
    LinkDestination = 70, "link-destination";
    PathMissing = 73, "path-missing";
    FileMove = 74, "file-move";
    BackupSetInvalid = 75, "backup-set-invalid";
    TablespaceMap = 76, "tablespace-map";
    LinkMap = 78, "link-map";
    DbMissing = 80, "db-missing";
    DbInvalid = 81, "db-invalid";
    ArchiveTimeout = 82, "archive-timeout";
    ArchiveDisabled = 87, "archive-disabled";
    FileOwner = 88, "file-owner";
    UserMissing = 89, "user-missing";
    Exists = 93, "exists";
    /// A key does not open what it should, or data fail their authentication.
    Crypto = 95, "crypto";
    ParamInvalid = 96, "param-invalid";
    Execute = 102, "execute";
    RepoInvalid = 103, "repo-invalid";
    /// A command finished for some repositories and failed for a required one.
    Command = 104, "command";
    Access = 105, "access";
    Clock = 106, "clock";
    /// PostgreSQL must stop recovering rather than take this for "no such file" (exit status above 125).
    CannotTell = 126, "cannot-tell";
    Unknown = 125, "unknown";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.number())
    }
}

/// Whether the same call, made again, can have another outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// A passing fault: a network, a busy server, a lost answer.
    MayHelp,
    /// The answer will stay what it is until somebody changes something.
    IsFutile,
}

/// What each seam's error enum says about itself. The message is its `Display`, in lower case and without a full stop.
pub trait Classify: std::error::Error {
    fn code(&self) -> ErrorCode;
    fn retry(&self) -> Retry {
        Retry::IsFutile
    }
    /// What an operator can do about it, one sentence each.
    fn hints(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An error at the top: `ERROR: [NNN]: message` and `HINT:` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: ErrorCode,
    pub message: String,
    pub hints: Vec<String>,
    pub retry: Retry,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hints: Vec::new(), retry: Retry::IsFutile }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retry = Retry::MayHelp;
        self
    }

    /// Says where it happened, in front of what happened.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// `Failure` itself is deliberately no `std::error::Error`, which is what allows this conversion.
impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { code: error.code(), message: error.to_string(), hints: error.hints(), retry: error.retry() }
    }
}

/// Adds the place to an error on its way up.
pub trait Context<T> {
    fn context(self, place: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, place: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| error.into().context(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_number_and_a_name_of_its_own() {
        let mut numbers: Vec<u8> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ErrorCode::ALL.len());
        let mut names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn only_the_code_that_must_stop_recovery_is_above_125() {
        for code in ErrorCode::ALL {
            assert_eq!(code.number() > 125, *code == ErrorCode::CannotTell, "{}", code.name());
        }
    }
}
