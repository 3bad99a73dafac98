//! `[backup]`: policy that a stanza, the environment or the command line may override.

use super::choices::{BackupStandby, CompressType, Offload, PageErrors};
use super::problem::Origin;
use super::repo::RepoConfig;
use super::sheet::Reader;
use crate::units::ByteCount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What holds for one stanza and one command after all layers are laid over each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOptions {
    pub compression: Compression,
    /// Named for this call, not in the file: what a repository has of its own does not count then.
    pub compression_named: bool,
    /// Chosen by hand; see [`BackupOptions::slots`].
    pub process_max: Option<u32>,
    pub start_fast: bool,
    pub delta: bool,
    pub resume: bool,
    pub backup_standby: BackupStandby,
    pub archive_check: bool,
    pub archive_mode_check: bool,
    pub archive_header_check: bool,
    pub archive_copy: bool,
    /// `None`: as the cluster has them enabled.
    pub checksum_page: Option<bool>,
    pub page_errors: PageErrors,
    pub exclude: Vec<String>,
    pub expire_auto: bool,
    pub annotation: BTreeMap<String, String>,
    pub unit_size: ByteCount,
    pub file_sha1: bool,
    pub offload: Offload,
    pub session_orphan_timeout: Duration,
    pub archive_timeout: Duration,
    pub archive_async: bool,
    /// `None`: no limit.
    pub archive_push_queue_max: Option<ByteCount>,
    pub archive_get_queue_max: ByteCount,
    pub archive_stream: bool,
    pub archive_stream_retain_max: ByteCount,
    pub db_timeout: Duration,
    pub io_timeout: Duration,
}

/// A codec and a level that it has. The level of `none` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    pub kind: CompressType,
    pub level: i32,
}

impl BackupOptions {
    /// How what goes into a repository is compressed.
    pub fn compression_in(&self, repo: &RepoConfig) -> Compression {
        repo.compression.filter(|_| !self.compression_named).unwrap_or(self.compression)
    }

    /// How much is worked on at once on a host with that many cores. A database has better use for the other three quarters.
    pub fn slots(&self, cores: usize) -> usize {
        const QUARTER: usize = 4;
        match self.process_max {
            Some(chosen) => usize::try_from(chosen).unwrap_or(usize::MAX),
            None => (cores / QUARTER).max(1),
        }
    }
}

pub(super) fn read(options: &mut Reader<'_>) -> BackupOptions {
    BackupOptions {
        compression: compression(options.get_default("compress-type"), options),
        compression_named: ["compress-type", "compress-level"]
            .into_iter()
            .any(|name| is_named(options, name)),
        process_max: options.get("process-max"),
        start_fast: options.get_default("start-fast"),
        delta: options.get_default("delta"),
        resume: options.get_default("resume"),
        backup_standby: options.get_default("backup-standby"),
        archive_check: options.get_default("archive-check"),
        archive_mode_check: options.get_default("archive-mode-check"),
        archive_header_check: options.get_default("archive-header-check"),
        archive_copy: options.get_default("archive-copy"),
        checksum_page: options.get("checksum-page"),
        page_errors: options.get_default("page-errors"),
        exclude: options.get("exclude").unwrap_or_default(),
        expire_auto: options.get_default("expire-auto"),
        annotation: options.get("annotation").unwrap_or_default(),
        unit_size: options.get_default("unit-size"),
        file_sha1: options.get_default("file-sha1"),
        offload: options.get_default("offload"),
        session_orphan_timeout: options.get_default("session-orphan-timeout"),
        archive_timeout: options.get_default("archive-timeout"),
        archive_async: options.get_default("archive-async"),
        archive_push_queue_max: options.get("archive-push-queue-max"),
        archive_get_queue_max: options.get_default("archive-get-queue-max"),
        archive_stream: options.get_default("archive-stream"),
        archive_stream_retain_max: options.get_default("archive-stream-retain-max"),
        db_timeout: options.get_default("db-timeout"),
        io_timeout: options.get_default("io-timeout"),
    }
}

/// On the command line or in the environment.
fn is_named(options: &Reader<'_>, name: &str) -> bool {
    let origin = options.find(name).map(|found| &found.entry.origin);
    matches!(origin, Some(Origin::CommandLine(_) | Origin::Environment(_)))
}

/// A level means something for one codec only: where a stronger layer chooses another codec, the level of a weaker one
/// is not meant for it, and the codec's own default holds.
pub(super) fn compression(kind: CompressType, options: &mut Reader<'_>) -> Compression {
    let of_default = Compression { kind, level: kind.level_default() };
    let (Some(level), Some(level_at)) = (options.get("compress-level"), options.find("compress-level"))
    else {
        return of_default;
    };
    if options.find("compress-type").is_some_and(|kind_at| kind_at.layer < level_at.layer) {
        return of_default;
    }
    match kind.levels() {
        None => of_default,
        Some((low, high)) if (low..=high).contains(&level) => Compression { kind, level },
        Some((low, high)) => {
            let reason = format!("compress-level {level} is out of range for {kind}: {low} to {high}");
            options.complain(
                "compress-level",
                reason,
                format!("{kind} compresses well at {}", of_default.level),
            );
            of_default
        }
    }
}
