//! `repo-ls`, `repo-get` and `manifest`.

use super::support::{Seal, Site, segment, wal_content};
use pgconvoy_core::failure::{Classify, ErrorCode};
use pgconvoy_core::format::layout;
use pgconvoy_core::pg::{TimelineId, WalFileName};
use pgconvoy_repository::browse::{Content, ListRequest, SortOrder, get, list, to_json, to_text};
use pgconvoy_repository::manifest_view::{write_json, write_text};
use serde_json::{Value, json};

const HISTORY: &[u8] = b"1\t0/A00100\tno recovery target specified\n";

async fn site() -> Site {
    let site = Site::with_two_backups(Seal::Encrypted).await;
    site.push_file(&WalFileName::History(TimelineId(2)), HISTORY.to_vec()).await;
    site
}

async fn listed(site: &Site, path: &str, recurse: bool, filter: Option<&str>) -> Value {
    let filter = filter.map(|filter| filter.parse().unwrap());
    let request = ListRequest { path: path.into(), recurse, filter, sort: SortOrder::Ascending };
    to_json(&list(&site.repository, &request).await.unwrap())
}

async fn got(site: &Site, path: &str, content: Content) -> Vec<u8> {
    let mut out = Vec::new();
    get(&site.repository, path, content, &mut out).await.unwrap();
    out
}

fn names(listed: &Value) -> Vec<&str> {
    listed.as_object().unwrap().keys().map(String::as_str).collect()
}

/// What check_pgbackrest asks for: segments by the start of their names, sizes and times, and the history at the top.
#[tokio::test]
async fn an_archive_looks_like_pgbackrests() {
    let site = site().await;
    let recursive = listed(&site, "archive/main/15-1", true, None).await;
    let expected: Vec<String> = [".".to_owned(), "0000000100000000".to_owned()]
        .into_iter()
        .chain((1..=9).map(|number| format!("0000000100000000/{}", segment(number))))
        .chain(["00000002.history".to_owned()])
        .collect();
    assert_eq!(names(&recursive), expected);
    let segment_1 = &recursive[&format!("0000000100000000/{}", segment(1))];
    assert_eq!(segment_1["type"], "file");
    assert!(segment_1["size"].as_u64().unwrap() > 100 && segment_1["time"].as_u64().unwrap() > 1_700_000_000);
    let flat = listed(&site, "archive/main/15-1", false, None).await;
    assert_eq!(names(&flat), [".", "0000000100000000", "00000002.history"]);
    assert_eq!(got(&site, "archive/main/15-1/00000002.history", Content::Decoded).await, HISTORY);
    let path = format!("archive/main/15-1/0000000100000000/{}", segment(3));
    assert!(got(&site, &path, Content::Decoded).await == wal_content(segment(3)), "the plain segment");
}

#[tokio::test]
async fn published_backups_are_paths_and_others_are_not_shown() {
    let site = site().await;
    let labels = site.labels().await;
    let (first, second) = (labels[0].to_string(), labels[1].to_string());
    let path = json!({ "type": "path" });
    let all = listed(&site, "backup/main", false, None).await;
    assert_eq!(all, json!({ ".": path, first.as_str(): path, second.as_str(): path }));
    let chosen = listed(&site, "backup/main", false, Some(&first[4..])).await;
    assert_eq!(names(&chosen), [".", &*first]);
    site.delete(&layout::catalogue_entry(&site.stanza, labels[1])).await;
    assert_eq!(names(&listed(&site, "backup/main", false, None).await), [".", &*first]);
    let files = listed(&site, &format!("backup/main/{first}"), true, None).await;
    assert!(names(&files).contains(&"backup.manifest") && names(&files).contains(&"plan-0001"), "{files}");
    let head = got(&site, &format!("backup/main/{first}/backup.manifest"), Content::Decoded).await;
    let head: Value = serde_json::from_slice(&head).unwrap();
    assert_eq!(head["label"], first.as_str());
}

#[tokio::test]
async fn our_own_tree_is_listed_by_its_names() {
    let site = site().await;
    assert_eq!(names(&listed(&site, "", false, None).await), [".", "keys", "main", "pgconvoy.repo"]);
    assert_eq!(
        names(&listed(&site, "main", false, None).await),
        [".", "backup", "catalogue", "cluster", "wal"]
    );
    assert_eq!(listed(&site, "nothing/here", false, None).await, json!({}));
    let one = listed(&site, "pgconvoy.repo", false, None).await;
    assert_eq!(names(&one), ["."]);
    assert_eq!(one["."]["type"], "file");
    let everything = listed(&site, "/", true, None).await;
    let objects = site.objects().await;
    assert!(objects.iter().all(|object| everything[object]["type"] == "file"));
    let request = ListRequest { path: "main".into(), sort: SortOrder::Descending, ..ListRequest::default() };
    let text = to_text(&list(&site.repository, &request).await.unwrap());
    assert_eq!(text, "wal\ncluster\ncatalogue\nbackup\n");
}

#[tokio::test]
async fn every_object_can_be_looked_into_and_the_hash_secret_stays_hidden() {
    let site = site().await;
    for name in site.objects().await {
        let raw = got(&site, &name, Content::Raw).await;
        assert!(raw == site.read(&name).await, "{name}");
        let decoded = got(&site, &name, Content::Decoded).await;
        if !name.contains("/wal/") {
            assert!(serde_json::from_slice::<Value>(&decoded).unwrap().is_object(), "{name}");
        }
    }
    let cluster = got(&site, "main/cluster/0001", Content::Decoded).await;
    let cluster: Value = serde_json::from_slice(&cluster).unwrap();
    assert_eq!((cluster["hash-secret"].clone(), cluster["page-size"].clone()), (json!("***"), json!(8192)));
}

#[tokio::test]
async fn what_is_not_there_or_not_ours_is_told_apart() {
    let site = site().await;
    let mut out = Vec::new();
    let missing =
        get(&site.repository, "archive/main/15-1/00000003.history", Content::Decoded, &mut out).await;
    assert_eq!(missing.unwrap_err().code(), ErrorCode::FileMissing);
    site.overwrite("main/note.txt", b"somebody was here".to_vec()).await;
    let strange = get(&site.repository, "main/note.txt", Content::Decoded, &mut out).await.unwrap_err();
    assert!(strange.hints()[0].contains("--raw"), "{strange}");
    assert_eq!(got(&site, "main/note.txt", Content::Raw).await, b"somebody was here");
    let outside = get(&site.repository, "../../etc/passwd", Content::Raw, &mut out).await;
    assert_eq!(outside.unwrap_err().code(), ErrorCode::ParamInvalid);
}

#[tokio::test]
async fn a_manifest_is_shown_with_the_pack_of_each_range() {
    let site = site().await;
    let label = site.labels().await[0];
    let record = site.record(label).await;
    let mut out = Vec::new();
    write_json(&site.repository, &site.stanza, &record, None, &mut out).await.unwrap();
    let manifest: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(manifest["label"], label.to_string());
    let keys: Vec<&str> = manifest.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected =
        ["label", "uuid", "type", "prior", "references", "file", "link", "tablespace", "database"];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let files = manifest["file"].as_array().unwrap();
    assert_eq!(files.len(), 4);
    let split = files.iter().find(|file| file["name"] == "base/5/1259").unwrap();
    assert_eq!((split["size"].clone(), split["mode"].clone()), (json!(204_800), json!("0600")));
    assert_eq!(
        (split["user"].clone(), split["time"].clone()),
        (json!("postgres"), json!("2026-11-18T10:50:00.000Z"))
    );
    let ranges = split["range"].as_array().unwrap();
    assert!(ranges.len() > 1);
    let stored = site.objects().await;
    for range in ranges {
        let pack = range["pack"].as_str().unwrap();
        assert!(stored.contains(&format!("main/backup/{pack}")), "{pack}");
        assert_eq!((range["worker"].clone(), range["slot"].clone()), (json!("db1"), json!(1)));
    }
    let filter = "base/".parse().unwrap();
    let mut out = Vec::new();
    write_text(&site.repository, &site.stanza, &record, Some(&filter), &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains(" base/5/1259\n") && !text.contains("postgresql.conf"), "{text}");
}
