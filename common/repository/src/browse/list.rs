//! `repo-ls`.

use super::BrowseError;
use super::path::{Place, Tree};
use crate::filter::NameFilter;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::format::layout;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::{Listing, ObjectInfo, ObjectKey, list_children};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    Ascending,
    Descending,
    /// As the store gives them.
    None,
}

#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Empty: the top.
    pub path: String,
    pub recurse: bool,
    /// Compared with the name as it is shown.
    pub filter: Option<NameFilter>,
    pub sort: SortOrder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListedKind {
    Path,
    /// Stored bytes, and seconds since 1970 where the store knows them.
    File {
        size: u64,
        time: Option<u64>,
    },
}

/// `name` is relative to what was asked for; `.` is that itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub kind: ListedKind,
}

/// Empty for a path that is not there, as in pgBackRest; else `.` comes first.
pub async fn list(repository: &Repository, request: &ListRequest) -> Result<Vec<Listed>, BrowseError> {
    let stanzas = repository.stanzas().await?;
    let place = Place::parse(&request.path, |name| stanzas.iter().any(|stanza| stanza.as_str() == name))?;
    let mut listed = match place {
        Place::Top { tree: Tree::Own } => under(repository, None, request.recurse).await?,
        Place::Top { tree } => top_of(repository, tree, &stanzas, request.recurse).await?,
        Place::Inside { tree, stanza, key } => {
            inside(repository, tree, stanza.as_ref(), &key, request.recurse).await?
        }
    };
    if let Some(filter) = &request.filter {
        listed.retain(|entry| entry.name == "." || filter.fits(&entry.name));
    }
    let key = |entry: &Listed| (entry.name != ".", entry.name.clone());
    match request.sort {
        SortOrder::Ascending => listed.sort_by_key(key),
        SortOrder::Descending => {
            listed.sort_by_key(|entry| std::cmp::Reverse(entry.name.clone()));
            listed.sort_by_key(|entry| entry.name != ".");
        }
        SortOrder::None => {}
    }
    Ok(listed)
}

fn path(name: impl Into<String>) -> Listed {
    Listed { name: name.into(), kind: ListedKind::Path }
}

fn file(name: String, object: &ObjectInfo) -> Listed {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
    Listed { name, kind: ListedKind::File { size: object.size, time: object.modified.and_then(seconds) } }
}

/// What lies under a prefix, by our own names.
async fn under(
    repository: &Repository,
    prefix: Option<&ObjectKey>,
    recurse: bool,
) -> Result<Vec<Listed>, BrowseError> {
    let relative = |key: &ObjectKey| match prefix {
        None => key.to_string(),
        Some(prefix) => key.under(prefix).expect("a listing keeps to its prefix").to_owned(),
    };
    let mut listed = Vec::new();
    if recurse {
        let mut paths = BTreeSet::new();
        for object in objects(repository, prefix).await? {
            let name = relative(&object.key);
            add_parents(&mut paths, &name);
            listed.push(file(name, &object));
        }
        listed.extend(paths.into_iter().map(path));
    } else if !prefix.is_some_and(|prefix| layout::holds_links(prefix.as_str())) {
        let children = list_children(repository.storage(), prefix).await?;
        listed.extend(children.prefixes.iter().map(|key| path(relative(key))));
        listed.extend(children.objects.iter().map(|object| file(relative(&object.key), object)));
    }
    if !listed.is_empty() || prefix.is_none() {
        listed.insert(0, path("."));
    }
    Ok(listed)
}

/// All objects under a prefix. Links of plain backups to tablespaces are none, and for a store they are errors.
async fn objects(
    repository: &Repository,
    prefix: Option<&ObjectKey>,
) -> Result<Vec<ObjectInfo>, BrowseError> {
    let mut found = Vec::new();
    if repository.plain().is_none() {
        let mut listing = Listing::new(repository.storage(), prefix);
        while let Some(object) = listing.next().await? {
            found.push(object);
        }
        return Ok(found);
    }
    let mut open = vec![prefix.cloned()];
    while let Some(prefix) = open.pop() {
        if !prefix.as_ref().is_some_and(|prefix| layout::holds_links(prefix.as_str())) {
            let children = list_children(repository.storage(), prefix.as_ref()).await?;
            found.extend(children.objects);
            open.extend(children.prefixes.into_iter().map(Some));
        }
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

fn add_parents(paths: &mut BTreeSet<String>, name: &str) {
    let mut rest = name;
    while let Some((parent, _)) = rest.rsplit_once('/') {
        if !paths.insert(parent.to_owned()) {
            return;
        }
        rest = parent;
    }
}

async fn top_of(
    repository: &Repository,
    tree: Tree,
    stanzas: &[StanzaName],
    recurse: bool,
) -> Result<Vec<Listed>, BrowseError> {
    let mut listed = vec![path(".")];
    for stanza in stanzas {
        let directory = match tree {
            Tree::Archive => layout::wal(stanza),
            _ => layout::backups(stanza),
        };
        let below = inside(repository, tree, Some(stanza), &object_key(&directory), recurse).await?;
        listed.push(path(stanza.as_str()));
        if recurse {
            let named = below.into_iter().filter(|entry| entry.name != ".");
            listed.extend(named.map(|entry| Listed { name: format!("{stanza}/{}", entry.name), ..entry }));
        }
    }
    Ok(listed)
}

async fn inside(
    repository: &Repository,
    tree: Tree,
    stanza: Option<&StanzaName>,
    key: &ObjectKey,
    recurse: bool,
) -> Result<Vec<Listed>, BrowseError> {
    if let Some(object) = repository.storage().stat(key).await? {
        return Ok(vec![file(".".to_owned(), &object)]);
    }
    let mut listed = match (tree, recurse) {
        (Tree::Archive, false) => archive_children(repository, key).await?,
        _ => under(repository, Some(key), recurse).await?,
    };
    let Some(stanza) = stanza else { return Ok(listed) };
    listed.retain(|entry| entry.kind != ListedKind::Path || !tree.hides(last_part(&entry.name)));
    let top = object_key(stanza.as_str());
    let begin = key.under(&top).and_then(|below| below.split_once('/')).map_or("", |(_, below)| below);
    if tree == Tree::Backup {
        let published: BTreeSet<String> =
            repository.catalogue_labels(stanza).await?.iter().map(ToString::to_string).collect();
        let is_published = |entry: &Listed| {
            let whole = joined(begin, &entry.name);
            let label = whole.split('/').next().unwrap_or_default();
            label == "." || published.contains(label)
        };
        listed.retain(is_published);
    }
    for entry in &mut listed {
        let shown = tree.shown(&joined(begin, &entry.name));
        let relative = if begin.is_empty() { Some(shown.as_str()) } else { below(&shown, begin) };
        if let Some(relative) = relative {
            entry.name = relative.to_owned();
        }
    }
    Ok(listed)
}

fn joined(begin: &str, name: &str) -> String {
    if begin.is_empty() || name == "." { name.to_owned() } else { format!("{begin}/{name}") }
}

fn below<'a>(name: &'a str, directory: &str) -> Option<&'a str> {
    name.strip_prefix(directory)?.strip_prefix('/')
}

fn last_part(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

/// History files stand beside the directories of segments, so those that have them are looked into.
async fn archive_children(repository: &Repository, key: &ObjectKey) -> Result<Vec<Listed>, BrowseError> {
    let mut listed = under(repository, Some(key), false).await?;
    let hidden: Vec<String> = listed
        .iter()
        .filter(|entry| Tree::Archive.hides(&entry.name))
        .map(|entry| entry.name.clone())
        .collect();
    for directory in hidden {
        let below = object_key(&format!("{key}/{directory}"));
        let found = under(repository, Some(&below), false).await?;
        let files = found.into_iter().filter(|entry| entry.kind != ListedKind::Path);
        listed.extend(files.map(|entry| Listed { name: format!("{directory}/{}", entry.name), ..entry }));
    }
    Ok(listed)
}

/// pgBackRest's object, keyed by name. Its keys are sorted whatever was asked for, as an object has no order.
pub fn to_json(listed: &[Listed]) -> Value {
    let mut object = Map::new();
    for entry in listed {
        let value = match entry.kind {
            ListedKind::Path => json!({ "type": "path" }),
            ListedKind::File { size, time } => json!({ "type": "file", "size": size, "time": time }),
        };
        object.insert(entry.name.clone(), value);
    }
    Value::Object(object)
}

/// One name a line.
pub fn to_text(listed: &[Listed]) -> String {
    let names = listed.iter().filter(|entry| entry.name != "." || entry.kind != ListedKind::Path);
    names.map(|entry| format!("{}\n", entry.name)).collect()
}
