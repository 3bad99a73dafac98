//! What a finished backup consists of: assembled once from inventory and receipts, then written to every repository alike.

mod wal;

use super::BackupMachine;
use super::event::BackupSpec;
use super::foundation::Kept;
use super::units::Accepted;
use crate::failure::{ErrorCode, Failure};
use crate::format::catalogue::{BackupRecord, BackupSizes, ManifestReference, PageCounts, RepositoryOutcome};
use crate::format::manifest::{
    DirectoryRecord, FileRecord, LinkRecord, ManifestHead, RangeRecord, Record, file_checksum,
};
use crate::format::wal::StopBody;
use crate::format::{BlockHash, HashSecret};
use crate::ids::{PlanNumber, UnitId, WorkerName};
use crate::pg::{WalSegmentName, WalSegmentSize};
use crate::plan::backup::{Unit, Work};
use crate::plan::incremental::references_on;
use crate::plan::inventory::{FileIndex, Inventory, InventoryItem};
use crate::units::Timestamp;
use crate::wire::PartReceipt;
use std::collections::BTreeMap;

/// A repository's part in a job.
#[derive(Debug, Clone, Default)]
pub struct RepositoryState {
    pub facts: Option<super::event::RepositoryFacts>,
    pub failure: Option<Failure>,
    pub published: bool,
}

/// One accepted range of one file. Kept small: there is one for every file at least.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    file: FileIndex,
    range: RangeRecord,
    checksum: BlockHash,
}

#[derive(Debug, PartialEq)]
pub struct BackupContents {
    pub head: ManifestHead,
    pub pages: PageCounts,
    /// `(file, block)`, in order.
    pub bad_pages: Vec<(FileIndex, u32)>,
    spec: BackupSpec,
    cluster: crate::format::cluster::ClusterBody,
    inventory: Inventory,
    /// In order of file and offset.
    pieces: Vec<Piece>,
    vanished: Vec<bool>,
    kept: Kept,
    /// Numbers in the head's list of the workers that the prior lists.
    kept_workers: Vec<u16>,
    changed: u64,
    /// Segments that were copied too, in order.
    wal: Vec<FileRecord>,
}

impl BackupContents {
    /// Takes inventory and receipts out of the machine.
    pub(super) fn assemble(
        machine: &mut BackupMachine,
        now: Timestamp,
        stop: Option<&StopBody>,
    ) -> Result<BackupContents, Failure> {
        let missing =
            |what: &str| Failure::new(ErrorCode::Assert, format!("the backup ended without {what}"));
        let facts = machine.facts.clone().ok_or_else(|| missing("preflight"))?;
        let session = machine.session.clone().ok_or_else(|| missing("a session"))?;
        let cluster = machine.cluster.clone().ok_or_else(|| missing("a cluster"))?;
        let label = machine.label.ok_or_else(|| missing("a label"))?;
        if !machine.board.is_complete() {
            return Err(missing("all of its units"));
        }
        let inventory = std::mem::take(&mut machine.inventory);
        let (prior, references) = machine.foundation.newest();
        let kept = machine.foundation.take_kept();
        let mut collected = Collected::of(machine, inventory.file_count());
        let kept_workers = kept.workers().iter().map(|name| collected.worker(name)).collect();
        let start = session.start;
        let stop_segment = stop
            .map(|stop| WalSegmentName::last_before(stop.timeline, stop.stop_lsn, facts.wal_segment_size));
        let gone = collected.vanished.iter().filter(|gone| **gone).count();
        let head = ManifestHead {
            label,
            backup: machine.spec.backup,
            kind: label.kind(),
            prior,
            references,
            workers: collected.workers,
            users: inventory.users().to_vec(),
            groups: inventory.groups().to_vec(),
            version: facts.version,
            catalog_version: facts.catalog_version,
            page_size: facts.page_size,
            online: machine.spec.source.online,
            checksums: facts.checksums,
            started: session.started,
            stopped: stop.map_or(now, |stop| stop.stopped),
            timeline: session.timeline,
            lsn_start: start.map(|start| start.lsn),
            lsn_stop: stop.map(|stop| stop.stop_lsn),
            wal_start: start.map(|start| start.segment),
            wal_stop: stop_segment,
            tablespaces: session.tablespaces,
            databases: session.databases,
            records: (inventory.items().len() - gone) as u64,
            files: (inventory.file_count() - gone) as u64,
            bytes: file_ends(&collected.pieces) + kept.bytes(&inventory),
            backup_label: stop.map(|stop| stop.backup_label.clone()),
            tablespace_map: stop.map(|stop| stop.tablespace_map.clone()).filter(|map| !map.is_empty()),
        };
        let contents = BackupContents {
            head,
            pages: PageCounts { checked: collected.pages_checked, errors: collected.bad_pages.len() as u64 },
            bad_pages: collected.bad_pages,
            spec: machine.spec.clone(),
            cluster,
            inventory,
            pieces: collected.pieces,
            vanished: collected.vanished,
            kept,
            kept_workers,
            changed: machine.board.changed(),
            wal: Vec::new(),
        };
        contents.check()?;
        Ok(contents)
    }

    /// The last look before publishing: a record that a restore would refuse must not be written.
    fn check(&self) -> Result<(), Failure> {
        let mut records = 0;
        for record in self.records() {
            record.validate(&self.head)?;
            records += 1;
        }
        if records != self.head.records {
            let message = format!("{records} records were made of {}", self.head.records);
            return Err(Failure::new(ErrorCode::Assert, message));
        }
        Ok(())
    }

    pub fn path(&self, file: FileIndex) -> String {
        self.inventory.path(file).to_string()
    }

    /// Path and block of each page that does not match its checksum, in order.
    pub fn told_bad_pages(&self) -> Vec<(String, u32)> {
        self.bad_pages.iter().map(|(file, block)| (self.path(*file), *block)).collect()
    }

    pub fn hash_secret(&self) -> &HashSecret {
        &self.cluster.hash_secret
    }

    /// The manifest's records in order, one at a time.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        wal::merged(self.scanned_records(), &self.wal)
    }

    fn scanned_records(&self) -> impl Iterator<Item = Record> + '_ {
        let mut rest = self.pieces.as_slice();
        let mut bad = self.bad_pages.as_slice();
        self.inventory.items().filter_map(move |item| match item {
            InventoryItem::Directory(directory) => Some(Record::Directory(DirectoryRecord {
                path: directory.path.clone(),
                ownership: directory.ownership,
            })),
            InventoryItem::Link(link) => Some(Record::Link(LinkRecord {
                path: link.path.clone(),
                destination: link.destination.clone(),
                ownership: link.ownership,
            })),
            InventoryItem::File(index, _) => {
                let pieces = take_while(&mut rest, |piece| piece.file == index);
                let bad_pages = take_while(&mut bad, |(file, _)| *file == index);
                (!self.vanished[index.0 as usize])
                    .then(|| Record::File(self.file_record(index, pieces, bad_pages)))
            }
        })
    }

    fn file_record(&self, index: FileIndex, pieces: &[Piece], bad_pages: &[(FileIndex, u32)]) -> FileRecord {
        let file = self.inventory.file(index);
        if let Some(known) = self.kept.file(index) {
            let renamed = |range: &RangeRecord| RangeRecord {
                worker: self.kept_workers.get(usize::from(range.worker)).copied().unwrap_or(u16::MAX),
                ..*range
            };
            return FileRecord {
                path: self.inventory.path(index),
                size: known.size,
                modified: known.modified,
                ownership: file.ownership,
                checksum: known.checksum,
                ranges: known.ranges.iter().map(renamed).collect(),
                bad_pages: Vec::new(),
            };
        }
        let checksums: Vec<BlockHash> = pieces.iter().map(|piece| piece.checksum).collect();
        FileRecord {
            path: self.inventory.path(index),
            size: pieces.last().map_or(0, |piece| piece.range.end()),
            modified: file.modified,
            ownership: file.ownership,
            checksum: file_checksum(self.hash_secret(), &checksums),
            ranges: pieces.iter().map(|piece| piece.range).collect(),
            bad_pages: bad_pages.iter().map(|(_, block)| *block).collect(),
        }
    }

    /// What the manifest says in a repository: what the backup rests on is that repository's own.
    pub fn head_in(&self, record: &BackupRecord) -> ManifestHead {
        let (prior, references) = (record.prior, record.references.clone());
        ManifestHead { prior, references, ..self.head.clone() }
    }

    /// All WAL that the backup needs to become consistent; none for an offline backup.
    pub fn wal_segments(&self, size: WalSegmentSize) -> Vec<WalSegmentName> {
        let (Some(first), Some(last)) = (self.head.wal_start, self.head.wal_stop) else { return Vec::new() };
        let mut segments = vec![first];
        let mut current = first;
        while current < last {
            current = current.next(size);
            segments.push(current);
        }
        segments
    }

    /// The catalogue entry for one repository, where the backup rests on `prior`. The manifest's size and checksum are known
    /// once it is written there.
    pub fn record(
        &self,
        repositories: &[RepositoryOutcome],
        stored: u64,
        prior: Option<&BackupRecord>,
    ) -> BackupRecord {
        let head = &self.head;
        let stored_set = stored + prior.map_or(0, |prior| prior.sizes.stored_set);
        BackupRecord {
            label: head.label,
            backup: head.backup,
            kind: head.kind,
            prior: prior.map(|prior| prior.label),
            references: prior.map(references_on).unwrap_or_default(),
            cluster: self.cluster.number,
            system_id: self.cluster.system_id,
            version: head.version,
            online: head.online,
            started: head.started,
            stopped: head.stopped,
            timeline: head.timeline,
            lsn_start: head.lsn_start,
            lsn_stop: head.lsn_stop,
            wal_start: head.wal_start,
            wal_stop: head.wal_stop,
            sizes: BackupSizes { database: head.bytes, changed: self.changed, stored, stored_set },
            pages: self.pages,
            manifest: ManifestReference { size: 0, sha1: [0; 20] },
            annotations: self.spec.annotations.clone(),
            repositories: repositories.to_vec(),
            writer: self.spec.writer.clone(),
            program: self.spec.program.clone(),
        }
    }
}

fn take_while<'a, T>(rest: &mut &'a [T], belongs: impl Fn(&T) -> bool) -> &'a [T] {
    let end = rest.iter().position(|item| !belongs(item)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken
}

/// Sum of the files' sizes: each is the largest end of its pieces.
fn file_ends(pieces: &[Piece]) -> u64 {
    pieces
        .chunk_by(|a, b| a.file == b.file)
        .filter_map(|file| file.last())
        .map(|piece| piece.range.end())
        .sum()
}

struct Collected {
    plan: PlanNumber,
    pieces: Vec<Piece>,
    bad_pages: Vec<(FileIndex, u32)>,
    pages_checked: u64,
    vanished: Vec<bool>,
    workers: Vec<WorkerName>,
    worker_numbers: BTreeMap<WorkerName, u16>,
}

impl Collected {
    fn new(files: usize, plan: PlanNumber) -> Self {
        Collected {
            plan,
            pieces: Vec::with_capacity(files),
            bad_pages: Vec::new(),
            pages_checked: 0,
            vanished: vec![false; files],
            workers: Vec::new(),
            worker_numbers: BTreeMap::new(),
        }
    }

    /// Of all accepted units.
    fn of(machine: &BackupMachine, files: usize) -> Self {
        let mut collected = Collected::new(files, machine.plan);
        for (unit, planned, accepted) in machine.board.accepted() {
            collected.add(unit, planned, accepted);
        }
        collected.pieces.sort_by_key(|piece| (piece.file, piece.range.offset));
        collected.bad_pages.sort_unstable();
        collected
    }

    fn worker(&mut self, name: &WorkerName) -> u16 {
        if let Some(number) = self.worker_numbers.get(name) {
            return *number;
        }
        let number = u16::try_from(self.workers.len()).unwrap_or(u16::MAX);
        self.workers.push(name.clone());
        self.worker_numbers.insert(name.clone(), number);
        number
    }

    fn add(&mut self, unit: UnitId, planned: &Unit, accepted: &Accepted) {
        let worker = self.worker(&accepted.worker);
        let one;
        let (files, offset): (&[FileIndex], u64) = match &planned.work {
            Work::Range { file, offset, .. } => {
                one = [*file];
                (&one, *offset)
            }
            Work::Files(files) => (files, 0),
        };
        for (file, part) in files.iter().zip(&accepted.parts) {
            match part {
                // A range of a relation that was dropped while others of its ranges had been read: those are kept, and
                // replay drops the relation again.
                PartReceipt::Vanished => {
                    self.vanished[file.0 as usize] |= matches!(planned.work, Work::Files(_))
                }
                PartReceipt::Present { place, length, checksum, pages_checked, bad_pages } => {
                    self.pages_checked += pages_checked;
                    self.bad_pages.extend(bad_pages.iter().map(|block| (*file, *block)));
                    let Some(place) = *place else { continue };
                    let (plan, attempt, slot) = (self.plan, accepted.attempt, accepted.slot);
                    let range = RangeRecord {
                        offset,
                        length: *length,
                        label: 0,
                        plan,
                        unit,
                        attempt,
                        place,
                        worker,
                        slot,
                    };
                    self.pieces.push(Piece { file: *file, range, checksum: *checksum });
                }
            }
        }
    }
}
