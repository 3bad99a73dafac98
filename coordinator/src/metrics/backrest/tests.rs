#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use pgconvoy_core::format::catalogue::{BackupSizes, ManifestReference, PageCounts};
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::ids::{ClusterNumber, Identity, RepoKey, SystemId};
use pgconvoy_core::pg::{PgVersion, TimelineId};
use pgconvoy_repository::info::{ArchiveInfo, BackupInfo, Status, StatusCode};
use std::collections::{BTreeMap, BTreeSet};

fn backup(label: &str, kind: BackupKind, stopped: i64, errors: u64) -> BackupInfo {
    let record = BackupRecord {
        label: label.parse().unwrap(),
        backup: Identity::default(),
        kind,
        prior: None,
        references: Vec::new(),
        cluster: ClusterNumber(1),
        system_id: SystemId(7),
        version: PgVersion::V15,
        online: true,
        started: Timestamp::from_seconds(stopped - 30),
        stopped: Timestamp::from_seconds(stopped),
        timeline: TimelineId(1),
        lsn_start: Some("0/2000028".parse().unwrap()),
        lsn_stop: None,
        wal_start: Some("000000010000000000000002".parse().unwrap()),
        wal_stop: None,
        sizes: BackupSizes { database: 400, changed: 300, stored: 200, stored_set: 250 },
        pages: PageCounts { checked: 9, errors },
        manifest: ManifestReference { size: 1, sha1: [0; 20] },
        annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        repositories: Vec::new(),
        writer: Writer { host: "here".into(), boot: "1".into(), process: 1 },
        program: "0.1.0".to_owned(),
    };
    BackupInfo { record, details: None }
}

fn info(backups: Vec<BackupInfo>) -> InfoReport {
    let archive = ArchiveInfo {
        id: ArchiveId { version: PgVersion::V15, number: ClusterNumber(1) },
        cluster: ClusterNumber(1),
        ends: Some((
            "000000010000000000000001".parse().unwrap(),
            "000000010000000000000005".parse().unwrap(),
        )),
    };
    let repository = RepositoryInfo {
        key: RepoKey(2),
        cipher: None,
        status: Status::of(StatusCode::Ok),
        clusters: Vec::new(),
        archives: vec![archive],
        backups,
        pitr: Vec::new(),
    };
    let stanza = |name: &str, repositories| StanzaInfo {
        name: name.to_owned(),
        repositories,
        is_backup_running: true,
    };
    InfoReport { stanzas: vec![stanza("main", vec![repository]), stanza("not-read-yet", Vec::new())] }
}

fn told(backups: Vec<BackupInfo>) -> String {
    let mut page = Page::default();
    of_info(&mut page, &info(backups), &[], Timestamp::from_seconds(10_000));
    page.text()
}

/// The value of the one sample that begins so.
fn value<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(begin))?.rsplit(' ').next()
}

#[test]
fn each_backup_has_the_exporters_names_and_labels() {
    let text = told(vec![backup("20261122-103000F", BackupKind::Full, 9_000, 2)]);
    let labels = "{backup_name=\"20261122-103000F\",backup_type=\"full\",block_incr=\"n\",database_id=\"1\",repo_key=\"2\",stanza=\"main\"";
    for (name, expected) in [
        ("pgbackrest_backup_size_bytes", "400"),
        ("pgbackrest_backup_delta_bytes", "300"),
        ("pgbackrest_backup_repo_size_bytes", "250"),
        ("pgbackrest_backup_repo_delta_bytes", "200"),
        ("pgbackrest_backup_error_status", "1"),
        ("pgbackrest_backup_annotations", "1"),
        ("pgbackrest_backup_duration_seconds", "30"),
    ] {
        assert_eq!(value(&text, &format!("{name}{labels}")), Some(expected), "{name}\n{text}");
    }
    for line in [
        "pgbackrest_backup_info{backrest_ver=\"0.1.0\",backup_name=\"20261122-103000F\",backup_type=\"full\",block_incr=\"n\",\
         database_id=\"1\",lsn_start=\"0/2000028\",lsn_stop=\"\",pg_version=\"15\",prior=\"\",repo_key=\"2\",stanza=\"main\",\
         wal_start=\"000000010000000000000002\",wal_stop=\"\"} 1",
        "pgbackrest_stanza_status{stanza=\"main\"} 0",
        "pgbackrest_stanza_lock_status{stanza=\"main\"} 1",
        "pgbackrest_repo_status{cipher=\"unknown\",repo_key=\"2\",stanza=\"main\"} 0",
        "pgbackrest_wal_archive_status{database_id=\"1\",pg_version=\"unknown\",repo_key=\"2\",stanza=\"main\",wal_max=\"\",wal_min=\"\"} 1",
    ] {
        assert!(text.lines().any(|told| told == line), "{line}\nis not in\n{text}");
    }
    assert!(!text.contains("not-read-yet"), "a stanza that nobody has looked for has no status");
}

#[test]
fn a_full_backup_counts_as_the_last_of_every_kind() {
    let since = |text: &str, kind: &str| {
        let name = "pgbackrest_backup_since_last_completion_seconds";
        value(text, &format!("{name}{{backup_type=\"{kind}\"")).map(str::to_owned)
    };
    let full = || backup("20261122-103000F", BackupKind::Full, 9_000, 0);
    let all = |text: &str| ["full", "diff", "incr"].map(|kind| since(text, kind).unwrap_or_default());
    assert_eq!(all(&told(vec![full()])), ["1000", "1000", "1000"]);
    let incremental = backup("20261122-103000F_20261122-120000I", BackupKind::Incr, 9_900, 0);
    assert_eq!(all(&told(vec![full(), incremental.clone()])), ["1000", "1000", "100"]);
    assert_eq!(all(&told(vec![incremental])), ["", "", ""], "as the exporter: nothing without a full one");
}

#[test]
fn no_sample_is_told_twice() {
    let twice = backup("20261122-103000F", BackupKind::Full, 9_000, 0);
    let text = told(vec![twice.clone(), twice]);
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let different: BTreeSet<&str> = samples.iter().copied().collect();
    assert_eq!(samples.len(), different.len());
}
