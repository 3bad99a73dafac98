//! What is wrong with a name or a text file of PostgreSQL's. Binary files have errors of their own beside their parsers.

use crate::failure::{Classify, ErrorCode};

/// So much of the offending text goes into a message, in characters: enough to find it, too little to flood a log.
const SHOWN_CHARACTERS_MAX: usize = 120;

/// A name or a text that does not have the form PostgreSQL gives it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} '{text}' is not valid: {reason}")]
pub struct PgFormatError {
    pub what: &'static str,
    /// The offending part, shortened, control characters escaped.
    pub text: String,
    pub reason: &'static str,
}

impl PgFormatError {
    pub(crate) fn new(what: &'static str, text: &str, reason: &'static str) -> Self {
        let mut shown = String::new();
        for character in text.chars().take(SHOWN_CHARACTERS_MAX) {
            if character.is_control() {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
        PgFormatError { what, text: shown, reason }
    }
}

impl Classify for PgFormatError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Format
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_of_many_lines_becomes_one_short_line() {
        let error = PgFormatError::new("backup_label", &"é\n".repeat(5000), "it has no LABEL");
        let message = error.to_string();
        assert!(
            message.starts_with("backup_label 'é\\né\\n")
                && message.ends_with("' is not valid: it has no LABEL")
        );
        assert!(message.chars().count() < 250 && !message.contains('\n'));
    }
}
