//! Repositories in Google Cloud Storage: the contract of stores, and what goes wrong, against a strict server of our own.
//!
//! Bodies travel in two ways, by Google's SDK and by plain JSON: each test that touches bodies runs both.

mod support;

#[path = "support/stores/gcs_emulators.rs"]
mod gcs_emulators;
#[path = "support/stores/gcs_server.rs"]
mod gcs_server;

use bytes::Bytes;
use gcs_emulators::Emulator;
use gcs_server::{BUCKET, GcsServer, PROJECT};
use pgconvoy_core::config::{GcsConfig, GcsKeyType, StoreTls};
use pgconvoy_core::failure::{Classify, Retry};
use pgconvoy_storage::decorate::retry::{RetryPolicy, RetryStorage};
use pgconvoy_storage::parts::{PartSlots, PartStore};
use pgconvoy_storage::{
    Feature, ListDepth, Lock, LockMode, ObjectKey, PutMode, Storage, StorageError, conformance, list_all,
    list_children,
};
use pgconvoy_storage_gcs::GcsStorage;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::stores::large;
use support::{Context, Result, bail, ensure};

const TOKEN: &str = "ya29.a-secret-token";
const MIB: usize = 1 << 20;

/// How bodies travel: `verify-tls = false` is one of the settings that the SDK cannot keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Sdk,
    Json,
}

const WAYS: [Way; 2] = [Way::Sdk, Way::Json];

struct Bench {
    server: GcsServer,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Bench> {
        let bench = Bench { server: GcsServer::start()?, folder: tempfile::tempdir()? };
        bench.server.allow(TOKEN);
        std::fs::write(bench.folder.path().join("token"), format!("{TOKEN}\n"))?;
        Ok(bench)
    }

    fn config(&self, way: Way) -> GcsConfig {
        GcsConfig {
            bucket: BUCKET.to_owned(),
            key_type: GcsKeyType::Token,
            key_file: Some(text(&self.folder.path().join("token"))),
            endpoint: self.server.endpoint(),
            user_project: None,
            tls: StoreTls { ca_file: None, verify: way == Way::Sdk },
            tags: [("team".to_owned(), "dba".to_owned())].into(),
        }
    }

    fn store(&self, way: Way, path: &str) -> Result<GcsStorage> {
        open(&self.config(way), path)
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn open(config: &GcsConfig, path: &str) -> Result<GcsStorage> {
    let retry = RetryPolicy::within(Duration::from_secs(60));
    Ok(GcsStorage::open(config, path, PartSlots::for_slots(4), retry, None)?)
}

/// As the program uses it.
fn retried(store: GcsStorage) -> RetryStorage {
    RetryStorage::new(Arc::new(store), RetryPolicy::within(Duration::from_secs(60)))
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

/// Bytes that repeat at no power of two.
fn pattern(length: usize) -> Bytes {
    (0..=250u8).cycle().take(length).collect()
}

async fn upload(store: &dyn Storage, name: &str, body: &Bytes) -> Result<(), StorageError> {
    let mut upload = store.begin(&key(name), PutMode::Create).await?;
    let mut rest = body.clone();
    while !rest.is_empty() {
        upload.write(rest.split_to(rest.len().min(300_007))).await?;
    }
    upload.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_copies_by_itself_with_what_a_put_would_bear() -> Result<()> {
    let bench = Bench::new()?;
    let stores = AtomicU32::new(0);
    conformance::copies(async || {
        let path = format!("/suite-{}/a b+c%d", stores.fetch_add(1, Ordering::Relaxed));
        Arc::new(retried(bench.store(Way::Json, &path).expect("a store"))) as Arc<dyn Storage>
    })
    .await;
    let (from, to) = (bench.store(Way::Json, "/from")?, bench.store(Way::Json, "/to")?);
    // More than the server does in one call, whose last answer is lost besides.
    let body = pattern(20 * MIB);
    upload(&from, "a", &body).await?;
    let object = from.stat(&key("a")).await?.context("it is there")?;
    bench.server.rules(|rules| rules.lost_rewrites = 2);
    to.copy(from.origin().context("a store that copies")?, &object, &key("a")).await?;
    ensure!(bench.server.body("to/a")? == body, "another object");
    let metadata = bench.server.metadata("to/a")?;
    ensure!(metadata.contains(&("team".to_owned(), "dba".to_owned())), "{metadata:?}");
    let other = GcsConfig { key_file: Some("/another/file".to_owned()), ..bench.config(Way::Json) };
    // Nothing is asked to know it, so the file need not be there for this one.
    let other = open(&GcsConfig { key_type: GcsKeyType::Auto, key_file: None, ..other }, "/to")?;
    assert_eq!(other.copies_from(from.origin().context("a store that copies")?), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_retained_like_a_put() -> Result<()> {
    let bench = Bench::new()?;
    bench.server.bucket(|bucket| bucket.object_retention = true);
    let from = bench.store(Way::Json, "/from")?;
    from.put(&key("a"), PutMode::Create, pattern(MIB)).await?;
    let lock = Lock { mode: LockMode::Compliance, period: Duration::from_secs(86_400), covers: |_| true };
    let retry = RetryPolicy::within(Duration::from_secs(60));
    let to = GcsStorage::open(&bench.config(Way::Json), "/to", PartSlots::for_slots(4), retry, Some(lock))?;
    let object = from.stat(&key("a")).await?.context("it is there")?;
    to.copy(from.origin().context("a store that copies")?, &object, &key("a")).await?;
    let retention = bench.server.retention("to/a").context("nothing retains it")?;
    ensure!(retention["mode"] == "Locked", "{retention}");
    Ok(())
}

async fn await_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is_so() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        // Up to the time-out above.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn is_a_store(way: Way) -> Result<()> {
    let bench = Bench::new()?;
    let next = AtomicU32::new(0);
    let open = async || {
        let path = format!("/suite/{}", next.fetch_add(1, Ordering::SeqCst));
        Arc::new(bench.store(way, &path).expect("a store")) as Arc<dyn Storage>
    };
    conformance::suite(open).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sdk_makes_a_store() -> Result<()> {
    is_a_store(Way::Sdk).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_json_api_makes_a_store() -> Result<()> {
    is_a_store(Way::Json).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_whole_bucket_is_a_store_as_well() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Sdk, "/")?;
    store.put(&key("a/b"), PutMode::Create, pattern(10)).await?;
    assert_eq!(bench.server.names(), ["a/b"]);
    assert_eq!(list_all(&store, None).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_creators_by_puts_and_by_parts_one_wins() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        let store = bench.store(way, "pg")?;
        let creators: Vec<_> = (0..8u8)
            .map(|creator| {
                let store = store.clone();
                tokio::spawn(async move {
                    // Three parts, or one put.
                    let length = if creator % 2 == 0 { 11 * MIB } else { 1000 };
                    let body = Bytes::from(vec![creator; length]);
                    (creator, upload(&store, "a/raced", &body).await)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for creator in creators {
            match creator.await? {
                (creator, Ok(())) => winners.push(creator),
                (_, Err(StorageError::AlreadyExists { .. })) => {}
                (_, Err(other)) => bail!("{way:?}: a loser must learn that it exists, not: {other}"),
            }
        }
        assert_eq!(winners.len(), 1, "{way:?}");
        let kept = bench.server.body("pg/a/raced")?;
        assert!(kept.iter().all(|byte| *byte == winners[0]), "{way:?}: the winner's object stays");
        await_until("the losers' parts are gone", || bench.server.names() == ["pg/a/raced"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_mebibytes_go_in_parts_several_at_a_time() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        bench.server.rules(|rules| rules.upload_time = Duration::from_millis(100));
        let store = bench.store(way, "pg")?;
        let body = pattern(60 * MIB + 1);
        upload(&store, "a/large", &body).await?;
        let most = bench.server.uploads_most();
        ensure!((3..=8).contains(&most), "{way:?}: {most} parts were under way at once");
        assert_eq!(bench.server.names(), ["pg/a/large"], "{way:?}: parts are removed");
        assert!(bench.server.body("pg/a/large")? == body, "{way:?}");
        let metadata = bench.server.metadata("pg/a/large")?;
        ensure!(metadata.contains(&("team".to_owned(), "dba".to_owned())), "{metadata:?}");
        assert!(store.get(&key("a/large"), 61 << 20).await? == body, "{way:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_object_comes_back_range_by_range() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        let store = bench.store(way, "pg")?;
        large::comes_back_range_by_range(&store, &key("a/large"), large::Server::Here).await?;
        assert_eq!(
            bench.server.names(),
            ["pg/a/large"],
            "{way:?}: parts and what they were joined to are removed"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_parts_than_one_compose_takes_are_joined_in_rounds() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Json, "pg")?;
    let ticket = store.begin_parts(&key("a/many"), PutMode::Create).await?;
    let (mut parts, mut body) = (Vec::new(), Vec::new());
    for number in 0..70u32 {
        let part = pattern(1000 + usize::try_from(number)?);
        body.extend_from_slice(&part);
        parts.push(store.put_part(&ticket, number, part).await?);
    }
    assert_eq!(store.is_joined(&ticket).await, Ok(false));
    store.join_parts(&ticket, &parts).await?;
    assert_eq!(store.is_joined(&ticket).await, Ok(true));
    assert_eq!(store.get(&key("a/many"), 1 << 20).await?, body);
    assert_eq!(bench.server.names(), ["pg/a/many"], "parts and what they were joined to are removed");
    let other = store.begin_parts(&key("a/many"), PutMode::Create).await?;
    assert_eq!(store.is_joined(&other).await, Ok(false), "another upload's object is not ours");
    Ok(())
}

/// One takes two seconds and has ten with its repetitions, all together take twelve.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_time_for_the_removal_of_a_part_does_not_count_from_that_of_the_first() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Json, "pg")?;
    let ticket = store.begin_parts(&key("a/many"), PutMode::Create).await?;
    let mut parts = Vec::new();
    for number in 0..330 {
        parts.push(store.put_part(&ticket, number, pattern(10)).await?);
    }
    bench.server.rules(|rules| rules.delete_time = Duration::from_secs(2));
    store.join_parts(&ticket, &parts).await?;
    assert_eq!(bench.server.names(), ["pg/a/many"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_that_dies_shows_nothing_and_is_swept() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Sdk, "pg")?;
    let mut dying = store.begin(&key("a/b/dying"), PutMode::Create).await?;
    dying.write(pattern(12 * MIB)).await?;
    await_until("parts arrive", || bench.server.names().len() == 2).await?;
    // As SIGKILL would have it: nobody cleans up.
    std::mem::forget(dying);
    store.put(&key("a/beside"), PutMode::Create, pattern(10)).await?;
    let shown = list_all(&store, None).await?;
    assert_eq!(shown.into_iter().map(|object| object.key).collect::<Vec<_>>(), [key("a/beside")]);
    assert_eq!(store.stat(&key("a/b/dying")).await?, None);
    let hour = Duration::from_secs(3600);
    assert_eq!(store.sweep_temporary(None, hour).await?, 0, "it may still be running");
    assert_eq!(store.sweep_temporary(Some(&key("c")), Duration::ZERO).await?, 0, "not under that prefix");
    assert_eq!(store.sweep_temporary(Some(&key("a/b")), Duration::ZERO).await?, 2);
    assert_eq!(bench.server.names(), ["pg/a/beside"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_upload_takes_its_parts_along() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Json, "pg")?;
    let mut given_up = store.begin(&key("a/dropped"), PutMode::Create).await?;
    given_up.write(pattern(12 * MIB)).await?;
    await_until("parts arrive", || bench.server.names().len() == 2).await?;
    drop(given_up);
    await_until("parts are removed", || bench.server.names().is_empty()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_body_damaged_on_its_way_is_refused_in_both_directions() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        let (store, patient) = (bench.store(way, "pg")?, retried(bench.store(way, "pg")?));
        let (wanted, body) = (key("a/b"), pattern(100_000));
        bench.server.rules(|rules| rules.damaged_uploads = 1);
        let refused = store.put(&wanted, PutMode::Create, body.clone()).await.err().context("refused")?;
        ensure!(refused.retry() == Retry::MayHelp && refused.to_string().contains("damaged"), "{refused}");
        assert_eq!(store.stat(&wanted).await?, None, "{way:?}: nothing of it is kept");
        bench.server.rules(|rules| rules.damaged_uploads = 1);
        patient.put(&wanted, PutMode::Create, body.clone()).await?;
        assert_eq!(bench.server.body("pg/a/b")?, body);

        bench.server.rules(|rules| rules.damaged_reads = 1);
        let refused = store.get(&wanted, 1 << 20).await.err().context("refused")?;
        ensure!(refused.retry() == Retry::MayHelp && refused.to_string().contains("crc32c"), "{refused}");
        bench.server.rules(|rules| rules.damaged_reads = 1);
        assert_eq!(patient.get(&wanted, 1 << 20).await?, body, "{way:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_busy_store_says_how_long_to_wait() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        let store = bench.store(way, "pg")?;
        bench.server.rules(|rules| rules.throttled = 1);
        let told = store.put(&key("a"), PutMode::Create, pattern(10)).await.err().context("throttled")?;
        ensure!(matches!(told, StorageError::Throttled { .. }), "{way:?}: {told}");
        assert_eq!(told.retry_after(), Some(Duration::from_secs(1)), "{way:?}");
        bench.server.rules(|rules| rules.throttled = 2);
        let before = Instant::now();
        retried(store).put(&key("a"), PutMode::Create, pattern(10)).await?;
        ensure!(before.elapsed() >= Duration::from_secs(2), "{:?}", before.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_whose_answer_was_lost_is_recognised_and_anothers_object_is_not() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Json, "pg")?;
    let body = pattern(11 * MIB);
    bench.server.rules(|rules| rules.lost_composes = 1);
    upload(&store, "a/lost", &body).await?;
    assert!(bench.server.body("pg/a/lost")? == body);
    bench.server.rules(|rules| rules.lost_composes = 1);
    let conflict = upload(&store, "a/lost", &body).await;
    ensure!(matches!(conflict, Err(StorageError::AlreadyExists { .. })), "{conflict:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_service_accounts_key_is_exchanged_for_tokens_that_are_renewed() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        bench.server.rules(|rules| rules.token_life = 2);
        let service = bench.server.service_key(bench.folder.path())?;
        let config = GcsConfig {
            key_type: GcsKeyType::Service,
            key_file: Some(text(&service.file)),
            ..bench.config(way)
        };
        let store = open(&config, "pg")?;
        store.put(&key("a"), PutMode::Create, pattern(10)).await?;
        store.get(&key("a"), 10).await?;
        assert_eq!(bench.server.tokens_given(), 1, "{way:?}: one token serves many requests");
        let begun = Instant::now();
        while bench.server.tokens_given() < 3 {
            ensure!(begun.elapsed() < Duration::from_secs(30), "{way:?}: tokens are not renewed");
            store.get(&key("a"), 10).await?;
            // Up to the time-out above; each answer in between must be a success.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bench.server.rules(|rules| rules.token_life = 3600);
        bench.server.revoke_all();
        store.get(&key("a"), 10).await?;
        let shown = format!("{store:?}");
        let line = service.secret.lines().nth(1).context("a key")?;
        ensure!(!shown.contains("ya29") && !shown.contains(line), "{shown}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_file_that_is_rewritten_is_read_again() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        let store = bench.store(way, "pg")?;
        store.put(&key("a"), PutMode::Create, pattern(10)).await?;
        bench.server.revoke_all();
        let expired = store.get(&key("a"), 10).await.err().context("refused")?;
        ensure!(expired.retry() == Retry::IsFutile && !expired.to_string().contains(TOKEN), "{expired}");
        ensure!(expired.hints().iter().any(|hint| hint.contains("key-file")), "{:?}", expired.hints());
        bench.server.allow("ya29.its-successor");
        std::fs::write(bench.folder.path().join("token"), "ya29.its-successor")?;
        store.get(&key("a"), 10).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_that_is_wrong_is_named_and_no_secret_is() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        let service = bench.server.service_key(bench.folder.path())?;
        let words =
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.";
        bench.server.rules(|rules| rules.token_refusal = Some((400, words.to_owned())));
        let config = GcsConfig {
            key_type: GcsKeyType::Service,
            key_file: Some(text(&service.file)),
            ..bench.config(way)
        };
        let store = open(&config, "pg")?;
        for error in [
            store.put(&key("a"), PutMode::Create, pattern(10)).await.err(),
            store.get(&key("a"), 10).await.err(),
            store.stat(&key("a")).await.err(),
        ] {
            let error = error.context("refused")?;
            ensure!(error.to_string().contains(words) && error.retry() == Retry::IsFutile, "{error}");
            ensure!(error.hints().iter().any(|hint| hint.contains("clock")), "{:?}", error.hints());
            ensure!(
                !error.to_string().contains("BEGIN") && !error.to_string().contains("assertion"),
                "{error}"
            );
        }
    }
    Ok(())
}

/// Whatever is asked, the error must say it.
async fn every_call_says(store: &GcsStorage, words: &str, hint: &str) -> Result<()> {
    let wanted = key("a/b");
    let errors = [
        ("put", store.put(&wanted, PutMode::Create, pattern(10)).await.err()),
        ("upload", upload(store, "a/b", &pattern(11 * MIB)).await.err()),
        ("get", store.get(&wanted, 10).await.err()),
        ("range", store.get_range(&wanted, 0..5).await.err()),
        ("stat", store.stat(&wanted).await.err()),
        ("list", list_all(store, None).await.err()),
        ("delete", store.delete(&wanted).await.err()),
        ("delete of many", store.delete_many(&[wanted.clone(), key("a/c")]).await.err()),
        ("sweep", store.sweep_temporary(None, Duration::ZERO).await.err()),
    ];
    for (call, error) in errors {
        let error = error.with_context(|| format!("{call} must fail"))?;
        ensure!(!error.is_not_found() && error.retry() == Retry::IsFutile, "{call}: {error:?}");
        ensure!(error.to_string().contains(words), "{call}: {error}");
        ensure!(error.hints().iter().any(|said| said.contains(hint)), "{call}: {:?}", error.hints());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_an_operator_must_mend_is_said_by_every_call() -> Result<()> {
    for way in WAYS {
        let bench = Bench::new()?;
        let wrong = GcsConfig { bucket: "no-such".to_owned(), ..bench.config(way) };
        every_call_says(&open(&wrong, "pg")?, "there is no bucket 'no-such'", "endpoint").await?;
        let store = bench.store(way, "pg")?;
        bench.server.rules(|rules| rules.forbidden = true);
        every_call_says(&store, "does not have storage.objects", "roles/storage.objectUser").await?;
        bench.server.rules(|rules| *rules = gcs_server::Rules { requester_pays: true, ..rules.clone() });
        bench.server.rules(|rules| rules.forbidden = false);
        every_call_says(&store, "requester pays", "user-project").await?;
        let paying = GcsConfig { user_project: Some(PROJECT.to_owned()), ..bench.config(way) };
        let store = open(&paying, "pg")?;
        upload(&store, "a/paid", &pattern(11 * MIB)).await?;
        store.get(&key("a/paid"), 12 << 20).await?;
        assert_eq!(list_all(&store, None).await?.len(), 1);
        bench.server.revoke_all();
        every_call_says(&store, "Invalid Credentials", "expired").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retention_policy_is_named_and_uploads_in_parts_go_on() -> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Sdk, "pg")?;
    bench.server.rules(|rules| rules.retention = true);
    upload(&store, "a/kept", &pattern(11 * MIB)).await?;
    let refused = store.delete(&key("a/kept")).await.err().context("refused")?;
    ensure!(refused.is_kept() && !refused.hints().is_empty(), "{refused:?}");
    ensure!(refused.to_string().contains("retention policy"), "{refused}");
    assert_eq!(store.delete(&key("a/never-was")).await, Ok(()));
    assert_eq!(list_all(&store, None).await?.len(), 1);
    // The parts are kept as well, until the policy lets go of them.
    assert_eq!(bench.server.names().len(), 4);
    assert_eq!(store.sweep_temporary(None, Duration::ZERO).await?, 0);
    bench.server.rules(|rules| rules.retention = false);
    assert_eq!(store.sweep_temporary(None, Duration::ZERO).await?, 3);
    Ok(())
}

/// So many small objects, with names of all kinds among them.
async fn fill(store: &GcsStorage, count: usize) -> Result<Vec<ObjectKey>> {
    const ODD: [&str; 7] =
        ["c&d<e>", "f g+h%20'\"", "größe/ß", "a?b#c;d=e", "x:y@z,~!$()*[]|^`{}", "%2F", "deep/er/than/that"];
    let names = ODD.map(str::to_owned).into_iter().chain((0..).map(|number| format!("plain/{number:04}")));
    let keys: Vec<ObjectKey> = names.take(count).map(|name| key(&name)).collect();
    for name in &keys {
        store.put(name, PutMode::Overwrite, pattern(1)).await?;
    }
    Ok(keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn six_hundred_objects_go_by_six_requests_whatever_their_names_and_whether_or_not_they_are_there()
-> Result<()> {
    let bench = Bench::new()?;
    let store = bench.store(Way::Json, "pg/many")?;
    let keys = fill(&store, 563).await?;
    let (wanted, stays) = keys.split_at(560);
    let mut gone = wanted.to_vec();
    gone.extend((0..40).map(|number| key(&format!("never/{number}"))));
    for _ in 0..2 {
        let before = bench.server.requests();
        store.delete_many(&gone).await?;
        assert_eq!(bench.server.requests() - before, 6);
    }
    let left: Vec<ObjectKey> = list_all(&store, None).await?.into_iter().map(|object| object.key).collect();
    assert_eq!(left, stays);
    ensure!(store.features().has(Feature::BatchedDeletes));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_object_that_is_retained_keeps_no_other_of_its_batch() -> Result<()> {
    let bench = Bench::new()?;
    bench.server.bucket(|bucket| bucket.object_retention = true);
    let lock = Lock {
        mode: LockMode::Governance,
        period: Duration::from_secs(86_400),
        covers: |key| key.as_str() == "größe/ß",
    };
    let retry = RetryPolicy::within(Duration::from_secs(60));
    let config = bench.config(Way::Json);
    let store = GcsStorage::open(&config, "pg", PartSlots::for_slots(1), retry, Some(lock))?;
    let keys = fill(&store, 250).await?;
    let before = bench.server.requests();
    let error = store.delete_many(&keys).await.err().context("it is retained")?;
    ensure!(error.is_kept() && error.to_string().contains("größe"), "{error}");
    assert_eq!(bench.server.requests() - before, 3);
    assert_eq!(bench.server.names(), ["pg/größe/ß"]);
    ensure!(store.features().has(Feature::BatchedDeletes));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_get_through_a_busy_store_and_a_lost_token_and_past_a_store_that_knows_none() -> Result<()> {
    let bench = Bench::new()?;
    let service = bench.server.service_key(bench.folder.path())?;
    let (key_type, key_file) = (GcsKeyType::Service, Some(text(&service.file)));
    let store = open(&GcsConfig { key_type, key_file, ..bench.config(Way::Json) }, "pg")?;
    let patient = retried(store.clone());

    let keys = fill(&store, 20).await?;
    bench.server.rules(|rules| rules.throttled = 3);
    let told = store.delete_many(&keys).await.err().context("throttled")?;
    ensure!(told.retry_after() == Some(Duration::from_secs(1)), "{told:?}");
    assert_eq!(bench.server.names().len(), 3, "the others are gone");
    bench.server.rules(|rules| rules.throttled = 3);
    let before = bench.server.requests();
    patient.delete_many(&keys).await?;
    assert_eq!((bench.server.requests() - before, bench.server.names().len()), (2, 0));

    let keys = fill(&store, 20).await?;
    bench.server.revoke_all();
    store.delete_many(&keys).await?;
    ensure!(bench.server.names().is_empty() && store.features().has(Feature::BatchedDeletes));

    let keys = fill(&store, 20).await?;
    bench.server.rules(|rules| rules.knows_no_batches = true);
    let before = bench.server.requests();
    patient.delete_many(&keys).await?;
    assert_eq!((bench.server.requests() - before, bench.server.names().len()), (21, 0));
    ensure!(!store.features().has(Feature::BatchedDeletes), "it is not asked for one again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_authority_of_ones_own_is_trusted_where_it_is_named() -> Result<()> {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let server = GcsServer::start_tls(&certified)?;
    let bench = Bench { server, ..Bench::new()? };
    bench.server.allow(TOKEN);
    let ca_file = bench.folder.path().join("ca.crt");
    std::fs::write(&ca_file, certified.cert.pem())?;
    let tls = StoreTls { ca_file: Some(text(&ca_file)), verify: true };
    let store = open(&GcsConfig { tls, ..bench.config(Way::Json) }, "pg")?;
    upload(&store, "a/b", &pattern(11 * MIB)).await?;
    assert!(store.get(&key("a/b"), 12 << 20).await? == pattern(11 * MIB));
    let store = bench.store(Way::Json, "pg")?;
    ensure!(store.stat(&key("a/b")).await?.is_some(), "verify-tls = false asks for no authority");
    let store = bench.store(Way::Sdk, "pg")?;
    for error in [store.stat(&key("a/b")).await.err(), store.get(&key("a/b"), 10).await.err()] {
        let error = error.context("a stranger's certificate")?;
        ensure!(matches!(error, StorageError::Refused { .. }), "{error:?}");
    }
    Ok(())
}

fn on_emulator(emulator: &Emulator, bench: &Bench, path: &str) -> Result<GcsStorage> {
    open(&GcsConfig { endpoint: emulator.endpoint.clone(), ..bench.config(Way::Json) }, path)
}

/// What both emulators do as Google documents it.
async fn bodies_and_listings_work(store: &GcsStorage) -> Result<()> {
    let body = pattern(11 * MIB);
    store.put(&key("a/small"), PutMode::Overwrite, pattern(1000)).await?;
    upload(store, "a/b/large", &body).await?;
    assert!(store.get(&key("a/b/large"), 12 << 20).await? == body);
    assert!(
        store.get_range(&key("a/b/large"), 5_000_000..5_500_000).await? == body.slice(5_000_000..5_500_000)
    );
    let info = store.stat(&key("a/small")).await?.context("it is there")?;
    assert_eq!(info.size, 1000);
    let listed = list_all(store, None).await?;
    let listed: Vec<_> = listed.into_iter().map(|object| object.key).collect();
    assert_eq!(listed, [key("a/b/large"), key("a/small")]);
    let children = list_children(store, Some(&key("a"))).await?;
    assert_eq!((children.prefixes, children.objects.len()), (vec![key("a/b")], 1));
    assert_eq!(store.stat(&key("a/none")).await?, None);
    let absent = store.get(&key("a/none"), 10).await.err().context("absent")?;
    ensure!(absent.is_not_found(), "{absent}");
    store.delete(&key("a/small")).await?;
    store.delete(&key("a/small")).await?;
    assert_eq!(list_all(store, None).await?.len(), 1);
    let mut gone = fill(store, 130).await?;
    gone.push(key("never/was"));
    store.delete_many(&gone).await?;
    store.delete_many(&gone).await?;
    assert_eq!(list_all(store, None).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn gcp_storage_emulator_takes_parts_and_gives_ranges() -> Result<()> {
    let (emulator, bench) = (Emulator::gcp_storage_emulator().await?, Bench::new()?);
    bodies_and_listings_work(&on_emulator(&emulator, &bench, "pg")?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fake_gcs_server_honours_create_only_puts_and_pages_as_well() -> Result<()> {
    let (emulator, bench) = (Emulator::fake_gcs_server().await?, Bench::new()?);
    bodies_and_listings_work(&on_emulator(&emulator, &bench, "pg")?).await?;
    let store = on_emulator(&emulator, &bench, "other")?;
    for name in ["a-b", "a/b", "a/c/d", "a0", "b"] {
        store.put(&key(name), PutMode::Create, pattern(10)).await?;
        let again = store.put(&key(name), PutMode::Create, pattern(20)).await;
        ensure!(matches!(again, Err(StorageError::AlreadyExists { .. })), "{again:?}");
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(None, ListDepth::Children, after.as_ref(), 1).await?;
        ensure!(page.objects.len() + page.prefixes.len() <= 1, "{page:?}");
        seen.extend(page.objects.into_iter().map(|object| object.key.to_string()));
        seen.extend(page.prefixes.into_iter().map(|prefix| format!("{prefix}/")));
        match page.more {
            Some(more) => after = Some(more),
            None => break,
        }
    }
    assert_eq!(seen, ["a-b", "a/", "a0", "b"]);
    let missing = GcsConfig { bucket: "no-such".to_owned(), ..bench.config(Way::Json) };
    let missing = GcsConfig { endpoint: emulator.endpoint.clone(), ..missing };
    let error = open(&missing, "pg")?.stat(&key("a")).await.err().context("no bucket")?;
    ensure!(error.to_string().contains("there is no bucket"), "{error}");
    Ok(())
}

/// Status, range and body of what a session says.
async fn told(answer: reqwest::Response) -> Result<(u16, String, String)> {
    let range = answer.headers().get("range").map_or("", |range| range.to_str().unwrap_or("?")).to_owned();
    Ok((answer.status().as_u16(), range, answer.text().await?))
}

#[tokio::test]
async fn the_servers_sessions_take_bytes_in_order_and_make_the_object_of_the_last_ones() -> Result<()> {
    const CHUNK: usize = 256 << 10;
    let bench = Bench::new()?;
    let http = pgconvoy_storage::http::client(&StoreTls { ca_file: None, verify: true }, "gcs")?;
    let url = format!(
        "{}/upload/storage/v1/b/{BUCKET}/o?name=a/b&uploadType=resumable&ifGenerationMatch=0",
        bench.server.endpoint()
    );
    let begin = || http.post(&url).bearer_auth(TOKEN).header("content-length", 0).send();
    let stranger = http.post(&url).header("content-length", 0).send().await?;
    assert_eq!(stranger.status(), 401);
    let begun = begin().await?;
    let id = begun.headers().get("x-guploader-uploadid").context("an id")?.to_str()?.to_owned();
    let session = format!("{url}&upload_id={id}");
    let put = async |range: &str, body: Bytes| -> Result<(u16, String, String)> {
        told(http.put(&session).header("content-range", format!("bytes {range}")).body(body).send().await?)
            .await
    };
    let body = pattern(CHUNK + 10);
    let (first, last) = (body.slice(..CHUNK), body.slice(CHUNK..));
    let so_far = (308, format!("bytes=0-{}", CHUNK - 1), String::new());
    assert_eq!(put("*/*", Bytes::new()).await?, (308, String::new(), String::new()));
    assert_eq!(put("0-9/*", last.clone()).await?.0, 400, "less than a chunk, and not the last");
    assert_eq!(put(&format!("{CHUNK}-{}/*", 2 * CHUNK - 1), first.clone()).await?.0, 503, "a gap");
    assert_eq!(put("0-8/10", last.clone()).await?.0, 400, "another length than was said");
    assert_eq!(put(&format!("0-{}/*", CHUNK - 1), first.clone()).await?, so_far);
    assert_eq!(put("*/*", Bytes::new()).await?, so_far);
    ensure!(bench.server.names().is_empty(), "not before its last byte");
    let (end, size) = (CHUNK + 9, CHUNK + 10);
    let (status, _, object) = put(&format!("{CHUNK}-{end}/{size}"), last).await?;
    ensure!(
        status == 200 && object.contains("md5Hash") && object.contains(&format!("\"{size}\"")),
        "{object}"
    );
    assert_eq!(put(&format!("*/{size}"), Bytes::new()).await?.2, object, "told again");
    ensure!(bench.server.body("a/b")? == body);
    assert_eq!(begin().await?.status(), 412, "there is one");
    assert_eq!(http.delete(&session).send().await?.status(), 499);
    assert_eq!(http.delete(&session).send().await?.status(), 404);
    Ok(())
}
