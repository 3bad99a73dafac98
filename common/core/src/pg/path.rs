//! Paths of files inside a data directory, as inventories, plans and manifests hold them.
//!
//! Invariants
//! 1. A [`RelativePath`] joined to a directory stays inside it: no `..`, no leading `/`, no NUL (a link on the way is the
//!    writer's to refuse). Decoding a manifest goes through the same check as a scan.
//! 2. One file has one spelling: no `.`, no empty parts.
//! 3. Names are UTF-8. PostgreSQL's own always are; what users put beside them may not be, and then the scan ends with an
//!    error that shows the name, rather than storing a path that no JSON, log or restore could repeat.

use crate::pg::PgFormatError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Linux takes no longer path in one call (PATH_MAX), in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// A path inside a data directory. Tablespaces appear as `pg_tblspc/<oid>/PG_<version>_<catalog>/...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelativePath(String);

impl RelativePath {
    pub fn new(text: impl Into<String>) -> Result<Self, PgFormatError> {
        let text = text.into();
        match flaw(&text) {
            None => Ok(RelativePath(text)),
            Some(reason) => Err(PgFormatError::new("path", &text, reason)),
        }
    }

    /// From a name as the operating system has it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PgFormatError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::new(text),
            Err(_) => {
                let reason = "it is not UTF-8; rename or exclude the file";
                Err(PgFormatError::new("path", &String::from_utf8_lossy(bytes), reason))
            }
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// All but the last part; none directly in the data directory.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    pub fn join(&self, name: &str) -> Result<Self, PgFormatError> {
        Self::new(format!("{}/{name}", self.0))
    }

    pub fn starts_with(&self, directory: &str) -> bool {
        is_inside(&self.0, directory)
    }
}

/// Whether `path` lies in `directory`, at any depth.
pub(super) fn is_inside(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn flaw(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > PATH_BYTES_MAX {
        Some("it is longer than 4096 bytes")
    } else if text.starts_with('/') {
        Some("it is not relative")
    } else if text.contains('\0') {
        Some("it contains NUL")
    } else if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("it has a part that is empty, '.' or '..'")
    } else {
        None
    }
}

impl FromStr for RelativePath {
    type Err = PgFormatError;
    fn from_str(text: &str) -> Result<Self, PgFormatError> {
        RelativePath::new(text)
    }
}

impl TryFrom<String> for RelativePath {
    type Error = PgFormatError;
    fn try_from(text: String) -> Result<Self, PgFormatError> {
        RelativePath::new(text)
    }
}

impl From<RelativePath> for String {
    fn from(path: RelativePath) -> String {
        path.0
    }
}

impl AsRef<str> for RelativePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_could_leave_the_data_directory_are_refused() {
        for bad in
            ["", "/", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a//b", "a/", "a\0b", &"x".repeat(4097)]
        {
            assert!(RelativePath::new(bad).is_err(), "{bad:?}");
        }
        for good in [
            "PG_VERSION",
            "base/1/1259",
            "pg_tblspc/16384/PG_15_202209061/5/16390",
            "log/a b\n.log",
            "..a/b..",
        ] {
            assert_eq!(RelativePath::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_an_error_that_shows_it() {
        let error = RelativePath::from_bytes(b"log/caf\xe9.log").unwrap_err();
        assert_eq!(
            error.to_string(),
            "path 'log/caf\u{fffd}.log' is not valid: it is not UTF-8; rename or exclude the file"
        );
    }

    #[test]
    fn parts_are_found_and_joined() {
        let path: RelativePath = "base/5/16384_fsm".parse().unwrap();
        assert_eq!((path.file_name(), path.parent()), ("16384_fsm", Some("base/5")));
        assert!(path.starts_with("base") && path.starts_with("base/5") && !path.starts_with("bas"));
        let root: RelativePath = "base".parse().unwrap();
        assert_eq!((root.parent(), root.join("5").unwrap().as_str()), (None, "base/5"));
        assert!(root.join("../global").is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_inside_its_directory(text in "[a./\\\\\u{0}]{0,12}") {
            if let Ok(path) = RelativePath::new(text.clone()) {
                let inside = std::path::Path::new("/data").join(path.as_str());
                let normal = inside.components().all(|part| !matches!(part, std::path::Component::ParentDir));
                prop_assert!(normal && inside.starts_with("/data"), "{text:?}");
            }
        }
    }
}
