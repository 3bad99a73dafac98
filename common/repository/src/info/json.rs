//! pgBackRest's JSON, key for key, and what we add to it.

use super::{BackupInfo, InfoReport, RepositoryInfo, StanzaInfo, Status, StatusCode};
use crate::coverage::PitrRange;
use pgconvoy_core::format::catalogue::{BackupRecord, RepositoryOutcome};
use pgconvoy_core::ids::RepoKey;
use serde_json::{Value, json};

/// The number of the repository format that backups are in.
const REPOSITORY_FORMAT: u16 = 1;

pub fn to_json(report: &InfoReport) -> Value {
    Value::Array(report.stanzas.iter().map(stanza).collect())
}

fn stanza(stanza: &StanzaInfo) -> Value {
    let all = |each: fn(&RepositoryInfo) -> Vec<Value>| -> Vec<Value> {
        stanza.repositories.iter().flat_map(each).collect()
    };
    let mut status = status(&stanza.status());
    status["lock"] = json!({
        "backup": { "held": stanza.is_backup_running },
        "restore": { "held": false },
    });
    json!({
        "name": stanza.name,
        "status": status,
        "cipher": stanza.cipher(),
        "repo": all(|repository| vec![repository_status(repository)]),
        "db": all(databases),
        "archive": all(archives),
        "backup": stanza.backups().into_iter().map(|(key, info)| backup(stanza, key, info)).collect::<Vec<_>>(),
        "pitr": all(pitr),
    })
}

fn status(status: &Status) -> Value {
    json!({ "code": status.code.number(), "message": status.message })
}

fn repository_status(repository: &RepositoryInfo) -> Value {
    let cipher = repository.cipher.map_or("unknown", |cipher| cipher.name());
    json!({ "key": repository.key, "cipher": cipher, "status": status(&repository.status) })
}

fn databases(repository: &RepositoryInfo) -> Vec<Value> {
    let database = |cluster: &pgconvoy_core::format::cluster::ClusterBody| {
        json!({
            "id": cluster.number,
            "system-id": cluster.system_id,
            "version": cluster.version.name(),
            "repo-key": repository.key,
        })
    };
    repository.clusters.iter().map(database).collect()
}

fn archives(repository: &RepositoryInfo) -> Vec<Value> {
    let archive = |archive: &super::ArchiveInfo| {
        json!({
            "id": archive.id.to_string(),
            "min": archive.ends.map(|(min, _)| min),
            "max": archive.ends.map(|(_, max)| max),
            "database": { "id": archive.cluster, "repo-key": repository.key },
        })
    };
    repository.archives.iter().map(archive).collect()
}

fn pitr(repository: &RepositoryInfo) -> Vec<Value> {
    let of_repository = |range: &PitrRange| {
        let mut range = range.to_json();
        range["repo-key"] = json!(repository.key);
        range
    };
    repository.pitr.iter().map(of_repository).collect()
}

/// What became of the backup in a repository that it was for: what is there now, where that is known.
fn state_in(stanza: &StanzaInfo, record: &BackupRecord, outcome: &RepositoryOutcome) -> &'static str {
    let has_it = |repository: &RepositoryInfo| {
        repository.backups.iter().any(|other| other.record.backup == record.backup)
    };
    match stanza.repositories.iter().find(|repository| repository.key == outcome.key) {
        Some(repository) if has_it(repository) => "ok",
        Some(repository) if repository.status.code != StatusCode::Other => "missing",
        _ if outcome.expected => "unknown",
        _ => "missing",
    }
}

fn backup(stanza: &StanzaInfo, key: RepoKey, info: &BackupInfo) -> Value {
    let record = &info.record;
    let repositories: Vec<Value> = record
        .repositories
        .iter()
        .map(|outcome| json!({ "key": outcome.key, "status": state_in(stanza, record, outcome) }))
        .collect();
    let mut value = json!({
        "label": record.label,
        "type": record.kind.name(),
        "prior": record.prior,
        "reference": (!record.references.is_empty()).then_some(&record.references),
        "annotation": record.annotations,
        "archive": { "start": record.wal_start, "stop": record.wal_stop },
        "lsn": {
            "start": record.lsn_start.map(|lsn| lsn.to_string()),
            "stop": record.lsn_stop.map(|lsn| lsn.to_string()),
        },
        "backrest": { "format": REPOSITORY_FORMAT, "version": record.program },
        "database": { "id": record.cluster, "repo-key": key },
        "error": record.pages.errors > 0,
        "info": {
            "size": record.sizes.database,
            "delta": record.sizes.changed,
            "repository": { "size": record.sizes.stored_set, "delta": record.sizes.stored },
        },
        "timestamp": { "start": record.started.seconds(), "stop": record.stopped.seconds() },
        "uuid": record.backup.to_string(),
        "repo-status": repositories,
        "pages": { "checked": record.pages.checked, "errors": record.pages.errors },
    });
    if let (Some(details), Some(object)) = (&info.details, value.as_object_mut()) {
        object.extend(details_of(details));
    }
    value
}

/// As pgBackRest, an absent list is null.
fn details_of(details: &super::BackupDetails) -> Vec<(String, Value)> {
    let list = |values: Vec<Value>| if values.is_empty() { Value::Null } else { Value::Array(values) };
    let databases =
        details.databases.iter().map(|database| json!({ "name": database.name, "oid": database.oid }));
    let links =
        details.links.iter().map(|(name, destination)| json!({ "name": name, "destination": destination }));
    let tablespaces = details.tablespaces.iter().map(|tablespace| {
        json!({ "name": tablespace.name, "oid": tablespace.oid, "destination": tablespace.destination })
    });
    let mut values = vec![
        ("database-ref".to_owned(), list(databases.collect())),
        ("link".to_owned(), list(links.collect())),
        ("tablespace".to_owned(), list(tablespaces.collect())),
    ];
    if !details.files_with_errors.is_empty() {
        let files: Vec<&String> = details.files_with_errors.iter().map(|(file, _)| file).collect();
        values.push(("error-list".to_owned(), json!(files)));
        let pages =
            details.files_with_errors.iter().map(|(file, pages)| json!({ "file": file, "block": pages }));
        values.push(("error-pages".to_owned(), pages.collect()));
    }
    values
}
