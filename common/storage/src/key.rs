//! The name of an object: a relative path that means the same in a directory, in a bucket and on an SFTP server.
//!
//! Invariants
//! 1. A key never leaves the root it is resolved under: no empty, `.` or `..` part, no leading `/`.
//! 2. No part starts with a dot. Such names belong to the stores themselves (temporary files, `.snapshot`, `.nfs..`).
//! 3. Keys order by their bytes, as object stores list them: `a-b` comes before `a/b`.

use pgconvoy_core::failure::{Classify, ErrorCode};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Bytes of a whole key: what S3, GCS and Azure all take.
pub const KEY_LENGTH_MAX: usize = 1024;
/// Bytes of one part: NAME_MAX of every filesystem that matters.
pub const PART_LENGTH_MAX: usize = 255;

/// A text that names no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid object key: {reason}")]
pub struct KeyError {
    pub text: String,
    pub reason: &'static str,
}

impl Classify for KeyError {
    fn code(&self) -> ErrorCode {
        ErrorCode::ParamInvalid
    }
}

/// A relative, normalised, `/`-separated name of bounded length. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of `tail`, itself one or more parts, under this one.
    pub fn join(&self, tail: &str) -> Result<Self, KeyError> {
        format!("{self}/{tail}").parse()
    }

    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// All but the last part; `None` at the top.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| ObjectKey(parent.into()))
    }

    /// What follows `prefix/`, if this key lies under `prefix`.
    pub fn under(&self, prefix: &ObjectKey) -> Option<&str> {
        self.0.strip_prefix(&*prefix.0)?.strip_prefix('/')
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    if part.is_empty() {
        Err("it has an empty part")
    } else if part.starts_with('.') {
        Err("a part starts with '.'")
    } else if part.len() > PART_LENGTH_MAX {
        Err("a part is longer than 255 bytes")
    } else if part.chars().any(|c| c.is_control() || c == '\\') {
        Err("it holds a control character or a backslash")
    } else {
        Ok(())
    }
}

impl FromStr for ObjectKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = |reason| KeyError { text: text.chars().take(KEY_LENGTH_MAX).collect(), reason };
        if text.len() > KEY_LENGTH_MAX {
            return Err(error("it is longer than 1024 bytes"));
        }
        text.split('/').try_for_each(check_part).map_err(error)?;
        Ok(ObjectKey(text.into()))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> ObjectKey {
        text.parse().expect("a valid key")
    }

    #[test]
    fn a_key_that_could_leave_its_root_or_hide_in_it_is_refused() {
        let long_part = "x".repeat(PART_LENGTH_MAX + 1);
        let long_key = "xy/".repeat(400) + "z";
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", ".tmp-1", "a/.b", "a\0b", "a\nb", "a\\b",
        ] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad:?}");
        }
        assert!(long_part.parse::<ObjectKey>().is_err());
        assert!(long_key.parse::<ObjectKey>().is_err());
        for good in ["a", "a/b.c", "a b/+%=&#?*~'\"", "größe/日本", "a../b", &"x".repeat(PART_LENGTH_MAX)]
        {
            assert_eq!(key(good).to_string(), good);
        }
    }

    #[test]
    fn joining_checks_the_tail_like_a_key_of_its_own() {
        assert_eq!(key("a").join("b/c").expect("valid").as_str(), "a/b/c");
        for bad in ["", "..", "/b", "b/", "../c"] {
            assert!(key("a").join(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parts_of_a_key_are_found_again() {
        let deep = key("a/b/c");
        assert_eq!(deep.name(), "c");
        assert_eq!(deep.parent(), Some(key("a/b")));
        assert_eq!(key("a").parent(), None);
        assert_eq!(deep.under(&key("a")), Some("b/c"));
        assert_eq!(key("ab/c").under(&key("a")), None);
        assert_eq!(key("a").under(&key("a")), None);
    }

    #[test]
    fn keys_order_by_their_bytes() {
        let mut keys = [key("a/b"), key("a-b"), key("a0"), key("a")];
        keys.sort();
        assert_eq!(keys.map(|k| k.to_string()), ["a", "a-b", "a/b", "a0"]);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_below_its_root(text in ".{0,40}") {
            if let Ok(key) = text.parse::<ObjectKey>() {
                prop_assert_eq!(key.as_str(), &text);
                prop_assert!(std::path::Path::new(key.as_str())
                    .components()
                    .all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}
