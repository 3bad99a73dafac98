//! What a new leader makes of the records of an earlier one.
//!
//! The lease store says which attempt of which unit was accepted, in which repositories. What the receipt said stands in the
//! footer of the pack, so it is read from there. A pack that cannot be read is no pack: its unit is done again.

use super::event::{AcceptedUnit, RecalledPack, UnitLease};
use super::{BackupMachine, Effect, Phase};
use crate::failure::{ErrorCode, Failure};
use crate::format::HashSecret;
use crate::format::pack::PackRange;
use crate::ids::{Attempt, FencingToken, RepoKey, UnitId, WorkerName};
use crate::plan::backup::{Unit, Work};
use crate::plan::inventory::{FileIndex, Inventory};
use crate::units::Timestamp;
use crate::wire::{HeldUnit, PartReceipt, Receipt, ReportBody};
use std::collections::{BTreeMap, BTreeSet};

/// What workers tell a new leader before it knows what to make of it.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Reports of units, one of each attempt.
    reports: BTreeMap<(UnitId, Attempt), (WorkerName, ReportBody)>,
    /// Attempts of which nothing is left.
    tried: Vec<(UnitId, Attempt)>,
    examined: Examined,
}

/// Which repositories were asked each by itself for what was accepted.
#[derive(Debug, Default)]
enum Examined {
    /// None: nothing was missing so far.
    #[default]
    Not,
    /// All but these, the first of which is asked.
    But(Vec<RepoKey>),
    Wholly,
}

impl BackupMachine {
    /// Whether the job has to wait for receipts of an earlier leader first.
    pub(super) fn recall(&mut self, effects: &mut Vec<Effect>) -> Result<bool, Failure> {
        if self.recovered.accepted.is_empty() {
            return Ok(false);
        }
        // Where a unit was accepted, lost and accepted again, the newest attempt is the one that others may have published.
        let accepted = std::mem::take(&mut self.recovered.accepted);
        let newest: BTreeMap<_, _> = accepted.into_iter().map(|one| (one.unit, one)).collect();
        self.recovered.accepted = newest.into_values().collect();
        self.drop_what_was_left_out(effects)?;
        self.phase = Phase::Recalling;
        let alive = self.alive();
        self.ask_for_receipts(&alive, effects)?;
        Ok(true)
    }

    /// What these repositories can all show.
    fn ask_for_receipts(&self, of: &[RepoKey], effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let label = self.known_label()?;
        let units = self
            .recovered
            .accepted
            .iter()
            .map(|one| AcceptedUnit { repositories: of.to_vec(), ..one.clone() });
        effects.push(Effect::RecallReceipts { label, plan: self.plan, units: units.collect() });
        Ok(())
    }

    /// After the order to stop nothing can be read again: repositories are asked one by one, and those that cannot show what
    /// they are said to have are left out. `true`: somebody is asked.
    fn examine(&mut self, packs: &[RecalledPack], effects: &mut Vec<Effect>) -> Result<bool, Failure> {
        let shown = |one: &AcceptedUnit| {
            packs.iter().any(|pack| pack.body.unit == one.unit && pack.body.attempt == one.attempt)
        };
        let is_whole = self.recovered.accepted.iter().all(shown);
        let left = match std::mem::take(&mut self.early.examined) {
            Examined::Not if is_whole => return Ok(false),
            Examined::Not => self.alive(),
            Examined::Wholly => return Ok(false),
            Examined::But(mut left) => {
                let asked = left.remove(0);
                if !is_whole {
                    self.drop_repository(asked, read_after_stop(), effects)?;
                }
                left
            }
        };
        match left.first() {
            Some(next) => self.ask_for_receipts(&[*next], effects)?,
            None => self.ask_for_receipts(&self.alive(), effects)?,
        }
        self.early.examined = if left.is_empty() { Examined::Wholly } else { Examined::But(left) };
        Ok(true)
    }

    /// A repository that lacks an accepted unit had left the job by then.
    fn drop_what_was_left_out(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let lacks = |key: &RepoKey| {
            self.recovered.accepted.iter().any(|unit: &AcceptedUnit| !unit.repositories.contains(key))
        };
        let left_out: Vec<RepoKey> = self.alive().into_iter().filter(lacks).collect();
        for repository in left_out {
            let failure =
                Failure::new(ErrorCode::FileWrite, "it was left out before another coordinator took over");
            self.drop_repository(repository, failure, effects)?;
        }
        Ok(())
    }

    pub(super) fn on_recalled(
        &mut self,
        now: Timestamp,
        packs: Vec<RecalledPack>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.phase != Phase::Recalling {
            return Ok(());
        }
        if self.recovered.stop_ordered && self.examine(&packs, effects)? {
            return Ok(());
        }
        let facts = self.facts.as_ref();
        let checks_pages =
            facts.is_some_and(|facts| facts.checksums) && self.spec.source.checksum_page != Some(false);
        let secret = self.known_cluster()?.hash_secret.clone();
        let mut recalled = BTreeSet::new();
        let (wal, mut packs): (Vec<_>, Vec<_>) =
            packs.into_iter().partition(|pack| pack.body.unit.0 >= self.board.total());
        self.copied_before = wal;
        // What is read last is of no use unless all the others are there.
        packs.sort_by_key(|pack| self.board.unit(pack.body.unit).is_some_and(|unit| unit.last));
        for pack in packs {
            let unit = pack.body.unit;
            let is_it = |one: &&AcceptedUnit| one.unit == unit && one.attempt == pack.body.attempt;
            let Some(accepted) = self.recovered.accepted.iter().find(is_it) else { continue };
            // Nothing was provisional any more when the session was told to end.
            let standby = accepted.standby.clone().filter(|_| !self.recovered.stop_ordered);
            if !recalled.insert(unit) {
                continue;
            }
            let Some(planned) = self.board.unit(unit).filter(|_| self.board.is_due(unit)) else { continue };
            if self.distrusts_summaries() && pack.body.skipped > 0 {
                recalled.remove(&unit);
                continue;
            }
            let page_size = checks_pages.then_some(self.page_size());
            let receipt = receipt_of(&pack, planned, &self.inventory, &secret, page_size);
            if let Err(reason) = receipt
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|receipt| self.board.check(receipt, &self.inventory))
            {
                self.warn([format!("unit {unit} is done again: {reason}")], effects);
                recalled.remove(&unit);
                continue;
            }
            if let Ok(receipt) = receipt {
                let (is_resumed, receipt) = (self.is_resumed(&receipt), Receipt { standby, ..receipt });
                self.board.restore(pack.body.worker, receipt, is_resumed);
            }
        }
        let accepted = std::mem::take(&mut self.recovered.accepted);
        self.copied_before.retain(|pack| {
            accepted.iter().any(|one| one.unit == pack.body.unit && one.attempt == pack.body.attempt)
        });
        for one in accepted {
            self.board.was_tried(one.unit, one.attempt);
        }
        if self.recovered.stop_ordered && !self.board.is_complete() {
            return Err(read_after_stop());
        }
        self.phase = Phase::Announcing;
        self.begin_copying(now, effects)
    }

    pub(super) fn adopt_leases(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for (worker, lease) in std::mem::take(&mut self.recovered.leases) {
            if !self.board.adopt(now, worker, lease) {
                effects.push(Effect::ReleaseLease { unit: lease.unit, attempt: lease.attempt });
            }
        }
        for (unit, attempt) in std::mem::take(&mut self.early.tried) {
            self.board.was_tried(unit, attempt);
        }
    }

    /// Leases of an earlier leader that nobody will make use of.
    pub(super) fn forsake(&mut self, is_over: impl Fn(&WorkerName, &UnitLease) -> bool) -> Vec<UnitLease> {
        let leases = std::mem::take(&mut self.recovered.leases);
        let (over, left): (Vec<_>, Vec<_>) =
            leases.into_iter().partition(|(worker, lease)| is_over(worker, lease));
        self.recovered.leases = left;
        let over: Vec<UnitLease> = over.into_iter().map(|(_, lease)| lease).collect();
        self.early.tried.extend(over.iter().map(|lease| (lease.unit, lease.attempt)));
        over
    }

    /// Whether that is of a lease which is not adopted yet: only then can be told what its report is worth.
    pub(super) fn is_early(&self, held: &HeldUnit) -> bool {
        self.phase < Phase::Copying
            && self.recovered.leases.iter().any(|(_, lease)| {
                lease.unit == held.unit && lease.attempt == held.attempt && lease.token == held.token
            })
    }

    /// A report that is said again takes the place of the first one.
    pub(super) fn keep_early(&mut self, worker: WorkerName, held: HeldUnit, report: ReportBody) {
        self.early.reports.insert((held.unit, held.attempt), (worker, report));
    }

    pub(super) fn hear_early(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        for (worker, report) in std::mem::take(&mut self.early.reports).into_values() {
            self.on_report(now, worker, report, effects)?;
        }
        Ok(())
    }
}

/// What is read now does not belong to a backup that was stopped before.
fn read_after_stop() -> Failure {
    Failure::new(ErrorCode::FileRead, "what was stored before the backup was stopped cannot be read back")
        .hint("the log names the packs, and the repositories that did not show them")
        .hint("start the backup again")
        .retryable()
}

/// What a unit's receipt said, from the footer of its pack. `page_size` if pages were checked.
pub(super) fn receipt_of(
    pack: &RecalledPack,
    planned: &Unit,
    inventory: &Inventory,
    secret: &HashSecret,
    page_size: Option<u32>,
) -> Result<Receipt, String> {
    let body = &pack.body;
    let one;
    let (files, offset): (&[FileIndex], u64) = match &planned.work {
        Work::Range { file, offset, .. } => {
            one = [*file];
            (&one, *offset)
        }
        Work::Files(files) => (files, 0),
    };
    let mut parts = Vec::with_capacity(files.len());
    for index in files {
        let path = inventory.path(*index).to_string();
        let place = body.ranges.iter().position(|range| range.path == path && range.offset == offset);
        let part = match place {
            Some(place) => {
                let range = &body.ranges[place];
                let pages = page_size.filter(|_| inventory.file(*index).class.page_checksummed());
                PartReceipt::Present {
                    place: Some(u32::try_from(place).map_err(|_| "its footer is too large")?),
                    length: range.length,
                    checksum: range.checksum,
                    pages_checked: pages.map_or(0, |size| range.length / u64::from(size)),
                    bad_pages: range.bad_pages.clone(),
                }
            }
            None if body.vanished.contains(&path) => PartReceipt::Vanished,
            None => PartReceipt::Present {
                place: None,
                length: 0,
                checksum: secret.hash(&[]),
                pages_checked: 0,
                bad_pages: Vec::new(),
            },
        };
        parts.push(part);
    }
    Ok(Receipt {
        unit: body.unit,
        attempt: body.attempt,
        token: FencingToken(0),
        slot: body.slot,
        parts,
        read: body.ranges.iter().map(|range| range.length).sum::<u64>().saturating_sub(body.skipped),
        changed: body.ranges.iter().map(PackRange::own_bytes).sum(),
        stored: pack.stored.clone(),
        failed: Vec::new(),
        spent: Default::default(),
        standby: None,
        skipped: body.skipped,
        wrong_summary: None,
    })
}
