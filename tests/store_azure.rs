//! Azure Blob Storage as a store, against Azurite: the contract, races, blocks, credentials, and what an operator is told.

mod support;

#[path = "support/stores/azure_lender.rs"]
mod azure_lender;

use azure_lender::Lender;
use pgconvoy_core::config::{AzureConfig, AzureKeyType, Secret, StoreTls};
use pgconvoy_core::failure::{Classify, ErrorCode};
use pgconvoy_storage::decorate::retry::{RetryPolicy, RetryStorage};
use pgconvoy_storage::parts::{PartSlots, PartStore};
use pgconvoy_storage::{
    CreateOnly, Feature, ListDepth, ObjectKey, PutMode, Storage, StorageError, conformance, list_all,
    prove_create_only,
};
use pgconvoy_storage_azure::{AzureOptions, AzureStorage, Surroundings};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use support::stores::azurite::{self, Azurite, sas};
use support::stores::http_proxy::{Fault, HttpProxy, Weather};
use support::stores::identity::{self, IdentityService};
use support::stores::large;
use support::{Context, Random, Result, anyhow, ensure, limits};

const CONTAINER: &str = "kit";
const MIB: usize = 1 << 20;

/// A store as the composition root would make it, without its retries.
fn store(config: &AzureConfig, path: &str) -> Result<AzureStorage> {
    store_with(config, path, Surroundings::default())
}

fn store_with(config: &AzureConfig, path: &str, surroundings: Surroundings) -> Result<AzureStorage> {
    // A busy machine takes its time for a block.
    let retry = RetryPolicy::within(limits::LARGE_COMMAND);
    let options = AzureOptions {
        path: path.to_owned(),
        retry,
        slots: PartSlots::for_slots(4),
        surroundings,
        lock: None,
    };
    AzureStorage::new(config, options).map_err(|error| anyhow!("{error}"))
}

async fn azurite() -> Result<Azurite> {
    let azurite = Azurite::start()?;
    azurite.create_container(CONTAINER).await?;
    Ok(azurite)
}

fn key(name: &str) -> Result<ObjectKey> {
    Ok(name.parse()?)
}

/// Bytes that repeat at no power of two, and differ by `seed`.
fn pattern(length: usize, seed: u8) -> bytes::Bytes {
    (0..=250u8).map(|byte| byte.wrapping_add(seed)).cycle().take(length).collect()
}

/// Written in pieces that no block is a multiple of.
async fn upload(store: &AzureStorage, key: &ObjectKey, body: bytes::Bytes) -> Result<(), StorageError> {
    let mut upload = store.begin(key, PutMode::Create).await?;
    let mut rest = body;
    while !rest.is_empty() {
        upload.write(rest.split_to(rest.len().min(300_007))).await?;
    }
    upload.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_is_a_store_in_a_path_of_a_container() -> Result<()> {
    let azurite = azurite().await?;
    let number = AtomicU32::new(0);
    conformance::suite(async || {
        let path = format!("/some/path-{}", number.fetch_add(1, Ordering::Relaxed));
        Arc::new(store(&azurite.config(CONTAINER), &path).expect("a store")) as Arc<dyn Storage>
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_is_a_store_in_a_whole_container_too() -> Result<()> {
    let azurite = azurite().await?;
    let number = AtomicU32::new(0);
    conformance::suite(async || {
        let container = format!("whole-{}", number.fetch_add(1, Ordering::Relaxed));
        azurite.create_container(&container).await.expect("a container");
        Arc::new(store(&azurite.config(&container), "/").expect("a store")) as Arc<dyn Storage>
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eight_creators_one_wins_with_puts_and_with_blocks() -> Result<()> {
    let azurite = azurite().await?;
    let store = store(&azurite.config(CONTAINER), "/race")?;
    // Blocks of 5 MiB: two for each of the uploads.
    for (round, length) in [(0, 1000), (1, 6 * MIB), (2, 6 * MIB)] {
        let wanted = key(&format!("round-{round}"))?;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8u8 {
            let (store, wanted) = (store.clone(), wanted.clone());
            writers.spawn(async move {
                let body = pattern(length, writer);
                let answer = match (round, writer % 2) {
                    (2, 0) => store.put(&wanted, PutMode::Create, body).await,
                    _ => upload(&store, &wanted, body).await,
                };
                (writer, answer)
            });
        }
        let mut winners = Vec::new();
        for (writer, answer) in limits::within(writers.join_all()).await? {
            match answer {
                Ok(()) => winners.push(writer),
                Err(error) => ensure!(error.is_already_exists(), "round {round}: {error}"),
            }
        }
        ensure!(winners.len() == 1, "round {round}: {winners:?} have won");
        let kept = store.get(&wanted, u64::try_from(length)?).await?;
        ensure!(kept == pattern(length, winners[0]), "round {round}: the winner's object is another");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_mebibytes_go_in_blocks_of_which_several_are_under_way() -> Result<()> {
    let azurite = azurite().await?;
    let store = store(&azurite.config(CONTAINER), "/big")?;
    let wanted = key("sixty")?;
    let body = pattern(60 * MIB, 0);
    upload(&store, &wanted, body.clone()).await?;
    let size = u64::try_from(body.len())?;
    ensure!(store.stat(&wanted).await?.context("it is there")?.size == size);
    ensure!(store.get(&wanted, size).await? == body, "all bytes come back");
    // Over the borders of blocks.
    for border in [5 * MIB, 10 * MIB, 55 * MIB] {
        let range = u64::try_from(border - 3)?..u64::try_from(border + 4)?;
        ensure!(store.get_range(&wanted, range).await? == body.slice(border - 3..border + 4), "{border}");
    }
    let blocks = azurite.blocks_at_once()?;
    ensure!(blocks.total == 12, "{blocks:?}");
    ensure!((2..=4).contains(&blocks.most), "several at once, and no more than allowed: {blocks:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_comes_back_range_by_range() -> Result<()> {
    let azurite = azurite().await?;
    let store = store(&azurite.config(CONTAINER), "/large")?;
    large::comes_back_range_by_range(&store, &key("a")?, large::Server::Elsewhere).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_was_overtaken_learns_it_and_its_blocks_make_no_object() -> Result<()> {
    let azurite = azurite().await?;
    let store = store(&azurite.config(CONTAINER), "/late")?;
    let wanted = key("a")?;
    let mut late = store.begin(&wanted, PutMode::Create).await?;
    late.write(pattern(11 * MIB, 1)).await?;
    ensure!(store.stat(&wanted).await?.is_none() && list_all(&store, None).await?.is_empty());
    azurite.await_uncommitted(CONTAINER, "late/", &["late/a"]).await?;
    // Somebody else's blocks at the same key: one commit, which discards the others.
    upload(&store, &wanted, pattern(6 * MIB, 2)).await?;
    let answer = late.finish().await;
    ensure!(matches!(answer, Err(StorageError::AlreadyExists { .. })), "{answer:?}");
    ensure!(store.get(&wanted, 6 << 20).await? == pattern(6 * MIB, 2));

    // The same when the winner's object is gone again: what is left of the blocks is no object.
    let mut late = store.begin(&key("b")?, PutMode::Create).await?;
    late.write(pattern(11 * MIB, 1)).await?;
    store.put(&key("b")?, PutMode::Create, pattern(3, 3)).await?;
    store.delete(&key("b")?).await?;
    let answer = late.finish().await;
    let object = store.stat(&key("b")?).await?;
    match answer {
        Ok(()) => ensure!(object.context("it is there")?.size == 11 << 20, "all of it or nothing"),
        Err(_) => ensure!(object.is_none(), "{object:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_known_by_its_own_nonce() -> Result<()> {
    let azurite = azurite().await?;
    let store = store(&azurite.config(CONTAINER), "/lost")?;
    let wanted = key("a")?;
    let mine = store.begin_parts(&wanted, PutMode::Create).await?;
    let part = store.put_part(&mine, 0, pattern(10, 1)).await?;
    let theirs = store.begin_parts(&wanted, PutMode::Create).await?;
    let their_part = store.put_part(&theirs, 0, pattern(10, 2)).await?;
    ensure!(part != their_part, "blocks of two writers have two names");
    store.join_parts(&mine, std::slice::from_ref(&part)).await?;
    ensure!(store.is_joined(&mine).await? && !store.is_joined(&theirs).await?);
    // Whether the server looks at the condition or at the blocks first.
    let again = store.join_parts(&mine, &[part]).await;
    ensure!(again.is_ok() || again.as_ref().is_err_and(StorageError::is_already_exists), "{again:?}");
    let late = store.join_parts(&theirs, &[their_part]).await;
    ensure!(late.is_err_and(|error| error.is_already_exists()), "somebody else's is a conflict");
    ensure!(store.get(&wanted, 10).await? == pattern(10, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_does_not_match_its_checksum_is_refused_by_the_server() -> Result<()> {
    let azurite = azurite().await?;
    // The CRC-64/NVME of "123456789", in the byte order that the store uses.
    let crc = "iJh5CoYUi64=";
    for (body, status) in [("123456789", 201), ("123456788", 400)] {
        let headers = [("x-ms-content-crc64", crc)];
        let path = format!("/{CONTAINER}/block");
        let answer =
            azurite.request("PUT", &path, "blockid=YQ%3D%3D&comp=block", &headers, body.into()).await?;
        ensure!(answer.status() == status, "{body}: {}", answer.status());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_longer_than_a_page_are_whole_and_in_order() -> Result<()> {
    let azurite = azurite().await?;
    let store = store(&azurite.config(CONTAINER), "/many")?;
    let names: Vec<ObjectKey> = (0..1203).map(|n| key(&format!("a/{n:04}"))).collect::<Result<_>>()?;
    let mut writers = tokio::task::JoinSet::new();
    for chunk in names.chunks(200) {
        let (store, chunk) = (store.clone(), chunk.to_vec());
        writers.spawn(async move {
            for name in chunk {
                store.put(&name, PutMode::Create, bytes::Bytes::new()).await?;
            }
            Ok::<(), StorageError>(())
        });
    }
    limits::within(writers.join_all()).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let listed: Vec<ObjectKey> = list_all(&store, None).await?.into_iter().map(|object| object.key).collect();
    ensure!(listed == names, "{} of {}", listed.len(), names.len());
    // From any place, also one that no page ended with.
    for (after, limit) in [(1, 3), (999, 5), (1000, 500), (1199, 10)] {
        let page = store
            .list(Some(&key("a")?), ListDepth::Recursive, Some(&names[after].clone().into()), limit)
            .await?;
        let expected: Vec<ObjectKey> = names.iter().skip(after + 1).take(limit).cloned().collect();
        let found: Vec<ObjectKey> = page.objects.into_iter().map(|object| object.key).collect();
        ensure!(found == expected, "after {after}: {found:?}");
        ensure!(page.more.is_some() == (after + 1 + limit < names.len()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_go_with_every_object_that_is_written() -> Result<()> {
    let azurite = azurite().await?;
    let tags =
        BTreeMap::from([("team".to_owned(), "a b/c".to_owned()), ("kind".to_owned(), "backup".to_owned())]);
    let store = store(&AzureConfig { tags, ..azurite.config(CONTAINER) }, "/tagged")?;
    store.put(&key("small")?, PutMode::Create, pattern(3, 0)).await?;
    upload(&store, &key("large")?, pattern(6 * MIB, 0)).await?;
    for name in ["small", "large"] {
        let path = format!("/{CONTAINER}/tagged%2F{name}");
        let text = azurite.request("GET", &path, "comp=tags", &[], Vec::new()).await?.text().await?;
        for part in ["<Key>team</Key><Value>a b/c</Value>", "<Key>kind</Key><Value>backup</Value>"] {
            ensure!(text.contains(part), "{name}: {text}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_copies_by_key_and_by_signature_in_fair_weather_and_in_foul() -> Result<()> {
    let azurite = azurite().await?;
    let (proxy, config) = before(&azurite)?;
    let signature = Some(Secret::new(sas(CONTAINER, "rwdl", 1)?.as_str()));
    let signed = AzureConfig { key_type: AzureKeyType::Sas, key: signature, ..config.clone() };
    let policy = RetryPolicy { attempts_max: 20, ..RetryPolicy::within(limits::COMMAND) };
    let number = AtomicU32::new(0);
    for (config, percent) in [(&config, 0), (&signed, 0), (&config, 20), (&signed, 20)] {
        proxy.set(Weather::bad(percent));
        conformance::copies(async || {
            let path = format!("/suite-{}/a b+c%d", number.fetch_add(1, Ordering::Relaxed));
            let store = store(config, &path).expect("a store");
            Arc::new(RetryStorage::new(Arc::new(store), policy)) as Arc<dyn Storage>
        })
        .await;
    }
    ensure!(proxy.seen().faults.len() > 3, "{:?}", proxy.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_copies_by_a_token_that_is_lent_for_the_source() -> Result<()> {
    let azurite = Azurite::start_with_tokens_and_copies()?;
    azurite.create_container(CONTAINER).await?;
    let (lender, identity) = (Lender::before(&azurite)?, IdentityService::start(3600)?);
    let around = Surroundings {
        identity_endpoint: Some(identity.endpoint()),
        identity_header: Some(Secret::new(identity::HEADER)),
        ..Surroundings::default()
    };
    let config = AzureConfig {
        key_type: AzureKeyType::Auto,
        key: None,
        endpoint: lender.endpoint(),
        ..azurite.config(CONTAINER)
    };
    let number = AtomicU32::new(0);
    conformance::copies(async || {
        let path = format!("/suite-{}/a b+c%d", number.fetch_add(1, Ordering::Relaxed));
        let store = store_with(&config, &path, around.clone()).expect("a store");
        Arc::new(RetryStorage::new(Arc::new(store), RetryPolicy::within(limits::COMMAND))) as Arc<dyn Storage>
    })
    .await;
    ensure!(lender.lent() > 3, "{} copies by a token", lender.lent());
    let store = store_with(&config, "/unlent", around)?;
    store.put(&key("a")?, PutMode::Create, pattern(3, 0)).await?;
    let object = store.stat(&key("a")?).await?.context("it is there")?;
    lender.believe_nobody();
    let uncopied = store.copy(store.origin().context("a store that copies")?, &object, &key("b")?).await;
    ensure!(matches!(uncopied, Err(StorageError::NotSupported { .. })), "{uncopied:?}");
    ensure!(store.get(&key("a")?, 3).await? == pattern(3, 0), "the token is good for anything else");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_from_another_container_bears_what_its_own_repository_is_configured_to() -> Result<()> {
    let azurite = azurite().await?;
    azurite.create_container("other").await?;
    let (proxy, config) = before(&azurite)?;
    let tags = BTreeMap::from([("kind".to_owned(), "copy".to_owned())]);
    let from = store(&AzureConfig { container: "other".to_owned(), ..config.clone() }, "/from")?;
    let to = store(&AzureConfig { tags, ..config }, "/to")?;
    let origin = from.origin().context("a store that copies")?;
    for (name, length) in [("empty", 0), ("large", 13 * MIB)] {
        upload(&from, &key(name)?, pattern(length, 1)).await?;
        let object = from.stat(&key(name)?).await?.context("it is there")?;
        proxy.forget();
        // The answer to the commit is lost: the copy is known by its own mark.
        proxy.order(|head| head.contains("comp=blocklist"), Fault::LoseAnswer);
        to.copy(origin, &object, &key(name)?).await?;
        ensure!(proxy.seen().body_bytes < 10_000, "it was sent: {:?}", proxy.seen());
        ensure!(to.get(&key(name)?, 14 << 20).await? == pattern(length, 1), "another object");
        let path = format!("/{CONTAINER}/to%2F{name}");
        let text = azurite.request("GET", &path, "comp=tags", &[], Vec::new()).await?.text().await?;
        ensure!(text.contains("<Key>kind</Key><Value>copy</Value>"), "{text}");
        let again = to.copy(origin, &object, &key(name)?).await;
        ensure!(matches!(again, Err(StorageError::AlreadyExists { .. })), "{again:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_somebody_holds_is_not_deleted_and_the_error_says_why() -> Result<()> {
    let azurite = azurite().await?;
    let store = store(&azurite.config(CONTAINER), "/held")?;
    for (name, query, headers, word) in [
        (
            "lease",
            "comp=lease",
            &[("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "-1")][..],
            "lease",
        ),
        ("snapshot", "comp=snapshot", &[][..], "snapshots"),
    ] {
        store.put(&key(name)?, PutMode::Create, pattern(3, 0)).await?;
        let path = format!("/{CONTAINER}/held%2F{name}");
        let answer = azurite.request("PUT", &path, query, headers, Vec::new()).await?;
        ensure!(answer.status() == 201, "{name}: {}", answer.status());
        let error = store.delete(&key(name)?).await.expect_err("it is held");
        told(&error, "unable to remove", word)?;
        ensure!(store.stat(&key(name)?).await?.is_some());
    }
    Ok(())
}

/// Counts what passes to the server.
fn before(azurite: &Azurite) -> Result<(HttpProxy, AzureConfig)> {
    let proxy = HttpProxy::before(azurite.socket_address()?, Random::from_environment()?)?;
    let config = AzureConfig { endpoint: proxy.endpoint(), ..azurite.config(CONTAINER) };
    Ok((proxy, config))
}

/// So many empty objects, with names of all kinds among them.
async fn fill(store: &AzureStorage, count: usize) -> Result<Vec<ObjectKey>> {
    const ODD: [&str; 7] =
        ["c&d<e>", "f g+h%20'\"", "größe/ß", "a?b#c;d=e", "x:y@z,~!$()*[]|^`{}", "%2F", "deep/er/than/that"];
    let names = ODD.map(str::to_owned).into_iter().chain((0..).map(|number| format!("plain/{number:04}")));
    let keys: Vec<ObjectKey> = names.take(count).map(|name| key(&name)).collect::<Result<_>>()?;
    let mut writers = tokio::task::JoinSet::new();
    for chunk in keys.chunks(100) {
        let (store, chunk) = (store.clone(), chunk.to_vec());
        writers.spawn(async move {
            for name in chunk {
                store.put(&name, PutMode::Create, bytes::Bytes::new()).await?;
            }
            Ok::<(), StorageError>(())
        });
    }
    limits::within(writers.join_all()).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_hundred_blobs_go_by_three_requests_whatever_their_names_and_whether_or_not_they_are_there()
-> Result<()> {
    let azurite = azurite().await?;
    let (proxy, config) = before(&azurite)?;
    let store = store(&config, "/batch/of")?;
    let keys = fill(&store, 602).await?;
    let (wanted, stays) = keys.split_at(600);
    let mut gone = wanted.to_vec();
    gone.extend((0..40).map(|number| key(&format!("never/{number}"))).collect::<Result<Vec<_>>>()?);
    for _ in 0..2 {
        proxy.forget();
        limits::within(store.delete_many(&gone)).await??;
        ensure!(proxy.seen().requests == 3, "{:?}", proxy.seen());
    }
    let left: Vec<ObjectKey> = list_all(&store, None).await?.into_iter().map(|object| object.key).collect();
    ensure!(left == stays, "{left:?}");
    ensure!(store.features().has(Feature::BatchedDeletes));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_somebody_holds_keeps_no_other_of_its_batch() -> Result<()> {
    let azurite = azurite().await?;
    let (proxy, config) = before(&azurite)?;
    let store = store(&config, "/held")?;
    let lease = [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "-1")];
    for (query, headers, word, requests) in
        [("comp=lease", &lease[..], "lease", 2), ("comp=snapshot", &[][..], "snapshots", 2)]
    {
        let keys = fill(&store, 300).await?;
        let held = &keys[2];
        let path = format!("/{CONTAINER}/held%2F{}", "gr%C3%B6%C3%9Fe%2F%C3%9F");
        let answer = azurite.request("PUT", &path, query, headers, Vec::new()).await?;
        ensure!(answer.status() == 201, "{query}: {}", answer.status());
        proxy.forget();
        let error = store.delete_many(&keys).await.expect_err("it is held");
        told(&error, "unable to remove", word)?;
        ensure!(error.to_string().contains(held.as_str()), "{error}");
        ensure!(error.is_kept() == (word == "lease"), "{error:?}");
        ensure!(proxy.seen().requests == requests, "{:?}", proxy.seen());
        let left: Vec<ObjectKey> =
            list_all(&store, None).await?.into_iter().map(|object| object.key).collect();
        // What is no retention ends the call at its batch.
        let expected = if word == "lease" { 1 } else { 1 + 300 - 256 };
        ensure!(left.len() == expected && left.contains(held), "{word}: {left:?}");
        if word == "lease" {
            let ended = [("x-ms-lease-action", "break"), ("x-ms-lease-break-period", "0")];
            let answer = azurite.request("PUT", &path, "comp=lease", &ended, Vec::new()).await?;
            ensure!(answer.status() == 202, "{}", answer.status());
            store.delete_many(&keys).await?;
            ensure!(list_all(&store, None).await?.is_empty());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_get_through_bad_weather_and_past_a_gateway_that_takes_none() -> Result<()> {
    let azurite = azurite().await?;
    let (proxy, config) = before(&azurite)?;
    let calm = store(&azurite.config(CONTAINER), "/weather")?;
    let store = store(&config, "/weather")?;
    let policy = RetryPolicy { attempts_max: 20, ..RetryPolicy::within(limits::COMMAND) };
    let patient = RetryStorage::new(Arc::new(store.clone()), policy);
    let is_batch = |head: &str| head.contains("comp=batch");

    let keys = fill(&calm, 300).await?;
    proxy.order(is_batch, Fault::LoseAnswer);
    limits::within(patient.delete_many(&keys)).await??;
    ensure!(proxy.seen().requests == 3, "one of two again: {:?}", proxy.seen());

    proxy.set(Weather::bad(40));
    let mut rounds = 0;
    // Twelve batches meet two faults or fewer in one run of a hundred or so: then some more go.
    while rounds < 12 || proxy.seen().faults.values().sum::<u64>() <= 2 {
        rounds += 1;
        ensure!(rounds <= 100, "no bad weather: {:?}", proxy.seen());
        let keys = fill(&calm, 30).await?;
        limits::within(patient.delete_many(&keys)).await??;
        ensure!(list_all(&calm, None).await?.is_empty());
    }
    let faults = proxy.seen().faults;
    ensure!(store.features().has(Feature::BatchedDeletes), "weather is no word of batches: {faults:?}");

    let keys = fill(&calm, 300).await?;
    // Each time: what shows that it is batches that are refused is a delete alone, which the weather may keep for the next try.
    for _ in 0..20 {
        proxy.order(is_batch, Fault::xml(400, "InvalidQueryParameterValue", ""));
    }
    proxy.set(Weather::bad(20));
    proxy.forget();
    limits::within(patient.delete_many(&keys)).await??;
    ensure!(list_all(&calm, None).await?.is_empty());
    ensure!(!store.features().has(Feature::BatchedDeletes), "and it is not asked for one again");
    ensure!(proxy.seen().requests > 300, "{:?}", proxy.seen());
    Ok(())
}

/// An error that no retry mends, with what it must say, and with a hint.
fn told(error: &StorageError, first: &str, second: &str) -> Result<()> {
    let text = error.to_string();
    ensure!(text.contains(first) && text.contains(second), "'{first}', '{second}': {text}");
    ensure!(!error.hints().is_empty(), "no hint: {text}");
    let shown = format!("{text} {error:?} {:?}", error.hints());
    ensure!(!shown.contains("sig=") && !shown.contains(azurite::KEY), "a secret: {shown}");
    Ok(())
}

async fn read(config: &AzureConfig) -> Result<StorageError> {
    let answer = store(config, "/p")?.get(&key("a")?, 9).await;
    answer.err().context("it was read")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mistake_in_the_configuration_is_told_as_such_and_never_taken_for_absence() -> Result<()> {
    let azurite = azurite().await?;
    let good = azurite.config(CONTAINER);
    let absent = read(&good).await?;
    ensure!(absent.is_not_found(), "{absent}");

    let wrong_container = azurite.config("nowhere");
    told(&read(&wrong_container).await?, "has no container 'nowhere'", "ContainerNotFound")?;
    let lost = store(&wrong_container, "/p")?;
    told(&lost.stat(&key("a")?).await.expect_err("no container"), "has no container", "nowhere")?;
    told(&list_all(&lost, None).await.expect_err("no container"), "has no container", "nowhere")?;
    let deleted = lost.delete(&key("a")?).await;
    told(&deleted.expect_err("no container"), "unable to remove", "has no container")?;

    let wrong_key = AzureConfig { key: Some(Secret::new("bm90IHRoZSBrZXk=")), ..good.clone() };
    told(&read(&wrong_key).await?, "the key is not one of account", "two access keys")?;
    let wrong_account = AzureConfig { account: "nobody".to_owned(), ..good.clone() };
    let error = read(&wrong_account).await?;
    ensure!(!error.is_not_found() && error.code() == ErrorCode::Access, "{error:?}");

    let away = AzureConfig { endpoint: "http://127.0.0.1:1".to_owned(), ..good.clone() };
    let error = read(&away).await?;
    ensure!(matches!(error, StorageError::Unavailable { .. }), "{error:?}");
    let unknown = AzureConfig { endpoint: "http://no-such-host.invalid".to_owned(), ..good.clone() };
    let error = read(&unknown).await?.to_string();
    ensure!(error.contains("no-such-host.invalid") && error.contains("account"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_access_signature_does_what_it_grants_and_says_what_it_lacks() -> Result<()> {
    let azurite = azurite().await?;
    let with = |token: &str| {
        let key = Some(Secret::new(token));
        store(&AzureConfig { key_type: AzureKeyType::Sas, key, ..azurite.config(CONTAINER) }, "/sas")
    };
    let whole = sas(CONTAINER, "rwdl", 1)?;
    for token in [whole.clone(), format!("?{whole}")] {
        let store = with(&token)?;
        let keys = fill(&store, 30).await?;
        store.delete_many(&keys).await?;
        ensure!(store.features().has(Feature::BatchedDeletes) && list_all(&store, None).await?.is_empty());
        store.put(&key("a")?, PutMode::Create, pattern(3, 0)).await?;
        upload(&store, &key("b")?, pattern(6 * MIB, 0)).await?;
        ensure!(list_all(&store, None).await?.len() == 2 && store.get(&key("a")?, 3).await? == pattern(3, 0));
        let verdict = prove_create_only(&store, &key("proof")?).await?;
        ensure!(verdict == CreateOnly::Honoured);
        store.delete(&key("a")?).await?;
        store.delete(&key("b")?).await?;
        ensure!(!format!("{store:?}").contains("sig"), "{store:?}");
    }
    let reader = with(&sas(CONTAINER, "rl", 1)?)?;
    let refused = reader.put(&key("a")?, PutMode::Create, pattern(3, 0)).await.expect_err("no write");
    told(&refused, "grants 'rl', which is not enough", "AuthorizationPermissionMismatch")?;
    let refused = reader.delete(&key("a")?).await.expect_err("no delete");
    told(&refused, "unable to remove", "grants 'rl'")?;
    let whole_store = with(&whole)?;
    whole_store.put(&key("from")?, PutMode::Create, pattern(3, 0)).await?;
    let object = reader.stat(&key("from")?).await?.context("it is there")?;
    let origin = reader.origin().context("a store that copies")?;
    ensure!(whole_store.copies_from(origin).is_none(), "another right is another store");
    let uncopied = reader.copy(origin, &object, &key("to")?).await.expect_err("no write");
    told(&uncopied, "unable to write", "grants 'rl'")?;
    let of_many = reader.delete_many(&[key("a")?, key("b")?]).await;
    ensure!(of_many == Err(refused), "{of_many:?}");
    let expired = with(&sas(CONTAINER, "rwdl", -1)?)?;
    for error in [
        expired.get(&key("a")?, 3).await.err(),
        expired.stat(&key("a")?).await.err(),
        list_all(&expired, None).await.err(),
    ] {
        told(&error.context("it expired")?, "the shared access signature expired at", "unable to")?;
    }
    let forged = with(&whole.replace("sig=", "sig=AAAA"))?;
    told(
        &forged.get(&key("a")?, 3).await.expect_err("forged"),
        "none of account",
        "shared access signature",
    )?;
    let wrong = AzureConfig { key_type: AzureKeyType::Sas, ..azurite.config(CONTAINER) };
    let error =
        store(&wrong, "/").err().ok_or_else(|| anyhow!("an account key is no signature"))?.to_string();
    ensure!(error.contains("shared access signature") && !error.contains(azurite::KEY), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machines_identity_reaches_the_store_by_tls_and_its_tokens_are_renewed() -> Result<()> {
    const LIFETIME: u64 = 3;
    let azurite = Azurite::start_with_tokens()?;
    azurite.create_container(CONTAINER).await?;
    let identity = IdentityService::start(LIFETIME)?;
    let around = Surroundings {
        identity_endpoint: Some(identity.endpoint()),
        identity_header: Some(Secret::new(identity::HEADER)),
        ..Surroundings::default()
    };
    let config = AzureConfig { key_type: AzureKeyType::Auto, key: None, ..azurite.config(CONTAINER) };
    let store = store_with(&config, "/auto", around.clone())?;
    let begun = std::time::Instant::now();
    let mut number = 0;
    // Twice as long as a token is valid: without renewal the server refuses.
    while begun.elapsed().as_secs() < 2 * LIFETIME {
        let wanted = key(&format!("{number}"))?;
        limits::within(store.put(&wanted, PutMode::Create, pattern(3, 0))).await??;
        ensure!(limits::within(store.get(&wanted, 3)).await?? == pattern(3, 0));
        number += 1;
    }
    let keys = fill(&store, 30).await?;
    limits::within(store.delete_many(&keys)).await??;
    ensure!(store.features().has(Feature::BatchedDeletes), "each part bears a token of its own");
    let left = list_all(&store, None).await?.len();
    ensure!(left == usize::try_from(number)?, "{left} are left");
    // Azurite takes no right for the source but what is in its address: so whoever copies is told that it does not.
    let object = store.stat(&key("0")?).await?.context("it is there")?;
    let uncopied = store.copy(store.origin().context("a store that copies")?, &object, &key("copy")?).await;
    let is_told = matches!(&uncopied, Err(StorageError::NotSupported { .. }));
    ensure!(is_told && format!("{uncopied:?}").contains("CannotVerifyCopySource"), "{uncopied:?}");
    ensure!(store.stat(&key("copy")?).await?.is_none());
    let given = identity.given();
    ensure!((2..=u32::try_from(2 * LIFETIME)?).contains(&given), "{given} tokens for {number} objects");

    let stranger = Surroundings { identity_header: Some(Secret::new("no")), ..around.clone() };
    let error = store_with(&config, "/auto", stranger)?.stat(&key("0")?).await.expect_err("a stranger");
    told(&error, "the identity service", "answered 401")?;
    let nobody_vouches = StoreTls { ca_file: None, verify: true };
    let untrusting = AzureConfig { tls: nobody_vouches, ..config.clone() };
    let error = store_with(&untrusting, "/auto", around.clone())?.stat(&key("0")?).await;
    ensure!(matches!(error, Err(StorageError::Refused { .. })), "{error:?}");
    let careless = AzureConfig { tls: StoreTls { ca_file: None, verify: false }, ..config };
    ensure!(store_with(&careless, "/auto", around)?.stat(&key("0")?).await?.is_some());
    Ok(())
}
