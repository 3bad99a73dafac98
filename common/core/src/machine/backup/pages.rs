//! What pages that do not match their checksums mean for the backup that has them, and whether another server has them intact.

use super::contents::BackupContents;
use super::{BackupMachine, BackupSpec, Effect};
use crate::config::PageErrors;
use crate::failure::{ErrorCode, Failure};
use crate::ids::WorkerName;
use crate::pg::bad_pages::told_bad_pages;
use crate::wire::{PartReceipt, Receipt};

impl BackupMachine {
    /// Whether the unit is read once more, from another server: what is damaged on one disk is not so on the other. Once only.
    pub(super) fn looks_elsewhere(
        &mut self,
        worker: &WorkerName,
        receipt: &Receipt,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let bad = bad_pages(receipt);
        let (unit, source) = (receipt.unit, self.board.source_of(receipt.unit, receipt.attempt));
        if let Some(before) = self.damaged.get(&unit) {
            if bad == 0 {
                let message = format!(
                    "the pages of unit {unit} that are damaged where worker {before} reads are intact where worker \
                     {worker} does: these are in the backup; look after the other disk"
                );
                self.warn([message], effects);
            }
            return false;
        }
        let Some(source) = source.filter(|source| bad > 0 && self.board.look_elsewhere(unit, source.clone()))
        else {
            return false;
        };
        let message = format!(
            "{bad} pages of unit {unit} are damaged where worker {source} reads: another server is asked"
        );
        self.warn([message], effects);
        self.damaged.insert(unit, source);
        true
    }

    /// Only when all pages were read: who has to mend them wants to know of every one.
    pub(super) fn judge_pages(&self) -> Result<(), Failure> {
        self.contents.as_ref().map_or(Ok(()), |contents| judge(&self.spec, contents))
    }
}

fn bad_pages(receipt: &Receipt) -> usize {
    let bad = |part: &PartReceipt| match part {
        PartReceipt::Present { bad_pages, .. } => bad_pages.len(),
        PartReceipt::Vanished => 0,
    };
    receipt.parts.iter().map(bad).sum()
}

fn judge(spec: &BackupSpec, contents: &BackupContents) -> Result<(), Failure> {
    let told = match spec.page_errors {
        PageErrors::Warn => None,
        PageErrors::Fail => told_bad_pages(&contents.told_bad_pages()),
    };
    told.map_or(Ok(()), |told| {
        Err(Failure::new(ErrorCode::Checksum, told)
            .hint("the server's files are damaged: is the disk healthy? Earlier backups may have these pages intact")
            .hint("--page-errors=warn publishes the backup with a record of them"))
    })
}
