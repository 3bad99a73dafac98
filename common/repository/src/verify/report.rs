//! What verify found, and how it is shown.

use crate::coverage::{PitrRange, WalRange};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::RepoKey;
use serde_json::{Value, json};
use std::fmt::{self, Write};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub repository: RepoKey,
    /// Its whole key; a place where no single object is meant.
    pub object: String,
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repo{}: {}: {}", self.repository, self.object, self.reason)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupStatus {
    Valid,
    Invalid,
    /// Begun, and neither published nor given up.
    InProgress,
}

impl BackupStatus {
    pub const fn name(self) -> &'static str {
        match self {
            BackupStatus::Valid => "valid",
            BackupStatus::Invalid => "invalid",
            BackupStatus::InProgress => "in-progress",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupVerification {
    pub label: BackupLabel,
    pub status: BackupStatus,
    /// Valid, and all WAL from its start to its stop is there and good.
    pub recoverable: bool,
    pub errors: Vec<Finding>,
}

impl BackupVerification {
    pub(super) fn new(label: BackupLabel, status: BackupStatus, errors: Vec<Finding>) -> Self {
        BackupVerification { label, status, recoverable: status == BackupStatus::Valid, errors }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveVerification {
    pub id: String,
    /// Files that were read.
    pub files: usize,
    /// Good segments, without those that were not asked for.
    pub ranges: Vec<WalRange>,
    pub errors: Vec<Finding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoVerification {
    pub key: RepoKey,
    /// In order of label.
    pub backups: Vec<BackupVerification>,
    pub archives: Vec<ArchiveVerification>,
    pub pitr: Vec<PitrRange>,
    /// What belongs to no single backup or archive.
    pub errors: Vec<Finding>,
}

impl RepoVerification {
    pub(super) fn new(key: RepoKey) -> Self {
        RepoVerification {
            key,
            backups: Vec::new(),
            archives: Vec::new(),
            pitr: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// For a repository that could not be opened or read at all.
    pub fn failed(key: RepoKey, place: &str, failure: &Failure) -> Self {
        let finding = Finding {
            repository: key,
            object: place.to_owned(),
            reason: format!("[{}] {failure}", failure.code),
        };
        RepoVerification { errors: vec![finding], ..Self::new(key) }
    }

    pub fn is_ok(&self) -> bool {
        self.errors().next().is_none()
    }

    /// All of them.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        let of_backups = self.backups.iter().flat_map(|backup| &backup.errors);
        let of_archives = self.archives.iter().flat_map(|archive| &archive.errors);
        self.errors.iter().chain(of_backups).chain(of_archives)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaVerification {
    pub name: String,
    pub repositories: Vec<RepoVerification>,
}

impl StanzaVerification {
    pub fn is_ok(&self) -> bool {
        self.repositories.iter().all(RepoVerification::is_ok)
    }
}

const fn status(is_ok: bool) -> &'static str {
    if is_ok { "ok" } else { "error" }
}

pub fn to_json(stanzas: &[StanzaVerification]) -> Value {
    let stanza = |stanza: &StanzaVerification| {
        json!({
            "name": stanza.name,
            "status": status(stanza.is_ok()),
            "repo": stanza.repositories.iter().map(repository).collect::<Vec<_>>(),
        })
    };
    stanzas.iter().map(stanza).collect()
}

fn repository(repository: &RepoVerification) -> Value {
    let backup = |backup: &BackupVerification| {
        json!({
            "label": backup.label,
            "status": backup.status.name(),
            "recoverable": backup.recoverable,
            "errors": texts(&backup.errors),
        })
    };
    let range = |range: &WalRange| json!({ "start": range.first, "stop": range.last });
    let archive = |archive: &ArchiveVerification| {
        json!({
            "id": archive.id,
            "files": archive.files,
            "ranges": archive.ranges.iter().map(range).collect::<Vec<_>>(),
            "errors": texts(&archive.errors),
        })
    };
    json!({
        "key": repository.key,
        "status": status(repository.is_ok()),
        "backup": repository.backups.iter().map(backup).collect::<Vec<_>>(),
        "archive": repository.archives.iter().map(archive).collect::<Vec<_>>(),
        "pitr": repository.pitr.iter().map(PitrRange::to_json).collect::<Vec<_>>(),
        "errors": texts(&repository.errors),
    })
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

pub fn to_text(stanzas: &[StanzaVerification]) -> String {
    json_to_text(&to_json(stanzas))
}

/// A result for people, from where it was written as JSON.
pub fn json_to_text(stanzas: &Value) -> String {
    let mut out = String::new();
    for stanza in elements(stanzas) {
        line(&mut out, format_args!("stanza: {}", text(&stanza["name"])));
        line(&mut out, format_args!("status: {}", text(&stanza["status"])));
        elements(&stanza["repo"]).for_each(|repository| repository_text(&mut out, repository));
    }
    out
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn line(out: &mut String, text: fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes every line");
}

fn errors_text(out: &mut String, findings: &Value) {
    elements(findings).for_each(|finding| line(out, format_args!("      error: {}", text(finding))));
}

fn repository_text(out: &mut String, repository: &Value) {
    line(out, format_args!("  repo{}: {}", repository["key"], text(&repository["status"])));
    errors_text(out, &repository["errors"]);
    for backup in elements(&repository["backup"]) {
        let (label, status) = (text(&backup["label"]), text(&backup["status"]));
        let recoverable = match backup["recoverable"].as_bool() {
            _ if status == BackupStatus::InProgress.name() => "",
            Some(true) => ", recoverable",
            _ => ", not recoverable",
        };
        line(out, format_args!("    backup: {label}, status: {status}{recoverable}"));
        errors_text(out, &backup["errors"]);
    }
    for archive in elements(&repository["archive"]) {
        let (id, files) = (text(&archive["id"]), &archive["files"]);
        line(out, format_args!("    archive: {id}, WAL files checked: {files}"));
        for range in elements(&archive["ranges"]) {
            line(out, format_args!("      range: {} - {}", text(&range["start"]), text(&range["stop"])));
        }
        errors_text(out, &archive["errors"]);
    }
    for range in elements(&repository["pitr"]) {
        let (timeline, from, to) = (&range["timeline"], text(&range["from"]), text(&range["to"]));
        line(out, format_args!("    recoverable on timeline {timeline} from {from} to {to}"));
        if let (Some(since), Some(until)) = (range["from-time"].as_str(), range["to-time"].as_str()) {
            line(out, format_args!("      by time: after {since}, up to {until}"));
        }
    }
}
