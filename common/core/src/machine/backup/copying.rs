//! While units are copied: who gets one, whose receipt counts, and when there is nothing left to do.

use super::event::{AcceptedUnit, UnitLease};
use super::units::Verdict;
use super::{BackupMachine, Effect};
use crate::failure::{ErrorCode, Failure};
use crate::ids::{RepoKey, WorkerName};
use crate::units::Timestamp;
use crate::wire::{HeldUnit, OrderBody, Receipt, ReportBody, RepositoryFailure, UnitFailure, UnitOrder};

impl BackupMachine {
    pub(super) fn lease_units(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if !self.is_copying() || self.is_paused {
            return;
        }
        for (worker, units) in self.board.assign(now) {
            effects.push(Effect::LeaseUnits { worker, units });
        }
    }

    /// Those leases that are still wanted become orders.
    pub(super) fn on_leased(&mut self, worker: &WorkerName, leases: &[UnitLease], effects: &mut Vec<Effect>) {
        let wanted = self.board.leased(worker, leases);
        let (alive, page_size) = (self.alive(), self.page_size());
        let orders = self.board.orders(&wanted, &self.inventory, &self.foundation, &alive, page_size);
        let reads_all = self.distrusts_summaries();
        for order in orders {
            let (unit, attempt) = (order.unit, order.attempt);
            match self.with_source(worker, UnitOrder { reads_all, ..order }) {
                Some(order) => effects.push(self.order_to(worker, OrderBody::RunUnit(Box::new(order)))),
                None => {
                    effects.push(Effect::ReleaseLease { unit, attempt });
                    self.board.give_back(unit, attempt);
                }
            }
        }
    }

    pub(super) fn on_tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.stages.forget(now);
        self.set_fares(now);
        self.confirm_standbys(now, effects);
        self.lease_units(now, effects);
        self.spread(now, effects);
        self.expect_hands(now, effects)
    }

    /// Near the end: what waits for a busy worker goes to an idle one, and what takes too long is begun a second time.
    pub(super) fn spread(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if !self.is_copying() || self.is_paused {
            return;
        }
        if let Some((worker, units)) = self.board.surplus() {
            effects.push(self.order_to(&worker, OrderBody::GiveBack { units }));
        }
        for (worker, units) in self.board.assign_stragglers(now) {
            effects.push(Effect::LeaseUnits { worker, units });
        }
    }

    pub(super) fn on_receipt(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        receipt: Receipt,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let held = HeldUnit { unit: receipt.unit, attempt: receipt.attempt, token: receipt.token };
        if self.is_early(&held) {
            self.keep_early(worker, held, ReportBody::UnitDone(receipt));
            return Ok(());
        }
        // Whatever became of the unit: what its worker saw is true.
        self.distrust_summaries(receipt.wrong_summary.as_deref(), effects)?;
        if !self.is_copying() || !self.board.is_current(receipt.unit, receipt.attempt, receipt.token) {
            effects.push(Effect::Settle { worker, unit: receipt.unit, attempt: receipt.attempt });
            return Ok(());
        }
        if self.is_worthless(&receipt) || !self.board.is_due(receipt.unit) {
            self.refuse_receipt(now, worker, &receipt, effects);
            return Ok(());
        }
        if let Err(reason) = self.board.check(&receipt, &self.inventory) {
            let message = format!("a receipt for unit {} is wrong: {reason}", receipt.unit);
            let report = failed(&receipt, Failure::new(ErrorCode::Assert, message));
            return self.on_unit_failure(now, worker, report, effects);
        }
        if self.looks_elsewhere(&worker, &receipt, effects) {
            self.refuse_receipt(now, worker, &receipt, effects);
            return Ok(());
        }
        let missing = self.missing_repositories(&receipt);
        if self.begins_to_suspect(now, &worker, &missing) {
            self.refuse_receipt(now, worker, &receipt, effects);
            return Ok(());
        }
        let survivors =
            self.alive().into_iter().filter(|key| !missing.iter().any(|one| one.repository == *key)).count();
        if survivors == 0 {
            // Stored nowhere that matters: the unit is read again rather than losing the last repository to one fault.
            let failure = missing.first().map_or_else(
                || Failure::new(ErrorCode::Assert, "a receipt came without any repository"),
                |first| first.failure.clone(),
            );
            return self.on_unit_failure(now, worker, failed(&receipt, failure), effects);
        }
        for one in missing {
            self.drop_repository(one.repository, one.failure, effects)?;
        }
        self.convict(now, &worker, &receipt, effects);
        self.stages.add(now, receipt.spent.clone());
        let (unit, attempt) = (receipt.unit, receipt.attempt);
        let is_resumed = self.is_resumed(&receipt);
        let (repositories, standby) = (self.alive(), receipt.standby.clone());
        effects.push(Effect::PersistAccepted {
            worker: worker.clone(),
            accepted: AcceptedUnit { unit, attempt, repositories, standby },
        });
        self.reached(&worker);
        for late in self.board.accept(now, worker, receipt, is_resumed) {
            if late.token.is_some() {
                effects.push(Effect::ReleaseLease { unit, attempt: late.attempt });
                effects.push(self.order_to(&late.worker, OrderBody::GiveBack { units: vec![unit] }));
            }
        }
        self.confirm_standbys(now, effects);
        self.lease_units(now, effects);
        self.stop_when_done(effects)
    }

    /// Whether an earlier attempt at this backup had stored all of the unit.
    pub(super) fn is_resumed(&self, receipt: &Receipt) -> bool {
        let has_all = receipt.changed == 0 && receipt.read > 0;
        has_all && self.foundation.is_left(self.board.files(receipt.unit))
    }

    /// Nobody's fault: the unit is done again.
    fn refuse_receipt(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        receipt: &Receipt,
        effects: &mut Vec<Effect>,
    ) {
        let (unit, attempt) = (receipt.unit, receipt.attempt);
        effects.push(Effect::Settle { worker, unit, attempt });
        effects.push(Effect::ReleaseLease { unit, attempt });
        self.board.give_back(unit, attempt);
        self.lease_units(now, effects);
    }

    /// Repositories in the job that do not have the pack, with what is known of why.
    fn missing_repositories(&self, receipt: &Receipt) -> Vec<RepositoryFailure> {
        let has = |key: &RepoKey| receipt.stored.iter().any(|stored| stored.repository == *key);
        self.alive()
            .into_iter()
            .filter(|key| !has(key))
            .map(|repository| {
                let told = receipt.failed.iter().find(|failed| failed.repository == repository);
                told.cloned().unwrap_or_else(|| RepositoryFailure {
                    repository,
                    failure: Failure::new(
                        ErrorCode::FileWrite,
                        format!("unit {} was not stored there", receipt.unit),
                    ),
                })
            })
            .collect()
    }

    pub(super) fn on_unit_failure(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        report: UnitFailure,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let held = HeldUnit { unit: report.unit, attempt: report.attempt, token: report.token };
        if self.is_early(&held) {
            self.keep_early(worker, held, ReportBody::UnitFailed(report));
            return Ok(());
        }
        effects.push(Effect::Settle { worker: worker.clone(), unit: report.unit, attempt: report.attempt });
        self.distrust_summaries(report.wrong_summary.as_deref(), effects)?;
        if !self.is_copying() || !self.board.is_current(report.unit, report.attempt, report.token) {
            return Ok(());
        }
        effects.push(Effect::ReleaseLease { unit: report.unit, attempt: report.attempt });
        if self.is_of_a_server(&report) {
            self.unreached(now, &worker, &report, effects);
            self.board.give_back(report.unit, report.attempt);
            self.lease_units(now, effects);
            return Ok(());
        }
        if let Some(standby) = self.standby_behind(&worker, &report) {
            self.board.give_back(report.unit, report.attempt);
            self.dismiss_standby(now, &standby, &report.failure, effects);
            self.lease_units(now, effects);
            return Ok(());
        }
        if self.begins_to_suspect(now, &worker, &report.failed) {
            self.board.give_back(report.unit, report.attempt);
            self.lease_units(now, effects);
            return Ok(());
        }
        if self.board.fail(report.unit, report.attempt) == Verdict::GiveUp
            || report.failure.code == ErrorCode::Crypto
        {
            return Err(report.failure);
        }
        self.warn([format!("unit {} is tried again: {}", report.unit, report.failure)], effects);
        self.lease_units(now, effects);
        Ok(())
    }

    pub(super) fn on_unit_returned(
        &mut self,
        now: Timestamp,
        worker: WorkerName,
        returned: HeldUnit,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_early(&returned) {
            return self.keep_early(worker, returned, ReportBody::UnitReturned(returned));
        }
        if self.is_copying() && self.board.is_current(returned.unit, returned.attempt, returned.token) {
            effects.push(Effect::ReleaseLease { unit: returned.unit, attempt: returned.attempt });
            self.board.give_back(returned.unit, returned.attempt);
            self.lease_units(now, effects);
        }
    }
}

/// As if its worker had failed to do the unit.
pub(super) fn failed(receipt: &Receipt, failure: Failure) -> UnitFailure {
    let (unit, attempt, token) = (receipt.unit, receipt.attempt, receipt.token);
    UnitFailure { unit, attempt, token, failure, failed: Vec::new(), wrong_summary: None }
}
