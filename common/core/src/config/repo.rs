//! `[repo.N]`: a place for backups, how it is encrypted and what is kept in it.

use super::backup::{self, Compression};
use super::choices::{CipherType, CreateOnlyBy, Layout, LockMode, RetentionArchiveType, RetentionFullType};
use super::sheet::Reader;
use super::store::RepoKind;
use crate::ids::RepoKey;
use crate::units::{ByteCount, Timestamp};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoConfig {
    pub key: RepoKey,
    pub kind: RepoKind,
    /// A directory (posix, sftp) or the prefix of all object names.
    pub path: String,
    pub layout: Layout,
    pub cipher: CipherType,
    pub key_source: KeySource,
    pub retention: Retention,
    /// Of what goes into it, where it has its own.
    pub compression: Option<Compression>,
    /// Bytes a second, to and from it.
    pub bandwidth_max: Option<ByteCount>,
    /// How the store is to guard what lasts.
    pub lock: Option<LockConfig>,
    /// What keeps one writer's object from being replaced by another's.
    pub create_only: CreateOnlyBy,
    /// Where processes of this host keep the locks that they share: `[paths] lock`.
    pub lock_path: String,
    /// It is looked at as it was then, and only looked at. No configuration says so, only a command line.
    pub as_of: Option<Timestamp>,
    /// A backup that misses a required repository is a failure.
    pub required: bool,
}

impl RepoConfig {
    pub(super) fn is_same_place(&self, other: &RepoConfig) -> bool {
        self.path == other.path && self.kind.address() == other.kind.address()
    }
}

/// What opens a repository. Never the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    None,
    KeyFile(String),
    PassphraseFile(String),
    /// Program and arguments.
    Command(Vec<String>),
}

/// Object Lock: nobody removes an object before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockConfig {
    pub mode: LockMode,
    /// From the moment when an object is written.
    pub period: Duration,
}

/// `None` keeps everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    pub full_type: RetentionFullType,
    /// Backups or days, as `full_type` says.
    pub full: Option<u32>,
    pub diff: Option<u32>,
    pub archive_type: RetentionArchiveType,
    pub archive: Option<u32>,
    pub history_days: Option<u32>,
}

pub(super) fn read(key: RepoKey, repo: &mut Reader<'_>, kind: RepoKind) -> RepoConfig {
    let path = match kind {
        RepoKind::Posix | RepoKind::Sftp(_) => repo.get_required("path"),
        _ => repo.get("path").unwrap_or_else(|| "/".to_owned()),
    };
    let key_source = key_source(repo);
    let cipher = repo.get("cipher").unwrap_or(match key_source {
        KeySource::None => CipherType::None,
        _ => CipherType::Aes256Gcm,
    });
    let lock = lock(&kind, repo);
    let compression = repo.get("compress-type").map(|kind| backup::compression(kind, repo));
    let config = RepoConfig {
        key,
        kind,
        path,
        layout: repo.get_default("layout"),
        cipher,
        key_source,
        retention: Retention {
            full_type: repo.get_default("retention-full-type"),
            full: repo.get("retention-full"),
            diff: repo.get("retention-diff"),
            archive_type: repo.get_default("retention-archive-type"),
            archive: repo.get("retention-archive"),
            history_days: repo.get("retention-history"),
        },
        compression,
        bandwidth_max: repo.get("bandwidth-max"),
        lock,
        create_only: repo.get_default("create-only"),
        // Known once all tables are read.
        lock_path: String::new(),
        as_of: None,
        required: repo.get_default("required"),
    };
    check(&config, repo);
    config
}

const KEY_SOURCES: [&str; 3] = ["key-file", "passphrase-file", "key-command"];

fn key_source(repo: &mut Reader<'_>) -> KeySource {
    let named: Vec<&str> = KEY_SOURCES.into_iter().filter(|name| repo.is_set(name)).collect();
    if let [_, second, ..] = named[..] {
        repo.complain(
            second,
            format!("{} contradict each other", named.join(" and ")),
            "keep the one that opens the repository",
        );
    }
    if let Some(path) = repo.get("key-file") {
        KeySource::KeyFile(path)
    } else if let Some(path) = repo.get("passphrase-file") {
        KeySource::PassphraseFile(path)
    } else if let Some(command) = repo.get::<Vec<String>>("key-command") {
        KeySource::Command(command)
    } else {
        KeySource::None
    }
}

/// Both settings or none, and only where a store can lock.
fn lock(kind: &RepoKind, repo: &mut Reader<'_>) -> Option<LockConfig> {
    let (mode, period) = (repo.get("lock-mode"), repo.get("lock-period"));
    if let Some(name) = ["lock-mode", "lock-period"].into_iter().find(|name| repo.is_set(name))
        && matches!(kind, RepoKind::Posix | RepoKind::Sftp(_))
    {
        let reason = format!("{name} contradicts type = \"{}\"", kind.repo_type());
        repo.complain(name, reason, "only s3, azure and gcs can lock objects");
        return None;
    }
    for (name, other, hint) in [
        ("lock-mode", "lock-period", "say how long objects are locked, such as lock-period = \"30d\""),
        ("lock-period", "lock-mode", "add lock-mode = \"governance\" or \"compliance\""),
    ] {
        if repo.is_set(name) && !repo.is_set(other) {
            repo.complain(name, format!("{name} needs {other} beside it"), hint);
        }
    }
    Some(LockConfig { mode: mode?, period: period? })
}

fn check(config: &RepoConfig, repo: &mut Reader<'_>) {
    if config.layout == Layout::Plain && config.kind != RepoKind::Posix {
        let reason = format!("layout = \"plain\" contradicts type = \"{}\"", config.kind.repo_type());
        repo.complain("layout", reason, "only a posix repository can hold data directories");
    }
    if config.layout == Layout::Plain && config.cipher != CipherType::None {
        let reason = format!("layout = \"plain\" contradicts cipher = \"{}\"", config.cipher);
        repo.complain(
            "layout",
            reason,
            "a plain repository is not encrypted: remove the cipher and its key, or use layout = \"packed\"",
        );
    }
    if config.layout == Layout::Plain && config.create_only == CreateOnlyBy::Lock {
        repo.complain(
            "create-only",
            "create-only = \"lock\" contradicts layout = \"plain\"".to_owned(),
            "the files of a plain repository are linked, which no lock replaces: use layout = \"packed\"",
        );
    }
    if config.layout == Layout::Plain && config.compression.is_some() {
        let reason = "layout = \"plain\" contradicts compress-type".to_owned();
        repo.complain("compress-type", reason, "the files of a plain repository are stored as they are");
    }
    if config.compression.is_none() && repo.is_set("compress-level") && !repo.is_unreadable("compress-type") {
        let reason = "compress-level needs compress-type beside it".to_owned();
        repo.complain("compress-level", reason, "a level means something for one codec only");
    }
    let has_key = KEY_SOURCES.into_iter().any(|name| repo.is_set(name));
    if config.cipher == CipherType::None && has_key {
        repo.complain(
            "cipher",
            "cipher = \"none\" contradicts the key that is named".into(),
            "remove one of the two",
        );
    }
    if config.cipher != CipherType::None && !has_key {
        let hint =
            "add key-file, passphrase-file or key-command; pgconvoy repo-key create FILE makes a key file";
        repo.complain("cipher", format!("cipher = \"{}\" needs a key", config.cipher), hint);
    }
}
