//! A view of the past against what really was there then, kept aside by a store in memory.

use super::*;
use crate::{MemoryStorage, list_all, list_children};
use pgconvoy_core::failure::{Classify, Retry};
use proptest::prelude::*;
use std::time::Duration;

/// A store with versions, as S3 has them: in a list, the newest first.
#[derive(Debug, Default)]
struct History(Mutex<Vec<(Version, Bytes)>>);

impl History {
    fn lock(&self) -> MutexGuard<'_, Vec<(Version, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: &ObjectKey, second: u64, body: Option<Bytes>) {
        let mut all = self.lock();
        let version = Version {
            key: key.clone(),
            id: all.len().to_string(),
            since: moment(second),
            until: None,
            size: body.as_ref().map(|body| u64::try_from(body.len()).expect("a short body")),
        };
        all.insert(0, (version, body.unwrap_or_default()));
    }
}

#[async_trait]
impl VersionedStore for History {
    fn describe(&self) -> String {
        "history".to_owned()
    }

    async fn versions_under(&self, prefix: Option<&ObjectKey>) -> Result<Versions, StorageError> {
        let mut versions = Versions::default();
        for (version, _) in self.lock().iter() {
            let parent = version.key.parent();
            if parent.as_ref() == prefix {
                versions.objects.push(version.clone());
            } else if let Some(child) = child_of(prefix, &version.key)
                && !versions.prefixes.contains(&child)
            {
                versions.prefixes.push(child);
            }
        }
        Ok(versions)
    }

    async fn versions_of(&self, key: &ObjectKey) -> Result<Vec<Version>, StorageError> {
        let all = self.lock();
        Ok(all
            .iter()
            .filter(|(version, _)| version.key == *key)
            .map(|(version, _)| version.clone())
            .collect())
    }

    async fn read_version(&self, version: &Version, range: Range<u64>) -> Result<Bytes, StorageError> {
        let all = self.lock();
        let (_, body) = all.iter().find(|(other, _)| other.id == version.id).expect("it was listed");
        let [start, end] =
            [range.start, range.end].map(|place| usize::try_from(place).expect("a short body"));
        Ok(body.slice(start..end))
    }
}

/// The child of a prefix that a key lies under.
fn child_of(prefix: Option<&ObjectKey>, key: &ObjectKey) -> Option<ObjectKey> {
    let mut key = key.parent()?;
    loop {
        match key.parent() {
            parent if parent.as_ref() == prefix => return Some(key),
            Some(parent) => key = parent,
            None => return None,
        }
    }
}

fn moment(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

const KEYS: [&str; 6] = ["top", "a/one", "a/one-b", "a/b/deep", "a/b/other", "c/d/e/deepest"];

/// A key, what is done to it, and whether a second passes before.
type Step = (usize, Option<u8>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..KEYS.len(), proptest::option::weighted(0.6, 0..4u8)), 1..40)
}

/// Sizes by name: times are the view's own.
async fn contents(storage: &dyn Storage, prefix: Option<&ObjectKey>) -> Vec<(String, u64)> {
    let mut contents = Vec::new();
    let all = list_all(storage, prefix).await.expect("a listing");
    contents.extend(all.into_iter().map(|object| (object.key.to_string(), object.size)));
    let children = list_children(storage, prefix).await.expect("a listing");
    contents.extend(children.prefixes.into_iter().map(|prefix| (format!("{prefix}/"), 0)));
    contents
}

async fn same(view: &AsOf, then: &MemoryStorage) {
    for prefix in [None, Some(key("a")), Some(key("a/b")), Some(key("c")), Some(key("nothing"))] {
        assert_eq!(
            contents(view, prefix.as_ref()).await,
            contents(then, prefix.as_ref()).await,
            "{prefix:?}"
        );
    }
    for name in KEYS {
        let stats = (view.stat(&key(name)).await, then.stat(&key(name)).await);
        let (seen, was) = (stats.0.expect("a look"), stats.1.expect("a look"));
        assert_eq!(seen.map(|info| info.size), was.map(|info| info.size), "{name}");
        match (view.get(&key(name), 9).await, then.get(&key(name), 9).await) {
            (Ok(seen), Ok(was)) => assert_eq!(seen, was, "{name}"),
            (Err(seen), Err(was)) => assert!(seen.is_not_found() && was.is_not_found(), "{seen} {was}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Pages of one entry each are the same listing.
    let mut walked = Vec::new();
    let mut after = None;
    loop {
        let page = view.list(None, ListDepth::Recursive, after.as_ref(), 1).await.expect("a page");
        walked.extend(page.objects.into_iter().map(|object| object.key));
        match page.more {
            Some(more) => after = Some(more),
            None => break,
        }
    }
    let whole = list_all(then, None).await.expect("a listing");
    assert_eq!(walked, whole.into_iter().map(|object| object.key).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn at_each_moment_the_view_is_what_was_there_then(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (history, now) = (Arc::new(History::default()), MemoryStorage::new());
            let mut snapshots = Vec::new();
            for (number, (which, body)) in steps.into_iter().enumerate() {
                let second = u64::try_from(number).expect("few steps") * 10;
                let (key, body) = (key(KEYS[which]), body.map(|length| Bytes::from(vec![length; length.into()])));
                history.add(&key, second, body.clone());
                match body {
                    Some(body) => now.put(&key, PutMode::Overwrite, body).await.expect("a put"),
                    None => now.delete(&key).await.expect("a delete"),
                }
                let copy = MemoryStorage::new();
                for object in list_all(&now, None).await.expect("a listing") {
                    let body = now.get(&object.key, 9).await.expect("an object");
                    copy.put(&object.key, PutMode::Create, body).await.expect("a put");
                }
                snapshots.push((second, copy));
            }
            for (second, then) in snapshots.iter().rev().step_by(3) {
                for later in [0, 9] {
                    same(&AsOf::new(history.clone(), moment(second + later), "then"), then).await;
                }
            }
        });
    }
}

#[tokio::test]
async fn nothing_is_written_through_a_view_of_the_past() {
    let history = Arc::new(History::default());
    history.add(&key("a/one"), 1, Some(Bytes::from_static(b"body")));
    let view = AsOf::new(history.clone(), moment(5), "2026-11-26T12:00:00Z");
    for error in [
        view.put(&key("a/two"), PutMode::Create, Bytes::new()).await.err(),
        view.put(&key("a/one"), PutMode::Overwrite, Bytes::new()).await.err(),
        view.begin(&key("a/two"), PutMode::Create).await.err(),
        view.delete(&key("a/one")).await.err(),
        view.delete_many(&[key("a/one")]).await.err(),
    ] {
        let error = error.expect("it is refused");
        assert_eq!(error.retry(), Retry::IsFutile);
        assert!(
            error.to_string().contains("as of 2026-11-26T12:00:00Z: the past can only be read"),
            "{error}"
        );
    }
    assert_eq!(history.lock().len(), 1);
    assert_eq!(view.get(&key("a/one"), 9).await.expect("it is there"), "body");
}

#[tokio::test]
async fn nothing_is_copied_into_the_past_or_out_of_it_behind_its_back() {
    let view = AsOf::new(Arc::new(History::default()), moment(5), "then");
    let store = MemoryStorage::new();
    assert!(view.origin().is_none());
    assert_eq!(view.copies_from(store.origin().expect("a store that copies")), None);
}

#[tokio::test]
async fn ranges_and_sizes_are_those_of_the_version() {
    let history = Arc::new(History::default());
    history.add(&key("a"), 1, Some(Bytes::from_static(b"0123456789")));
    history.add(&key("a"), 9, Some(Bytes::from_static(b"new")));
    let view = AsOf::new(history, moment(5), "then");
    assert_eq!(view.get_range(&key("a"), 2..5).await.expect("a range"), "234");
    assert_eq!(view.get_range(&key("a"), 10..10).await.expect("nothing"), "");
    assert!(matches!(view.get_range(&key("a"), 8..11).await, Err(StorageError::Truncated { size: 10, .. })));
    assert!(matches!(view.get(&key("a"), 9).await, Err(StorageError::TooLarge { size: 10, .. })));
    assert!(view.get_range(&key("b"), 0..1).await.is_err_and(|error| error.is_not_found()));
}

#[tokio::test]
async fn a_call_reads_a_bounded_number_of_directories_and_a_walk_finds_what_lies_behind_many_empty_ones() {
    let history = Arc::new(History::default());
    for number in 0..300 {
        let gone = key(&format!("wal/{number:03}/segment"));
        history.add(&gone, 1, Some(Bytes::from_static(b"body")));
        history.add(&gone, 2, None);
    }
    history.add(&key("wal/150/other"), 3, Some(Bytes::from_static(b"body")));
    history.add(&key("wal/999/segment"), 3, Some(Bytes::from_static(b"body")));
    for depth in [ListDepth::Recursive, ListDepth::Children] {
        let view = AsOf::new(history.clone(), moment(5), "then");
        let (mut names, mut after, mut calls) = (Vec::new(), None, 0);
        loop {
            let before = view.listings.load(Ordering::Relaxed);
            let page =
                view.list(Some(&key("wal")), depth, after.as_ref(), LIST_PAGE_MAX).await.expect("a page");
            assert!(view.listings.load(Ordering::Relaxed) - before <= LISTINGS_MAX + 1);
            names.extend(page.objects.into_iter().map(|object| object.key.to_string()));
            names.extend(page.prefixes.into_iter().map(|prefix| format!("{prefix}/")));
            calls += 1;
            match page.more {
                Some(more) => after = Some(more),
                None => break,
            }
        }
        let expected = match depth {
            ListDepth::Recursive => ["wal/150/other", "wal/999/segment"],
            ListDepth::Children => ["wal/150/", "wal/999/"],
        };
        assert_eq!(names, expected);
        assert!(calls > 3, "{calls}");
    }
}
