//! What verify found, and how it is shown.

use super::together::{self, Conclusion};
use crate::coverage::{PitrRange, WalRange};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::plan::restorable::Seen;
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
    /// What a restore that may ask other repositories too finds of it here.
    pub(super) seen: Seen,
}

impl BackupVerification {
    pub(super) fn new(label: BackupLabel, status: BackupStatus, errors: Vec<Finding>) -> Self {
        let recoverable = status == BackupStatus::Valid;
        BackupVerification { label, status, recoverable, errors, seen: Seen::Without }
    }

    /// Once its WAL was looked at. Without what all else in the repository rests on, a restore might not even open it.
    pub(super) fn conclude(&mut self, is_founded: bool) {
        if let Seen::Published(holding) = &mut self.seen {
            holding.is_whole = self.recoverable;
            if !is_founded {
                holding.is_not_to_be_relied_on();
            }
        }
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
    /// Whether anything could be read at all.
    pub(super) is_read: bool,
}

impl RepoVerification {
    pub(super) fn new(key: RepoKey) -> Self {
        RepoVerification {
            key,
            is_read: true,
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
        RepoVerification { errors: vec![finding], is_read: false, ..Self::new(key) }
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
    /// Repositories that were asked for one backup and do not have it.
    pub without: Vec<RepoKey>,
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
            "backup": stanza.conclusions().iter().map(Conclusion::to_json).collect::<Vec<_>>(),
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
        together::text(stanza).iter().for_each(|told| line(&mut out, format_args!("  {told}")));
    }
    out
}

pub(super) fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value) -> &str {
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
