//! Copies that the store makes by itself.

use super::{key, pattern, store};
use crate::{ObjectInfo, PutMode, Storage, StorageError, list_all};
use bytes::Bytes;

async fn looked_at(storage: &dyn Storage, name: &str) -> ObjectInfo {
    storage.stat(&key(name)).await.expect("stat").expect("it is there")
}

async fn copy(storage: &dyn Storage, object: &ObjectInfo, to: &str) -> Result<(), StorageError> {
    let origin = storage.origin().expect("others may copy from it");
    storage.copy(origin, object, &key(to)).await
}

async fn names(storage: &dyn Storage) -> Vec<String> {
    let listed = list_all(storage, None).await.expect("list");
    listed.iter().map(|object| object.key.to_string()).collect()
}

pub(super) async fn a_copy_is_the_object_and_nothing_is_left_of_making_it(storage: &dyn Storage) {
    let origin = storage.origin().expect("others may copy from it");
    assert!(storage.copies_from(origin).is_some_and(|size| size >= 32 << 20), "packs and WAL must be copied");
    // One byte, one put, an upload in parts.
    for (number, size) in [1, 1_000_000, 13_000_001].into_iter().enumerate() {
        let (from, to) = (format!("whole/from/{number}"), format!("whole/to/{number}"));
        let mut upload = storage.begin(&key(&from), PutMode::Create).await.expect("begin");
        let body = pattern(size);
        upload.write(body.clone()).await.expect("write");
        upload.finish().await.expect("finish");
        assert_eq!(copy(storage, &looked_at(storage, &from).await, &to).await, Ok(()));
        let limit = u64::try_from(size).expect("it fits");
        let copied = storage.get(&key(&to), limit).await.expect("get");
        assert!(copied == body, "all {size} bytes must be there");
        let from = storage.get(&key(&from), limit).await.expect("get");
        assert!(from == body, "what was copied stays");
    }
    assert_eq!(names(storage).await.len(), 6, "there are three objects and three copies");
}

pub(super) async fn a_copy_never_replaces(storage: &dyn Storage) {
    store(storage, "replace/from", b"from").await;
    store(storage, "replace/to", b"to").await;
    let object = looked_at(storage, "replace/from").await;
    let refused = copy(storage, &object, "replace/to").await;
    assert!(matches!(refused, Err(StorageError::AlreadyExists { .. })), "{refused:?}");
    assert_eq!(storage.get(&key("replace/to"), 99).await, Ok(Bytes::from_static(b"to")));
    assert_eq!(copy(storage, &object, "replace/new").await, Ok(()));
    let refused = copy(storage, &object, "replace/new").await;
    assert!(matches!(refused, Err(StorageError::AlreadyExists { .. })), "{refused:?}");
    let refused = storage.put(&key("replace/new"), PutMode::Create, Bytes::from_static(b"late")).await;
    assert!(matches!(refused, Err(StorageError::AlreadyExists { .. })), "{refused:?}");
    assert_eq!(storage.get(&key("replace/new"), 99).await, Ok(Bytes::from_static(b"from")));
}

pub(super) async fn what_has_changed_since_it_was_looked_at_is_not_copied(storage: &dyn Storage) {
    store(storage, "changed/from", b"first").await;
    let object = looked_at(storage, "changed/from").await;
    // Of the same length: only the store can tell.
    let other = storage.put(&key("changed/from"), PutMode::Overwrite, Bytes::from_static(b"other")).await;
    assert_eq!(other, Ok(()));
    let refused = copy(storage, &object, "changed/to").await;
    assert!(matches!(refused, Err(StorageError::Changed { .. })), "{refused:?}");
    assert_eq!(names(storage).await, ["changed/from"]);
    assert_eq!(copy(storage, &looked_at(storage, "changed/from").await, "changed/to").await, Ok(()));
    assert_eq!(storage.get(&key("changed/to"), 99).await, Ok(Bytes::from_static(b"other")));
}

pub(super) async fn what_is_not_there_any_more_is_not_copied(storage: &dyn Storage) {
    store(storage, "gone/from", b"from").await;
    let object = looked_at(storage, "gone/from").await;
    storage.delete(&key("gone/from")).await.expect("delete");
    let refused = copy(storage, &object, "gone/to").await;
    assert!(matches!(refused, Err(StorageError::NotFound { .. })), "{refused:?}");
    assert_eq!(names(storage).await, Vec::<String>::new());
}

pub(super) async fn objects_of_odd_keys_are_copied(storage: &dyn Storage) {
    let odd =
        ["a b", "a+b", "a%20b", "a=b&c", "a?b", "a#b", "a'b\"c", "größe", "日本", "a:b;c,d@e!$()[]{}|<>^`"];
    for name in odd {
        let (from, to) = (format!("odd/from/{name}"), format!("odd/to/{name}"));
        let stored = storage.put(&key(&from), PutMode::Create, Bytes::from(name)).await;
        assert_eq!(stored, Ok(()), "{name}");
        assert_eq!(copy(storage, &looked_at(storage, &from).await, &to).await, Ok(()), "{name}");
    }
    for name in odd {
        let copied = storage.get(&key(&format!("odd/to/{name}")), 99).await;
        assert_eq!(copied, Ok(Bytes::from(name)), "{name}");
    }
}

pub(super) async fn what_was_only_listed_is_not_copied(storage: &dyn Storage) {
    store(storage, "listed/from", b"from").await;
    let listed = list_all(storage, None).await.expect("list");
    let refused = copy(storage, &ObjectInfo { etag: None, ..listed[0].clone() }, "listed/to").await;
    assert!(matches!(refused, Err(StorageError::NotSupported { .. })), "{refused:?}");
    assert_eq!(names(storage).await, ["listed/from"]);
}

pub(super) async fn nothing_is_copied_from_a_store_of_another_kind(storage: &dyn Storage) {
    store(storage, "kind/from", b"from").await;
    let object = looked_at(storage, "kind/from").await;
    let stranger = "no store at all";
    assert_eq!(storage.copies_from(&stranger), None);
    let refused = storage.copy(&stranger, &object, &key("kind/to")).await;
    assert!(matches!(refused, Err(StorageError::NotSupported { .. })), "{refused:?}");
    assert_eq!(names(storage).await, ["kind/from"]);
}
