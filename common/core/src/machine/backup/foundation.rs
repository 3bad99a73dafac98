//! What the backup rests on: the prior of each repository, chosen, read, and compared with what is there now; and what an
//! unfinished attempt at the same backup has left.
//!
//! Invariants
//! 1. What a new leader decides is what the first one decided: priors, and whether everything is read, are announced with the
//!    label and taken from there.
//! 2. A file is passed over only where every repository in the job has it from the same prior.
//! 3. A prior that cannot be read is no prior: its repositories get all data from the same read.

use super::{BackupMachine, Effect};
use crate::failure::{ErrorCode, Failure};
use crate::format::BackupLabel;
use crate::format::catalogue::BackupRecord;
use crate::format::manifest::{FileRecord, ManifestHead, RangeRecord};
use crate::ids::{Identity, RepoKey, WorkerName};
use crate::plan::backup::BackupPlan;
use crate::plan::homes::Homes;
use crate::plan::incremental::{Basis, references_on};
use crate::plan::inventory::{FileIndex, Inventory};
use crate::plan::leftover::LeftRanges;
use crate::plan::prior::{Known, Prior, Unchanged};
use crate::plan::summaries::{ClusterShape, Window};
use crate::units::Timestamp;
use crate::wire::{PriorBackup, PriorRange, SessionFacts, SummaryBasis};
use std::collections::BTreeMap;

/// One prior, and who follows it: repositories that have the same backup, resting on the same others. A label alone does not
/// make it the same backup, and what it rests on may differ where repositories have other histories.
#[derive(Debug)]
struct Footing {
    label: BackupLabel,
    backup: Identity,
    /// Every label that a backup may refer to which rests on it.
    references: Vec<BackupLabel>,
    /// What each repository's catalogue says of it.
    records: BTreeMap<RepoKey, Box<BackupRecord>>,
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
    /// The newest comes first: it names what the backup rests on.
    footings: Vec<Footing>,
    leftover: Option<Remains>,
    reads_all: bool,
    unchanged: Unchanged,
}

/// What an earlier attempt at this label has left.
#[derive(Debug)]
struct Remains {
    label: BackupLabel,
    repositories: Vec<RepoKey>,
    ranges: LeftRanges,
    is_read: bool,
}

impl Footing {
    fn of(record: &BackupRecord) -> Footing {
        Footing {
            label: record.label,
            backup: record.backup,
            references: references_on(record),
            records: BTreeMap::new(),
            files: None,
            head: None,
            state: State::Reading,
        }
    }

    fn is_of(&self, record: &BackupRecord) -> bool {
        self.backup == record.backup && self.references == references_on(record)
    }

    /// Ranges that have bytes of that part of a file; if there are none, its last one, which tells how large its blocks are.
    fn ranges(&self, file: FileIndex, offset: u64, end: u64) -> impl Iterator<Item = &RangeRecord> {
        let known = self.files.as_ref().and_then(|files| files.file(file));
        let ranges = known.map_or(&[][..], |known| known.ranges);
        let is_wanted = move |range: &RangeRecord| overlaps(range, offset, end);
        let last = ranges.last().filter(|_| !ranges.iter().any(is_wanted));
        ranges.iter().filter(move |range| is_wanted(range)).chain(last)
    }
}

fn overlaps(range: &RangeRecord, offset: u64, end: u64) -> bool {
    range.offset < end && range.end() > offset
}

impl Foundation {
    /// The inventory that files were compared with is no more.
    pub(super) fn begin_anew(&mut self) {
        *self = Foundation { round: self.round + 1, ..Foundation::default() };
    }

    /// Whether every prior was read, or proved unreadable.
    pub(super) fn is_laid(&self) -> bool {
        self.is_begun && self.footings.iter().all(|footing| footing.state != State::Reading)
    }

    pub(super) fn is_leftover_read(&self) -> bool {
        self.leftover.iter().all(|left| left.is_read)
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
            footing.records.retain(|repository, _| alive.contains(repository));
        }
        self.footings.retain(|footing| footing.state == State::Read && !footing.records.is_empty());
    }

    /// Files may be passed over unread only if every repository has them from the same backup.
    fn is_common_to(&self, alive: &[RepoKey]) -> bool {
        matches!(&self.footings[..], [only] if alive.iter().all(|key| only.records.contains_key(key)))
    }

    /// The backup that this one rests on in that repository.
    pub(super) fn prior_in(&self, repository: RepoKey) -> Option<&BackupRecord> {
        self.footings.iter().find_map(|footing| footing.records.get(&repository)).map(Box::as_ref)
    }

    /// What the backup rests on, as a whole.
    pub(super) fn newest(&self) -> (Option<BackupLabel>, Vec<BackupLabel>) {
        let newest = self.footings.first();
        (newest.map(|prior| prior.label), newest.map(|prior| prior.references.clone()).unwrap_or_default())
    }

    pub(super) fn references_in(&self, repository: RepoKey) -> Vec<BackupLabel> {
        self.prior_in(repository).map(references_on).unwrap_or_default()
    }

    /// In the order in which units name them.
    pub(super) fn priors(&self) -> Vec<PriorBackup> {
        let prior = |footing: &Footing| PriorBackup {
            label: footing.label,
            references: footing.references.clone(),
            repositories: footing.records.keys().copied().collect(),
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
        let of_each = (0..)
            .zip(&self.footings)
            .flat_map(|(prior, footing)| footing.ranges(file, offset, end).map(move |range| (prior, range)));
        let last = u8::try_from(self.footings.len()).expect("as many as there are repositories");
        let left = self.leftover.iter().flat_map(|left| left.ranges.of(file));
        let left = left.filter(|range| overlaps(range, offset, end)).map(|range| (last, range));
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
        of_each.chain(left).map(range).collect()
    }

    /// Who had better read what, for the newest prior's sake.
    pub(super) fn homes(&self, plan: &BackupPlan) -> Homes {
        let newest = self.footings.first().and_then(|footing| footing.files.as_ref());
        newest.map_or_else(Homes::default, |prior| Homes::new(plan, prior))
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

    /// What an earlier attempt at this label has left in these repositories is looked for: the round of the question.
    pub(super) fn expect_leftover(&mut self, label: BackupLabel, repositories: Vec<RepoKey>) -> u32 {
        let ranges = LeftRanges::default();
        self.leftover = Some(Remains { label, repositories, ranges, is_read: false });
        self.round
    }

    /// While it is being listed.
    pub(super) fn leftover_read(&mut self, round: u32) -> Option<&mut LeftRanges> {
        let is_current = round == self.round;
        self.leftover.as_mut().filter(|left| is_current && !left.is_read).map(|left| &mut left.ranges)
    }

    pub(super) fn close_leftover(&mut self, round: u32) {
        if let Some(ranges) = self.leftover_read(round) {
            ranges.close();
            self.leftover.iter_mut().for_each(|left| left.is_read = true);
        }
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
        let footings = &mut self.foundation.footings;
        for (key, record) in candidates.into_iter().filter(|(key, _)| basis.of.contains_key(key)) {
            let at = footings.iter().position(|known| known.is_of(&record)).unwrap_or_else(|| {
                footings.push(Footing::of(&record));
                footings.len() - 1
            });
            footings[at].records.insert(key, record);
        }
        footings.sort_by_key(|footing| std::cmp::Reverse(footing.label));
        self.foundation.is_begun = true;
        let round = self.foundation.round;
        for (prior, footing) in (0..).zip(&self.foundation.footings) {
            let records = footing.records.iter().map(|(key, record)| (*key, record.clone())).collect();
            effects.push(Effect::ReadPrior { round, prior, records });
        }
    }

    /// No footing is forgotten before all of them are read, so their numbers hold until then.
    fn footing_read(&mut self, round: u32, prior: u32) -> Option<&mut Footing> {
        let is_current = round == self.foundation.round;
        let footing = self.foundation.footings.get_mut(prior as usize);
        footing.filter(|footing| is_current && footing.state == State::Reading)
    }

    pub(super) fn on_prior_opened(&mut self, round: u32, prior: u32, head: Box<ManifestHead>) {
        if let Some(footing) = self.footing_read(round, prior) {
            footing.files = Some(Prior::new(&head));
            footing.head = Some(head);
        }
    }

    pub(super) fn on_prior_listed(&mut self, round: u32, prior: u32, files: &[FileRecord]) {
        let inventory = std::mem::take(&mut self.inventory);
        if let Some(prior) = self.footing_read(round, prior).and_then(|footing| footing.files.as_mut()) {
            files.iter().for_each(|file| prior.push(&inventory, file));
        }
        self.inventory = inventory;
    }

    pub(super) fn on_prior_read(
        &mut self,
        now: Timestamp,
        round: u32,
        prior: u32,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let is_bound = self.recovered.announced.is_some();
        let Some(footing) = self.footing_read(round, prior) else { return Ok(()) };
        let (label, followers) = (footing.label, footing.records.keys().copied().collect::<Vec<_>>());
        match result {
            Ok(()) => footing.state = State::Read,
            Err(failure) => {
                footing.state = State::Unreadable;
                if is_bound {
                    // Units of an earlier leader's plan refer to it there.
                    for repository in followers {
                        self.drop_repository(repository, failure.clone(), effects)?;
                    }
                }
                let warning = format!("backup {label} is not taken as a prior, it cannot be read: {failure}");
                self.warn([warning], effects);
            }
        }
        self.announce(now, effects)
    }

    /// Compares what is there with the priors; tells what the backup is and rests on.
    pub(super) fn compare(&mut self, effects: &mut Vec<Effect>) -> Result<Basis, Failure> {
        self.foundation.forget_all_but(&self.alive());
        self.drop_what_was_not_announced(effects)?;
        let alive = self.alive();
        self.foundation.forget_all_but(&alive);
        let priors = self
            .foundation
            .footings
            .iter()
            .flat_map(|footing| footing.records.keys().map(|repository| (*repository, footing.label)));
        let basis = Basis::choose(self.spec.kind, &priors.collect());
        if basis.kind != self.spec.kind {
            let warning =
                format!("no prior backup exists: {} backup has been changed to full", self.spec.kind);
            self.warn([warning], effects);
        }
        let Some(newest) = self.foundation.footings.first() else { return Ok(basis) };
        let reason = self.reason_to_read_all(newest, &basis, &alive);
        let reads_all = match &self.recovered.announced {
            Some(announced) => announced.reads_all,
            None => self.spec.delta || reason.is_some(),
        };
        let prior = newest.files.as_ref().filter(|_| !reads_all);
        let unchanged = prior.map(|prior| prior.unchanged(&self.inventory));
        self.foundation.reads_all = reads_all;
        self.foundation.unchanged = unchanged.unwrap_or_default();
        self.warn(reason.filter(|_| !self.spec.delta), effects);
        Ok(basis)
    }

    /// Where files are passed over because the first leader saw them in every repository, one that he did not see lacks them.
    fn drop_what_was_not_announced(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let Some(announced) = self.recovered.announced.clone().filter(|known| !known.reads_all) else {
            return Ok(());
        };
        let (newest, _) = self.foundation.newest();
        for repository in self.alive() {
            if announced.prior_in(repository) != newest {
                let message = "it takes no part in what another coordinator has begun without it";
                let failure = Failure::new(ErrorCode::BackupMismatch, message)
                    .hint("the next backup brings it what it lacks");
                self.drop_repository(repository, failure, effects)?;
            }
        }
        Ok(())
    }

    /// Why size and time of a file do not tell whether it changed, though nobody asked for more.
    fn reason_to_read_all(&self, newest: &Footing, basis: &Basis, alive: &[RepoKey]) -> Option<String> {
        let label = newest.label;
        if !self.foundation.is_common_to(alive) {
            let others: Vec<String> = alive
                .iter()
                .filter(|key| basis.of.get(key) != Some(&label))
                .map(|key| format!("repo {key}"))
                .collect();
            return Some(match &others[..] {
                [] => format!("all files are read, since backup {label} is not the same in all repositories"),
                lacking => format!(
                    "all files are read, since {} lacks backup {label}: it gets what it needs from the same read",
                    lacking.join(" and ")
                ),
            });
        }
        let (prior, session) = (newest.records.values().next()?, self.session.as_ref()?);
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
