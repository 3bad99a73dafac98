//! A store as it was at a moment: what saves whoever finds the repository emptied, by an attacker or by mistake.
//!
//! The view answers from old versions. It has no way to write: every put and delete is refused here, before anything is asked.
//!
//! Directories are read whole and remembered, since the past does not change: a walk over pages, and many reads of what lies side by
//! side, cost one listing. A single object is looked up by its name.
//!
//! Invariant: what is not in the view was not there at the moment, as far as the store knows; what could not be asked is an error.

use crate::listing::Entry;
use crate::versions::{Version, VersionedStore, Versions, version_at};
use crate::{
    Feature, Features, IoAction, LIST_PAGE_MAX, ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey, Place,
    PutMode, Storage, StorageError, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_core::failure::ErrorCode;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Objects whose versions are remembered: of some hundred bytes each. A backup has 20,000 packs, a WAL directory 256 segments.
const REMEMBERED_MAX: usize = 100_000;

/// Directories that one call reads at most, of those that it does not remember: a call has a time limit, and where retention has
/// worked for years, thousands of directories hold nothing but versions of what is gone. It then gives what it has, and says how to
/// go on.
const LISTINGS_MAX: u64 = 64;

/// A store at a moment.
#[derive(Debug)]
pub struct AsOf {
    store: Arc<dyn VersionedStore>,
    moment: SystemTime,
    /// For people, with its moment.
    description: String,
    memory: Mutex<Memory>,
    /// Directories that were read.
    listings: AtomicU64,
}

#[derive(Debug, Default)]
struct Memory {
    directories: HashMap<Option<ObjectKey>, Arc<Directory>>,
    /// Looked up by name; `None` was not there.
    objects: HashMap<ObjectKey, Option<Version>>,
    entries: usize,
}

/// What lay directly under a prefix.
#[derive(Debug)]
struct Directory {
    objects: BTreeMap<ObjectKey, Version>,
    /// Something lay under these at some time.
    prefixes: Vec<ObjectKey>,
}

impl AsOf {
    /// `when` is the moment for people.
    pub fn new(store: Arc<dyn VersionedStore>, moment: SystemTime, when: &str) -> AsOf {
        let description = format!("{} as of {when}", store.describe());
        AsOf { store, moment, description, memory: Mutex::default(), listings: AtomicU64::new(0) }
    }

    fn place(&self, key: Option<&ObjectKey>) -> Place {
        Place::new(self.description.as_str(), key)
    }

    fn refused<T>(&self, key: &ObjectKey, action: IoAction) -> Result<T, StorageError> {
        Err(StorageError::Refused {
            at: self.place(Some(key)),
            action,
            code: ErrorCode::OptionInvalid,
            reason: "the past can only be read".to_owned(),
            hint: "use the repository as it is now".to_owned(),
        })
    }

    /// What is forgotten is asked for again.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.entries > REMEMBERED_MAX {
            *memory = Memory::default();
        }
        memory
    }

    async fn directory(&self, prefix: Option<&ObjectKey>) -> Result<Arc<Directory>, StorageError> {
        let name = prefix.cloned();
        if let Some(known) = self.memory().directories.get(&name) {
            return Ok(Arc::clone(known));
        }
        self.listings.fetch_add(1, Ordering::Relaxed);
        let directory = Arc::new(at(self.store.versions_under(prefix).await?, self.moment));
        let mut memory = self.memory();
        memory.entries += directory.objects.len() + directory.prefixes.len();
        memory.directories.insert(name, Arc::clone(&directory));
        Ok(directory)
    }

    /// The version of a key that counts; `None` is known absence.
    async fn find(&self, key: &ObjectKey) -> Result<Option<Version>, StorageError> {
        let known = {
            let memory = self.memory();
            let directory = memory.directories.get(&key.parent());
            directory
                .map(|directory| directory.objects.get(key).cloned())
                .or_else(|| memory.objects.get(key).cloned())
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let versions = self.store.versions_of(key).await?;
        let found = version_at(&versions, self.moment).cloned();
        let mut memory = self.memory();
        memory.entries += 1;
        memory.objects.insert(key.clone(), found.clone());
        Ok(found)
    }

    async fn version(&self, key: &ObjectKey) -> Result<(Version, u64), StorageError> {
        match self.find(key).await? {
            Some(version) => {
                let size = size(&version);
                Ok((version, size))
            }
            None => Err(StorageError::NotFound { at: self.place(Some(key)) }),
        }
    }

    /// What lies directly under a prefix, the last first.
    async fn entries(&self, prefix: Option<&ObjectKey>) -> Result<Vec<Entry>, StorageError> {
        let directory = self.directory(prefix).await?;
        let objects = directory.objects.values().map(|version| Entry::Object(described(version)));
        let prefixes = directory.prefixes.iter().cloned().map(Entry::Prefix);
        let mut entries: Vec<Entry> = objects.chain(prefixes).collect();
        entries.sort_by(|left, right| right.order(left));
        Ok(entries)
    }

    /// Whether anything lay under a prefix, at any depth. Level by level, the last names first: those are the youngest, where
    /// names tell an age.
    async fn held_any(&self, prefix: &ObjectKey) -> Result<bool, StorageError> {
        let mut open = VecDeque::from([prefix.clone()]);
        while let Some(prefix) = open.pop_front() {
            let directory = self.directory(Some(&prefix)).await?;
            if !directory.objects.is_empty() {
                return Ok(true);
            }
            open.extend(directory.prefixes.iter().rev().cloned());
        }
        Ok(false)
    }
}

/// A page, perhaps an empty one, that goes on behind a place.
fn page_up_to(found: Vec<Entry>, place: ListAfter) -> ListPage {
    ListPage { more: Some(place), ..ListPage::of(found, false) }
}

/// Of all versions those that count.
fn at(versions: Versions, moment: SystemTime) -> Directory {
    let mut histories: BTreeMap<ObjectKey, Vec<Version>> = BTreeMap::new();
    for version in versions.objects {
        histories.entry(version.key.clone()).or_default().push(version);
    }
    let objects = histories
        .into_iter()
        .filter_map(|(key, history)| Some((key, version_at(&history, moment)?.clone())))
        .collect();
    Directory { objects, prefixes: versions.prefixes }
}

fn size(version: &Version) -> u64 {
    version.size.expect("what counts at a moment is an object")
}

fn described(version: &Version) -> ObjectInfo {
    ObjectInfo { key: version.key.clone(), size: size(version), modified: Some(version.since), etag: None }
}

#[async_trait]
impl Storage for AsOf {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn features(&self) -> Features {
        Features::NONE.with(Feature::RangedReads).with(Feature::ModifiedTime)
    }

    async fn put(&self, key: &ObjectKey, _: PutMode, _: Bytes) -> Result<(), StorageError> {
        self.refused(key, IoAction::Write)
    }

    async fn begin(&self, key: &ObjectKey, _: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        self.refused(key, IoAction::Write)
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        let (version, size) = self.version(key).await?;
        match size {
            0 => Ok(Bytes::new()),
            size if size > size_max => {
                Err(StorageError::TooLarge { at: self.place(Some(key)), size, size_max })
            }
            size => self.store.read_version(&version, 0..size).await,
        }
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        let (version, size) = self.version(key).await?;
        if range.start.max(range.end) > size {
            let wanted = range.start.max(range.end);
            return Err(StorageError::Truncated { at: self.place(Some(key)), size, wanted });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.store.read_version(&version, range).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        Ok(self.find(key).await?.as_ref().map(described))
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let limit = limit.clamp(1, LIST_PAGE_MAX);
        let begin = self.listings.load(Ordering::Relaxed);
        let is_long = || self.listings.load(Ordering::Relaxed) - begin >= LISTINGS_MAX;
        let mut found = Vec::new();
        // The levels that are being walked, the deepest last, each from its end.
        let mut levels = vec![(prefix.cloned(), self.entries(prefix).await?)];
        while let Some((prefix, level)) = levels.last_mut() {
            let Some(entry) = level.pop() else {
                let place = prefix.take().map(ListAfter::Prefix);
                levels.pop();
                match place.filter(|_| is_long() && !levels.is_empty()) {
                    Some(place) => return Ok(page_up_to(found, place)),
                    None => continue,
                }
            };
            match &entry {
                Entry::Prefix(key) if depth == ListDepth::Recursive => {
                    if after.is_none_or(|after| after.precedes_some_under(key)) {
                        levels.push((Some(key.clone()), self.entries(Some(key)).await?));
                    }
                    continue;
                }
                entry if !entry.is_after(after) => continue,
                // Its versions may all be younger, or removed by then.
                Entry::Prefix(key) if !self.held_any(key).await? => {}
                // One more is there, so the page is not the last.
                _ if found.len() == limit => return Ok(ListPage::of(found, true)),
                _ => found.push(entry.clone()),
            }
            if is_long() && depth == ListDepth::Children {
                return Ok(page_up_to(found, entry.place()));
            }
        }
        Ok(ListPage::of(found, false))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.refused(key, IoAction::Remove)
    }
}

#[cfg(test)]
mod tests;
