//! What a differential or incremental backup rests on: the rules of pgBackRest, for each repository by itself.

use crate::format::catalogue::BackupRecord;
use crate::format::{BackupKind, BackupLabel};
use crate::ids::RepoKey;
use std::collections::BTreeMap;

/// Whether a backup with this label may be the prior of a new one of that kind: the newest full backup for a differential
/// one, the newest of any kind for an incremental one.
pub fn may_be_prior(kind: BackupKind, label: BackupLabel) -> bool {
    match kind {
        BackupKind::Full => false,
        BackupKind::Diff => label.kind() == BackupKind::Full,
        BackupKind::Incr => true,
    }
}

/// What the new backup is, and which backup it rests on in each repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    pub kind: BackupKind,
    /// The newest prior of all; `None` for a full backup.
    pub prior: Option<BackupLabel>,
    /// Repositories that are not in here get all data from the same read.
    pub of: BTreeMap<RepoKey, BackupLabel>,
}

impl Basis {
    pub fn full() -> Basis {
        Basis { kind: BackupKind::Full, prior: None, of: BTreeMap::new() }
    }

    /// `candidates` are the newest backups that may be priors, by repository. A label names its full backup, so the new one can
    /// only rest on what descends from the same full backup as the newest of them.
    pub fn choose(kind: BackupKind, candidates: &BTreeMap<RepoKey, BackupLabel>) -> Basis {
        let Some(newest) = candidates.values().max().filter(|_| kind != BackupKind::Full) else {
            return Basis::full();
        };
        let descends = |(_, label): &(&RepoKey, &BackupLabel)| label.full() == newest.full();
        let of = candidates.iter().filter(descends).map(|(key, label)| (*key, *label)).collect();
        Basis { kind, prior: Some(*newest), of }
    }
}

/// Every label that a backup may refer to which rests on that one. The prior itself comes last, so what its own manifest
/// calls label `k > 0` keeps its number.
pub fn references_on(prior: &BackupRecord) -> Vec<BackupLabel> {
    references(&prior.references, prior.label)
}

pub fn references(of_prior: &[BackupLabel], prior: BackupLabel) -> Vec<BackupLabel> {
    of_prior.iter().copied().chain([prior]).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const OLD: &str = "20261122-103000F";
    const FULL: &str = "20261123-103000F";
    const DIFF: &str = "20261123-103000F_20261124-103000D";
    const INCR: &str = "20261123-103000F_20261125-103000I";

    fn label(text: &str) -> BackupLabel {
        text.parse().unwrap()
    }

    fn candidates(labels: &[&str]) -> BTreeMap<RepoKey, BackupLabel> {
        (0..).map(RepoKey).zip(labels.iter().map(|text| label(text))).collect()
    }

    #[test]
    fn a_differential_backup_rests_on_a_full_one_and_an_incremental_one_on_any() {
        let may = |kind| [OLD, FULL, DIFF, INCR].map(|text| may_be_prior(kind, label(text)));
        assert_eq!(may(BackupKind::Full), [false; 4]);
        assert_eq!(may(BackupKind::Diff), [true, true, false, false]);
        assert_eq!(may(BackupKind::Incr), [true; 4]);
    }

    #[test]
    fn without_any_prior_a_backup_is_full() {
        assert_eq!(Basis::choose(BackupKind::Incr, &BTreeMap::new()), Basis::full());
        assert_eq!(Basis::choose(BackupKind::Full, &candidates(&[OLD])), Basis::full());
    }

    #[test]
    fn each_repository_follows_its_own_prior_of_the_same_full_backup() {
        let basis = Basis::choose(BackupKind::Incr, &candidates(&[INCR, DIFF, OLD]));
        assert_eq!(basis.prior, Some(label(INCR)));
        assert_eq!(basis.of.into_values().collect::<Vec<_>>(), [label(INCR), label(DIFF)]);
    }
}
