//! Two repositories in memory that have the same small backup, and a place to restore it to.
//!
//! Blocks have 64 bytes and frames four blocks, so that small files have several of each; frames are not compressed, so that
//! a test knows where they lie.

use super::super::{Existing, RestoreOrder, RestoreReport, Surroundings, restore};
use bytes::Bytes;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::catalogue::{
    BackupRecord, BackupSizes, CatalogueBody, ManifestReference, PageCounts,
};
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::format::manifest::{
    DirectoryRecord, FileRecord, LinkRecord, ManifestHead, Ownership, RangeRecord, Record, Tablespace,
    file_checksum,
};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::pack::{BlockRun, ForeignFrame, ForeignPack, PackBody, PackRange};
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::format::{BackupKind, BackupLabel, BlockHash, HashSecret};
use pgconvoy_core::ids::{
    Attempt, ClusterNumber, Identity, KeyGeneration, Oid, PlanNumber, RepoKey, StanzaName, SystemId, UnitId,
};
use pgconvoy_core::pg::{Lsn, PgVersion, RelativePath, TimelineId, WalSegmentSize};
use pgconvoy_core::plan::recovery::{RecoveryOptions, RecoveryTarget};
use pgconvoy_core::plan::restore::RestoreTarget;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::codec::{Codec, Compressor};
use pgconvoy_repository::object::{ObjectEncoder, ObjectReader};
use pgconvoy_repository::set::Place;
use pgconvoy_repository::{Repository, RepositorySet, RepositorySettings};
use pgconvoy_storage::{MemoryStorage, ObjectKey, PutMode, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

const BLOCK: usize = 64;
const BLOCKS_PER_FRAME: usize = 4;
const OWNERSHIP: Ownership = Ownership { mode: 0o600, user: 0, group: 0 };
const DIRECTORY: Ownership = Ownership { mode: 0o700, user: 0, group: 0 };
pub(super) const MODIFIED: i64 = 1_700_000_000;
pub(super) const LABEL: &str = "20261122-103000F";
pub(super) const CHILD: &str = "20261122-103000F_20261123-103000I";

/// What a server of 15 wrote while it ran.
pub(super) fn control() -> Vec<u8> {
    let mut bytes = include_bytes!("../../../../common/core/testdata/pg/pg_control_15").to_vec();
    bytes.resize(8192, 0);
    bytes
}

pub(super) fn content(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at / 5 + at * 7 + seed * 31) % 251).unwrap()).collect()
}

/// A part of a file: path, offset, bytes.
type Part = (&'static str, u64, Vec<u8>);

/// What the backup holds.
#[derive(Clone)]
pub(super) struct Shape {
    /// By unit.
    pub(super) units: BTreeMap<u32, Vec<Part>>,
    pub(super) online: bool,
    pub(super) tablespace: Option<PathBuf>,
}

impl Shape {
    pub(super) fn sample() -> Shape {
        let units = [
            (1, vec![("base/1", 0, content(1000, 1)), ("base/2", 0, content(300, 2))]),
            (2, vec![("base/1", 1500, content(500, 3))]),
            (
                3,
                vec![
                    ("global/pg_control", 0, control()),
                    ("postgresql.auto.conf", 0, b"work_mem = '1MB'\n".to_vec()),
                ],
            ),
        ];
        Shape { units: units.into_iter().collect(), online: true, tablespace: None }
    }

    /// What the file must be after a restore; gaps are zeros.
    pub(super) fn file(&self, path: &str) -> Vec<u8> {
        let mut file = Vec::new();
        for (_, offset, bytes) in self.units.values().flatten().filter(|(of, _, _)| *of == path) {
            let begin = usize::try_from(*offset).unwrap();
            file.resize(file.len().max(begin + bytes.len()), 0);
            file[begin..begin + bytes.len()].copy_from_slice(bytes);
        }
        file
    }
}

pub(super) fn settings(number: u16) -> RepositorySettings {
    RepositorySettings {
        number: RepoKey(number),
        secret: None,
        layout: pgconvoy_core::config::Layout::Packed,
    }
}

pub(super) struct Fixture {
    pub(super) runtime: Runtime,
    pub(super) storages: [MemoryStorage; 2],
    pub(super) scratch: TempDir,
    pub(super) set: Arc<RepositorySet>,
}

impl Fixture {
    pub(super) fn new(shape: &Shape) -> Fixture {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let storages = [MemoryStorage::new(), MemoryStorage::new()];
        let places = storages.iter().zip(1..).map(|(storage, number)| {
            let storage: Arc<dyn Storage> = Arc::new(storage.clone());
            Place::at(storage, settings(number))
        });
        let set = Arc::new(RepositorySet::new(places));
        let fixture = Fixture { runtime, storages, scratch: TempDir::new().unwrap(), set };
        for key in [1, 2] {
            fixture.runtime.block_on(fixture.make(key, shape));
        }
        fixture
    }

    async fn make(&self, key: u16, shape: &Shape) {
        let (repository, _) = self.set.open_or_create(RepoKey(key), Timestamp(1)).await.unwrap();
        repository.create_cluster(&stanza(), &cluster()).await.unwrap();
        let writing = Writing { repository: &repository, storage: &self.storages[usize::from(key) - 1] };
        writing.backup(LABEL, 1, shape, &BTreeMap::new()).await;
    }

    /// An incremental on top: the ranges of `borrowed` units lie in the full backup's packs.
    pub(super) fn add_child(&self, shape: &Shape) {
        for (key, storage) in [1, 2].into_iter().zip(&self.storages) {
            self.runtime.block_on(async {
                let repository = self.set.open(RepoKey(key)).await.unwrap();
                let writing = Writing { repository: &repository, storage };
                let full = shape.units.keys().map(|unit| (*unit, pack_name(LABEL, *unit))).collect();
                writing.backup(CHILD, 2, shape, &full).await;
            });
        }
    }

    pub(super) fn target(&self) -> PathBuf {
        self.scratch.path().join("target")
    }

    pub(super) fn order(&self) -> RestoreOrder {
        RestoreOrder {
            stanza: stanza(),
            set: None,
            repositories: self.set.clone(),
            target: RestoreTarget {
                directory: self.target().to_str().unwrap().to_owned(),
                ..RestoreTarget::default()
            },
            recovery: RecoveryOptions::new(RecoveryTarget::Default, "get %f".into()),
            replay_into_existing: false,
            existing: Existing::Refused,
            backup_manifest: false,
            slots: 2,
            share_size: 1 << 20,
        }
    }

    pub(super) fn around(&self) -> Surroundings {
        let (runtime, stop) = (self.runtime.handle().clone(), CancellationToken::new());
        Surroundings { runtime, stop, progress: Arc::default(), desk: None }
    }

    pub(super) fn restore(&self) -> Result<RestoreReport, Failure> {
        restore(&self.order(), &self.around())
    }

    /// Puts something else in an object's place; `None` removes it.
    pub(super) fn hurt(&self, repository: usize, name: &str, hurt: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let storage = &self.storages[repository - 1];
        let key: ObjectKey = name.parse().unwrap();
        self.runtime.block_on(async {
            let bytes = storage.get(&key, 1 << 20).await.unwrap();
            match hurt(bytes.to_vec()) {
                Some(bytes) => storage.put(&key, PutMode::Overwrite, Bytes::from(bytes)).await.unwrap(),
                None => storage.delete(&key).await.unwrap(),
            }
        });
    }

    pub(super) fn flip(&self, repository: usize, name: &str, at: usize) {
        self.hurt(repository, name, |mut bytes| {
            bytes[at] ^= 1;
            Some(bytes)
        });
    }

    pub(super) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.target().join(path)).unwrap()
    }
}

pub(super) fn pack(unit: u32) -> String {
    pack_name(LABEL, unit).key(&stanza())
}

/// Of the incremental backup.
pub(super) fn child_pack(unit: u32) -> String {
    pack_name(CHILD, unit).key(&stanza())
}

pub(super) fn manifest() -> String {
    layout::manifest(&stanza(), LABEL.parse().unwrap())
}

pub(super) fn catalogue_entry() -> String {
    layout::catalogue_entry(&stanza(), LABEL.parse().unwrap())
}

pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

pub(super) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

fn secret() -> HashSecret {
    HashSecret::from_random_bytes([5; HashSecret::BYTES])
}

fn identity(number: u8) -> Identity {
    Identity::from_random_bytes([number; 16])
}

fn system_id() -> SystemId {
    pgconvoy_core::pg::ControlFile::parse(&control()).unwrap().system_id
}

fn cluster() -> ClusterBody {
    ClusterBody {
        number: ClusterNumber(1),
        system_id: system_id(),
        version: PgVersion::V15,
        control_version: PgVersion::V15.control_version(),
        catalog_version: PgVersion::V15.catalog_version(),
        page_size: 8192,
        wal_segment_size: WalSegmentSize::DEFAULT,
        hash_secret: secret(),
        created: Timestamp(1),
    }
}

fn pack_name(label: &str, unit: u32) -> PackName {
    PackName { label: label.parse().unwrap(), plan: PlanNumber(1), unit: UnitId(unit), attempt: Attempt(1) }
}

/// Writes a backup into one repository.
struct Writing<'a> {
    repository: &'a Repository,
    storage: &'a MemoryStorage,
}

impl Writing<'_> {
    async fn backup(&self, label: &str, number: u8, shape: &Shape, borrowed: &BTreeMap<u32, PackName>) {
        let mut ranges: BTreeMap<&str, Vec<(RangeRecord, BlockHash)>> = BTreeMap::new();
        for (unit, parts) in &shape.units {
            let name = pack_name(label, *unit);
            let stored = self.pack(name, identity(number), parts, borrowed.get(unit)).await;
            for (place, ((path, offset, bytes), range)) in (0..).zip(parts.iter().zip(stored)) {
                let record = RangeRecord {
                    offset: *offset,
                    length: bytes.len() as u64,
                    label: 0,
                    plan: name.plan,
                    unit: name.unit,
                    attempt: name.attempt,
                    place,
                    worker: 0,
                    slot: 0,
                };
                ranges.entry(*path).or_default().push((record, range.checksum));
            }
        }
        let records = records(shape, ranges);
        let references = borrowed.values().map(|lender| lender.label).collect::<BTreeSet<_>>();
        let head = ManifestHead {
            references: references.into_iter().collect(),
            ..head(label.parse().unwrap(), identity(number), shape, &records)
        };
        self.manifest(&head, &records).await;
        let reference = self.repository.stored_manifest(&stanza(), head.label).await.unwrap();
        let record = record(&head, reference);
        let name = layout::catalogue_entry(&stanza(), head.label);
        let body = CatalogueBody::Published(Box::new(record));
        self.repository.put_object(Kind::Catalogue, &name, &body).await.unwrap();
    }

    async fn pack(
        &self,
        name: PackName,
        backup: Identity,
        parts: &[Part],
        lender: Option<&PackName>,
    ) -> Vec<PackRange> {
        let mut object = Object::new(self.repository, Kind::Pack, &name.key(&stanza()));
        let ranges: Vec<PackRange> = parts.iter().map(|part| object.range(part, lender.is_some())).collect();
        let mut foreign = Vec::new();
        if let Some(lender) = lender {
            let stored =
                ObjectReader::open(self.repository, Kind::Pack, &lender.key(&stanza())).await.unwrap();
            let frames = (0..).zip(stored.frames()).map(|(number, frame)| {
                let begin = stored.stored_range(number..number + 1).start;
                let number = u32::try_from(number).unwrap();
                ForeignFrame(number, begin, frame.stored_bytes(), frame.raw_bytes(), frame.codec())
            });
            foreign.push(ForeignPack {
                label: lender.label,
                plan: lender.plan,
                unit: lender.unit,
                attempt: lender.attempt,
                generation: KeyGeneration(0),
                salt: Vec::new(),
                frames: frames.collect(),
            });
        }
        let body = PackBody {
            backup,
            label: name.label,
            plan: name.plan,
            unit: name.unit,
            attempt: name.attempt,
            worker: "local".parse().unwrap(),
            slot: 0,
            ranges: ranges.clone(),
            foreign,
            vanished: Vec::new(),
            skipped: 0,
            plain: false,
        };
        self.put(&name.key(&stanza()), object.end(&body)).await;
        ranges
    }

    async fn manifest(&self, head: &ManifestHead, records: &[Record]) {
        let name = layout::manifest(&stanza(), head.label);
        let mut object = Object::new(self.repository, Kind::Manifest, &name);
        let mut raw = Vec::new();
        records.iter().for_each(|record| record.encode(&mut raw));
        object.frame(&raw);
        self.put(&name, object.end(head)).await;
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) {
        self.storage.put(&name.parse().unwrap(), PutMode::Create, Bytes::from(bytes)).await.unwrap();
    }
}

/// An object while it is written.
struct Object {
    encoder: ObjectEncoder,
    compressor: Compressor,
    bytes: Vec<u8>,
    /// Raw lengths, of borrowed frames too.
    frames: Vec<u32>,
}

impl Object {
    fn new(repository: &Repository, kind: Kind, name: &str) -> Object {
        let (encoder, header) = repository.encoder(kind, name).unwrap();
        let compressor = Compressor::new(Codec::None, Codec::None.default_level()).unwrap();
        Object { encoder, compressor, bytes: header.to_vec(), frames: Vec::new() }
    }

    fn frame(&mut self, raw: &[u8]) {
        let mut stored = Vec::new();
        let codec = self.compressor.compress(raw, &mut stored).unwrap();
        let sealed = self.encoder.frame(codec, u32::try_from(raw.len()).unwrap(), stored).unwrap();
        self.bytes.extend_from_slice(&sealed);
    }

    /// A borrowed range refers to frames of the same shape in another pack.
    fn range(&mut self, (path, offset, bytes): &Part, borrowed: bool) -> PackRange {
        let (mut hashes, mut runs) = (Vec::new(), Vec::new());
        for frame in bytes.chunks(BLOCK * BLOCKS_PER_FRAME) {
            let number = u32::try_from(self.frames.len()).unwrap();
            let blocks = u32::try_from(frame.chunks(BLOCK).count()).unwrap();
            runs.push(BlockRun(blocks, u32::from(borrowed), number, 0));
            frame.chunks(BLOCK).for_each(|block| hashes.extend_from_slice(&secret().hash(block).0));
            self.frames.push(u32::try_from(frame.len()).unwrap());
            if !borrowed {
                self.frame(frame);
            }
        }
        PackRange {
            path: (*path).to_owned(),
            offset: *offset,
            length: bytes.len() as u64,
            block_size: u32::try_from(BLOCK).unwrap(),
            checksum: secret().hash(&hashes),
            hashes,
            runs,
            bad_pages: Vec::new(),
            sha1: None,
        }
    }

    fn end<B: serde::Serialize>(mut self, body: &B) -> Vec<u8> {
        self.bytes.extend_from_slice(&self.encoder.finish(body, &mut self.compressor).unwrap());
        self.bytes
    }
}

fn records(shape: &Shape, ranges: BTreeMap<&str, Vec<(RangeRecord, BlockHash)>>) -> Vec<Record> {
    let path = |text: &str| -> RelativePath { text.parse().unwrap() };
    let directory = |text| Record::Directory(DirectoryRecord { path: path(text), ownership: DIRECTORY });
    let mut records: Vec<Record> = ["base", "global", "pg_tblspc", "pg_wal"].map(directory).to_vec();
    for (name, mut parts) in ranges.into_iter().chain([("base/3", Vec::new())]) {
        parts.sort_by_key(|(range, _)| range.offset);
        let checksums: Vec<BlockHash> = parts.iter().map(|(_, checksum)| *checksum).collect();
        records.push(Record::File(FileRecord {
            path: path(name),
            size: parts.last().map_or(0, |(range, _)| range.end()),
            modified: MODIFIED,
            ownership: OWNERSHIP,
            checksum: file_checksum(&secret(), &checksums),
            ranges: parts.into_iter().map(|(range, _)| range).collect(),
            bad_pages: Vec::new(),
        }));
    }
    if let Some(destination) = &shape.tablespace {
        let destination = destination.to_str().unwrap().to_owned();
        records.push(Record::Link(LinkRecord {
            path: path("pg_tblspc/16384"),
            destination,
            ownership: DIRECTORY,
        }));
        records.push(directory("pg_tblspc/16384/PG_15_202209061"));
    }
    records.sort_by(|a, b| a.path().as_str().split('/').cmp(b.path().as_str().split('/')));
    records
}

fn head(label: BackupLabel, backup: Identity, shape: &Shape, records: &[Record]) -> ManifestHead {
    let sizes = records.iter().filter_map(|record| match record {
        Record::File(file) => Some(file.size),
        _ => None,
    });
    let sizes: Vec<u64> = sizes.collect();
    let tablespace = |path: &PathBuf| Tablespace {
        oid: Oid(16384),
        name: "east".into(),
        destination: path.to_str().unwrap().to_owned(),
    };
    ManifestHead {
        label,
        backup,
        kind: BackupKind::Full,
        prior: None,
        references: Vec::new(),
        workers: vec!["local".parse().unwrap()],
        users: vec!["nobody-of-this-host".into()],
        groups: vec!["nobody-of-this-host".into()],
        version: PgVersion::V15,
        catalog_version: PgVersion::V15.catalog_version(),
        page_size: 8192,
        online: shape.online,
        checksums: true,
        started: Timestamp(1),
        stopped: Timestamp(2),
        timeline: TimelineId(1),
        lsn_start: Some(Lsn(0x200_0028)),
        lsn_stop: Some(Lsn(0x200_0100)),
        wal_start: None,
        wal_stop: None,
        tablespaces: shape.tablespace.iter().map(tablespace).collect(),
        databases: Vec::new(),
        records: records.len() as u64,
        files: sizes.len() as u64,
        bytes: sizes.iter().sum(),
        backup_label: shape.online.then(|| "START WAL LOCATION: 0/2000028\n".into()),
        tablespace_map: shape.tablespace.as_ref().map(|path| format!("16384 {}\n", path.display())),
    }
}

fn record(head: &ManifestHead, manifest: ManifestReference) -> BackupRecord {
    BackupRecord {
        label: head.label,
        backup: head.backup,
        kind: head.kind,
        prior: None,
        references: head.references.clone(),
        cluster: ClusterNumber(1),
        system_id: system_id(),
        version: head.version,
        online: head.online,
        started: head.started,
        stopped: head.stopped,
        timeline: head.timeline,
        lsn_start: head.lsn_start,
        lsn_stop: head.lsn_stop,
        wal_start: None,
        wal_stop: None,
        sizes: BackupSizes::default(),
        pages: PageCounts::default(),
        manifest,
        annotations: BTreeMap::new(),
        repositories: Vec::new(),
        writer: Writer { host: "here".into(), boot: String::new(), process: 1 },
        program: "test".into(),
    }
}
