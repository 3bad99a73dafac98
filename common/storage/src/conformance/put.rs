//! Creating, replacing, streaming, deleting.

use super::{key, store};
use crate::{CreateOnly, PutMode, Storage, StorageError, list_all, prove_create_only};
use bytes::Bytes;
use std::sync::Arc;

const WRITERS: u8 = 8;
const ROUNDS: u8 = 5;

pub(super) async fn one_of_many_creators_wins(storage: Arc<dyn Storage>) {
    for round in 0..ROUNDS {
        let wanted = key(&format!("race/{round}"));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (storage, wanted) = (Arc::clone(&storage), wanted.clone());
                tokio::spawn(async move {
                    let body = Bytes::from(vec![writer; 1000]);
                    // Puts and uploads compete by the same rule.
                    if writer % 2 == 0 {
                        return storage.put(&wanted, PutMode::Create, body).await;
                    }
                    let mut upload = storage.begin(&wanted, PutMode::Create).await?;
                    upload.write(body).await?;
                    upload.finish().await
                })
            })
            .collect();
        let mut winners = Vec::new();
        for (writer, task) in (0..).zip(writers) {
            match task.await.expect("a writer does not panic") {
                Ok(()) => winners.push(writer),
                Err(StorageError::AlreadyExists { .. }) => {}
                Err(other) => panic!("a loser must learn that the key exists, not: {other}"),
            }
        }
        assert_eq!(winners.len(), 1, "exactly one of {WRITERS} creators must win, not {winners:?}");
        let kept = storage.get(&wanted, 1000).await.expect("the winner's object is there");
        assert_eq!(kept, vec![winners[0]; 1000], "the winner's object must be the one that stays");
    }
}

pub(super) async fn a_create_refuses_what_exists_and_leaves_it_alone(storage: &dyn Storage) {
    store(storage, "create/a", b"first").await;
    let second = storage.put(&key("create/a"), PutMode::Create, Bytes::from_static(b"second")).await;
    assert!(matches!(second, Err(StorageError::AlreadyExists { .. })), "{second:?}");
    assert_eq!(storage.get(&key("create/a"), 99).await, Ok(Bytes::from_static(b"first")));
}

pub(super) async fn an_overwrite_replaces_the_whole_object(storage: &dyn Storage) {
    let wanted = key("overwrite/a");
    for body in ["a longer first body", "short", "and again a longer one"] {
        let put = storage.put(&wanted, PutMode::Overwrite, Bytes::from_static(body.as_bytes())).await;
        assert_eq!(put, Ok(()));
        assert_eq!(storage.get(&wanted, 99).await, Ok(Bytes::from_static(body.as_bytes())));
    }
}

pub(super) async fn an_upload_is_invisible_until_it_finishes(storage: &dyn Storage) {
    let wanted = key("upload/a");
    for (mode, before) in [(PutMode::Create, None), (PutMode::Overwrite, Some(Bytes::from_static(b"12")))] {
        let mut upload = storage.begin(&wanted, mode).await.expect("begin");
        for chunk in ["1", "", "2"] {
            upload.write(Bytes::from_static(chunk.as_bytes())).await.expect("write");
            let visible = match storage.get(&wanted, 99).await {
                Ok(body) => Some(body),
                Err(StorageError::NotFound { .. }) => None,
                Err(other) => panic!("{other}"),
            };
            assert_eq!(visible, before, "an unfinished upload must not be visible");
        }
        let listed = list_all(storage, Some(&key("upload"))).await.expect("list");
        assert_eq!(listed.len(), usize::from(before.is_some()));
        if mode == PutMode::Overwrite {
            upload.write(Bytes::from_static(b"3")).await.expect("write");
        }
        upload.finish().await.expect("finish");
    }
    assert_eq!(storage.get(&wanted, 99).await, Ok(Bytes::from_static(b"123")));
}

pub(super) async fn an_upload_that_must_create_loses_to_a_put_in_between(storage: &dyn Storage) {
    let wanted = key("between/a");
    let mut upload = storage.begin(&wanted, PutMode::Create).await.expect("begin");
    upload.write(Bytes::from_static(b"upload")).await.expect("write");
    store(storage, "between/a", b"put").await;
    let finished = upload.finish().await;
    assert!(matches!(finished, Err(StorageError::AlreadyExists { .. })), "{finished:?}");
    assert_eq!(storage.get(&wanted, 99).await, Ok(Bytes::from_static(b"put")));
}

pub(super) async fn a_dropped_or_aborted_upload_leaves_nothing(storage: &dyn Storage) {
    for is_aborted in [true, false] {
        let mut upload = storage.begin(&key("dropped/a"), PutMode::Create).await.expect("begin");
        upload.write(Bytes::from_static(b"lost")).await.expect("write");
        if is_aborted {
            upload.abort().await;
        } else {
            drop(upload);
        }
        assert_eq!(storage.stat(&key("dropped/a")).await, Ok(None));
        assert_eq!(list_all(storage, Some(&key("dropped"))).await, Ok(vec![]));
    }
}

pub(super) async fn an_upload_without_chunks_is_an_empty_object(storage: &dyn Storage) {
    let upload = storage.begin(&key("chunkless"), PutMode::Create).await.expect("begin");
    upload.finish().await.expect("finish");
    assert_eq!(storage.get(&key("chunkless"), 0).await, Ok(Bytes::new()));
}

pub(super) async fn a_delete_is_idempotent_and_frees_the_key(storage: &dyn Storage) {
    let wanted = key("delete/a/b");
    assert_eq!(storage.delete(&wanted).await, Ok(()), "deleting what never was is success");
    for _ in 0..2 {
        store(storage, "delete/a/b", b"x").await;
        assert_eq!(storage.delete(&wanted).await, Ok(()));
        assert_eq!(storage.stat(&wanted).await, Ok(None));
        assert_eq!(storage.delete(&wanted).await, Ok(()), "deleting again is success");
    }
    store(storage, "delete/a/b", b"x").await;
    assert_eq!(storage.delete(&key("delete/a")).await, Ok(()), "a prefix is no object");
    assert!(storage.stat(&wanted).await.expect("stat").is_some(), "and what lies under it stays");
}

pub(super) async fn many_deletes_leave_what_they_do_not_name(storage: &dyn Storage) {
    assert_eq!(storage.delete_many(&[]).await, Ok(()));
    // Characters that a store might have to write in another way in a list of names.
    let names = ["many/a", "many/b", "many/c&d<e>", "many/f g+h%20'\"", "many/größe"];
    for name in names.into_iter().chain(["many/stays", "many/b-stays"]) {
        store(storage, name, b"x").await;
    }
    let mut wanted = names.map(key).to_vec();
    wanted.push(key("many/never-was"));
    for _ in 0..2 {
        assert_eq!(storage.delete_many(&wanted).await, Ok(()), "also a second time");
    }
    let listed = list_all(storage, Some(&key("many"))).await.expect("list");
    let left: Vec<_> = listed.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(left, ["many/b-stays", "many/stays"]);
}

pub(super) async fn the_proof_of_create_only_holds(storage: &dyn Storage) {
    let proved = prove_create_only(storage, &key("proof")).await;
    assert_eq!(proved, Ok(CreateOnly::Honoured));
    assert_eq!(list_all(storage, Some(&key("proof"))).await, Ok(vec![]), "the proof cleans up after itself");
}
