//! Repositories on paper: create-only objects, and times in which everything fails.

use crate::Millis;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::pack::PackBody;
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::ids::{Attempt, Identity, UnitId};
use pgconvoy_core::machine::backup::Fate;
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::machine::backup::contest::Begun;
use pgconvoy_core::wire::SessionFacts;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A pack, and when its bytes were read.
#[derive(Debug, Clone)]
pub(crate) struct Pack {
    pub(crate) body: PackBody,
    pub(crate) read_from: Millis,
    pub(crate) read_to: Millis,
    /// Bytes of a standby that was none any more when they had been read.
    pub(crate) is_astray: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) backup: Identity,
    /// Counts heartbeats of whoever works under it.
    pub(crate) beats: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Published(Identity),
    Void,
}

#[derive(Default)]
pub(crate) struct Repository {
    pub(crate) plans: BTreeMap<BackupLabel, Plan>,
    pub(crate) packs: BTreeMap<(BackupLabel, UnitId, Attempt), Pack>,
    /// What ending a session returned, and that session.
    pub(crate) stops: BTreeMap<BackupLabel, (StopBody, SessionFacts)>,
    pub(crate) manifests: BTreeMap<BackupLabel, Arc<BackupContents>>,
    /// What the catalogue says of published backups.
    pub(crate) records: BTreeMap<BackupLabel, Box<BackupRecord>>,
    pub(crate) catalogue: BTreeMap<BackupLabel, Entry>,
    /// Fails until then.
    pub(crate) broken_until: Millis,
    /// WAL arrives by the archiver from then on.
    pub(crate) archived_from: Millis,
    /// Backups whose WAL the source supplied: the segments of their start, and those to their stop.
    pub(crate) supplied: std::collections::BTreeSet<pgconvoy_core::pg::WalSegmentName>,
    pub(crate) ever_failed: bool,
}

impl Repository {
    pub(crate) fn ask(&mut self, now: Millis) -> Result<&mut Self, Failure> {
        if now < self.broken_until {
            self.ever_failed = true;
            return Err(Failure::new(ErrorCode::FileWrite, "the repository does not answer").retryable());
        }
        Ok(self)
    }

    pub(crate) fn is_whole(&self, now: Millis) -> bool {
        now >= self.broken_until
    }

    /// The newest backup that was published.
    pub(crate) fn newest(&self) -> Option<Box<BackupRecord>> {
        self.records.values().max_by_key(|record| record.label.made()).cloned()
    }

    /// Labels that have a plan and no published entry, and whether they are void.
    pub(crate) fn unfinished(&self) -> Vec<(BackupLabel, bool)> {
        let undecided = |label: &BackupLabel| match self.catalogue.get(label) {
            Some(Entry::Published(_)) => None,
            Some(Entry::Void) => Some((*label, true)),
            None => Some((*label, false)),
        };
        self.plans.keys().filter_map(undecided).collect()
    }

    /// Nobody goes on with it here, so its plan is not looked at.
    pub(crate) fn begun(&self, label: BackupLabel, is_void: bool) -> Begun {
        Begun { label, is_void, plan: None, beating: None, has_manifest: self.manifests.contains_key(&label) }
    }

    pub(crate) fn give_up(&mut self, label: BackupLabel) -> Fate {
        match self.catalogue.entry(label).or_insert(Entry::Void) {
            Entry::Void => Fate::Void,
            Entry::Published(_) => Fate::Published,
        }
    }

    pub(crate) fn sweep(&mut self, label: BackupLabel) {
        self.plans.remove(&label);
        self.stops.remove(&label);
        self.manifests.remove(&label);
        self.packs.retain(|(of, _, _), _| *of != label);
    }
}
