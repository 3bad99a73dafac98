//! The order of listings, and walking one page by page.
//!
//! Entries come in the order object stores have: an object is compared by its key, a prefix by its key and a `/`. So
//! the object `a-b` comes before the prefix `a`, which stands for `a/..`.
//!
//! Invariant: the first error ends a walk, so that a partial listing is never taken for a whole one.

use crate::{ListDepth, ListPage, ObjectInfo, ObjectKey, Storage, StorageError};
use std::cmp::Ordering;

/// Entries of one page at most: what S3, GCS and Azure all give in one answer.
pub const LIST_PAGE_MAX: usize = 1000;

/// A place in the order of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListAfter {
    Object(ObjectKey),
    /// After the prefix and everything under it.
    Prefix(ObjectKey),
}

impl ListAfter {
    /// Whether an object comes after this place.
    pub fn precedes_object(&self, key: &ObjectKey) -> bool {
        match self {
            ListAfter::Object(place) => key > place,
            ListAfter::Prefix(place) => {
                key.under(place).is_none() && order((key, false), (place, true)).is_gt()
            }
        }
    }

    /// Whether a prefix comes after this place.
    pub fn precedes_prefix(&self, key: &ObjectKey) -> bool {
        match self {
            ListAfter::Object(place) => order((key, true), (place, false)).is_gt(),
            ListAfter::Prefix(place) => order((key, true), (place, true)).is_gt(),
        }
    }

    /// Whether objects under this prefix can come after this place: a walk may otherwise leave it out.
    pub fn precedes_some_under(&self, prefix: &ObjectKey) -> bool {
        match self {
            ListAfter::Object(place) => place.under(prefix).is_some() || self.precedes_prefix(prefix),
            ListAfter::Prefix(place) => {
                prefix.under(place).is_none()
                    && (place.under(prefix).is_some() || self.precedes_prefix(prefix))
            }
        }
    }
}

impl From<ObjectKey> for ListAfter {
    fn from(key: ObjectKey) -> Self {
        ListAfter::Object(key)
    }
}

/// The order of two entries, each a key and whether it is a prefix.
pub fn order(left: (&ObjectKey, bool), right: (&ObjectKey, bool)) -> Ordering {
    listed_bytes(left).cmp(listed_bytes(right))
}

fn listed_bytes((key, is_prefix): (&ObjectKey, bool)) -> impl Iterator<Item = u8> {
    key.as_str().bytes().chain(is_prefix.then_some(b'/'))
}

/// What a listing holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Object(ObjectInfo),
    Prefix(ObjectKey),
}

impl Entry {
    /// Where a listing that ends with it goes on.
    pub fn place(&self) -> ListAfter {
        match self {
            Entry::Object(object) => ListAfter::Object(object.key.clone()),
            Entry::Prefix(prefix) => ListAfter::Prefix(prefix.clone()),
        }
    }

    /// Whether it comes after a place; everything comes after none.
    pub fn is_after(&self, after: Option<&ListAfter>) -> bool {
        after.is_none_or(|after| match self {
            Entry::Object(object) => after.precedes_object(&object.key),
            Entry::Prefix(prefix) => after.precedes_prefix(prefix),
        })
    }

    pub fn order(&self, other: &Entry) -> Ordering {
        order(self.listed(), other.listed())
    }

    fn listed(&self) -> (&ObjectKey, bool) {
        match self {
            Entry::Object(object) => (&object.key, false),
            Entry::Prefix(prefix) => (prefix, true),
        }
    }
}

impl ListPage {
    /// Of entries that are in order; `more`: there are further ones.
    pub fn of(entries: Vec<Entry>, more: bool) -> ListPage {
        let more = entries.last().filter(|_| more).map(Entry::place);
        let mut page = ListPage { more, ..ListPage::default() };
        for entry in entries {
            match entry {
                Entry::Object(object) => page.objects.push(object),
                Entry::Prefix(prefix) => page.prefixes.push(prefix),
            }
        }
        page
    }
}

/// A recursive walk over the objects under a prefix that holds one page in memory.
#[derive(Debug)]
pub struct Listing<'a> {
    storage: &'a dyn Storage,
    prefix: Option<ObjectKey>,
    page: std::vec::IntoIter<ObjectInfo>,
    cursor: Cursor,
}

#[derive(Debug)]
enum Cursor {
    Start,
    After(ListAfter),
    End,
}

impl<'a> Listing<'a> {
    pub fn new(storage: &'a dyn Storage, prefix: Option<&ObjectKey>) -> Self {
        Listing { storage, prefix: prefix.cloned(), page: Vec::new().into_iter(), cursor: Cursor::Start }
    }

    /// The next object in the order of keys; `None` after the last. After an error only a new walk helps.
    pub async fn next(&mut self) -> Result<Option<ObjectInfo>, StorageError> {
        loop {
            if let Some(object) = self.page.next() {
                return Ok(Some(object));
            }
            let after = match std::mem::replace(&mut self.cursor, Cursor::End) {
                Cursor::Start => None,
                Cursor::After(place) => Some(place),
                Cursor::End => return Ok(None),
            };
            let prefix = self.prefix.as_ref();
            let page = self.storage.list(prefix, ListDepth::Recursive, after.as_ref(), LIST_PAGE_MAX).await?;
            self.cursor = page.more.map_or(Cursor::End, Cursor::After);
            self.page = page.objects.into_iter();
        }
    }
}

/// All objects under `prefix`, in the order of keys. For sets known to be small; else walk a [`Listing`].
pub async fn list_all(
    storage: &dyn Storage,
    prefix: Option<&ObjectKey>,
) -> Result<Vec<ObjectInfo>, StorageError> {
    let mut listing = Listing::new(storage, prefix);
    let mut objects = Vec::new();
    while let Some(object) = listing.next().await? {
        objects.push(object);
    }
    Ok(objects)
}

/// All objects and prefixes directly under `prefix`, each sorted by key.
pub async fn list_children(
    storage: &dyn Storage,
    prefix: Option<&ObjectKey>,
) -> Result<ListPage, StorageError> {
    let mut whole = ListPage::default();
    let mut after = None;
    loop {
        let page = storage.list(prefix, ListDepth::Children, after.as_ref(), LIST_PAGE_MAX).await?;
        whole.objects.extend(page.objects);
        whole.prefixes.extend(page.prefixes);
        match page.more {
            Some(more) => after = Some(more),
            None => break,
        }
    }
    whole.prefixes.sort();
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        text.parse().expect("a valid key")
    }

    #[test]
    fn a_prefix_takes_its_place_by_what_lies_under_it() {
        let after_object = ListAfter::Object(key("a-b"));
        assert!(after_object.precedes_prefix(&key("a")));
        assert!(!after_object.precedes_object(&key("a")));
        let after_prefix = ListAfter::Prefix(key("a"));
        assert!(!after_prefix.precedes_object(&key("a-b")));
        assert!(!after_prefix.precedes_object(&key("a/z")));
        assert!(after_prefix.precedes_object(&key("a0")));
        assert!(!after_prefix.precedes_prefix(&key("a")));
    }

    #[test]
    fn a_walk_enters_only_prefixes_with_something_left() {
        let after = ListAfter::Object(key("b/m"));
        assert!(!after.precedes_some_under(&key("a")));
        assert!(after.precedes_some_under(&key("b")));
        assert!(after.precedes_some_under(&key("c")));
        let after = ListAfter::Prefix(key("b/m"));
        assert!(after.precedes_some_under(&key("b")));
        assert!(!after.precedes_some_under(&key("b/m")));
        assert!(!after.precedes_some_under(&key("b/m/x")));
        assert!(after.precedes_some_under(&key("b/n")));
    }
}
