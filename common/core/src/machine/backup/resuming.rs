//! What becomes of backups that were left unfinished, before a new one writes its plan: one may be gone on with, all others
//! are given up.
//!
//! Invariants
//! 1. A label is kept only if every repository was asked for it: where it is published or void nobody can publish it again, and
//!    one label is one backup everywhere.
//! 2. What is not kept is given up in a repository before the plan is written there: an undecided label of somebody who cannot
//!    withdraw any more would be a rival.
//! 3. A new leader keeps what the first one announced.

use super::{Announced, BackupMachine, Effect, Phase};
use crate::failure::Failure;
use crate::format::BackupLabel;
use crate::format::manifest::RangeRecord;
use crate::ids::{PlanNumber, RepoKey};
use crate::machine::backup::contest::Begun;
use crate::pg::RelativePath;
use crate::plan::incremental::Basis;
use crate::plan::leftover::{Prospect, adopted};
use crate::units::Timestamp;
use std::collections::BTreeMap;

impl BackupMachine {
    /// What the job is bound to from here on, if no earlier leader has bound it.
    pub(super) fn bind(
        &mut self,
        now: Timestamp,
        session: Timestamp,
        basis: Basis,
        effects: &mut Vec<Effect>,
    ) -> Announced {
        let known = self.labels.iter().chain(&self.elsewhere).copied();
        let next = BackupLabel::next(basis.kind, basis.prior, now, known);
        let kept = self.resumed(next);
        let leftover_in = kept.map(|label| self.left_in(label)).unwrap_or_default();
        self.warn(kept.map(|label| format!("unfinished backup {label} is resumed")), effects);
        let plans = leftover_in.iter().map(|(_, plan)| plan.0).max().unwrap_or(0);
        Announced {
            label: kept.unwrap_or(next),
            session,
            term: 0,
            priors: basis.of.into_iter().collect(),
            reads_all: self.foundation.reads_all(),
            plan: PlanNumber(plans + 1),
            leftover_in: leftover_in.into_iter().map(|(key, _)| key).collect(),
            distrusts_summaries: false,
        }
    }

    /// The unfinished label that is kept instead of the next one.
    fn resumed(&self, next: BackupLabel) -> Option<BackupLabel> {
        let is_everybody_asked = self.are_others_asked && self.alive().len() == self.spec.repositories.len();
        if !self.spec.resume || !is_everybody_asked {
            return None;
        }
        let prospect = |key: RepoKey| {
            let facts = self.repositories[&key].facts.as_ref()?;
            let leftovers = facts.unfinished.iter().filter_map(Begun::leftover).collect();
            let (labels, references) = (facts.labels.clone(), self.foundation.references_in(key));
            Some((key, Prospect { leftovers, labels, references }))
        };
        let prospects: BTreeMap<_, _> = self.alive().into_iter().filter_map(prospect).collect();
        adopted(next, &prospects, &self.elsewhere)
    }

    /// Where that label was left, and its newest plan there.
    fn left_in(&self, label: BackupLabel) -> Vec<(RepoKey, PlanNumber)> {
        let left = |key: RepoKey| {
            let facts = self.repositories[&key].facts.as_ref()?;
            let leftover =
                facts.unfinished.iter().filter_map(Begun::leftover).find(|left| left.label == label);
            Some((key, leftover?.plan))
        };
        self.alive().into_iter().filter_map(left).collect()
    }

    /// Gives up everything unfinished but the label that is kept.
    pub(super) fn clear(&mut self, kept: BackupLabel, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.phase = Phase::Clearing;
        self.awaited.clear();
        for repository in self.alive() {
            let facts = self.repositories.get_mut(&repository).and_then(|state| state.facts.as_mut());
            let mut unfinished = facts.map(|facts| std::mem::take(&mut facts.unfinished)).unwrap_or_default();
            unfinished.retain(|begun| begun.label != kept);
            if !unfinished.is_empty() {
                self.awaited.insert(repository);
                effects.push(Effect::GiveUpUnfinished { repository, unfinished });
            }
        }
        self.write_plans(effects)
    }

    pub(super) fn on_cleared(
        &mut self,
        repository: RepoKey,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.phase != Phase::Clearing {
            return Ok(());
        }
        self.settle_or_yield(repository, result, effects)?;
        self.awaited.remove(&repository);
        self.write_plans(effects)
    }

    /// Looks for what earlier attempts at the label have left.
    pub(super) fn read_leftover(&mut self, announced: &Announced, effects: &mut Vec<Effect>) {
        let alive = self.alive();
        let left_in = announced.leftover_in.iter().copied().filter(|key| alive.contains(key));
        let repositories: Vec<RepoKey> = left_in.collect();
        let plans = PlanNumber(announced.plan.0.saturating_sub(1));
        if plans.0 == 0 || repositories.is_empty() {
            return;
        }
        let label = announced.label;
        let round = self.foundation.expect_leftover(label, repositories.clone());
        effects.push(Effect::ReadLeftover { round, label, plans, repositories });
    }

    pub(super) fn on_leftover_listed(&mut self, round: u32, ranges: &[(RelativePath, RangeRecord)]) {
        let inventory = std::mem::take(&mut self.inventory);
        if let Some(left) = self.foundation.leftover_read(round) {
            ranges.iter().for_each(|(path, range)| left.add(&inventory, path, *range));
        }
        self.inventory = inventory;
    }

    pub(super) fn on_leftover_read(
        &mut self,
        now: Timestamp,
        round: u32,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        self.foundation.close_leftover(round);
        self.begin_copying(now, effects)
    }
}
