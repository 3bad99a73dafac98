//! What there is: stanzas, their backups and WAL in each repository, as pgBackRest's `info` tells it.
//!
//! [`gather`] reads, [`to_json`] and [`to_text`] render what it read and do nothing else. It needs the repositories only,
//! never a coordinator or a database: whether a backup runs is added by who knows ([`StanzaInfo::is_backup_running`]).
//!
//! Invariants
//! 1. What cannot be read makes its repository's status `other`; what can be read is still told.
//! 2. A WAL archive is read by name, a page of names at a time: memory is proportional to its gaps.
//! 3. A label in two repositories is two entries, told apart by `database.repo-key`.

mod details;
mod json;
mod read;
mod status;
mod text;

pub use details::BackupDetails;
pub use json::to_json;
pub use status::{Status, StatusCode};
pub use text::to_text;

use crate::coverage::PitrRange;
use crate::open::Repository;
use futures::future::join_all;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::format::{BackupKind, BackupLabel, Cipher};
use pgconvoy_core::ids::{ClusterNumber, RepoKey, StanzaName};
use pgconvoy_core::pg::WalSegmentName;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What stands for the stanzas of repositories that cannot tell any; pgBackRest's word.
const UNKNOWN_STANZA: &str = "[invalid]";

/// A configured repository, opened or not.
pub type Place = (RepoKey, Result<Arc<Repository>, Failure>);

#[derive(Debug, Clone)]
pub struct InfoReport {
    pub stanzas: Vec<StanzaInfo>,
}

#[derive(Debug, Clone)]
pub struct StanzaInfo {
    pub name: String,
    /// In order of key.
    pub repositories: Vec<RepositoryInfo>,
    /// Left false by [`gather`]: repositories do not know what runs.
    pub is_backup_running: bool,
}

/// A stanza in one repository.
#[derive(Debug, Clone)]
pub struct RepositoryInfo {
    pub key: RepoKey,
    /// `None` if it could not be opened.
    pub cipher: Option<Cipher>,
    pub status: Status,
    /// Oldest first; the last one is the current.
    pub clusters: Vec<ClusterBody>,
    pub archives: Vec<ArchiveInfo>,
    /// Those that were asked for, oldest first.
    pub backups: Vec<BackupInfo>,
    pub pitr: Vec<PitrRange>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveInfo {
    pub id: ArchiveId,
    pub cluster: ClusterNumber,
    /// The oldest and the newest segment, if there is any.
    pub ends: Option<(WalSegmentName, WalSegmentName)>,
}

#[derive(Debug, Clone)]
pub struct BackupInfo {
    pub record: BackupRecord,
    /// Read from the manifest, where one backup was asked for.
    pub details: Option<BackupDetails>,
}

/// Which backups are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection {
    pub label: Option<BackupLabel>,
    pub kind: Option<BackupKind>,
}

impl Selection {
    fn has(&self, record: &BackupRecord) -> bool {
        self.label.is_none_or(|label| label == record.label)
            && self.kind.is_none_or(|kind| kind == record.kind)
    }
}

/// Asks every repository. `stanza` `None` means all that any of them has.
pub async fn gather(
    set: &[Place],
    stanza: Option<&StanzaName>,
    label: Option<BackupLabel>,
    kind: Option<BackupKind>,
) -> InfoReport {
    let selection = Selection { label, kind };
    let mut failures = Vec::new();
    let names = match stanza {
        Some(stanza) => BTreeSet::from([stanza.clone()]),
        None => stanza_names(set, &mut failures).await,
    };
    let mut stanzas = Vec::new();
    for name in &names {
        let repositories = join_all(set.iter().map(|place| read::repository(place, name, selection))).await;
        stanzas.push(StanzaInfo { name: name.to_string(), repositories, is_backup_running: false });
    }
    if stanzas.is_empty() && !failures.is_empty() {
        let repositories =
            failures.into_iter().map(|(key, failure)| RepositoryInfo::failed(key, &failure)).collect();
        stanzas.push(StanzaInfo { name: UNKNOWN_STANZA.to_owned(), repositories, is_backup_running: false });
    }
    InfoReport { stanzas }
}

async fn stanza_names(set: &[Place], failures: &mut Vec<(RepoKey, Failure)>) -> BTreeSet<StanzaName> {
    let mut names = BTreeSet::new();
    for (key, place) in set {
        let listed = match place {
            Ok(repository) => repository.stanzas().await.map_err(Failure::from),
            Err(failure) => Err(failure.clone()),
        };
        match listed {
            Ok(listed) => names.extend(listed),
            Err(failure) => failures.push((*key, failure)),
        }
    }
    names
}

impl RepositoryInfo {
    fn empty(key: RepoKey, cipher: Option<Cipher>, status: Status) -> Self {
        RepositoryInfo {
            key,
            cipher,
            status,
            clusters: Vec::new(),
            archives: Vec::new(),
            backups: Vec::new(),
            pitr: Vec::new(),
        }
    }

    fn failed(key: RepoKey, failure: &Failure) -> Self {
        Self::empty(key, None, Status::other(failure))
    }

    fn current(&self) -> Option<&ClusterBody> {
        self.clusters.last()
    }
}

impl StanzaInfo {
    /// The stanza's status, from those of its repositories.
    pub fn status(&self) -> Status {
        let mut statuses = self.repositories.iter().map(|repository| &repository.status);
        let Some(first) = statuses.next() else { return Status::of(StatusCode::MissingStanzaPath) };
        if statuses.any(|status| status.code != first.code) {
            return Status::of(StatusCode::Mixed);
        }
        if first.code == StatusCode::Ok && self.clusters_differ() {
            return Status::of(StatusCode::DatabaseMismatch);
        }
        first.clone()
    }

    fn clusters_differ(&self) -> bool {
        let mut current = self.repositories.iter().filter_map(RepositoryInfo::current);
        let Some(first) = current.next() else { return false };
        current.any(|other| !other.is_same_cluster(first))
    }

    /// `none`, `aes-256-gcm` or `mixed`; repositories that could not be opened are not asked.
    pub fn cipher(&self) -> &'static str {
        let mut ciphers: Vec<&str> =
            self.repositories.iter().filter_map(|repository| repository.cipher).map(Cipher::name).collect();
        ciphers.dedup();
        match ciphers.as_slice() {
            [] => Cipher::None.name(),
            [only] => only,
            _ => "mixed",
        }
    }

    /// Backups of all repositories in order of their end, which is the order that monitors rely on.
    pub fn backups(&self) -> Vec<(RepoKey, &BackupInfo)> {
        let of = |repository: &RepositoryInfo| repository.key;
        let mut backups: Vec<_> = self
            .repositories
            .iter()
            .flat_map(|repository| repository.backups.iter().map(move |backup| (of(repository), backup)))
            .collect();
        backups.sort_by_key(|(key, backup)| (backup.record.stopped, backup.record.label, *key));
        backups
    }
}
