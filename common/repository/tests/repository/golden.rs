//! Repositories that version 1 of the format wrote, kept for ever: what they say is read as it was meant.
//!
//! `common/core/testdata/format/README.md` tells how the files of a new version are made.

use super::support::{BackupRequest, Flaw, Seal, Site, backup, incremental, segment, wal_content, writer};
use pgconvoy_core::format::layout;
use pgconvoy_core::format::plan::HeartbeatBody;
use pgconvoy_core::ids::PlanNumber;
use pgconvoy_core::pg::{TimelineId, WalFileName};
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::Repository;
use pgconvoy_repository::browse::{Content, get};
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::manifest_view::write_json;
use pgconvoy_storage::{MemoryStorage, PosixStorage, PutMode, Storage};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Where a new set of golden files is to be written.
const OUT_VARIABLE: &str = "PGCONVOY_GOLDEN_OUT";
const SEALS: [(Seal, &str); 2] = [(Seal::Plain, "plain"), (Seal::Encrypted, "encrypted")];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/testdata/format/v1")
}

/// An object of every kind, and WAL in every codec.
async fn write(site: &Site) {
    let compressing = Codec::ALL.into_iter().filter(|codec| *codec != Codec::None).cycle();
    for (number, codec) in (1..=8).zip(compressing) {
        site.push_with(codec, &WalFileName::Segment(segment(number)), wal_content(segment(number))).await;
    }
    let history = b"1\t0/900100\tno recovery target specified\n".to_vec();
    site.push_with(Codec::None, &WalFileName::History(TimelineId(2)), history).await;
    let full = backup(site, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    incremental(site, full, Flaw::None).await;
    let given_up = "20261119-000000F".parse().unwrap();
    let void =
        Repository::void_record(given_up, "its writer was gone", &writer(), Timestamp(1_795_046_400_123));
    assert!(site.repository.give_up(&site.stanza, void).await.unwrap());
    let unfinished = "20261120-000000F".parse().unwrap();
    let heartbeat = HeartbeatBody { writer: writer(), sequence: 0 };
    site.repository.beat(&site.stanza, unfinished, PlanNumber(1), &heartbeat).await.unwrap();
}

/// All that a repository says: the body of each object, and the records of each manifest.
async fn document(site: &Site) -> Value {
    let mut objects = serde_json::Map::new();
    for name in site.objects().await {
        let mut decoded = Vec::new();
        get(&site.repository, &name, Content::Decoded, &mut decoded).await.unwrap();
        let said = match name.contains("/wal/") {
            true => json!({ "size": decoded.len(), "sha1": hex(&Sha1::digest(&decoded)) }),
            false => serde_json::from_slice(&decoded).unwrap(),
        };
        objects.insert(name, said);
    }
    let mut manifests = Vec::new();
    for (_, entry) in site.repository.backups(&site.stanza).await.unwrap() {
        let mut out = Vec::new();
        write_json(&site.repository, &site.stanza, &entry.unwrap(), None, &mut out).await.unwrap();
        manifests.push(serde_json::from_slice::<Value>(&out).unwrap());
    }
    json!({ "objects": objects, "manifests": manifests })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A copy of a tree of files in memory, so that nothing can change them.
async fn load(directory: &Path) -> Arc<dyn Storage> {
    let storage = MemoryStorage::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
            storage
                .put(&name.parse().unwrap(), PutMode::Create, fs::read(&path).unwrap().into())
                .await
                .unwrap();
        }
    }
    Arc::new(storage)
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden().join(format!("{name}.json"))).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_repositories_are_read_as_they_were_written() {
    for (seal, name) in SEALS {
        let storage = load(&golden().join(name)).await;
        let site = Site::open(storage, seal, &golden().join("key")).await;
        let report = site.verify().await;
        assert!(report.is_ok() && report.backups.len() == 3, "{name}: {report:?}");
        assert_eq!(first_difference("", &expected(name), &document(&site).await), None, "{name}");
    }
}

/// Where `found` does not say what `expected` says. It may say more: optional keys are added without a new version.
fn first_difference(place: &str, expected: &Value, found: &Value) -> Option<String> {
    let at = |part: &str| format!("{place}/{part}");
    match (expected, found) {
        (Value::Object(expected), Value::Object(_)) => {
            expected.iter().find_map(|(key, value)| first_difference(&at(key), value, &found[key]))
        }
        (Value::Array(wanted), Value::Array(list)) if wanted.len() == list.len() => {
            let mut pairs = wanted.iter().zip(list).enumerate();
            pairs.find_map(|(number, (one, other))| first_difference(&at(&number.to_string()), one, other))
        }
        _ => (expected != found).then(|| format!("{place}: {found} instead of {expected}")),
    }
}

/// What differs from one writing to the next: what is random, and how well a codec compresses.
const VARYING: [&str; 10] = [
    "identity",
    "salt",
    "wrapped",
    "fingerprint",
    "secret-fingerprint",
    "manifest",
    "stored",
    "stored-set",
    "delta",
    "repository",
];

fn without_varying(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !VARYING.contains(&key.as_str()));
            map.values_mut().for_each(without_varying);
        }
        Value::Array(list) => list.iter_mut().for_each(without_varying),
        _ => {}
    }
}

/// Also how golden files are made: into the directory that the variable names, else into one that is thrown away.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_written_today_says_what_the_golden_one_says() {
    let scratch = TempDir::new().unwrap();
    let out = std::env::var_os(OUT_VARIABLE).map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    fs::create_dir_all(&out).unwrap();
    pgconvoy_repository::keys::create_key_file(&out.join("key")).unwrap();
    let mut written = Vec::new();
    for (seal, name) in SEALS {
        let storage = Arc::new(PosixStorage::create(&out.join(name)).unwrap());
        let site = Site::open(storage, seal, &out.join("key")).await;
        write(&site).await;
        let found = document(&site).await;
        fs::write(out.join(format!("{name}.json")), serde_json::to_string_pretty(&found).unwrap()).unwrap();
        written.push((name, found));
    }
    for (name, mut found) in written {
        let mut expected = expected(name);
        [&mut found, &mut expected].into_iter().for_each(without_varying);
        assert_eq!(first_difference("", &expected, &found), None, "{name}");
        assert!(found["objects"][layout::REPOSITORY]["cipher"].is_string(), "not all was left out");
    }
}
