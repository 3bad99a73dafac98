//! What goes wrong with keys, in words that name the place and never the secret.

use super::Fingerprint;
use pgconvoy_core::failure::{Classify, ErrorCode, Retry};
use pgconvoy_core::ids::KeyGeneration;
use std::path::PathBuf;

const HOW_TO_MAKE: &str =
    "for a new repository, make one with `pgconvoy repo-key create FILE` or `openssl rand -base64 32`.";
const HOW_TO_FIND: &str = "a repository that exists opens only with a secret that it has a slot for: \
    restore the file from its safe copy.";

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no key is configured for an encrypted repository")]
    NoSource,
    #[error("key file '{}' does not exist", .path.display())]
    Missing { path: PathBuf },
    #[error("key file '{}' cannot be opened: {reason}", .path.display())]
    Open { path: PathBuf, reason: std::io::Error },
    #[error("key file '{}' cannot be read: {reason}", .path.display())]
    Read { path: PathBuf, reason: std::io::Error },
    #[error("key file '{}' is not valid: {reason}", .path.display())]
    BadFile { path: PathBuf, reason: BadSecret },
    #[error("key file '{}' exists already", .path.display())]
    Exists { path: PathBuf },
    #[error("key file '{}' cannot be written: {reason}", .path.display())]
    Write { path: PathBuf, reason: std::io::Error },

    #[error("key command is empty")]
    CommandEmpty,
    #[error("key command '{program}' cannot be started: {reason}")]
    CommandStart { program: String, reason: std::io::Error },
    #[error("key command '{program}' failed ({status}){}", said(.stderr))]
    CommandFailed { program: String, status: String, stderr: String },
    #[error("key command '{program}' did not end within {seconds} s")]
    CommandTimeout { program: String, seconds: u64 },
    #[error("key command '{program}' printed no valid key: {reason}")]
    CommandAnswer { program: String, reason: BadSecret },

    #[error("the {given} does not open key slot '{slot}' of generation {generation}")]
    WrongSecret {
        slot: String,
        generation: KeyGeneration,
        given: &'static str,
        /// Of the repository key in the slot.
        repository_key: Fingerprint,
        /// Of the secret the slot was made with, and of the one given, where they can be told (not for passphrases).
        expected: Option<Fingerprint>,
        found: Option<Fingerprint>,
    },
    #[error("key slot '{slot}' of generation {generation} is for a {wanted}, and a {given} was given")]
    OtherKind { slot: String, generation: KeyGeneration, wanted: &'static str, given: &'static str },
    #[error("key slot '{slot}' holds a key with fingerprint {found} where {expected} was promised")]
    OtherKey { slot: String, expected: Fingerprint, found: Fingerprint },
    #[error("key slot '{slot}' is not valid: {reason}")]
    BadSlot { slot: String, reason: String },
    #[error("key slot name '{name}' is not valid: {reason}")]
    SlotName { name: String, reason: &'static str },
    #[error("the system gives no random bytes: {reason}")]
    NoRandomness { reason: String },
    #[error("there is not enough memory to derive a key from the passphrase: {reason}")]
    Derivation { reason: String },
}

/// Why text is not a secret. None of these quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    #[error("it is empty")]
    Empty,
    #[error("it has more than one line")]
    Lines,
    #[error("it is not base64")]
    NotBase64,
    #[error("it holds {bytes} bytes in base64 and needs 32")]
    Length { bytes: usize },
    #[error("it is longer than {limit_bytes} bytes")]
    TooLong { limit_bytes: usize },
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

impl Classify for KeyError {
    fn code(&self) -> ErrorCode {
        match self {
            KeyError::NoSource => ErrorCode::OptionRequired,
            KeyError::Missing { .. } => ErrorCode::FileMissing,
            KeyError::Open { .. } => ErrorCode::FileOpen,
            KeyError::Read { .. } => ErrorCode::FileRead,
            KeyError::BadFile { .. } => ErrorCode::FileInvalid,
            KeyError::Exists { .. } => ErrorCode::Exists,
            KeyError::Write { .. } => ErrorCode::FileWrite,
            KeyError::CommandEmpty | KeyError::SlotName { .. } => ErrorCode::OptionInvalidValue,
            KeyError::CommandStart { .. }
            | KeyError::CommandFailed { .. }
            | KeyError::CommandTimeout { .. } => ErrorCode::Execute,
            KeyError::CommandAnswer { .. }
            | KeyError::WrongSecret { .. }
            | KeyError::OtherKind { .. }
            | KeyError::OtherKey { .. }
            | KeyError::NoRandomness { .. }
            | KeyError::Derivation { .. } => ErrorCode::Crypto,
            KeyError::BadSlot { .. } => ErrorCode::Format,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            KeyError::CommandFailed { .. } | KeyError::CommandTimeout { .. } => Retry::MayHelp,
            _ => Retry::IsFutile,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            KeyError::NoSource => {
                vec![
                    "set key-file, passphrase-file or key-command of the repository.".to_owned(),
                    HOW_TO_FIND.to_owned(),
                ]
            }
            KeyError::Missing { .. } => vec![HOW_TO_MAKE.to_owned(), HOW_TO_FIND.to_owned()],
            KeyError::Open { .. } => {
                vec![
                    "it must be readable for the user that pgconvoy runs as, and should be for nobody else."
                        .to_owned(),
                ]
            }
            KeyError::BadFile { .. } => vec![
                "a key file holds 32 random bytes in base64 on one line, a passphrase file one line."
                    .to_owned(),
                HOW_TO_MAKE.to_owned(),
            ],
            KeyError::Exists { .. } => {
                vec![
                    "it may be the only key to a repository: choose another name, or move it away."
                        .to_owned(),
                ]
            }
            KeyError::CommandAnswer { .. } => {
                vec![
                    "a key command prints 32 bytes in base64 on one line, and nothing else, to stdout."
                        .to_owned(),
                ]
            }
            KeyError::WrongSecret { repository_key, expected, found, .. } => {
                wrong_secret_hints(*repository_key, *expected, *found)
            }
            KeyError::OtherKind { .. } | KeyError::OtherKey { .. } => {
                vec!["`pgconvoy repo-key list` shows the slots of the repository and their kinds.".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

fn wrong_secret_hints(
    repository_key: Fingerprint,
    expected: Option<Fingerprint>,
    found: Option<Fingerprint>,
) -> Vec<String> {
    let mut hints = Vec::new();
    match (expected, found) {
        (Some(expected), Some(found)) if expected == found => hints.push(format!(
            "the secret is the right one (fingerprint {found}): the slot is damaged, or was copied from elsewhere."
        )),
        (Some(expected), Some(found)) => hints.push(format!(
            "the slot was made with the secret of fingerprint {expected}, and the one given has {found}."
        )),
        _ => {}
    }
    hints.push(format!("the slot holds the repository key of fingerprint {repository_key}."));
    hints.push(HOW_TO_FIND.to_owned());
    hints
}
