//! `--filter` of `repo-ls` and `manifest`: which names are shown.
//!
//! A filter with `*` (any characters) or `?` (one) is compared with the whole name; one without must occur in it. It is
//! no regular expression, as pgBackRest's is: one that looks like it is refused rather than never fitting.

use pgconvoy_core::failure::{Classify, ErrorCode};
use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFilter {
    pattern: String,
    is_glob: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not allowed for '--filter': '{character}' belongs to regular expressions")]
pub struct FilterError {
    text: String,
    character: char,
}

impl Classify for FilterError {
    fn code(&self) -> ErrorCode {
        ErrorCode::OptionInvalidValue
    }

    fn hints(&self) -> Vec<String> {
        vec!["a part of the name, or a pattern with * and ?: --filter='*F', --filter=base/16384/".to_owned()]
    }
}

impl FromStr for NameFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        match text.chars().find(|character| "^$()[]|\\".contains(*character)) {
            Some(character) => Err(FilterError { text: text.to_owned(), character }),
            None => Ok(NameFilter { pattern: text.to_owned(), is_glob: text.contains(['*', '?']) }),
        }
    }
}

impl NameFilter {
    pub fn fits(&self, name: &str) -> bool {
        if self.is_glob {
            glob(self.pattern.as_bytes(), name.as_bytes())
        } else {
            name.contains(&self.pattern)
        }
    }
}

/// Goes back to the last `*` only, so that the work is bounded by the product of both lengths.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, n));
            }
            Some(b'?') => {
                p += 1;
                n = after_character(name, n);
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                (p, n) = (star, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// A character may have several bytes.
fn after_character(name: &[u8], at: usize) -> usize {
    let continues = |byte: &&u8| **byte & 0xC0 == 0x80;
    at + 1 + name[at + 1..].iter().take_while(continues).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn fits(filter: &str, name: &str) -> bool {
        filter.parse::<NameFilter>().unwrap().fits(name)
    }

    #[test]
    fn a_plain_filter_is_a_part_and_a_pattern_is_the_whole() {
        assert!(fits("1638", "base/16384/1259"));
        assert!(!fits("1639", "base/16384/1259"));
        assert!(fits("*F", "20261122-103000F"));
        assert!(!fits("*F", "20261122-103000F_20261123-103000D"));
        assert!(fits("base/*/12?9", "base/16384/1259"));
        assert!(!fits("base/*/12?", "base/16384/1259"));
        assert!(fits("*a*b*", "xxaxxbxx") && !fits("*a*b", "xxaxxbxx"));
        assert!(fits("gr??e", "größe") && fits("", "anything") && fits("*", ""));
    }

    #[test]
    fn a_regular_expression_is_refused_with_a_hint() {
        for text in ["(F|D|I)$", "^base", "[0-9]"] {
            let error = text.parse::<NameFilter>().unwrap_err();
            assert!(error.hints()[0].contains("pattern"), "{error}");
        }
    }
}
