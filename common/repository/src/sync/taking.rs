//! Takes over what a backup left in the target when it died, or when the target was dropped from it: from now on it is a copy.
//!
//! Invariants
//! 1. A label gets the record of a copy only while its writer is known to be dead: by its own host, or because it put no heartbeat for
//!    longer than a live one is silent; and only if its plans and stop records are the source's.
//! 2. Whoever goes on with it at the same time is seen by one side: the record comes first, then another look, and the record is taken
//!    back if anything moved.

use super::{SyncOptions, look};
use crate::error::RepositoryError;
use crate::open::Repository;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::format::plan::CopyBody;
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::{Identity, PlanNumber, StanzaName};
use pgconvoy_core::machine::backup::contest::{Begun as Remains, Remains as Verdict, judge_remains};
use pgconvoy_core::plan::sync::{Begun, Entry, Holdings, Step, SyncPlan};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Keeps backups of the stanza out of the target until it is dropped.
pub type BackupLock = Arc<dyn Fn() -> Result<Box<dyn Send>, Failure> + Send + Sync>;

/// How it is found out whether somebody still works at what lies in the target.
#[derive(Clone)]
pub struct Watch {
    pub lock: BackupLock,
    /// Whether this host has a process of that number. One that cannot tell says yes.
    pub process_runs: fn(u32) -> bool,
    /// A live writer puts a heartbeat in this time.
    pub window: Duration,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("window", &self.window).finish_non_exhaustive()
    }
}

/// What became of labels that were begun in the target.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// They bear a record that this run wrote.
    pub(super) marked: BTreeSet<BackupLabel>,
    /// Their writer has published them meanwhile.
    pub(super) published: BTreeSet<BackupLabel>,
    pub(super) refused: BTreeMap<BackupLabel, Failure>,
}

/// What was seen of one before anything was decided.
struct Seen {
    label: BackupLabel,
    backup: Identity,
    remains: Remains,
    heartbeat: Option<String>,
    is_watched: bool,
}

pub(super) struct Takeover<'a> {
    pub(super) source: &'a Repository,
    pub(super) target: &'a Repository,
    pub(super) stanza: &'a StanzaName,
    pub(super) options: &'a SyncOptions,
    /// What the target was planned with.
    pub(super) own: &'a Holdings,
}

impl Takeover<'_> {
    pub(super) async fn run(&self, plan: &SyncPlan, source: &Holdings) -> Result<Taken, RepositoryError> {
        let mut taken = Taken::default();
        let begun = plan.backups.iter().filter(|(_, step)| *step == Step::TakeOver);
        let labels: Vec<(BackupLabel, Identity)> = begun
            .filter_map(|(label, _)| match source.entries.get(label) {
                Some(Entry::Published(published)) => Some((*label, published.backup)),
                _ => None,
            })
            .collect();
        if labels.is_empty() {
            return Ok(taken);
        }
        let _lock = match (self.options.watch.lock)() {
            Ok(lock) => lock,
            Err(failure) => {
                taken.refused.extend(labels.iter().map(|(label, _)| (*label, failure.clone())));
                return Ok(taken);
            }
        };
        let mut all = Vec::new();
        for (label, backup) in labels {
            all.push(self.see(label, backup).await?);
        }
        self.watch(&all).await?;
        for seen in &all {
            self.take(seen, &mut taken).await?;
        }
        Ok(taken)
    }

    async fn see(&self, label: BackupLabel, backup: Identity) -> Result<Seen, RepositoryError> {
        let heartbeat = self.target.newest_heartbeat(self.stanza, label).await?;
        let remains = self.target.begun(self.stanza, label, false).await?;
        let verdict = judge_remains(&remains, &self.options.writer, self.options.watch.process_runs);
        Ok(Seen { label, backup, remains, heartbeat, is_watched: verdict == Verdict::Watch })
    }

    /// All at once: a fleet that died leaves many.
    async fn watch(&self, all: &[Seen]) -> Result<(), RepositoryError> {
        let Some(first) = all.iter().find(|seen| seen.is_watched) else { return Ok(()) };
        let window = self.options.watch.window;
        tracing::info!(
            "backup {} was begun in {}: watching {} s for heartbeats before it is taken over",
            first.label,
            self.target.describe(),
            window.as_secs()
        );
        let waiting = self.options.cancel.run_until_cancelled(tokio::time::sleep(window));
        waiting.await.ok_or(RepositoryError::Interrupted { what: "repo-sync" })
    }

    async fn take(&self, seen: &Seen, taken: &mut Taken) -> Result<(), RepositoryError> {
        let label = seen.label;
        if let Some(entry) = self.target.catalogue_entry(self.stanza, label).await? {
            self.was_decided(seen, &entry, taken);
        } else if self.has_moved(seen).await? {
            let busy = self.target.busy(label, seen.remains.writer());
            taken.refused.insert(label, busy.into());
        } else if let Some(difference) = self.other_stop(label).await? {
            taken.refused.insert(label, difference.into());
        } else {
            self.mark(seen, taken).await?;
        }
        Ok(())
    }

    fn was_decided(&self, seen: &Seen, entry: &CatalogueBody, taken: &mut Taken) {
        let label = seen.label;
        match entry {
            CatalogueBody::Published(record) if record.backup == seen.backup => {
                taken.published.insert(label);
            }
            _ => {
                let message = "it was decided in the target meanwhile, and not as this backup";
                taken.refused.insert(label, Failure::new(ErrorCode::BackupMismatch, message));
            }
        }
    }

    /// A heartbeat, or a plan that was not there when this was planned.
    async fn has_moved(&self, seen: &Seen) -> Result<bool, RepositoryError> {
        let heartbeat = self.target.newest_heartbeat(self.stanza, seen.label).await?;
        let plans = look::plans(self.target, self.stanza, seen.label).await?;
        Ok(heartbeat != seen.heartbeat || self.own.undecided.get(&seen.label) != Some(&Begun::Plans(plans)))
    }

    async fn other_stop(&self, label: BackupLabel) -> Result<Option<RepositoryError>, RepositoryError> {
        let Some(Begun::Plans(Ok(plans))) = self.own.undecided.get(&label) else { return Ok(None) };
        for number in plans.keys() {
            let of =
                async |repository: &Repository| repository.stop_record(self.stanza, label, *number).await;
            if let (Some(ours), Some(theirs)) = (of(self.source).await?, of(self.target).await?)
                && !ours.is_same_stop(&theirs)
            {
                return Ok(Some(self.contradiction(label, *number)));
            }
        }
        Ok(None)
    }

    fn contradiction(&self, label: BackupLabel, number: PlanNumber) -> RepositoryError {
        RepositoryError::Contradiction {
            place: self.target.describe(),
            object: layout::stop(self.stanza, label, number),
            reason: "it is there, and it is not what the source has under its name".to_owned(),
        }
    }

    async fn mark(&self, seen: &Seen, taken: &mut Taken) -> Result<(), RepositoryError> {
        let body = CopyBody {
            label: seen.label,
            backup: seen.backup,
            source: self.source.identity(),
            writer: self.options.writer.clone(),
            begun: self.options.now,
        };
        let is_new = self.target.begin_copy(self.stanza, &body).await?;
        if self.has_moved(seen).await? {
            if is_new {
                self.target.end_copy(self.stanza, seen.label).await?;
            }
            let busy = self.target.busy(seen.label, seen.remains.writer());
            taken.refused.insert(seen.label, busy.into());
        } else if is_new {
            taken.marked.insert(seen.label);
        }
        Ok(())
    }
}
