//! `archive-copy`: the WAL that makes a backup consistent is stored with it too, so that a restored copy starts without the
//! archive.
//!
//! Each repository has shown the segments by then. They become units like those of data files, numbered behind them, and are
//! read from the archive by whoever is free. Their receipts add files to the manifest; for everything that follows they are
//! files of the data directory.
//!
//! Invariant: a manifest lists either all segments from start to stop, each whole, or none.
//!
//! A leader that takes over refers to the attempts that its predecessor accepted, as it does for data: the manifest is the same
//! in every repository, whoever wrote it.

use super::contents::BackupContents;
use super::recovery::receipt_of;
use super::{BackupMachine, Effect, Phase};
use crate::failure::{ErrorCode, Failure};
use crate::ids::UnitId;
use crate::pg::{FileClass, PgVersion, WalSegmentName, WalSegmentSize};
use crate::plan::backup::{Source, Unit, Work};
use crate::plan::inventory::{EntryKind, FileIndex, Inventory, ScannedEntry};
use crate::units::Timestamp;
use std::sync::Arc;

impl BackupMachine {
    /// `true`: publishing waits for segments that are being copied.
    pub(super) fn copy_wal(&mut self, effects: &mut Vec<Effect>) -> Result<bool, Failure> {
        let wants = self.spec.archive_copy && self.spec.source.online && self.copied_from.is_none();
        if wants && !self.spec.source.archive_check {
            let reason = "archive-copy: no WAL is copied, because nobody checks that it is in the archive";
            self.warn([reason.to_owned()], effects);
            return Ok(false);
        }
        let Some(contents) = self.contents.as_ref().filter(|_| wants) else { return Ok(false) };
        let size = self.segment_size()?;
        let segments = contents.wal_segments(size);
        if segments.is_empty() {
            return Ok(false);
        }
        if self.source_is_lost && self.present_readers().is_empty() {
            return Err(self.source_gone());
        }
        let (version, stopped) = (contents.head.version, contents.head.stopped);
        self.inventory = inventory_of(&segments, size, version, stopped)?;
        self.foundation.forget_files();
        self.copied_from = Some(UnitId(self.board.total()));
        self.board.extend(units_of(&self.inventory, self.board.unit_size(), size));
        self.phase = Phase::CopyingWal;
        self.open_to_all();
        self.restore_copied(effects)?;
        if self.board.is_complete() {
            return self.publish_when_copied(effects).map(|()| true);
        }
        for worker in self.present_readers() {
            // What it wishes for was asked for while there was nothing to do.
            self.board.forget_wishes(&worker);
            effects.push(self.order_to(&worker, self.prepare()?));
        }
        Ok(true)
    }

    /// What was accepted before counts now, if it can be shown.
    fn restore_copied(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let secret = self.known_cluster()?.hash_secret.clone();
        for pack in std::mem::take(&mut self.copied_before) {
            let unit = pack.body.unit;
            let is_done = self.board.accepted().any(|(done, ..)| done == unit);
            let Some(planned) = self.board.unit(unit).filter(|_| !is_done) else { continue };
            let receipt = receipt_of(&pack, planned, &self.inventory, &secret, None);
            let checked = receipt.and_then(|receipt| {
                self.board.check(&receipt, &self.inventory)?;
                Ok(receipt)
            });
            match checked {
                Ok(receipt) => self.board.restore(pack.body.worker, receipt, false),
                Err(reason) => {
                    self.warn([format!("WAL of unit {unit} is copied again: {reason}")], effects);
                    self.board.was_tried(unit, pack.body.attempt);
                }
            }
        }
        Ok(())
    }

    /// Once all of them are copied the backup is complete.
    pub(super) fn publish_when_copied(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let Some(first) = self.copied_from.filter(|_| self.board.is_complete()) else { return Ok(()) };
        let size = self.segment_size()?;
        let contents = self.contents.as_mut().and_then(Arc::<BackupContents>::get_mut);
        let contents = contents
            .ok_or_else(|| Failure::new(ErrorCode::Assert, "a backup changed while it was published"))?;
        contents.add_wal(first, &self.board, &self.inventory, self.plan, size)?;
        self.phase = Phase::Awaiting;
        self.publish_when_ready(effects)
    }
}

fn inventory_of(
    segments: &[WalSegmentName],
    size: WalSegmentSize,
    version: PgVersion,
    stopped: Timestamp,
) -> Result<Inventory, Failure> {
    let mut inventory = Inventory::default();
    let directory = version.wal_directory();
    let mut push = |path: String, kind| {
        let path = path.parse().expect("a directory of PostgreSQL's and a segment's name are a path");
        let modified = stopped.seconds();
        inventory.push(ScannedEntry { path, kind, mode: 0, user: None, group: None, modified })
    };
    push(directory.to_owned(), EntryKind::Directory)?;
    for segment in segments {
        let kind = EntryKind::File { size: size.bytes(), class: FileClass::Wal };
        push(format!("{directory}/{segment}"), kind)?;
    }
    Ok(inventory)
}

/// As many segments in a unit as a unit of data files has bytes.
fn units_of(inventory: &Inventory, unit_size: u64, size: WalSegmentSize) -> Vec<Unit> {
    let segments: Vec<FileIndex> = inventory.files().map(|(index, _)| index).collect();
    let per_unit = usize::try_from(unit_size / size.bytes()).unwrap_or(1).max(1);
    let unit = |files: &[FileIndex]| Unit {
        work: Work::Files(files.to_vec()),
        bytes: files.len() as u64 * size.bytes(),
        source: Source::Any,
        last: false,
    };
    segments.chunks(per_unit).map(unit).collect()
}
