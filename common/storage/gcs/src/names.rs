//! How objects are called in the bucket, and how names travel in an address.
//!
//! Parts of unfinished uploads lie under `.parts/` at the repository's root, a name that no [`ObjectKey`] can have: listings
//! never show them, and a sweep finds them without walking the repository. A rule of the bucket's lifecycle can match them by
//! prefix.

use pgconvoy_storage::ObjectKey;
use std::fmt::Write as _;

const PARTS: &str = ".parts/";

/// What all names of one repository begin with: nothing, or a key and a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(String);

impl Root {
    /// From `path` of the configuration, which may begin and end with slashes.
    pub(crate) fn new(path: &str) -> Result<Root, String> {
        let trimmed = path.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(Root(String::new()));
        }
        let key: ObjectKey = trimmed.parse().map_err(|error| format!("path: {error}"))?;
        Ok(Root(format!("{key}/")))
    }

    pub(crate) fn name(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.0)
    }

    /// What the names of all objects under a prefix begin with.
    pub(crate) fn below(&self, prefix: Option<&ObjectKey>) -> String {
        prefix.map_or_else(|| self.0.clone(), |prefix| format!("{}{prefix}/", self.0))
    }

    /// The key of a name; `None` for names that are not the repository's: parts, folders made by other programs.
    pub(crate) fn key(&self, name: &str) -> Option<ObjectKey> {
        name.strip_prefix(&self.0)?.parse().ok()
    }

    /// What the parts of all uploads under a prefix begin with.
    pub(crate) fn parts_below(&self, prefix: Option<&ObjectKey>) -> String {
        let prefix = prefix.map_or_else(String::new, |prefix| format!("{prefix}/"));
        format!("{}{PARTS}{prefix}", self.0)
    }

    /// What the parts of one upload begin with.
    pub(crate) fn parts_of(&self, key: &ObjectKey, nonce: &str) -> String {
        format!("{}{PARTS}{key}/{nonce}/", self.0)
    }
}

/// Percent-encodes all but what every reading of the standard leaves alone, slashes included.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes what is written");
        }
    }
    encoded
}

/// `name=value` pairs as a query or a form has them.
pub(crate) fn encode_pairs(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        text.parse().expect("a valid key")
    }

    #[test]
    fn a_path_with_or_without_slashes_is_the_same_root() {
        let root = Root::new("/pg/main/").expect("a path");
        assert_eq!(Root::new("pg/main"), Ok(root.clone()));
        assert_eq!(root.name(&key("a/b")), "pg/main/a/b");
        assert_eq!(root.below(Some(&key("a"))), "pg/main/a/");
        assert_eq!(Root::new("/").expect("the bucket itself").name(&key("a")), "a");
        for bad in ["/a/../b", "a//b", "/.hidden"] {
            assert!(Root::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_and_what_lies_outside_are_no_keys() {
        let root = Root::new("pg").expect("a path");
        assert_eq!(root.key("pg/a/b"), Some(key("a/b")));
        assert_eq!(root.parts_of(&key("a/b"), "0f"), "pg/.parts/a/b/0f/");
        assert!(root.parts_of(&key("a/b"), "0f").starts_with(&root.parts_below(Some(&key("a")))));
        for strange in ["pg/.parts/a/b/0f/1", "other/a", "pgx/a", "pg/", "pg/a/"] {
            assert_eq!(root.key(strange), None, "{strange}");
        }
    }

    #[test]
    fn names_are_encoded_for_one_segment_of_a_path() {
        assert_eq!(encode("a b/c+d%?#~"), "a%20b%2Fc%2Bd%25%3F%23~");
        assert_eq!(encode("größe"), "gr%C3%B6%C3%9Fe");
        assert_eq!(encode_pairs(&[("a", "1/2"), ("b", "")]), "a=1%2F2&b=");
    }
}
