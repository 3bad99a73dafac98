//! Identifiers, each a type of its own from birth: what cannot be mixed up need not be checked.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An identifier that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} '{text}' is not valid: {reason}")]
pub struct IdError {
    pub what: &'static str,
    pub text: String,
    pub reason: &'static str,
}

/// Names go into object keys, lock files and log lines, so they keep to a small alphabet.
fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > 64 {
        "it is longer than 64 characters"
    } else if text.starts_with(['.', '-']) {
        "it starts with '.' or '-'"
    } else if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        "only letters, digits, '-', '_' and '.' are allowed"
    } else {
        return Ok(());
    };
    Err(IdError { what, text: text.to_owned(), reason })
}

macro_rules! name_type {
    ($(#[$meta:meta])* $name:ident, $what:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check_name($what, text)?;
                Ok($name(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! number_type {
    ($(#[$meta:meta])* $name:ident, $inner:ty) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name_type!(
    /// One PostgreSQL cluster and its backup policy.
    StanzaName, "stanza name");
name_type!(
    /// A worker of the fleet, as its certificate or configuration names it.
    WorkerName, "worker name");
name_type!(
    /// Coordinators and workers that belong together: one certificate authority, one leader.
    FleetName, "fleet name");

number_type!(
    /// The number of a repository in the configuration: `repo.1`, `repo.2` ...
    RepoKey, u16);
number_type!(
    /// A unit's place in its plan, from 0.
    UnitId, u32);
number_type!(
    /// A share's place in the cut of its restore, from 0.
    ShareId, u32);
number_type!(
    /// Counts the tries at one unit, from 1. Part of the pack's name, so a zombie never overwrites an accepted pack.
    Attempt, u32);
number_type!(
    /// Counts the plans of one label, from 1: a resumed backup writes its next one.
    PlanNumber, u32);
number_type!(
    /// Grows with every grant of a lease; what bears an older one than the current is a zombie's.
    FencingToken, u64);
number_type!(
    /// Which leader speaks. A worker refuses commands of an older epoch than the newest it has seen.
    Epoch, u64);
number_type!(
    /// A repository's key generation; 0 is "not encrypted".
    KeyGeneration, u32);
number_type!(
    /// The number of a cluster in a stanza's history (`cluster/<n>`), from 1.
    ClusterNumber, u32);
number_type!(
    /// `pg_control`'s system identifier: equal in a primary and all its standbys.
    SystemId, u64);
number_type!(
    /// A PostgreSQL object identifier.
    Oid, u32);

/// A random 128-bit identity: of a repository, of a backup. Generated outside the core; the default is the nil UUID.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub uuid::Uuid);

impl Identity {
    pub fn from_random_bytes(bytes: [u8; 16]) -> Self {
        Identity(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Identity {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid::Uuid::parse_str(text).map(Identity).map_err(|_| IdError {
            what: "identity",
            text: text.to_owned(),
            reason: "it is not a UUID",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", "..", ".", "a/b", "-x", "a b", "ü", &"x".repeat(65)] {
            assert!(bad.parse::<StanzaName>().is_err(), "{bad:?}");
        }
        for good in ["main", "prod-1", "a.b_c"] {
            assert_eq!(good.parse::<StanzaName>().expect("valid").as_str(), good);
        }
    }
}
