//! From a complete inventory to the first unit: label, plan, and the word to all who read.

use super::units::UnitBoard;
use super::{Announced, BackupMachine, Effect, Phase};
use crate::failure::{ErrorCode, Failure};
use crate::format::{BackupKind, BackupLabel};
use crate::ids::{PlanNumber, RepoKey};
use crate::plan::backup::{SplitOptions, plan_backup};
use crate::plan::incremental::Basis;
use crate::units::Timestamp;
use crate::wire::{OrderBody, UnitContext};

impl BackupMachine {
    /// Writes the plan to every repository, once the scan is complete and the archive is known to work.
    pub(super) fn announce(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.phase != Phase::Scanning
            || !self.is_scanned
            || !self.awaited_before.is_empty()
            || !self.foundation.is_laid()
        {
            return Ok(());
        }
        self.phase = Phase::Announcing;
        let session = self.session.as_ref().map_or(now, |session| session.started);
        let basis = self.compare(effects);
        let announced = match self.recovered.announced.clone() {
            Some(known) => Announced { term: known.term.saturating_add(1), ..known },
            None => {
                let (label, plan) = self.label_and_plan(now, &basis, effects);
                let (priors, reads_all) = (basis.of.into_iter().collect(), self.foundation.reads_all());
                Announced { label, session, term: 0, priors, reads_all, plan, distrusts_summaries: false }
            }
        };
        let (label, term) = (announced.label, announced.term);
        (self.label, self.plan) = (Some(label), announced.plan);
        self.announced = Some(announced.clone());
        effects.push(Effect::PersistAnnounced(announced));
        let options = SplitOptions {
            has_prior: label.kind() != BackupKind::Full,
            ..SplitOptions::new(self.spec.unit_size, self.page_size())
        };
        let plan = plan_backup(&self.inventory, self.foundation.unchanged(), options);
        self.board = UnitBoard::new(plan, term);
        self.awaited = self.alive().into_iter().collect();
        self.write_plan_to(1, label, effects);
        Ok(())
    }

    /// An unfinished backup is gone on with under its own label; else the next label begins.
    fn label_and_plan(
        &mut self,
        now: Timestamp,
        basis: &Basis,
        effects: &mut Vec<Effect>,
    ) -> (BackupLabel, PlanNumber) {
        if let Some((label, plan)) = self.resumed(basis) {
            self.warn([format!("unfinished backup {label} is resumed")], effects);
            return (label, plan);
        }
        self.forget_leftover();
        let label = BackupLabel::next(basis.kind, basis.prior, now, self.labels.iter().copied());
        (label, PlanNumber(1))
    }

    fn write_plan_to(&self, repositories: usize, label: BackupLabel, effects: &mut Vec<Effect>) {
        for repository in self.awaited.iter().take(repositories) {
            effects.push(Effect::WritePlan {
                repository: *repository,
                label,
                number: self.plan,
                references: self.foundation.references_in(*repository),
                unit_size: self.board.unit_size(),
                units: self.board.total(),
                files: self.inventory.file_count() as u64,
                bytes: self.inventory.bytes(),
            });
        }
    }

    pub(super) fn on_plan(
        &mut self,
        now: Timestamp,
        repository: RepoKey,
        result: Result<(), Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let (was_announced, is_written) = (self.is_announced, result.is_ok());
        match result {
            Err(failure) if failure.code == ErrorCode::LockAcquire => return Err(failure),
            result => self.settle(repository, result, effects)?,
        }
        self.awaited.remove(&repository);
        self.is_announced |= is_written;
        if !was_announced {
            let others = if is_written { usize::MAX } else { 1 };
            self.write_plan_to(others, self.known_label()?, effects);
        }
        self.begin_copying(now, effects)
    }

    pub(super) fn begin_copying(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.phase != Phase::Announcing || !self.awaited.is_empty() || self.recall(effects)? {
            return Ok(());
        }
        self.phase = Phase::Copying;
        self.adopt_leases(now, effects);
        // First what they have to tell: a worker that is told to prepare asks for what it has room for.
        self.hear_early(now, effects)?;
        if self.phase != Phase::Copying {
            return Ok(());
        }
        for worker in self.present_readers() {
            effects.push(self.order_to(&worker, self.prepare()?));
        }
        self.lease_units(now, effects);
        self.stop_when_done(effects)
    }

    pub(super) fn prepare(&self) -> Result<OrderBody, Failure> {
        let context = UnitContext {
            stanza: self.spec.stanza.clone(),
            options: self.spec.source.clone(),
            start: self.session.as_ref().and_then(|session| session.start).map(|start| start.lsn),
            cluster: self.known_cluster()?.number,
            archive: self.archive()?,
            label: self.known_label()?,
            backup: self.spec.backup,
            plan: self.plan,
            repositories: self.alive(),
            compress: self.spec.compress,
            file_sha1: self.spec.file_sha1,
            stall_timeout_ms: self.spec.stall_timeout_ms,
            priors: self.foundation.priors(),
            summaries: self.summaries(),
        };
        Ok(OrderBody::Prepare(Box::new(context)))
    }
}
