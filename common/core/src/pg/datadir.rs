//! Which files of a data directory belong in a backup, and what each is.
//!
//! Not here: walking the directory, links, special files, and comparing tablespaces with `pg_tablespace`
//! (`common/postgres`); how a file of a class is read ([`FileClass`]).
//!
//! Invariants
//! 1. A file is left out only for a reason that has a name ([`LeftOut`]); whatever is unknown is backed up.
//! 2. What a cluster cannot start without cannot be excluded.
//! 3. Answers depend on the path alone, never on the order of questions. The one exception needs a whole directory's names:
//!    [`unlogged_main_forks`].
//!
//! Source: PostgreSQL's `backup/basebackup.c` and pgBackRest's manifest build, which agree but for what is said here.

use crate::failure::{Classify, ErrorCode};
use crate::pg::path::is_inside;
use crate::pg::relation::{canonical_number, database_of_directory, is_temporary_relation};
use crate::pg::version::tablespace_directory;
use crate::pg::{FileClass, Fork, PgVersion, RelationFileName, RelativePath};
use std::collections::BTreeSet;
use std::fmt;

/// What to do with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryDecision {
    Descend,
    /// The directory is in the backup, its contents are not.
    KeepEmpty,
    Skip,
}

/// Why a file or directory is not in the backup. The text continues "left out: ".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOut {
    Excluded,
    Temporary,
    Rebuilt,
    ReplicationSlot,
    ArchivedWal,
    ServerState,
    BackupState,
    NotInTablespace,
    Unlogged,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeftOut::Excluded => "excluded by the configuration",
            LeftOut::Temporary => "temporary",
            LeftOut::Rebuilt => "rebuilt by the server when it starts",
            LeftOut::ReplicationSlot => "replication slots are not valid in a restored cluster",
            LeftOut::ArchivedWal => "WAL comes from the archive",
            LeftOut::ServerState => "state of the running server",
            LeftOut::BackupState => "left by another backup or restore",
            LeftOut::NotInTablespace => "not part of this cluster's tablespace",
            LeftOut::Unlogged => "unlogged, reset from its init fork",
        })
    }
}

/// An exclude that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExcludeError {
    #[error("exclude '{text}' is not a path in the data directory: {reason}")]
    Path { text: String, reason: &'static str },
    #[error("exclude '{text}' would leave out {essential}, without which no cluster starts")]
    Essential { text: String, essential: String },
    #[error("exclude '{text}' would leave out a directory without which no cluster starts")]
    Directory { text: String },
    #[error("exclude '{text}' would leave out WAL that a stopped cluster needs to start")]
    OfflineWal { text: String },
}

impl Classify for ExcludeError {
    fn code(&self) -> ErrorCode {
        ErrorCode::OptionInvalidValue
    }

    fn hints(&self) -> Vec<String> {
        if let ExcludeError::Directory { text } = self {
            return vec![format!("exclude '{text}/' keeps the directory and leaves out what is in it")];
        }
        vec!["give paths relative to the data directory, such as 'log/' for what is in it or 'junk' for all of it".to_owned()]
    }
}

/// Directories whose contents the server makes anew.
const REBUILT: [&str; 6] =
    ["pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Directories that a server must find, whatever is in them. Those in [`REBUILT`] are of them too, and the one of WAL.
const EXPECTED: [&str; 6] =
    [REPLICATION_SLOTS, "pg_commit_ts", "pg_logical", "pg_stat", "pg_tblspc", "pg_twophase"];
const REPLICATION_SLOTS: &str = "pg_replslot";
/// Files directly in the data directory that some backup or restore left there; the new backup has its own.
const BACKUP_STATE: [&str; 6] = [
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "backup_manifest.tmp",
];
/// Files that are about to be renamed over the file of the same name without `.tmp`.
const BEING_REPLACED: [&str; 3] =
    ["postgresql.auto.conf.tmp", "current_logfiles.tmp", "pg_logical/replorigin_checkpoint.tmp"];

/// The rules for one backup of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    version: PgVersion,
    /// `PG_15_202209061`.
    tablespace_directory: String,
    online: bool,
    excludes: BTreeSet<String>,
    /// Given with a trailing `/`, kept without.
    excluded_contents: BTreeSet<String>,
}

impl Rules {
    /// `excludes` are relative to the data directory; with a trailing `/` the directory is kept and its contents are not.
    pub fn new(
        version: PgVersion,
        catalog_version: u32,
        online: bool,
        excludes: &[String],
    ) -> Result<Self, ExcludeError> {
        let mut rules = Rules {
            version,
            tablespace_directory: tablespace_directory(version, catalog_version),
            online,
            excludes: BTreeSet::new(),
            excluded_contents: BTreeSet::new(),
        };
        for text in excludes {
            let path = text.strip_suffix('/').unwrap_or(text);
            RelativePath::new(path)
                .map_err(|error| ExcludeError::Path { text: text.clone(), reason: error.reason })?;
            rules.refuse_essential(text, path)?;
            let set = if path == text { &mut rules.excludes } else { &mut rules.excluded_contents };
            set.insert(path.to_owned());
        }
        Ok(rules)
    }

    fn refuse_essential(&self, text: &str, path: &str) -> Result<(), ExcludeError> {
        let essentials = [
            "PG_VERSION",
            "base",
            "global/pg_control",
            "global/pg_filenode.map",
            self.version.xact_directory(),
            "pg_multixact",
        ];
        let wal = self.version.wal_directory();
        if !self.online && (path == wal || is_inside(path, wal)) {
            return Err(ExcludeError::OfflineWal { text: text.to_owned() });
        }
        if path == text && (path == wal || EXPECTED.contains(&path) || REBUILT.contains(&path)) {
            return Err(ExcludeError::Directory { text: text.to_owned() });
        }
        match essentials.iter().find(|essential| **essential == path || is_inside(essential, path)) {
            None => Ok(()),
            Some(essential) => {
                Err(ExcludeError::Essential { text: text.to_owned(), essential: (*essential).to_owned() })
            }
        }
    }

    /// Excludes that take data away: a copy starts without them, and misses them.
    pub fn lossy_excludes(&self) -> impl Iterator<Item = &str> {
        let holds_data = |path: &&str| {
            ["base", "global", "pg_tblspc", "pg_twophase"]
                .iter()
                .any(|top| is_inside(path, top) || path == top)
        };
        self.excludes().filter(holds_data)
    }

    /// All paths that are excluded, or whose contents are.
    pub fn excludes(&self) -> impl Iterator<Item = &str> {
        self.excludes.iter().chain(&self.excluded_contents).map(String::as_str)
    }

    /// What to do with the directory at this path; the data directory itself is "".
    pub fn directory(&self, rel: &str) -> DirectoryDecision {
        self.judge_directory(rel).map_or(DirectoryDecision::Descend, |(decision, _)| decision)
    }

    /// What kind of file this is; none if it is left out, for the reason that [`Rules::classify`] gives.
    pub fn file(&self, rel: &str) -> Option<FileClass> {
        self.classify(rel).ok()
    }

    /// What kind of file this is, or why it is left out. Looks at every directory on the way as well.
    pub fn classify(&self, rel: &str) -> Result<FileClass, LeftOut> {
        let separators = rel.match_indices('/').map(|(at, _)| at);
        for directory in separators.map(|at| &rel[..at]) {
            if let Some((_, reason)) = self.judge_directory(directory) {
                return Err(reason);
            }
        }
        let (directory, name) = rel.rsplit_once('/').unwrap_or(("", rel));
        if self.excludes.contains(rel) {
            return Err(LeftOut::Excluded);
        }
        if name.starts_with("pgsql_tmp") || BEING_REPLACED.contains(&rel) {
            return Err(LeftOut::Temporary);
        }
        if database_of_directory(directory).is_some() {
            return classify_in_database(directory, name);
        }
        self.classify_elsewhere(directory, name)
    }

    /// Whether relations lie directly in this directory, so that its names go to [`unlogged_main_forks`].
    pub fn holds_relations(&self, rel: &str) -> bool {
        database_of_directory(rel).is_some() && self.judge_directory(rel).is_none()
    }

    /// None: descend.
    fn judge_directory(&self, rel: &str) -> Option<(DirectoryDecision, LeftOut)> {
        use DirectoryDecision::{KeepEmpty, Skip};
        let (parent, name) = rel.rsplit_once('/').unwrap_or(("", rel));
        let wal = self.version.wal_directory();
        if self.excludes.contains(rel) {
            Some((Skip, LeftOut::Excluded))
        } else if self.excluded_contents.contains(rel) {
            Some((KeepEmpty, LeftOut::Excluded))
        } else if name.starts_with("pgsql_tmp") {
            Some((Skip, LeftOut::Temporary))
        } else if REBUILT.contains(&rel) {
            Some((KeepEmpty, LeftOut::Rebuilt))
        } else if rel == REPLICATION_SLOTS {
            Some((KeepEmpty, LeftOut::ReplicationSlot))
        } else if self.online && parent == wal {
            // PostgreSQL wants its own two back; a lost+found or an admin's folder is nobody's WAL.
            let own = matches!(name, "archive_status" | "summaries");
            Some((if own { KeepEmpty } else { Skip }, LeftOut::ArchivedWal))
        } else if self.is_beside_the_tablespaces(parent, name) {
            Some((Skip, LeftOut::NotInTablespace))
        } else {
            None
        }
    }

    /// A directory in `pg_tblspc` that is no tablespace, or one in a tablespace that another version owns.
    fn is_beside_the_tablespaces(&self, parent: &str, name: &str) -> bool {
        parent == "pg_tblspc" && canonical_number(name).is_none()
            || is_tablespace_root(parent) && name != self.tablespace_directory
    }

    fn classify_elsewhere(&self, directory: &str, name: &str) -> Result<FileClass, LeftOut> {
        let top = directory.split('/').next().unwrap_or_default();
        match top {
            "" => self.classify_at_the_top(name),
            "log" | "pg_log" => Ok(FileClass::ServerLog),
            "pg_commit_ts" => Ok(FileClass::CommitTimestamps),
            "pg_multixact" => Ok(FileClass::Slru),
            "pg_stat" => Ok(FileClass::Stats),
            "pg_twophase" => Ok(FileClass::TwoPhase),
            "pg_tblspc" if directory == top || is_tablespace_root(directory) => Err(LeftOut::NotInTablespace),
            _ if top == self.version.xact_directory() => Ok(FileClass::Slru),
            _ if top == self.version.wal_directory() && self.online => Err(LeftOut::ArchivedWal),
            _ if top == self.version.wal_directory() => Ok(FileClass::Wal),
            _ if matches!(directory, "pg_logical/snapshots" | "pg_logical/mappings") => {
                Ok(FileClass::LogicalDecoding)
            }
            _ => Ok(FileClass::Other),
        }
    }

    fn classify_at_the_top(&self, name: &str) -> Result<FileClass, LeftOut> {
        let recovery_files = if self.version.uses_recovery_conf() {
            ["recovery.conf", "recovery.done"]
        } else {
            ["recovery.signal", "standby.signal"]
        };
        match name {
            "PG_VERSION" => Ok(FileClass::Version),
            "postmaster.pid" | "postmaster.opts" => Err(LeftOut::ServerState),
            "current_logfiles" => Ok(FileClass::ServerLog),
            _ if recovery_files.contains(&name) || BACKUP_STATE.contains(&name) => Err(LeftOut::BackupState),
            _ => Ok(FileClass::Other),
        }
    }
}

/// `pg_tblspc/<oid>`.
fn is_tablespace_root(directory: &str) -> bool {
    directory.strip_prefix("pg_tblspc/").is_some_and(|oid| canonical_number(oid).is_some())
}

fn classify_in_database(directory: &str, name: &str) -> Result<FileClass, LeftOut> {
    let of_database = directory != "global";
    match name {
        "pg_control" if !of_database => Ok(FileClass::Control),
        "pg_filenode.map" if of_database => Ok(FileClass::DatabaseFilenodeMap),
        "pg_filenode.map" => Ok(FileClass::FilenodeMap),
        "PG_VERSION" => Ok(FileClass::DatabaseVersion),
        "pg_filenode.map.tmp" => Err(LeftOut::Temporary),
        _ if name.starts_with("pg_internal.init") => Err(LeftOut::Rebuilt),
        _ if is_temporary_relation(name) => Err(LeftOut::Temporary),
        _ => Ok(RelationFileName::parse(name).map_or(
            FileClass::Other,
            |RelationFileName { fork, segment, .. }| FileClass::Relation { fork, segment },
        )),
    }
}

/// Of the names in one directory that holds relations: those to leave out as [`LeftOut::Unlogged`], because an init fork
/// says that a restored server resets the relation anyway.
pub fn unlogged_main_forks<'a>(names: impl IntoIterator<Item = &'a str> + Clone) -> BTreeSet<&'a str> {
    let relation = |text: &'a str| RelationFileName::parse(text).map(|name| (text, name));
    let is_init = |name: &RelationFileName| name.fork == Fork::Init;
    let inits = names.clone().into_iter().filter_map(relation).filter(|(_, name)| is_init(name));
    let unlogged: BTreeSet<u32> = inits.map(|(_, name)| name.relation).collect();
    let others = names.into_iter().filter_map(relation).filter(|(_, name)| !is_init(name));
    others.filter(|(_, name)| unlogged.contains(&name.relation)).map(|(text, _)| text).collect()
}

#[cfg(test)]
mod tests;
