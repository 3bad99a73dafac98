//! The reference: what every other backend must behave like, in one map under one lock.
//!
//! It lives and dies with the process. Clones share the same objects; stores [`beside`](MemoryStorage::beside) each other copy from each other.

use crate::{
    Feature, Features, LIST_PAGE_MAX, ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey, Origin, Place,
    PutMode, Storage, StorageError, Upload, not_an_origin,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

#[derive(Debug, Clone)]
struct Object {
    body: Bytes,
    modified: SystemTime,
    /// Of the server's writes, the one that made it.
    number: u64,
}

type Objects = BTreeMap<ObjectKey, Object>;

#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    objects: Arc<Mutex<Objects>>,
    /// How much was written, to all stores of one server.
    server: Arc<AtomicU64>,
}

impl MemoryStorage {
    pub fn new() -> Self {
        Self::default()
    }

    /// Another store of the same server, empty.
    pub fn beside(&self) -> Self {
        MemoryStorage { objects: Arc::default(), server: Arc::clone(&self.server) }
    }

    /// A panic elsewhere cannot leave the map half changed: every change is one insert or remove.
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, key: &ObjectKey) -> Place {
        Place::new("memory", Some(key))
    }

    fn body(&self, key: &ObjectKey) -> Result<Bytes, StorageError> {
        let objects = self.lock();
        let object = objects.get(key).ok_or_else(|| StorageError::NotFound { at: self.place(key) })?;
        Ok(object.body.clone())
    }

    fn insert(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let mut objects = self.lock();
        if mode == PutMode::Create && objects.contains_key(key) {
            return Err(StorageError::AlreadyExists { at: self.place(key) });
        }
        if let Some(other) = obstacle(&objects, key) {
            let reason = format!("'{other}' exists, and no key may be the prefix of another");
            return Err(StorageError::Obstructed { at: self.place(key), reason });
        }
        let number = self.server.fetch_add(1, Ordering::Relaxed);
        objects.insert(key.clone(), Object { body, modified: SystemTime::now(), number });
        Ok(())
    }
}

/// An object that is a prefix of `key`, or that `key` would be a prefix of.
fn obstacle(objects: &Objects, key: &ObjectKey) -> Option<ObjectKey> {
    let mut above = key.parent();
    while let Some(parent) = above {
        if objects.contains_key(&parent) {
            return Some(parent);
        }
        above = parent.parent();
    }
    let following = objects.range::<ObjectKey, _>((Bound::Excluded(key), Bound::Unbounded));
    following
        .map_while(|(other, _)| other.as_str().starts_with(key.as_str()).then_some(other))
        .find(|other| other.under(key).is_some())
        .cloned()
}

fn length(body: &Bytes) -> u64 {
    u64::try_from(body.len()).expect("a length in memory fits 64 bits")
}

#[async_trait]
impl Storage for MemoryStorage {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn features(&self) -> Features {
        Features::NONE.with(Feature::CreateOnly).with(Feature::RangedReads).with(Feature::ModifiedTime)
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        self.insert(key, mode, body)
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let upload = MemoryUpload { storage: self.clone(), key: key.clone(), mode, body: BytesMut::new() };
        Ok(Box::new(upload))
    }

    fn origin(&self) -> Option<&Origin> {
        Some(self)
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        let origin = origin.downcast_ref::<MemoryStorage>()?;
        Arc::ptr_eq(&self.server, &origin.server).then_some(u64::MAX)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        let Some(origin) = origin.downcast_ref::<MemoryStorage>() else {
            return Err(not_an_origin(self.place(key)));
        };
        let at = || origin.place(&object.key);
        let wanted = object.known_etag(at)?;
        let found = origin.lock().get(&object.key).cloned();
        let found = found.ok_or_else(|| StorageError::NotFound { at: at() })?;
        if found.number.to_string() != wanted {
            return Err(StorageError::Changed { at: at() });
        }
        self.insert(key, PutMode::Create, found.body)
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        let body = self.body(key)?;
        let size = length(&body);
        if size > size_max {
            return Err(StorageError::TooLarge { at: self.place(key), size, size_max });
        }
        Ok(body)
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        let body = self.body(key)?;
        let size = length(&body);
        let wanted = range.end.max(range.start);
        if wanted > size {
            return Err(StorageError::Truncated { at: self.place(key), size, wanted });
        }
        let offset = |byte| usize::try_from(byte).expect("an offset within a body in memory fits");
        Ok(body.slice(offset(range.start)..offset(wanted)))
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let etag = |object: &Object| Some(object.number.to_string().into());
        Ok(self.lock().get(key).map(|object| ObjectInfo { etag: etag(object), ..info(key, object) }))
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        Ok(page(&self.lock(), prefix, depth, after, limit.clamp(1, LIST_PAGE_MAX)))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.lock().remove(key);
        Ok(())
    }
}

fn info(key: &ObjectKey, object: &Object) -> ObjectInfo {
    ObjectInfo { key: key.clone(), size: length(&object.body), modified: Some(object.modified), etag: None }
}

/// Plain rather than fast: it looks at every object, which is what makes it a reference.
fn page(
    objects: &Objects,
    prefix: Option<&ObjectKey>,
    depth: ListDepth,
    after: Option<&ListAfter>,
    limit: usize,
) -> ListPage {
    let mut page = ListPage::default();
    let mut last: Option<ListAfter> = None;
    for (key, object) in objects {
        let Some(entry) = entry(key, prefix, depth) else { continue };
        let is_wanted = after.is_none_or(|after| match &entry {
            ListAfter::Object(key) => after.precedes_object(key),
            ListAfter::Prefix(key) => after.precedes_prefix(key),
        });
        if !is_wanted || last.as_ref() == Some(&entry) {
            continue;
        }
        if page.objects.len() + page.prefixes.len() == limit {
            page.more = last;
            return page;
        }
        match &entry {
            ListAfter::Object(_) => page.objects.push(info(key, object)),
            ListAfter::Prefix(child) => page.prefixes.push(child.clone()),
        }
        last = Some(entry);
    }
    page
}

/// What an object is in a listing: itself, or the prefix that it lies under; `None` outside of it.
fn entry(key: &ObjectKey, prefix: Option<&ObjectKey>, depth: ListDepth) -> Option<ListAfter> {
    let tail = prefix.map_or(Some(key.as_str()), |prefix| key.under(prefix))?;
    let below = match depth {
        ListDepth::Children => tail.split_once('/').map(|(_, below)| below),
        ListDepth::Recursive => None,
    };
    let Some(below) = below else { return Some(ListAfter::Object(key.clone())) };
    let child = &key.as_str()[..key.as_str().len() - below.len() - 1];
    Some(ListAfter::Prefix(child.parse().expect("a prefix of a key is a key")))
}

#[derive(Debug)]
struct MemoryUpload {
    storage: MemoryStorage,
    key: ObjectKey,
    mode: PutMode,
    body: BytesMut,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        self.body.extend_from_slice(&chunk);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        self.storage.insert(&self.key, self.mode, self.body.freeze())
    }

    async fn abort(self: Box<Self>) {}
}
