//! Reads everything that is stored and concludes what could be restored from it.
//!
//! ```text
//! identity, key slots, clusters --> per backup: entry, manifest, plans --> packs, each once --> WAL --> conclusion
//! ```
//!
//! What is compared: every manifest with its catalogue entry (size, SHA-1, head); every record with the footer of the
//! pack that it refers to; every block with its hash; every WAL file with its SHA-1; and the WAL from each backup's start
//! to its stop with what is there; and in a plain repository the names in its data directory. A block that a pack borrows is compared with the footer of the pack that holds it, whose
//! own blocks are compared with their bytes: no frame is read twice.
//!
//! [`verify`] reads one repository, whatever others have: a frame that is good there says nothing of this one. What all of them together can give is
//! concluded from what was found in each ([`StanzaVerification::conclusions`]). So all bad frames of a pack are found, and the first one is told.
//!
//! It is not: a restore. That PostgreSQL starts on what is stored, only a drill shows.
//!
//! Invariants
//! 1. Nothing is concluded from a listing that failed, and an object that cannot be read is an error, never an absence.
//! 2. Every error names the repository, the whole key of the object, and the reason.
//! 3. Opening, decompressing and hashing happen on [`VerifyOptions::process_max`] threads of their own, never on those of
//!    the async runtime.
//! 4. Memory: a few MiB a thread; 24 bytes for each range of the one manifest at hand; the names of the WAL files; of each backup the SHA-1 of the
//!    segments that it needs, and what it lost with damaged packs.
//!
//! Failure story: a damaged object costs what it holds and the check goes on. A backup that was expired meanwhile is no
//! error: one whose entry is gone at its end is left out.

mod backup;
mod expected;
mod foundation;
mod losses;
pub(crate) mod pack;
mod report;
mod threads;
mod together;
mod wal;

pub(crate) use backup::difference;
pub(crate) use expected::Expected;
pub use report::{
    ArchiveVerification, BackupStatus, BackupVerification, Finding, RepoVerification, StanzaVerification,
    json_to_text, to_json, to_text,
};
pub use together::Conclusion;

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use backup::KnownPacks;
use losses::Remembered;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::{BackupLabel, HashSecret, layout};
use pgconvoy_core::ids::{Identity, StanzaName};
use pgconvoy_core::plan::restorable::{Holding, Seen};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// This backup, the packs and the WAL that it needs, and nothing else.
    pub set: Option<BackupLabel>,
    /// Threads that read and check; at least one is used.
    pub process_max: usize,
    pub cancel: CancellationToken,
}

/// How far the check has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyProgress {
    /// `backup <label>` or `archive <id>`.
    pub what: String,
    /// Objects of it.
    pub done: usize,
    pub total: usize,
    /// Stored bytes read so far, of everything.
    pub bytes: u64,
}

/// Called from several threads, after each object.
pub type OnProgress = Arc<dyn Fn(VerifyProgress) + Send + Sync>;

/// The outer error is that nothing can be concluded: the set is not there, or the check was interrupted.
pub async fn verify(
    repository: Arc<Repository>,
    stanza: &StanzaName,
    options: &VerifyOptions,
    progress: OnProgress,
) -> Result<RepoVerification, Failure> {
    let cancel = options.cancel.child_token();
    // Who drops this future wants no more of it, and threads cannot be dropped.
    let _guard = cancel.clone().drop_guard();
    let job = Job::new(repository, stanza, VerifyOptions { cancel, ..options.clone() }, progress);
    tokio::task::spawn_blocking(move || job.run())
        .await
        .unwrap_or_else(|_| Err(Failure::new(ErrorCode::Assert, "a thread of verify ended without a result")))
}

/// One check, as its threads see it.
pub(crate) struct Job {
    pub(crate) repository: Arc<Repository>,
    pub(crate) stanza: StanzaName,
    set: Option<BackupLabel>,
    threads: usize,
    runtime: Handle,
    cancel: CancellationToken,
    progress: OnProgress,
    bytes: AtomicU64,
    bad_frames: Remembered,
}

/// What the check of one thing yields, unless all of it was interrupted.
pub(crate) type Checked<T> = Result<T, Interrupted>;

#[derive(Debug)]
pub(crate) struct Interrupted;

impl From<Interrupted> for Failure {
    fn from(_: Interrupted) -> Failure {
        RepositoryError::Interrupted { what: "verify" }.into()
    }
}

/// Published backups by label; `Err` for an entry that cannot be read.
type Entries = BTreeMap<BackupLabel, Result<BackupRecord, RepositoryError>>;

impl Job {
    /// Must be called on the runtime that its threads will wait with.
    pub(crate) fn new(
        repository: Arc<Repository>,
        stanza: &StanzaName,
        options: VerifyOptions,
        progress: OnProgress,
    ) -> Job {
        Job {
            repository,
            stanza: stanza.clone(),
            set: options.set,
            threads: options.process_max.max(1),
            runtime: Handle::current(),
            cancel: options.cancel,
            progress,
            bytes: AtomicU64::new(0),
            bad_frames: Remembered::default(),
        }
    }

    fn run(self) -> Result<RepoVerification, Failure> {
        let mut report = RepoVerification::new(self.repository.number());
        let entries = self.entries()?;
        let clusters = foundation::check(&self, &mut report.errors)?;
        let is_founded = report.errors.is_empty();
        let secret = clusters.first().map(|cluster| cluster.hash_secret.clone());
        let wanted: Vec<BackupLabel> = match self.set {
            Some(label) => vec![label],
            None => entries.keys().copied().collect(),
        };
        let mut packs = KnownPacks::new();
        for label in wanted {
            let checked = self.backup(label, &entries, secret.as_ref(), &mut packs)?;
            report.errors.extend(checked.papers);
            report.backups.push(checked.backup);
        }
        if self.set.is_none() {
            report.backups.extend(self.unfinished(&entries)?);
        }
        let records: Vec<&BackupRecord> = entries
            .values()
            .filter_map(|entry| entry.as_ref().ok())
            .filter(|record| self.set.is_none_or(|label| label == record.label))
            .collect();
        wal::check(&self, &clusters, &records, &mut report)?;
        report.backups.iter_mut().for_each(|backup| backup.conclude(is_founded));
        self.leave_out_expired(&mut report);
        report.backups.sort_by_key(|backup| backup.label);
        Ok(report)
    }

    fn entries(&self) -> Result<Entries, Failure> {
        let listed = self.wait(self.repository.backups(&self.stanza))?;
        let entries: Entries = listed.into_iter().collect();
        if let Some(label) = self.set.filter(|label| !entries.contains_key(label)) {
            let place = self.repository.describe();
            let message = format!("backup set {label} of stanza {} is not in {place}", self.stanza);
            return Err(
                Failure::new(ErrorCode::BackupSetInvalid, message).hint("pgconvoy info lists the backups")
            );
        }
        Ok(entries)
    }

    fn backup(
        &self,
        label: BackupLabel,
        entries: &Entries,
        secret: Option<&HashSecret>,
        packs: &mut KnownPacks,
    ) -> Checked<backup::Outcome> {
        let entry_key = layout::catalogue_entry(&self.stanza, label);
        let invalid = |finding, seen| {
            let backup = BackupVerification::new(label, BackupStatus::Invalid, vec![finding]);
            backup::Outcome { backup: BackupVerification { seen, ..backup }, papers: Vec::new() }
        };
        match (&entries[&label], secret) {
            (Err(error), _) => {
                let seen = if error.is_loss() { Seen::Without } else { Seen::Unread };
                Ok(invalid(self.finding(&entry_key, error), seen))
            }
            (Ok(record), None) => {
                let reason = "without a cluster object its blocks cannot be checked";
                let finding = self.finding(&layout::backup(&self.stanza, label), &reason);
                Ok(invalid(finding, Seen::Published(Holding::of(record.backup))))
            }
            (Ok(record), Some(secret)) => backup::check(self, record, entries, secret, packs),
        }
    }

    /// Labels that have begun and neither were published nor given up: somebody may still be writing them.
    fn unfinished(&self, entries: &Entries) -> Result<Vec<BackupVerification>, Failure> {
        let decided = self.wait(self.repository.catalogue_labels(&self.stanza))?;
        let started = self.wait(self.repository.started_labels(&self.stanza))?;
        let is_open = |label: &BackupLabel| !decided.contains(label) && !entries.contains_key(label);
        let open = started.into_iter().filter(is_open);
        Ok(open.map(|label| BackupVerification::new(label, BackupStatus::InProgress, Vec::new())).collect())
    }

    fn leave_out_expired(&self, report: &mut RepoVerification) {
        let directory = |label| format!("{}/", layout::backup(&self.stanza, label));
        let is_gone = |label| {
            let key = object_key(&layout::catalogue_entry(&self.stanza, label));
            matches!(self.wait(self.repository.storage().stat(&key)), Ok(None))
        };
        let has_paper_flaw =
            |label| report.errors.iter().any(|finding| finding.object.starts_with(&directory(label)));
        let suspects =
            report.backups.iter().filter(|one| !one.errors.is_empty() || has_paper_flaw(one.label));
        let gone: Vec<BackupLabel> = suspects.map(|one| one.label).filter(|label| is_gone(*label)).collect();
        report.backups.retain(|one| !gone.contains(&one.label));
        let is_of_gone =
            |finding: &Finding| gone.iter().any(|label| finding.object.starts_with(&directory(*label)));
        report.errors.retain(|finding| !is_of_gone(finding));
    }

    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(crate) fn finding(&self, object: &str, reason: &dyn fmt::Display) -> Finding {
        Finding {
            repository: self.repository.number(),
            object: object.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn go_on(&self) -> Checked<()> {
        if self.cancel.is_cancelled() { Err(Interrupted) } else { Ok(()) }
    }

    pub(crate) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn tell(&self, what: &str, done: usize, total: usize) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        (self.progress)(VerifyProgress { what: what.to_owned(), done, total, bytes });
    }
}

/// UUIDs of the readable backups, by label.
fn identities(entries: &Entries) -> BTreeMap<BackupLabel, Identity> {
    let readable = entries.iter().filter_map(|(label, entry)| Some((*label, entry.as_ref().ok()?.backup)));
    readable.collect()
}
