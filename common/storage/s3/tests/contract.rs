//! The contract of all stores against a bucket that behaves as S3 is documented: order of listings, creates, parts.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod support;

use bytes::Bytes;
use pgconvoy_core::config::Secret;
use pgconvoy_core::failure::Classify as _;
use pgconvoy_storage::{ListDepth, Lock, LockMode, ObjectKey, PutMode, Storage, StorageError, conformance};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::bucket::Bucket;
use support::{Reply, config, connect, connect_locking, serve};

const PART: usize = 5 << 20;

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

/// Its address, and what is in it.
async fn bucket() -> (String, Bucket) {
    let bucket = Bucket::default();
    let answering = bucket.clone();
    (serve(move |request| answering.answer(&request)).await, bucket)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_with_the_order_of_keys_is_a_store() {
    let (endpoint, _) = bucket().await;
    let prefixes = AtomicU32::new(0);
    conformance::suite(async || {
        let prefix = format!("/p{}/repo", prefixes.fetch_add(1, Ordering::Relaxed));
        Arc::new(connect(&config(&endpoint), &prefix)) as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_without_a_prefix_is_a_store() {
    conformance::suite(async || {
        let (endpoint, _) = bucket().await;
        Arc::new(connect(&config(&endpoint), "/")) as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test]
async fn one_page_is_one_request_where_keys_come_in_order() {
    let (endpoint, contents) = bucket().await;
    let store = connect(&config(&endpoint), "/");
    for number in 0..30 {
        store.put(&key(&format!("a/{number}/b/c")), PutMode::Create, Bytes::new()).await.unwrap();
    }
    store.list(None, ListDepth::Recursive, None, 1000).await.unwrap();
    assert_eq!(contents.0.lock().unwrap().lists, 1);
}

#[tokio::test]
async fn a_page_without_entries_is_not_the_end_of_a_listing() {
    for server in ["S3", "SeaweedFS"] {
        let bucket = Bucket::default();
        let answering = bucket.clone();
        let endpoint = serve(move |request| answering.answer(&request).with("server", server)).await;
        let store = connect(&config(&endpoint), "/p");
        store.put(&key("a/b"), PutMode::Create, Bytes::new()).await.unwrap();
        for depth in [ListDepth::Recursive, ListDepth::Children] {
            for empty_pages in 0..5 {
                bucket.0.lock().unwrap().empty_pages = empty_pages;
                let page = store.list(None, depth, None, 10).await.unwrap();
                let found = (page.objects.len(), page.prefixes.len());
                let expected = if depth == ListDepth::Recursive { (1, 0) } else { (0, 1) };
                assert_eq!(found, expected, "{server}, {depth:?}, {empty_pages} empty pages");
            }
        }
    }
}

#[tokio::test]
async fn a_listing_that_goes_on_nobody_knows_how_is_an_error() {
    for server in ["S3", "SeaweedFS"] {
        let endpoint = serve(move |_| {
            let page = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
            Reply::of(200, page).with("server", server)
        })
        .await;
        let store = connect(&config(&endpoint), "/p");
        for depth in [ListDepth::Recursive, ListDepth::Children] {
            let listed = store.list(None, depth, None, 10).await;
            assert!(listed.is_err(), "{server}, {depth:?}: {listed:?}");
        }
    }
}

#[tokio::test]
async fn a_404_of_something_before_the_store_is_no_absence() {
    let (bucket, is_starting) = (Bucket::default(), Arc::new(AtomicU32::new(0)));
    let (answering, starting) = (bucket.clone(), Arc::clone(&is_starting));
    let endpoint = serve(move |request| {
        let left = starting.load(Ordering::SeqCst);
        starting.store(left.saturating_sub(1), Ordering::SeqCst);
        if left > 0 { Reply::of(404, "no backend") } else { answering.answer(&request) }
    })
    .await;
    let store = connect(&config(&endpoint), "/p");
    store.put(&key("a"), PutMode::Create, Bytes::from_static(b"x")).await.unwrap();
    store.stat(&key("a")).await.unwrap().unwrap();
    assert_eq!(store.stat(&key("b")).await, Ok(None), "absence in the store's own words");
    // Of the first request only, and of what is asked to explain it as well.
    for strange_answers in [1, 2] {
        is_starting.store(strange_answers, Ordering::SeqCst);
        let told = store.stat(&key("a")).await;
        assert!(matches!(told, Err(StorageError::Unavailable { .. })), "{strange_answers}: {told:?}");
    }
    is_starting.store(1, Ordering::SeqCst);
    let told = store.get(&key("a"), 9).await;
    assert!(matches!(told, Err(StorageError::Unavailable { .. })), "{told:?}");
    is_starting.store(1, Ordering::SeqCst);
    assert_eq!(store.stat(&key("b")).await, Ok(None), "the listing explains it");
}

#[tokio::test]
async fn a_range_behind_the_end_is_told_however_few_requests_the_store_gets() {
    let (bucket, refusals) = (Bucket::default(), Arc::new(AtomicU32::new(0)));
    let (answering, refusing) = (bucket.clone(), Arc::clone(&refusals));
    let endpoint = serve(move |request| {
        let left = refusing.load(Ordering::SeqCst);
        refusing.store(left.saturating_sub(1), Ordering::SeqCst);
        if left > 0 { Reply::error(503, "SlowDown", "") } else { answering.answer(&request) }
    })
    .await;
    let store = connect(&config(&endpoint), "/p");
    store.put(&key("a"), PutMode::Create, Bytes::from_static(b"0123456789")).await.unwrap();
    // Each halves the number of requests at a time, down to one.
    refusals.store(10, Ordering::SeqCst);
    for _ in 0..10 {
        assert!(store.stat(&key("a")).await.is_err());
    }
    let name = key("a");
    let read = tokio::time::timeout(Duration::from_secs(20), store.get_range(&name, 20..30)).await;
    let at = pgconvoy_storage::Place::new(store.describe(), Some(&name));
    let expected = StorageError::Truncated { at, size: 10, wanted: 30 };
    assert_eq!(read.expect("it waits for itself"), Err(expected));
}

#[tokio::test]
async fn names_that_are_no_keys_are_not_listed() {
    let (endpoint, contents) = bucket().await;
    for name in ["p/", "p/a/", "p/.hidden", "p/a/.tmp", "p/a/b"] {
        contents.0.lock().unwrap().objects.insert(name.to_owned(), Default::default());
    }
    let store = connect(&config(&endpoint), "/p");
    for limit in 1..4 {
        let page = store.list(None, ListDepth::Recursive, None, limit).await.unwrap();
        assert_eq!(page.objects.into_iter().map(|object| object.key).collect::<Vec<_>>(), [key("a/b")]);
    }
}

async fn upload(store: &dyn Storage, name: &str, mode: PutMode, bytes: usize) -> Result<(), StorageError> {
    let mut upload = store.begin(&key(name), mode).await?;
    upload.write(vec![7; bytes].into()).await?;
    upload.finish().await
}

#[tokio::test]
async fn objects_bear_what_the_configuration_says() {
    let (endpoint, contents) = bucket().await;
    let mut config = config(&endpoint);
    config.storage_class = Some("STANDARD_IA".to_owned());
    config.kms_key_id = Some("some-key".to_owned());
    config.requester_pays = true;
    config.tags = [("team".to_owned(), "a b".to_owned()), ("x".to_owned(), "1".to_owned())].into();
    let store = connect(&config, "/");
    store.put(&key("small"), PutMode::Create, Bytes::from_static(b"x")).await.unwrap();
    upload(&store, "large", PutMode::Create, PART + 1).await.unwrap();
    let contents = contents.0.lock().unwrap();
    for name in ["small", "large"] {
        let header = |header: &str| contents.objects[name].headers.get(header).cloned().unwrap_or_default();
        assert_eq!(header("x-amz-storage-class"), "STANDARD_IA");
        assert_eq!(header("x-amz-server-side-encryption"), "aws:kms");
        assert_eq!(header("x-amz-server-side-encryption-aws-kms-key-id"), "some-key");
        assert_eq!(header("x-amz-request-payer"), "requester");
        assert_eq!(header("x-amz-tagging"), "team=a%20b&x=1");
    }
}

#[tokio::test]
async fn the_customers_key_goes_with_every_request_for_content() {
    let bucket = Bucket::default();
    let (answering, without) = (bucket.clone(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&without);
    let endpoint = serve(move |request| {
        let is_about_content = !["list-type", "uploads"].iter().any(|name| request.query.contains_key(*name))
            || request.method == "POST";
        if is_about_content && request.header("x-amz-server-side-encryption-customer-key-md5").is_none() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        answering.answer(&request)
    })
    .await;
    let mut config = config(&endpoint);
    config.sse_customer_key = Some(Secret::new("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="));
    let store = connect(&config, "/");
    upload(&store, "large", PutMode::Create, PART + 1).await.unwrap();
    upload(&store, "small", PutMode::Create, 1).await.unwrap();
    store.stat(&key("small")).await.unwrap().unwrap();
    store.get(&key("small"), 9).await.unwrap();
    store.get_range(&key("large"), 0..10).await.unwrap();
    assert_eq!(without.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_conflict_of_creates_is_settled_by_what_is_there() {
    let bucket = Bucket::default();
    let answering = bucket.clone();
    let endpoint = serve(move |request| {
        let is_create = request.header("if-none-match").is_some();
        if is_create {
            Reply::error(409, "ConditionalRequestConflict", "")
        } else {
            answering.answer(&request)
        }
    })
    .await;
    let store = connect(&config(&endpoint), "/");
    let nobody = store.put(&key("a"), PutMode::Create, Bytes::from_static(b"x")).await;
    assert!(matches!(nobody, Err(StorageError::Unavailable { .. })), "whoever it was is gone: {nobody:?}");
    store.put(&key("a"), PutMode::Overwrite, Bytes::from_static(b"y")).await.unwrap();
    for bytes in [1, PART + 1] {
        let lost = upload(&store, "a", PutMode::Create, bytes).await;
        assert!(matches!(lost, Err(StorageError::AlreadyExists { .. })), "{lost:?}");
    }
    let mut waited = 0;
    while !bucket.0.lock().unwrap().uploads.is_empty() {
        // The upload that lost is given up in the background; the count is the time-out.
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited += 1;
        assert!(waited < 1000, "an upload that lost is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eight_who_join_at_once_one_wins() {
    let (endpoint, contents) = bucket().await;
    let store = Arc::new(connect(&config(&endpoint), "/"));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move { upload(&*store, "a", PutMode::Create, PART + 1).await });
    }
    let outcomes = writers.join_all().await;
    let lost =
        |outcome: &&Result<(), StorageError>| matches!(outcome, Err(StorageError::AlreadyExists { .. }));
    assert_eq!(outcomes.iter().filter(lost).count(), 7, "{outcomes:?}");
    assert!(contents.0.lock().unwrap().objects.contains_key("a"));
}

#[tokio::test]
async fn a_join_whose_answer_was_lost_is_known_by_its_upload() {
    let bucket = Bucket::default();
    let (answering, joins) = (bucket.clone(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&joins);
    let endpoint = serve(move |request| {
        let is_join = request.method == "POST" && request.query.contains_key("uploadId");
        let reply = answering.answer(&request);
        let is_first = is_join && counted.fetch_add(1, Ordering::Relaxed) == 0;
        // Done, and the answer says something else. As S3 says it where the head was sent before it was known.
        if is_first { Reply::error(200, "InternalError", "") } else { reply }
    })
    .await;
    let store = connect(&config(&endpoint), "/");
    upload(&store, "a", PutMode::Create, PART + 1).await.unwrap();
    assert_eq!(joins.load(Ordering::Relaxed), 2, "the first one was not believed");
    joins.store(0, Ordering::Relaxed);
    let other = upload(&store, "a", PutMode::Create, PART + 1).await;
    assert!(matches!(other, Err(StorageError::AlreadyExists { .. })), "another upload's object: {other:?}");
}

#[tokio::test]
async fn uploads_that_nobody_ends_are_swept_under_their_prefix() {
    let (endpoint, contents) = bucket().await;
    let store = connect(&config(&endpoint), "/p");
    let mut begun = store.begin(&key("a/b"), PutMode::Create).await.unwrap();
    begun.write(vec![0; PART + 1].into()).await.unwrap();
    std::mem::forget(begun);
    assert_eq!(contents.0.lock().unwrap().uploads.len(), 1);
    let never = Duration::from_secs(100 * 365 * 24 * 3600);
    assert_eq!(store.sweep_temporary(Some(&key("a")), never).await, Ok(0), "it is younger than that");
    assert_eq!(store.sweep_temporary(Some(&key("a/b")), Duration::ZERO).await, Ok(0), "a/b is not under a/b");
    assert_eq!(store.sweep_temporary(Some(&key("a")), Duration::from_secs(3600)).await, Ok(1));
    assert!(contents.0.lock().unwrap().uploads.is_empty());
}

#[tokio::test]
async fn of_many_deletes_the_one_that_is_denied_is_named() {
    let endpoint = serve(|_| {
        let denied = "<Error><Key>p/b</Key><Code>AccessDenied</Code><Message>words</Message></Error>";
        Reply::of(200, format!("<?xml version=\"1.0\"?><DeleteResult>{denied}</DeleteResult>"))
    })
    .await;
    let store = connect(&config(&endpoint), "/p");
    let error = store.delete_many(&[key("a"), key("b")]).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with("unable to remove 'b' in s3:bucket/p: access is denied"),
        "{error}"
    );
    assert!(error.hints().concat().contains("Object Lock"), "{:?}", error.hints());
}

#[tokio::test]
async fn what_came_is_compared_with_what_was_stored() {
    let (endpoint, contents) = bucket().await;
    let store = connect(&config(&endpoint), "/");
    store.put(&key("a"), PutMode::Create, Bytes::from_static(b"0123456789")).await.unwrap();
    contents.0.lock().unwrap().objects.get_mut("a").unwrap().body[4] ^= 1;
    let got = store.get(&key("a"), 99).await;
    assert!(matches!(got, Err(StorageError::Unavailable { .. })), "{got:?}");
}

#[tokio::test]
async fn what_lasts_is_put_with_a_retention_and_every_body_with_a_checksum() {
    let (bucket, seen) = (Bucket::default(), Arc::new(Mutex::new(Vec::new())));
    let noting = Arc::clone(&seen);
    let endpoint = serve(move |request| {
        let is_part = request.query.contains_key("partNumber");
        let is_locked = request.header("x-amz-object-lock-mode").is_some_and(|mode| mode == "COMPLIANCE")
            && request.header("x-amz-object-lock-retain-until-date").is_some();
        let makes_object = request.method == "PUT" && !is_part || request.query.contains_key("uploads");
        let has_checksum = request.method != "PUT" || request.header("content-md5").is_some();
        let told = (request.path.contains("lasting"), makes_object, is_locked, has_checksum);
        noting.lock().unwrap().push(told);
        bucket.answer(&request)
    })
    .await;
    let covers = |key: &ObjectKey| key.as_str().contains("lasting");
    let lock = Lock { mode: LockMode::Compliance, period: Duration::from_secs(86_400), covers };
    let store = connect_locking(&config(&endpoint), "/", lock);
    for name in ["lasting", "brief"] {
        store.put(&key(&format!("{name}/small")), PutMode::Create, Bytes::from_static(b"x")).await.unwrap();
        let mut upload = store.begin(&key(&format!("{name}/large")), PutMode::Create).await.unwrap();
        upload.write(Bytes::from(vec![7; 2 * PART + 1])).await.unwrap();
        upload.finish().await.unwrap();
    }
    let seen = seen.lock().unwrap();
    for (is_lasting, makes_object, is_locked, has_checksum) in seen.iter().copied() {
        assert_eq!(is_locked, is_lasting && makes_object);
        assert!(has_checksum);
    }
    assert_eq!(seen.iter().filter(|(_, _, is_locked, _)| *is_locked).count(), 2);
}
