//! Old versions of objects, as stores with versioning keep them, and which of them counts at a moment.
//!
//! A store brings [`VersionedStore`]; [`crate::as_of`] makes a view of a moment from it. The choice is a function of values.

use crate::{ObjectKey, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

/// What a key began to hold at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub key: ObjectKey,
    /// The store's own word for it.
    pub id: String,
    /// By the store's clock.
    pub since: SystemTime,
    /// When it was replaced or removed, where the store says so of the version itself.
    pub until: Option<SystemTime>,
    /// `None`: the key was removed.
    pub size: Option<u64>,
}

/// What lies directly under a prefix, in all its versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// Keys in any order; versions of one key the newest first.
    pub objects: Vec<Version>,
    pub prefixes: Vec<ObjectKey>,
}

/// A store that can be asked for its past. Calls are one try each, as those of a store are.
#[async_trait]
pub trait VersionedStore: Send + Sync + fmt::Debug {
    fn describe(&self) -> String;

    /// All of it, however many pages that takes.
    async fn versions_under(&self, prefix: Option<&ObjectKey>) -> Result<Versions, StorageError>;

    /// Of one key, the newest first.
    async fn versions_of(&self, key: &ObjectKey) -> Result<Vec<Version>, StorageError>;

    /// A range that is not empty and lies within the version.
    async fn read_version(&self, version: &Version, range: Range<u64>) -> Result<Bytes, StorageError>;
}

/// What the key of these versions held at the moment; they come the newest first.
///
/// Stores tell times in whole seconds. Of what happened in the same second the later one in the store's order counts, but an
/// object before its removal: the two come in lists of their own, and to show too much harms nobody.
pub fn version_at<'a>(
    versions: impl IntoIterator<Item = &'a Version>,
    moment: SystemTime,
) -> Option<&'a Version> {
    let mut found: Option<&Version> = None;
    for version in versions.into_iter().filter(|version| version.since <= moment) {
        let is_better = found.is_none_or(|found| {
            (version.since, version.size.is_some()) > (found.since, found.size.is_some())
        });
        if is_better {
            found = Some(version);
        }
    }
    found.filter(|found| found.size.is_some() && found.until.is_none_or(|until| until > moment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn version(id: &str, since: u64, until: Option<u64>, size: Option<u64>) -> Version {
        let key = "a/b".parse().expect("a valid key");
        Version { key, id: id.to_owned(), since: at(since), until: until.map(at), size }
    }

    fn seen(versions: &[Version], second: u64) -> Option<&str> {
        version_at(versions, at(second)).map(|version| version.id.as_str())
    }

    #[test]
    fn the_newest_version_that_is_not_younger_counts_until_a_mark_says_that_it_is_gone() {
        let history = [
            version("again", 40, None, Some(3)),
            version("gone", 30, None, None),
            version("first", 10, None, Some(1)),
        ];
        let told: Vec<_> = [9, 10, 29, 30, 39, 40, 99].map(|second| seen(&history, second)).into();
        let expected = [None, Some("first"), Some("first"), None, None, Some("again"), Some("again")];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_version_that_ended_is_gone_from_then_on() {
        let history = [version("b", 20, Some(30), Some(2)), version("a", 10, Some(20), Some(1))];
        let told: Vec<_> = [10, 19, 20, 29, 30].map(|second| seen(&history, second)).into();
        assert_eq!(told, [Some("a"), Some("a"), Some("b"), Some("b"), None]);
    }

    #[test]
    fn in_one_second_the_last_object_counts_and_a_removal_only_without_one() {
        let history = [
            version("gone", 10, None, None),
            version("later", 10, None, Some(2)),
            version("earlier", 10, None, Some(1)),
        ];
        assert_eq!(seen(&history, 10), Some("later"));
        assert_eq!(seen(&history[..1], 10), None);
    }
}
