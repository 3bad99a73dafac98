//! `info`, against pgBackRest's keys and layout.

use super::support::{BackupRequest, Flaw, Seal, Site, backup, incremental, segment};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{BackupKind, layout};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::pg::{TimelineId, WalFileName};
use pgconvoy_repository::info::{Place, gather, to_json, to_text};
use pgconvoy_storage::MemoryStorage;
use serde_json::{Value, json};
use std::sync::Arc;

fn place(site: &Site) -> Place {
    (site.repository.number(), Ok(site.repository.clone()))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_json_has_every_key_that_pgbackrest_has() {
    let site = Site::with_two_backups(Seal::Encrypted).await;
    let report = gather(&[place(&site)], None, None, None).await;
    let info = to_json(&report);
    let first = site.record(site.labels().await[0]).await;
    assert_eq!(keys(&info[0]), ["archive", "backup", "cipher", "db", "name", "pitr", "repo", "status"]);
    let not_held = json!({ "backup": { "held": false }, "restore": { "held": false } });
    assert_eq!(info[0]["status"], json!({ "code": 0, "message": "ok", "lock": not_held }));
    assert_eq!(info[0]["cipher"], "aes-256-gcm");
    assert_eq!(
        info[0]["repo"],
        json!([{ "key": 1, "cipher": "aes-256-gcm", "status": { "code": 0, "message": "ok" } }])
    );
    assert_eq!(
        info[0]["db"],
        json!([{ "id": 1, "system-id": 7_000_000_000_000_000_001_u64, "version": "15", "repo-key": 1 }])
    );
    let ends = (segment(1), segment(9));
    assert_eq!(
        info[0]["archive"],
        json!([{ "id": "15-1", "min": ends.0, "max": ends.1, "database": { "id": 1, "repo-key": 1 } }])
    );
    assert_eq!(
        info[0]["pitr"],
        json!([{ "timeline": 1, "from": "0/300100", "to": "0/A00000", "from-time": first.stopped.to_string(), "to-time": null, "repo-key": 1 }])
    );
    let record = site.record(site.labels().await[0]).await;
    assert_eq!(
        info[0]["backup"][0],
        json!({
            "label": record.label,
            "type": "full",
            "prior": null,
            "reference": null,
            "annotation": { "reason": "test" },
            "archive": { "start": segment(2), "stop": segment(3) },
            "lsn": { "start": "0/200028", "stop": "0/300100" },
            "backrest": { "format": 1, "version": "0.1.0" },
            "database": { "id": 1, "repo-key": 1 },
            "error": false,
            "info": {
                "size": 230_376,
                "delta": 230_376,
                "repository": { "size": record.sizes.stored, "delta": record.sizes.stored },
            },
            "timestamp": { "start": 1_795_000_000, "stop": 1_795_000_060 },
            "uuid": record.backup.to_string(),
            "repo-status": [{ "key": 1, "status": "ok" }],
            "pages": { "checked": 28, "errors": 0 },
        })
    );
}

#[tokio::test]
async fn a_set_tells_what_its_manifest_knows() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let label = site.labels().await[1];
    let report = gather(&[place(&site)], Some(&site.stanza), Some(label), None).await;
    let info = to_json(&report);
    let backups = info[0]["backup"].as_array().unwrap();
    assert_eq!(backups.len(), 1);
    assert_eq!(backups[0]["database-ref"], json!([{ "name": "postgres", "oid": 5 }]));
    assert_eq!(backups[0]["tablespace"], json!([{ "name": "ts1", "oid": 16400, "destination": "/ts/1" }]));
    assert_eq!(backups[0]["link"], Value::Null);
    let text = to_text(&report);
    for line in [
        "database list: postgres (5)",
        "ts1 (16400) => /ts/1",
        "lsn start/stop: 0/500028 / 0/600100",
        "reason: test",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn status_codes_are_those_of_pgbackrest() {
    let full = Site::with_two_backups(Seal::Plain).await;
    let empty = Site::at(Arc::new(MemoryStorage::new()), Seal::Encrypted, 2).await;
    let unreachable = (RepoKey(3), Err(Failure::new(ErrorCode::HostConnect, "nobody answers")));
    let status = |report: &pgconvoy_repository::info::InfoReport| {
        let info = to_json(report);
        let codes: Vec<u64> = info[0]["repo"]
            .as_array()
            .unwrap()
            .iter()
            .map(|repo| repo["status"]["code"].as_u64().unwrap())
            .collect();
        (info[0]["status"]["code"].as_u64().unwrap(), codes)
    };
    let all = [place(&full), place(&empty), unreachable.clone()];
    let stanza = Some(&full.stanza);
    assert_eq!(status(&gather(&all, stanza, None, None).await), (4, vec![0, 2, 99]));
    assert_eq!(status(&gather(&all[1..2], stanza, None, None).await), (2, vec![2]));
    assert_eq!(status(&gather(&all[2..], None, None, None).await), (99, vec![99]));
    let other = "other".parse().unwrap();
    assert_eq!(status(&gather(&all[..2], Some(&other), None, None).await), (1, vec![1, 1]));
    let absent = Some("20200101-000000F".parse().unwrap());
    assert_eq!(status(&gather(&all[..1], stanza, absent, None).await), (6, vec![6]));
    full.delete(&layout::cluster(&full.stanza, full.cluster.number)).await;
    assert_eq!(status(&gather(&all[..1], stanza, None, None).await), (3, vec![3]));
    let text = to_text(&gather(&all[1..], stanza, None, None).await);
    assert!(
        text.starts_with("stanza: main\n    status: mixed\n        repo2: error (no valid backups)\n"),
        "{text}"
    );
    assert!(text.contains("repo3: [049] nobody answers"), "{text}");
}

#[tokio::test]
async fn clusters_that_differ_between_repositories_are_a_mismatch() {
    let first = Site::with_two_backups(Seal::Plain).await;
    let second = Site::at(Arc::new(MemoryStorage::new()), Seal::Encrypted, 2).await;
    second.push((1..=4).map(segment)).await;
    backup(&second, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    let set = [place(&first), place(&second)];
    let info = to_json(&gather(&set, None, None, None).await);
    assert_eq!((info[0]["status"]["code"].clone(), info[0]["cipher"].clone()), (json!(0), json!("mixed")));
    let shown: Vec<(Value, Value)> = info[0]["backup"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backup| (backup["timestamp"]["stop"].clone(), backup["database"]["repo-key"].clone()))
        .collect();
    let (early, late) = (json!(1_795_000_060), json!(1_795_000_560));
    assert_eq!(
        shown,
        [(early.clone(), json!(1)), (early, json!(2)), (late, json!(1))],
        "one entry per repository"
    );
    let mut upgraded = second.cluster.clone();
    upgraded.number = pgconvoy_core::ids::ClusterNumber(2);
    upgraded.version = pgconvoy_core::pg::PgVersion::V16;
    second.repository.create_cluster(&second.stanza, &upgraded).await.unwrap();
    let report = gather(&set, None, None, None).await;
    let info = to_json(&report);
    assert_eq!(info[0]["status"]["code"], 5);
    assert_eq!(
        info[0]["archive"][2],
        json!({
            "id": "16-2", "min": null, "max": null, "database": { "id": 2, "repo-key": 2 },
        })
    );
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_does_not_hide_the_others() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let name = layout::catalogue_entry(&site.stanza, site.labels().await[0]);
    let mut hurt = site.read(&name).await;
    hurt[70] ^= 1;
    site.overwrite(&name, hurt).await;
    let info = to_json(&gather(&[place(&site)], None, None, None).await);
    assert_eq!(info[0]["status"]["code"], 99);
    assert!(info[0]["repo"][0]["status"]["message"].as_str().unwrap().contains(&name), "{info}");
    assert_eq!(info[0]["backup"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_text_is_laid_out_like_pgbackrests() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let full = site.labels().await[0];
    let made = incremental(&site, full, Flaw::None).await;
    let tenths = (site.record(full).await.sizes.stored * 10 + 512) / 1024;
    let text = to_text(&gather(&[place(&site)], None, None, Some(BackupKind::Incr)).await);
    let expected = format!(
        "stanza: main
    status: ok
    cipher: none

    db (current)
        wal archive min/max (15): {min}/{max}

        incr backup: {incr}
            timestamp start/stop: 2026-11-18 11:06:40+00 / 2026-11-18 11:07:40+00
            wal start/stop: {wal} / {wal}
            database size: 225.0KB, database backup size: 225.0KB
            repo1: backup set size: {size}, backup size: {size}
            backup reference list: {full}
",
        min = segment(1),
        max = segment(9),
        wal = segment(8),
        incr = made.label,
        size = format_args!("{}.{}KB", tenths / 10, tenths % 10),
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn a_promotion_is_followed_by_its_history_file() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let on_timeline_2 = |number: u64| {
        format!("{:08X}{}", 2, &segment(number).to_string()[8..]).parse::<WalFileName>().unwrap()
    };
    site.push_file(&WalFileName::History(TimelineId(2)), b"1\t0/A00100\tpromoted\n".to_vec()).await;
    for number in 10..=12 {
        site.push_file(&on_timeline_2(number), vec![0; 1 << 20]).await;
    }
    let info = to_json(&gather(&[place(&site)], None, None, None).await);
    let first = site.record(site.labels().await[0]).await;
    assert_eq!(
        info[0]["pitr"][1],
        json!({ "timeline": 2, "from": "0/300100", "to": "0/D00000", "from-time": first.stopped.to_string(), "to-time": null, "repo-key": 1 })
    );
    let report = site.verify().await;
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.pitr.len(), 2);
}
