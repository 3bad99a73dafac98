//! From a complete inventory to the first unit: label, plan, and the word to all who read.

use super::{Announced, BackupMachine, Effect, Phase};
use crate::failure::Failure;
use crate::format::BackupLabel;
use crate::ids::RepoKey;
use crate::plan::backup::{SplitOptions, plan_backup};
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
        let session = self.session.as_ref().map_or(now, |session| session.started);
        let basis = self.compare(effects)?;
        let announced = match self.recovered.announced.clone() {
            Some(known) => Announced { term: known.term.saturating_add(1), ..known },
            None => self.bind(now, session, basis, effects),
        };
        (self.label, self.plan) = (Some(announced.label), announced.plan);
        self.announced = Some(announced.clone());
        effects.push(Effect::PersistAnnounced(announced.clone()));
        let options = SplitOptions {
            priors: announced.priors.len() + usize::from(announced.plan.0 > 1),
            whole_files: self.spec.whole_files,
            ..SplitOptions::new(self.spec.unit_size, self.page_size())
        };
        let plan = plan_backup(&self.inventory, self.foundation.unchanged(), options);
        let homes = self.foundation.homes(&plan);
        self.board.begin_anew(plan, homes, announced.term);
        self.read_leftover(&announced, effects);
        self.clear(announced.label, effects)
    }

    /// Once nothing unfinished is left beside the label.
    pub(super) fn write_plans(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.phase != Phase::Clearing || !self.awaited.is_empty() {
            return Ok(());
        }
        self.phase = Phase::Announcing;
        self.awaited = self.alive().into_iter().collect();
        self.write_plan_to(1, self.known_label()?, effects);
        Ok(())
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
        self.settle_or_yield(repository, result, effects)?;
        self.awaited.remove(&repository);
        self.is_announced |= is_written;
        if !was_announced {
            let others = if is_written { usize::MAX } else { 1 };
            self.write_plan_to(others, self.known_label()?, effects);
        }
        self.begin_copying(now, effects)
    }

    pub(super) fn begin_copying(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let is_known = self.awaited.is_empty() && self.foundation.is_leftover_read();
        if self.phase != Phase::Announcing || !is_known || self.recall(effects)? {
            return Ok(());
        }
        self.phase = Phase::Copying;
        self.set_fares(now);
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
            identities: self.identities(),
            compress: self.spec.compress,
            own_compress: self.spec.own_compress.clone(),
            file_sha1: self.spec.file_sha1,
            stall_timeout_ms: self.spec.stall_timeout_ms,
            priors: self.foundation.priors(),
            summaries: self.summaries(),
            reading: self.reading(),
        };
        Ok(OrderBody::Prepare(Box::new(context)))
    }
}
