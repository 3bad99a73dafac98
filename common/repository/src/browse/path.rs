//! From a path that somebody typed to objects, and back. Text only: nothing is looked up.

use super::BrowseError;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::{TimelineId, WalFileName};
use pgconvoy_storage::ObjectKey;

/// What pgBackRest calls a manifest.
const MANIFEST_SHOWN: &str = "backup.manifest";
const MANIFEST: &str = "manifest";

/// A place in a repository, and how what lies below it is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The top of a repository, or of one of pgBackRest's two trees: stanzas are listed.
    Top { tree: Tree },
    /// Something under one stanza's part of the tree.
    Inside { tree: Tree, stanza: Option<StanzaName>, key: ObjectKey },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    Own,
    Archive,
    Backup,
}

impl Tree {
    /// Where the tree of a stanza begins among our names.
    const fn directory(self) -> &'static str {
        match self {
            Tree::Own => "",
            Tree::Archive => "wal",
            Tree::Backup => "backup",
        }
    }

    /// How an object is shown, from its name below the stanza's directory.
    pub(super) fn shown(self, name: &str) -> String {
        match (self, name.rsplit_once('/')) {
            (Tree::Archive, Some((directory, file))) if is_history(file) => {
                match directory.rsplit_once('/') {
                    Some((archive, _)) => format!("{archive}/{file}"),
                    None => file.to_owned(),
                }
            }
            (Tree::Backup, Some((label, MANIFEST))) => format!("{label}/{MANIFEST_SHOWN}"),
            _ => name.to_owned(),
        }
    }

    /// The directory of a history file is not shown: the file is, one level up.
    pub(super) fn hides(self, directory: &str) -> bool {
        self == Tree::Archive && directory.len() == 8 && timeline(directory).is_some()
    }
}

fn timeline(digits: &str) -> Option<TimelineId> {
    match format!("{digits}.history").parse() {
        Ok(WalFileName::History(timeline)) => Some(timeline),
        _ => None,
    }
}

fn is_history(file: &str) -> bool {
    matches!(file.parse(), Ok(WalFileName::History(_)))
}

impl Place {
    /// `has_stanza` tells whether a name is that of a stanza of ours, which takes precedence over pgBackRest's trees.
    pub(super) fn parse(path: &str, has_stanza: impl Fn(&str) -> bool) -> Result<Place, BrowseError> {
        let trimmed = path.trim_matches('/');
        if trimmed.is_empty() || trimmed == "." {
            return Ok(Place::Top { tree: Tree::Own });
        }
        let (first, rest) = trimmed.split_once('/').unwrap_or((trimmed, ""));
        let tree = match first {
            "archive" if !has_stanza(first) => Tree::Archive,
            "backup" if !has_stanza(first) => Tree::Backup,
            _ => {
                let key = object_key(path, trimmed)?;
                return Ok(Place::Inside { tree: Tree::Own, stanza: None, key });
            }
        };
        if rest.is_empty() {
            return Ok(Place::Top { tree });
        }
        let (stanza, below) = rest.split_once('/').unwrap_or((rest, ""));
        let stanza: StanzaName =
            stanza.parse().map_err(|error: pgconvoy_core::ids::IdError| refused(path, error.reason))?;
        let below = stored(tree, below);
        let name = format!("{stanza}/{}", tree.directory());
        let name = if below.is_empty() { name } else { format!("{name}/{below}") };
        Ok(Place::Inside { tree, stanza: Some(stanza), key: object_key(path, &name)? })
    }
}

fn object_key(path: &str, name: &str) -> Result<ObjectKey, BrowseError> {
    name.parse().map_err(|error: pgconvoy_storage::KeyError| refused(path, error.reason))
}

fn refused(path: &str, reason: &str) -> BrowseError {
    BrowseError::Path { path: path.to_owned(), reason: reason.to_owned() }
}

/// Our name of what is shown as `below`.
fn stored(tree: Tree, below: &str) -> String {
    match (tree, below.rsplit_once('/')) {
        (Tree::Archive, Some((archive, file))) if is_history(file) && !archive.contains('/') => {
            format!("{archive}/{}/{file}", &file[..8])
        }
        (Tree::Backup, Some((label, MANIFEST_SHOWN))) => format!("{label}/{MANIFEST}"),
        _ => below.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn key_of(path: &str) -> String {
        match Place::parse(path, |name| name == "main").unwrap() {
            Place::Inside { key, .. } => key.to_string(),
            Place::Top { tree } => format!("{tree:?}"),
        }
    }

    #[test]
    fn paths_of_pgbackrest_lead_to_our_objects() {
        for (path, key) in [
            ("archive/main/15-1", "main/wal/15-1"),
            ("/archive/main/15-1/", "main/wal/15-1"),
            ("archive/main/15-1/00000002.history", "main/wal/15-1/00000002/00000002.history"),
            (
                "archive/main/15-1/0000000100000000/000000010000000000000001",
                "main/wal/15-1/0000000100000000/000000010000000000000001",
            ),
            ("backup/main", "main/backup"),
            ("backup/main/20261122-103000F/backup.manifest", "main/backup/20261122-103000F/manifest"),
            ("main/catalogue", "main/catalogue"),
            ("archive", "Archive"),
            ("", "Own"),
        ] {
            assert_eq!(key_of(path), key, "{path}");
        }
    }

    #[test]
    fn a_stanza_with_the_name_of_a_tree_comes_first() {
        let place = Place::parse("archive/wal/15-1", |name| name == "archive").unwrap();
        assert!(matches!(place, Place::Inside { tree: Tree::Own, .. }));
    }

    #[test]
    fn a_path_that_leaves_the_repository_is_refused() {
        for path in ["../x", "archive/../x", "archive/main/../../x", "main//x", "backup/-x"] {
            assert!(Place::parse(path, |_| false).is_err(), "{path}");
        }
    }

    #[test]
    fn what_is_shown_leads_back_to_where_it_lies() {
        for (tree, name) in [
            (Tree::Archive, "15-1/00000002/00000002.history"),
            (Tree::Archive, "15-1/0000000100000000/000000010000000000000001.partial"),
            (Tree::Backup, "20261122-103000F/manifest"),
            (Tree::Backup, "20261122-103000F/pack/0001/000000-001"),
        ] {
            assert_eq!(stored(tree, &tree.shown(name)), name);
        }
    }
}
