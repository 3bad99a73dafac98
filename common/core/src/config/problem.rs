//! What is wrong in a configuration, where, and what to do about it.

use crate::failure::{Classify, ErrorCode};
use std::fmt;
use std::sync::Arc;

/// A place in the configuration file; line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    File(Position),
    /// Holds the variable's name.
    Environment(String),
    /// Holds the option's name without its dashes.
    CommandLine(String),
    /// Nobody made it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(at) => write!(f, "{}:{}:{}", at.file, at.line, at.column),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::CommandLine(option) => write!(f, "option '--{option}'"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// One mistake. Loading reports all of them at once, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{origin}: {reason}")]
pub struct ConfigProblem {
    pub origin: Origin,
    pub reason: String,
    pub hint: Option<String>,
}

impl ConfigProblem {
    pub(super) fn new(origin: Origin, reason: impl Into<String>) -> Self {
        ConfigProblem { origin, reason: reason.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Classify for ConfigProblem {
    fn code(&self) -> ErrorCode {
        match self.origin {
            Origin::CommandLine(_) => ErrorCode::OptionInvalidValue,
            _ => ErrorCode::Config,
        }
    }

    fn hints(&self) -> Vec<String> {
        self.hint.iter().cloned().collect()
    }
}

/// The known name that somebody most likely meant, if any is close.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// A third of the letters wrong is still a slip; more is another word.
    const LETTERS_PER_SLIP: usize = 3;
    let wanted = name.to_ascii_lowercase().replace('_', "-");
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            *distance <= wanted.len().max(candidate.len()).div_ceil(LETTERS_PER_SLIP)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_that_was_meant_and_another_word_finds_none() {
        let known = ["compress-type", "compress-level", "process-max"];
        assert_eq!(nearest("compres-type", known), Some("compress-type"));
        assert_eq!(nearest("COMPRESS_LEVEL", known), Some("compress-level"));
        assert_eq!(nearest("proces-mx", known), Some("process-max"));
        assert_eq!(nearest("banana", known), None);
    }
}
