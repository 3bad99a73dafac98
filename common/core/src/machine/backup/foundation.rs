//! What the backup rests on: the prior of each repository, chosen, read, and compared with what is there now; and what an
//! unfinished attempt at the same backup has left.
//!
//! Invariants
//! 1. What a new leader decides is what the first one decided: priors, and whether everything is read, are announced with the
//!    label and taken from there.
//! 2. A file is passed over only where every repository in the job has it from the same prior.
//! 3. A prior that cannot be read is no prior: its repositories get all data from the same read.

use super::{BackupMachine, Effect};
use crate::failure::Failure;
use crate::format::BackupLabel;
use crate::format::catalogue::BackupRecord;
use crate::format::manifest::{FileRecord, ManifestHead, RangeRecord};
use crate::ids::{PlanNumber, RepoKey, WorkerName};
use crate::pg::RelativePath;
use crate::plan::incremental::{Basis, references_on};
use crate::plan::inventory::{FileIndex, Inventory};
use crate::plan::leftover::LeftRanges;
use crate::plan::prior::{Known, Prior, Unchanged};
use crate::plan::summaries::{ClusterShape, Window};
use crate::units::Timestamp;
use crate::wire::{PriorBackup, PriorRange, SessionFacts, SummaryBasis};
use std::collections::BTreeMap;

/// One prior, and who follows it.
#[derive(Debug)]
struct Footing {
    record: Box<BackupRecord>,
    repositories: Vec<RepoKey>,
    files: Option<Prior>,
    head: Option<Box<ManifestHead>>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Reading,
    Read,
    Unreadable,
}

#[derive(Debug, Default)]
pub(super) struct Foundation {
    /// Answers to an earlier round count for nothing.
    round: u32,
    is_begun: bool,
    footings: Vec<Footing>,
    leftover: Option<Remains>,
    reads_all: bool,
    unchanged: Unchanged,
}

/// What an earlier attempt at this label has left.
#[derive(Debug)]
struct Remains {
    label: BackupLabel,
    /// Its newest plan in any repository.
    plan: PlanNumber,
    repositories: Vec<RepoKey>,
    ranges: LeftRanges,
    is_read: bool,
}

impl Foundation {
    /// The inventory that files were compared with is no more.
    pub(super) fn begin_anew(&mut self) {
        *self = Foundation { round: self.round + 1, ..Foundation::default() };
    }

    /// Whether every prior was read, or proved unreadable.
    pub(super) fn is_laid(&self) -> bool {
        let is_read = |footing: &Footing| footing.state != State::Reading;
        self.is_begun && self.footings.iter().all(is_read) && self.leftover.iter().all(|left| left.is_read)
    }

    pub(super) fn reads_all(&self) -> bool {
        self.reads_all
    }

    pub(super) fn unchanged(&self) -> &Unchanged {
        &self.unchanged
    }

    /// What cannot be read, and what no repository in the job has.
    fn forget_all_but(&mut self, alive: &[RepoKey]) {
        for footing in &mut self.footings {
            footing.repositories.retain(|repository| alive.contains(repository));
        }
        self.footings.retain(|footing| footing.state == State::Read && !footing.repositories.is_empty());
    }

    /// The backup that this one rests on in that repository.
    pub(super) fn prior_in(&self, repository: RepoKey) -> Option<&BackupRecord> {
        let footing = self.footings.iter().find(|footing| footing.repositories.contains(&repository));
        footing.map(|footing| footing.record.as_ref())
    }

    /// What the backup rests on, as a whole.
    pub(super) fn newest(&self) -> (Option<BackupLabel>, Vec<BackupLabel>) {
        let newest = self.footings.first().map(|footing| footing.record.as_ref());
        (newest.map(|prior| prior.label), newest.map(references_on).unwrap_or_default())
    }

    pub(super) fn references_in(&self, repository: RepoKey) -> Vec<BackupLabel> {
        self.prior_in(repository).map(references_on).unwrap_or_default()
    }

    /// In the order in which units name them.
    pub(super) fn priors(&self) -> Vec<PriorBackup> {
        let prior = |footing: &Footing| PriorBackup {
            label: footing.record.label,
            references: references_on(&footing.record),
            repositories: footing.repositories.clone(),
        };
        let leftover = self.leftover.iter().map(|left| PriorBackup {
            label: left.label,
            references: vec![left.label],
            repositories: left.repositories.clone(),
        });
        self.footings.iter().map(prior).chain(leftover).collect()
    }

    /// Whether an earlier attempt has stored anything of these files.
    pub(super) fn is_left(&self, files: &[FileIndex]) -> bool {
        let Some(left) = &self.leftover else { return false };
        files.iter().any(|file| left.ranges.of(*file).next().is_some())
    }

    /// Where each prior has bytes of that part of a file.
    pub(super) fn ranges(&self, file: FileIndex, offset: u64, length: u64) -> Vec<PriorRange> {
        let end = offset.saturating_add(length);
        let numbered = (0..).zip(&self.footings);
        let of_each = numbered.flat_map(|(prior, footing)| {
            let known = footing.files.as_ref().and_then(|files| files.file(file));
            let ranges = known.map_or(&[][..], |known| known.ranges);
            ranges.iter().map(move |range| (prior, range))
        });
        let last = u8::try_from(self.footings.len()).expect("as many as there are repositories");
        let left = self.leftover.iter().flat_map(|left| left.ranges.of(file)).map(|range| (last, range));
        let overlapping = of_each.chain(left).filter(|(_, range)| range.offset < end && range.end() > offset);
        let range = |(prior, range): (u8, &RangeRecord)| PriorRange {
            prior,
            label: range.label - 1,
            plan: range.plan,
            unit: range.unit,
            attempt: range.attempt,
            place: range.place,
            offset: range.offset,
            length: range.length,
        };
        overlapping.map(range).collect()
    }

    /// Since when WAL summaries may tell what changed: only where size and time are believed as well.
    pub(super) fn summaries(&self, session: &SessionFacts) -> Option<SummaryBasis> {
        let newest = self.footings.first().filter(|_| !self.reads_all)?;
        let head = newest.head.as_ref()?;
        let window = Window::since(head, session.timeline, session.start?.lsn).ok()?;
        Some(SummaryBasis { window, prior: ClusterShape::of_prior(head) })
    }

    /// Of the file in the newest prior.
    pub(super) fn size(&self, file: FileIndex) -> Option<u64> {
        Some(self.footings.first()?.files.as_ref()?.file(file)?.size)
    }

    /// The inventory whose files they are is no more: what comes now rests on nothing.
    pub(super) fn forget_files(&mut self) {
        self.footings.iter_mut().for_each(|footing| footing.files = None);
        self.leftover = None;
    }

    /// Gives away what is taken over as it is.
    pub(super) fn take_kept(&mut self) -> Kept {
        let prior = self.footings.first_mut().and_then(|footing| footing.files.take());
        Kept { prior: prior.filter(|_| !self.reads_all), unchanged: std::mem::take(&mut self.unchanged) }
    }
}

/// Files that are taken over from the one prior that all repositories have.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Kept {
    prior: Option<Prior>,
    unchanged: Unchanged,
}

impl Kept {
    pub(super) fn file(&self, file: FileIndex) -> Option<Known<'_>> {
        self.prior.as_ref().filter(|_| self.unchanged.contains(file))?.file(file)
    }

    /// Of the files that are taken over.
    pub(super) fn bytes(&self, inventory: &Inventory) -> u64 {
        let kept = inventory.files().filter(|(file, _)| self.unchanged.contains(*file));
        kept.map(|(_, entry)| entry.size).sum()
    }

    pub(super) fn workers(&self) -> &[WorkerName] {
        self.prior.as_ref().map_or(&[], Prior::workers)
    }
}

impl BackupMachine {
    /// Once the inventory is complete: orders what it is to be compared with.
    pub(super) fn lay_foundation(&mut self, effects: &mut Vec<Effect>) {
        let candidates: BTreeMap<RepoKey, Box<BackupRecord>> = self
            .alive()
            .into_iter()
            .filter_map(|key| Some((key, self.repositories[&key].facts.as_ref()?.prior.clone()?)))
            .collect();
        let labels = candidates.iter().map(|(key, record)| (*key, record.label)).collect();
        let basis = Basis::choose(self.spec.kind, &labels);
        self.foundation.is_begun = true;
        for (key, label) in basis.of {
            let footings = &mut self.foundation.footings;
            if let Some(known) = footings.iter_mut().find(|footing| footing.record.label == label) {
                known.repositories.push(key);
                continue;
            }
            footings.push(Footing {
                record: candidates[&key].clone(),
                repositories: vec![key],
                files: None,
                head: None,
                state: State::Reading,
            });
        }
        // The newest comes first: it names what the backup rests on.
        self.foundation.footings.sort_by_key(|footing| std::cmp::Reverse(footing.record.label));
        let round = self.foundation.round;
        for footing in &self.foundation.footings {
            let (record, repositories) = (footing.record.clone(), footing.repositories.clone());
            effects.push(Effect::ReadPrior { round, record, repositories });
        }
        self.take_up_leftover(effects);
    }

    /// What every repository has of it that has anything of it.
    fn take_up_leftover(&mut self, effects: &mut Vec<Effect>) {
        let left_in = |key: RepoKey| Some((key, self.repositories[&key].facts.as_ref()?.leftover.as_ref()?));
        let left: Vec<_> = self.alive().into_iter().filter_map(left_in).collect();
        let Some((label, plan)) = left.iter().map(|(_, left)| (left.label, left.plan)).max() else { return };
        let repositories: Vec<RepoKey> = left.iter().map(|(key, _)| *key).collect();
        // A new leader is bound to the plan that the first one wrote.
        let plan = match &self.recovered.announced {
            Some(announced) => PlanNumber(announced.plan.0.saturating_sub(1)),
            None => plan,
        };
        if plan.0 == 0 {
            return;
        }
        let round = self.foundation.round;
        effects.push(Effect::ReadLeftover { round, label, plans: plan, repositories: repositories.clone() });
        let ranges = LeftRanges::default();
        self.foundation.leftover = Some(Remains { label, plan, repositories, ranges, is_read: false });
    }

    fn leftover_read(&mut self, round: u32) -> Option<&mut Remains> {
        let is_current = round == self.foundation.round;
        self.foundation.leftover.as_mut().filter(|left| is_current && !left.is_read)
    }

    pub(super) fn on_leftover_listed(
        &mut self,
        round: u32,
        ranges: &[(RelativePath, RangeRecord)],
    ) -> Result<(), Failure> {
        let inventory = std::mem::take(&mut self.inventory);
        if let Some(left) = self.leftover_read(round) {
            ranges.iter().for_each(|(path, range)| left.ranges.add(&inventory, path, *range));
        }
        self.inventory = inventory;
        Ok(())
    }

    pub(super) fn on_leftover_read(
        &mut self,
        now: Timestamp,
        round: u32,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if let Some(left) = self.leftover_read(round) {
            left.is_read = true;
            left.ranges.close();
        }
        self.announce(now, effects)
    }

    /// The label that is kept, and the number of the plan that is made for it now.
    pub(super) fn resumed(&self, basis: &Basis) -> Option<(BackupLabel, PlanNumber)> {
        let left = self.foundation.leftover.as_ref()?;
        let is_alike = left.label.kind() == basis.kind
            && basis.prior.is_none_or(|prior| prior.full() == left.label.full());
        is_alike.then(|| (left.label, PlanNumber(left.plan.0 + 1)))
    }

    /// Units must not refer to what belongs to a label that is given up.
    pub(super) fn forget_leftover(&mut self) {
        self.foundation.leftover = None;
    }

    fn footing_read(&mut self, round: u32, label: BackupLabel) -> Option<&mut Footing> {
        let footings = self.foundation.footings.iter_mut().filter(|_| round == self.foundation.round);
        footings.into_iter().find(|footing| footing.record.label == label && footing.state == State::Reading)
    }

    pub(super) fn on_prior_opened(&mut self, round: u32, head: Box<ManifestHead>) -> Result<(), Failure> {
        if let Some(footing) = self.footing_read(round, head.label) {
            footing.files = Some(Prior::new(&head));
            footing.head = Some(head);
        }
        Ok(())
    }

    pub(super) fn on_prior_listed(
        &mut self,
        round: u32,
        label: BackupLabel,
        files: &[FileRecord],
    ) -> Result<(), Failure> {
        let inventory = std::mem::take(&mut self.inventory);
        if let Some(prior) = self.footing_read(round, label).and_then(|footing| footing.files.as_mut()) {
            files.iter().for_each(|file| prior.push(&inventory, file));
        }
        self.inventory = inventory;
        Ok(())
    }

    pub(super) fn on_prior_read(
        &mut self,
        now: Timestamp,
        round: u32,
        label: BackupLabel,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let is_bound = self.recovered.announced.is_some();
        let Some(footing) = self.footing_read(round, label) else { return Ok(()) };
        match result {
            Ok(()) => footing.state = State::Read,
            // Units of an earlier leader's plan refer to it.
            Err(failure) if is_bound => return Err(failure),
            Err(failure) => {
                footing.state = State::Unreadable;
                let warning = format!("backup {label} is not taken as a prior, it cannot be read: {failure}");
                self.warn([warning], effects);
            }
        }
        self.announce(now, effects)
    }

    /// Compares what is there with the priors; tells what the backup is and rests on.
    pub(super) fn compare(&mut self, effects: &mut Vec<Effect>) -> Basis {
        let alive = self.alive();
        self.foundation.forget_all_but(&alive);
        let priors = self.foundation.footings.iter().flat_map(|footing| {
            footing.repositories.iter().map(|repository| (*repository, footing.record.label))
        });
        let basis = Basis::choose(self.spec.kind, &priors.collect());
        if basis.kind != self.spec.kind {
            let warning =
                format!("no prior backup exists: {} backup has been changed to full", self.spec.kind);
            self.warn([warning], effects);
        }
        let Some(newest) = self.foundation.footings.first() else { return basis };
        let reason = self.reason_to_read_all(newest, &basis, &alive);
        let reads_all = match &self.recovered.announced {
            Some(announced) => announced.reads_all,
            None => self.spec.delta || reason.is_some(),
        };
        let unchanged =
            newest.files.as_ref().filter(|_| !reads_all).map(|prior| prior.unchanged(&self.inventory));
        self.foundation.reads_all = reads_all;
        self.foundation.unchanged = unchanged.unwrap_or_default();
        self.warn(reason.filter(|_| !self.spec.delta), effects);
        basis
    }

    /// Why size and time of a file do not tell whether it changed, though nobody asked for more.
    fn reason_to_read_all(&self, newest: &Footing, basis: &Basis, alive: &[RepoKey]) -> Option<String> {
        let (prior, label) = (&newest.record, newest.record.label);
        if !basis.is_common_to(alive) {
            let lacking: Vec<String> = alive
                .iter()
                .filter(|key| basis.of.get(key) != Some(&label))
                .map(|key| format!("repo {key}"))
                .collect();
            return Some(format!(
                "all files are read, since {} lacks backup {label}: it gets what it needs from the same read",
                lacking.join(" and ")
            ));
        }
        let session = self.session.as_ref()?;
        let because = if session.timeline != prior.timeline {
            format!("the timeline has changed from {} to {}", prior.timeline, session.timeline)
        } else if self.spec.source.online != prior.online {
            "only one of both backups is made while PostgreSQL runs".to_owned()
        } else {
            newest.files.as_ref()?.anomaly(&self.inventory, self.copy_start)?
        };
        Some(format!("files are compared with backup {label} by their content (delta): {because}"))
    }
}
