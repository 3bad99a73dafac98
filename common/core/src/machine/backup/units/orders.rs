//! What a unit is in the words of an order, and whether its receipt answers to that.

use super::UnitBoard;
use crate::ids::RepoKey;
use crate::machine::backup::event::UnitLease;
use crate::machine::backup::foundation::Foundation;
use crate::plan::backup::Work;
use crate::plan::blocks::block_size;
use crate::plan::inventory::{FileIndex, Inventory};
use crate::wire::{PartReceipt, Receipt, UnitOrder, UnitPart};

impl UnitBoard {
    pub(in crate::machine::backup) fn orders(
        &self,
        leases: &[UnitLease],
        inventory: &Inventory,
        foundation: &Foundation,
        repositories: &[RepoKey],
        page_size: u32,
    ) -> Vec<UnitOrder> {
        let order = |lease: &UnitLease| UnitOrder {
            unit: lease.unit,
            attempt: lease.attempt,
            token: lease.token,
            repositories: repositories.to_vec(),
            parts: parts(&self.plan.units[lease.unit.0 as usize].work, inventory, foundation, page_size),
            reads_all: false,
            source: None,
        };
        leases.iter().map(order).collect()
    }

    /// Whether a receipt says of every part of its unit what can be: completeness is computed from receipts, so a receipt
    /// that lies by omission would publish a backup with holes.
    pub(in crate::machine::backup) fn check(
        &self,
        receipt: &Receipt,
        inventory: &Inventory,
    ) -> Result<(), String> {
        let (files, range): (&[FileIndex], Option<u64>) = match &self.plan.units[receipt.unit.0 as usize].work
        {
            Work::Range { file, length, .. } => (std::slice::from_ref(file), Some(*length)),
            Work::Files(files) => (files, None),
        };
        if files.len() != receipt.parts.len() {
            return Err(format!(
                "it tells of {} parts, and the unit has {}",
                receipt.parts.len(),
                files.len()
            ));
        }
        for (index, part) in files.iter().zip(&receipt.parts) {
            let file = inventory.file(*index);
            let planned = range.unwrap_or(file.size);
            let reason = match part {
                PartReceipt::Vanished
                    if !file.class.may_vanish() && !file.class.vanishes_with_its_directory() =>
                {
                    "is gone, which it must not be"
                }
                PartReceipt::Present { place, length, .. } if place.is_some() != (*length > 0) => {
                    "has bytes without a place, or a place without bytes"
                }
                PartReceipt::Present { length, .. } if *length > planned && file.class.wal_protected() => {
                    "has more bytes than were planned"
                }
                _ => continue,
            };
            return Err(format!("{} {reason}", inventory.path(*index)));
        }
        Ok(())
    }
}

fn parts(work: &Work, inventory: &Inventory, foundation: &Foundation, page_size: u32) -> Vec<UnitPart> {
    let part = |index: FileIndex, offset, length| {
        let file = inventory.file(index);
        UnitPart {
            path: inventory.path(index),
            class: file.class,
            offset,
            length,
            block_size: block_size(file.size, page_size),
            prior_size: foundation.size(index),
            prior: foundation.ranges(index, offset, length),
        }
    };
    match work {
        Work::Range { file, offset, length } => vec![part(*file, *offset, *length)],
        Work::Files(files) => files.iter().map(|file| part(*file, 0, inventory.file(*file).size)).collect(),
    }
}
