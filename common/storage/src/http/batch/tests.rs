#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::{
    Features, IoAction, ListAfter, ListDepth, ListPage, MemoryStorage, ObjectInfo, Place, PutMode, Upload,
    list_all,
};
use bytes::Bytes;
use pgconvoy_core::failure::ErrorCode;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use tokio::runtime::Builder;

/// What becomes of deletes of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes,
    /// Nothing is there.
    IsAbsent,
    /// A retention keeps it.
    IsKept,
    /// Once in a batch, then it goes.
    IsBusyOnce,
    GoesOnlyAlone,
    /// Nobody may delete it.
    IsRefused,
}

/// What becomes of batches as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    Batches,
    /// Each is answered with this.
    Status(u16),
}

#[derive(Debug)]
struct Store {
    objects: MemoryStorage,
    fates: BTreeMap<ObjectKey, Fate>,
    taking: Taking,
    batches: Batches,
    submitted: AtomicUsize,
    deleted_alone: AtomicUsize,
    was_busy: AtomicBool,
}

impl Store {
    async fn of(taking: Taking, fates: &[Fate]) -> (Store, Vec<ObjectKey>) {
        let keys: Vec<ObjectKey> =
            (0..fates.len()).map(|number| format!("k/{number:03}").parse().unwrap()).collect();
        let objects = MemoryStorage::new();
        for (key, fate) in keys.iter().zip(fates) {
            if *fate != Fate::IsAbsent {
                objects.put(key, PutMode::Create, Bytes::new()).await.unwrap();
            }
        }
        let store = Store {
            objects,
            fates: keys.iter().cloned().zip(fates.iter().copied()).collect(),
            taking,
            batches: Batches::default(),
            submitted: AtomicUsize::new(0),
            deleted_alone: AtomicUsize::new(0),
            was_busy: AtomicBool::new(false),
        };
        (store, keys)
    }

    /// Batches that were sent, and deletes of one object.
    fn requests(&self) -> (usize, usize) {
        (self.submitted.load(Ordering::Relaxed), self.deleted_alone.load(Ordering::Relaxed))
    }

    async fn left(&self) -> Vec<ObjectKey> {
        list_all(&self.objects, None).await.unwrap().into_iter().map(|object| object.key).collect()
    }

    fn fated(&self, fates: &[Fate]) -> Vec<ObjectKey> {
        let fated = self.fates.iter().filter(|(_, fate)| fates.contains(fate));
        fated.map(|(key, _)| key.clone()).collect()
    }
}

/// As a store reads the answer to a delete.
fn read(key: &ObjectKey, status: u16) -> Result<(), StorageError> {
    let at = Place::new("test", Some(key));
    let reason = format!("it answered {status}");
    match status {
        204 => Ok(()),
        404 => Err(StorageError::NotFound { at }),
        409 => Err(StorageError::Kept { at, reason }),
        501 => Err(StorageError::NotSupported { at, reason }),
        500.. => Err(StorageError::Unavailable { at, reason }),
        _ => {
            let (action, code) = (IoAction::Remove, ErrorCode::Protocol);
            Err(StorageError::Refused { at, action, code, reason, hint: "ask somebody".to_owned() })
        }
    }
}

#[async_trait]
impl BatchStore for Store {
    const PARTS_MAX: usize = 4;

    fn batches(&self) -> &Batches {
        &self.batches
    }

    async fn submit(&self, keys: &[ObjectKey]) -> Result<Outcome, StorageError> {
        let keys = &keys[..keys.len().min(Self::PARTS_MAX)];
        self.submitted.fetch_add(1, Ordering::Relaxed);
        if let Taking::Status(status) = self.taking {
            return Outcome::of_refusal(keys, read(&keys[0], status).unwrap_err());
        }
        let mut parts = Vec::new();
        for key in keys {
            let status = match self.fates[key] {
                Fate::IsAbsent => 404,
                Fate::IsKept => 409,
                Fate::IsBusyOnce if !self.was_busy.load(Ordering::Relaxed) => 503,
                Fate::Goes | Fate::IsBusyOnce => 204,
                Fate::GoesOnlyAlone | Fate::IsRefused => 400,
            };
            if status == 204 {
                self.objects.delete(key).await?;
            }
            parts.push(Part { status, headers: Vec::new(), body: String::new() });
        }
        if parts.iter().any(|part| part.status == 503) {
            self.was_busy.store(true, Ordering::Relaxed);
        }
        Outcome::of_parts(keys, &parts, |key, part| read(key, part.status))
    }
}

#[async_trait]
impl Storage for Store {
    fn describe(&self) -> String {
        self.objects.describe()
    }

    fn features(&self) -> Features {
        self.objects.features()
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        self.objects.put(key, mode, body).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        self.objects.begin(key, mode).await
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.objects.get(key, size_max).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.objects.get_range(key, range).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.objects.stat(key).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.objects.list(prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.deleted_alone.fetch_add(1, Ordering::Relaxed);
        match self.fates[key] {
            Fate::IsKept => read(key, 409),
            Fate::IsRefused => read(key, 403),
            _ => self.objects.delete(key).await,
        }
    }
}

#[tokio::test]
async fn an_object_counts_as_gone_only_by_the_answer_to_its_own_part() {
    let fates = [Fate::Goes, Fate::IsAbsent, Fate::GoesOnlyAlone, Fate::Goes, Fate::IsRefused, Fate::Goes];
    let (store, keys) = Store::of(Taking::Batches, &fates).await;
    let error = delete_many(&store, &keys).await.unwrap_err();
    assert!(error.to_string().contains(keys[4].as_str()), "{error}");
    assert_eq!(store.left().await, store.fated(&[Fate::IsRefused]));
    assert_eq!(store.requests(), (2, 2));
    assert!(store.batches.are_taken(), "parts were taken");
}

#[tokio::test]
async fn what_is_kept_holds_up_nothing_else_and_is_the_error_in_the_end() {
    let mut fates = vec![Fate::Goes; 20];
    (fates[0], fates[9]) = (Fate::IsKept, Fate::IsKept);
    let (store, keys) = Store::of(Taking::Batches, &fates).await;
    let error = delete_many(&store, &keys).await.unwrap_err();
    assert!(error.is_kept(), "{error}");
    assert_eq!(store.left().await, store.fated(&[Fate::IsKept]));
    assert_eq!(store.requests(), (5, 0));
}

#[tokio::test]
async fn a_store_that_takes_no_batches_is_asked_for_one_only() {
    for status in [400, 405, 501] {
        let (store, keys) = Store::of(Taking::Status(status), &[Fate::Goes; 11]).await;
        delete_many(&store, &keys).await.unwrap();
        assert!(store.left().await.is_empty());
        assert_eq!(store.requests(), (1, 11), "{status}");
        assert!(!store.batches.are_taken());
        delete_many(&store, &keys).await.unwrap();
        assert_eq!(store.requests(), (1, 22), "{status}");
    }
}

#[tokio::test]
async fn a_store_that_refuses_each_part_takes_no_batches_either() {
    let (store, keys) = Store::of(Taking::Batches, &[Fate::GoesOnlyAlone; 9]).await;
    delete_many(&store, &keys).await.unwrap();
    assert!(store.left().await.is_empty());
    assert_eq!(store.requests(), (1, 9));
    assert!(!store.batches.are_taken());
}

#[tokio::test]
async fn who_may_delete_nothing_is_told_so_after_two_requests_and_learns_nothing_of_batches() {
    for taking in [Taking::Batches, Taking::Status(403)] {
        let (store, keys) = Store::of(taking, &[Fate::IsRefused; 9]).await;
        let error = delete_many(&store, &keys).await.unwrap_err();
        assert!(error.to_string().contains("it answered 403"), "{error}");
        assert_eq!(store.requests(), (1, 1), "{taking:?}");
        assert!(store.batches.are_taken());
    }
}

#[tokio::test]
async fn a_busy_store_shows_nothing_of_batches_and_may_be_asked_again() {
    let (store, keys) = Store::of(Taking::Status(503), &[Fate::Goes; 9]).await;
    let error = delete_many(&store, &keys).await.unwrap_err();
    assert_eq!(error.retry(), Retry::MayHelp);
    assert_eq!(store.requests(), (1, 0), "one that is away costs one request");
    assert!(store.batches.are_taken());
}

#[tokio::test]
async fn a_busy_part_leaves_a_second_try_less_to_do() {
    let fates = [Fate::Goes, Fate::IsBusyOnce, Fate::Goes, Fate::IsBusyOnce];
    let (store, keys) = Store::of(Taking::Batches, &fates).await;
    let error = delete_many(&store, &keys).await.unwrap_err();
    assert_eq!(error.retry(), Retry::MayHelp);
    assert_eq!(store.left().await, store.fated(&[Fate::IsBusyOnce]));
    delete_many(&store, &keys).await.unwrap();
    assert!(store.left().await.is_empty());
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Goes),
        2 => Just(Fate::IsAbsent),
        1 => Just(Fate::IsKept),
        1 => Just(Fate::IsBusyOnce),
        2 => Just(Fate::GoesOnlyAlone),
        1 => Just(Fate::IsRefused),
    ]
}

fn taking() -> impl Strategy<Value = Taking> {
    prop_oneof![4 => Just(Taking::Batches), 1 => Just(Taking::Status(400)), 1 => Just(Taking::Status(501))]
}

proptest! {
    #[test]
    fn success_means_that_all_are_gone_and_an_error_that_something_is_left(
        fates in proptest::collection::vec(fate(), 0..40),
        taking in taking(),
    ) {
        Builder::new_current_thread().build().unwrap().block_on(async {
            let (store, keys) = Store::of(taking, &fates).await;
            let mut outcome = delete_many(&store, &keys).await;
            if outcome.as_ref().is_err_and(|error| error.retry() == Retry::MayHelp) {
                outcome = delete_many(&store, &keys).await;
            }
            let left = store.left().await;
            let stay = store.fated(&[Fate::IsKept, Fate::IsRefused]);
            match outcome {
                Ok(()) => assert!(left.is_empty() && stay.is_empty(), "{left:?}"),
                Err(error) if error.is_kept() => assert_eq!(left, stay, "{error}"),
                Err(error) => assert!(!store.fated(&[Fate::IsRefused]).is_empty(), "{error}"),
            }
            assert!(stay.iter().all(|key| left.contains(key)));
        });
    }
}
