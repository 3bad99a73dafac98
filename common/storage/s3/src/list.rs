//! Listings, in the order of keys.
//!
//! S3 lists names in the order of their bytes and begins after any name, which is all that a page needs. Servers that keep
//! objects as files list directories instead: `a/..` before `a-b`, and what "after" means follows that order. A page of theirs
//! would miss objects or bring them twice. Such a server is known by its name, by a kind of bucket, or by the first page that is not
//! in order; from then on its directories are read one by one, each as a whole, and put in order here.

use crate::store::{S3Storage, moment};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::Object;
use pgconvoy_storage::listing::Entry;
use pgconvoy_storage::{
    IoAction, LIST_PAGE_MAX, ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey, StorageError,
};
use std::sync::atomic::Ordering;

/// Sorts after every name with the same beginning, but for names that nobody has: the last character there is.
const LAST: char = char::MAX;

pub(crate) async fn page(
    store: &S3Storage,
    prefix: Option<&ObjectKey>,
    depth: ListDepth,
    after: Option<&ListAfter>,
    limit: usize,
) -> Result<ListPage, StorageError> {
    let limit = limit.clamp(1, LIST_PAGE_MAX);
    if !store.lists_directories.load(Ordering::Relaxed)
        && let Some(page) = ordered_page(store, prefix, depth, after, limit).await?
    {
        return Ok(page);
    }
    page_of_directories(store, prefix, depth, after, limit).await
}

/// One request, if the server has the order of keys; `None` when it turns out that it has not.
async fn ordered_page(
    store: &S3Storage,
    prefix: Option<&ObjectKey>,
    depth: ListDepth,
    after: Option<&ListAfter>,
    limit: usize,
) -> Result<Option<ListPage>, StorageError> {
    let start = after.map(|after| match after {
        ListAfter::Object(key) => store.name(key),
        ListAfter::Prefix(key) => format!("{}/{LAST}", store.name(key)),
    });
    let mut next = Next::After(start.clone());
    loop {
        let answer = request(store, prefix, depth, next, limit).await?;
        if store.lists_directories.load(Ordering::Relaxed) || !is_in_order(&answer, start.as_deref()) {
            store.lists_directories.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let mut entries = entries(store, &answer);
        entries.retain(|entry| entry.is_after(after));
        let is_last = answer.is_truncated() != Some(true);
        if !entries.is_empty() || is_last {
            return Ok(Some(ListPage::of(entries, !is_last)));
        }
        // A page without names, or of names that are no keys of ours.
        next = Next::Token(continuation(store, prefix, &answer)?);
    }
}

/// What one page begins with.
enum Next {
    After(Option<String>),
    Token(Option<String>),
}

async fn request(
    store: &S3Storage,
    prefix: Option<&ObjectKey>,
    depth: ListDepth,
    next: Next,
    limit: usize,
) -> Result<ListObjectsV2Output, StorageError> {
    let request = store
        .client
        .list_objects_v2()
        .bucket(&store.asker.bucket)
        .prefix(store.names_under(prefix))
        .set_delimiter((depth == ListDepth::Children).then(|| "/".to_owned()))
        .max_keys(i32::try_from(limit).expect("a page has at most 1000 entries"))
        .set_request_payer(store.payer.clone());
    let request = match next {
        Next::After(name) => request.set_start_after(name),
        Next::Token(token) => request.set_continuation_token(token),
    };
    store.ask(&store.place(prefix), IoAction::List, Box::pin(request.send())).await
}

/// How to go on behind a page; `None` behind the last.
fn continuation(
    store: &S3Storage,
    prefix: Option<&ObjectKey>,
    answer: &ListObjectsV2Output,
) -> Result<Option<String>, StorageError> {
    match answer.next_continuation_token() {
        _ if answer.is_truncated() != Some(true) => Ok(None),
        Some(token) if !token.is_empty() => Ok(Some(token.to_owned())),
        _ => Err(StorageError::NotSupported {
            at: store.place(prefix),
            reason: "the store says that a listing goes on, but not how".to_owned(),
        }),
    }
}

fn names(answer: &ListObjectsV2Output) -> (Vec<&str>, Vec<&str>) {
    let objects = answer.contents().iter().filter_map(Object::key).collect();
    let prefixes = answer.common_prefixes().iter().filter_map(|prefix| prefix.prefix()).collect();
    (objects, prefixes)
}

fn is_in_order(answer: &ListObjectsV2Output, start: Option<&str>) -> bool {
    let (objects, prefixes) = names(answer);
    let is_after_start = |names: &[&str]| names.iter().all(|name| start.is_none_or(|start| *name > start));
    objects.is_sorted() && prefixes.is_sorted() && is_after_start(&objects) && is_after_start(&prefixes)
}

/// Names that are no keys, such as a console's markers of directories, are nothing that this program knows.
fn entries(store: &S3Storage, answer: &ListObjectsV2Output) -> Vec<Entry> {
    let objects = answer.contents().iter().filter_map(|object| {
        let key = store.key(object.key()?)?;
        let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        Some(Entry::Object(ObjectInfo { key, size, modified: moment(object.last_modified()), etag: None }))
    });
    let prefixes = answer.common_prefixes().iter().filter_map(|prefix| {
        let name = prefix.prefix()?;
        Some(Entry::Prefix(store.key(name.strip_suffix('/')?)?))
    });
    let mut entries: Vec<Entry> = objects.chain(prefixes).collect();
    entries.sort_by(Entry::order);
    entries.dedup_by(|left, right| left.order(right).is_eq());
    entries
}

async fn page_of_directories(
    store: &S3Storage,
    prefix: Option<&ObjectKey>,
    depth: ListDepth,
    after: Option<&ListAfter>,
    limit: usize,
) -> Result<ListPage, StorageError> {
    let mut found = Vec::new();
    // The levels that are being walked, the deepest last, each from its end.
    let mut levels = vec![directory(store, prefix).await?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.pop() else {
            levels.pop();
            continue;
        };
        match &entry {
            Entry::Prefix(key) if depth == ListDepth::Recursive => {
                if after.is_none_or(|after| after.precedes_some_under(key)) {
                    levels.push(directory(store, Some(key)).await?);
                }
            }
            entry if !entry.is_after(after) => {}
            // Directories stay for a while when the last object in them is gone.
            Entry::Prefix(key) if !holds_any(store, key).await? => {}
            // One more is there, so the page is not the last.
            _ if found.len() == limit => return Ok(ListPage::of(found, true)),
            _ => found.push(entry),
        }
    }
    Ok(ListPage::of(found, false))
}

/// Whether there is an object under a prefix, at any depth.
async fn holds_any(store: &S3Storage, prefix: &ObjectKey) -> Result<bool, StorageError> {
    let mut token = None;
    loop {
        let next = Next::Token(token.take());
        let answer = request(store, Some(prefix), ListDepth::Recursive, next, 1).await?;
        if !answer.contents().is_empty() {
            return Ok(true);
        }
        token = continuation(store, Some(prefix), &answer)?;
        if token.is_none() {
            return Ok(false);
        }
    }
}

/// All that lies directly under a prefix, the last first.
async fn directory(store: &S3Storage, prefix: Option<&ObjectKey>) -> Result<Vec<Entry>, StorageError> {
    let mut whole = Vec::new();
    let mut token = None;
    loop {
        let next = Next::Token(token.take());
        let answer = request(store, prefix, ListDepth::Children, next, LIST_PAGE_MAX).await?;
        whole.extend(entries(store, &answer));
        token = continuation(store, prefix, &answer)?;
        if token.is_none() {
            whole.sort_by(|left, right| right.order(left));
            whole.dedup_by(|left, right| left.order(right).is_eq());
            return Ok(whole);
        }
    }
}
