//! Segments of WAL among the files of a backup, once they are copied.

use super::{BackupContents, Piece};
use crate::failure::{ErrorCode, Failure};
use crate::format::manifest::{FileRecord, RangeRecord, Record, file_checksum};
use crate::ids::{PlanNumber, UnitId, WorkerName};
use crate::machine::backup::units::UnitBoard;
use crate::pg::{FileClass, RelativePath, WalSegmentSize};
use crate::plan::backup::Work;
use crate::plan::inventory::Inventory;
use crate::wire::PartReceipt;

impl BackupContents {
    /// From the receipts of the board's units from `first` on, whose files are those of `segments`.
    pub(in crate::machine::backup) fn add_wal(
        &mut self,
        first: UnitId,
        board: &UnitBoard,
        segments: &Inventory,
        plan: PlanNumber,
        size: WalSegmentSize,
    ) -> Result<(), Failure> {
        let not_whole = |what: &str| Failure::new(ErrorCode::Assert, format!("WAL was copied, but {what}"));
        let mut pieces = Vec::new();
        for (unit, planned, accepted) in board.accepted().filter(|(unit, ..)| *unit >= first) {
            let worker = self.worker_number(&accepted.worker);
            let Work::Files(files) = &planned.work else { return Err(not_whole("in ranges")) };
            for (file, part) in files.iter().zip(&accepted.parts) {
                let PartReceipt::Present { place: Some(place), length, checksum, .. } = part else {
                    return Err(not_whole("a segment is missing"));
                };
                if *length != size.bytes() {
                    return Err(not_whole("a segment is not whole"));
                }
                let range = RangeRecord {
                    offset: 0,
                    length: *length,
                    label: 0,
                    plan,
                    unit,
                    attempt: accepted.attempt,
                    place: *place,
                    worker,
                    slot: accepted.slot,
                };
                pieces.push(Piece { file: *file, range, checksum: *checksum });
            }
        }
        pieces.sort_by_key(|piece| piece.file);
        if pieces.len() != segments.file_count() {
            return Err(not_whole("not all of it"));
        }
        let records: Vec<FileRecord> =
            pieces.iter().map(|piece| self.segment_record(segments, piece)).collect();
        self.head.records += records.len() as u64;
        self.head.files += records.len() as u64;
        self.head.bytes += records.iter().map(|record| record.size).sum::<u64>();
        self.wal = records;
        self.check()
    }

    fn segment_record(&self, segments: &Inventory, piece: &Piece) -> FileRecord {
        let file = segments.file(piece.file);
        // It belongs to whom the cluster belongs to.
        let control = self.inventory.files().find(|(_, file)| file.class == FileClass::Control);
        FileRecord {
            path: segments.path(piece.file),
            size: piece.range.end(),
            modified: file.modified,
            ownership: control.map_or(file.ownership, |(_, control)| control.ownership),
            checksum: file_checksum(self.hash_secret(), &[piece.checksum]),
            ranges: vec![piece.range],
            bad_pages: Vec::new(),
        }
    }

    fn worker_number(&mut self, worker: &WorkerName) -> u16 {
        let workers = &mut self.head.workers;
        let number = workers.iter().position(|known| known == worker).unwrap_or_else(|| {
            workers.push(worker.clone());
            workers.len() - 1
        });
        u16::try_from(number).unwrap_or(u16::MAX)
    }
}

/// Records of the scan and of WAL, all in order of path.
pub(super) fn merged<'a>(
    scanned: impl Iterator<Item = Record> + 'a,
    wal: &'a [FileRecord],
) -> impl Iterator<Item = Record> + 'a {
    let (mut scanned, mut wal) = (scanned.peekable(), wal.iter().peekable());
    std::iter::from_fn(move || match (scanned.peek(), wal.peek()) {
        (Some(record), Some(segment)) if is_after(record.path(), &segment.path) => {
            wal.next().cloned().map(Record::File)
        }
        (None, _) => wal.next().cloned().map(Record::File),
        _ => scanned.next(),
    })
}

fn is_after(path: &RelativePath, other: &RelativePath) -> bool {
    path.as_str().split('/').gt(other.as_str().split('/'))
}
