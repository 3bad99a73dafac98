//! An incremental backup made by hand on top of a full one, right or wrong in one respect.

use super::{PackFile, Site, write_pack, writer};
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody, ManifestReference};
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::format::manifest::{FileRecord, ManifestHead, RangeRecord, Record, file_checksum};
use pgconvoy_core::format::object::{Kind, Protection, TAG_BYTES};
use pgconvoy_core::format::pack::{BlockRun, ForeignFrame, ForeignPack, PackRange};
use pgconvoy_core::format::plan::PlanBody;
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::format::{BackupKind, BackupLabel};
use pgconvoy_core::ids::{Attempt, KeyGeneration, PlanNumber, UnitId};
use pgconvoy_core::pg::Lsn;
use pgconvoy_core::units::{MIB, Timestamp};
use pgconvoy_repository::codec::{Codec, Compressor};
use pgconvoy_repository::manifest::ManifestReader;
use pgconvoy_repository::pack::PackReader;
use pgconvoy_storage::PutMode;
use sha1::{Digest, Sha1};

/// The file of which some blocks are new, and the rest lies in the full backup's pack.
const CHANGED: &str = "base/5/2619";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// The pack stores other bytes than it hashes.
    Hash,
    /// A borrowed block is said to lie where another one does.
    Place,
    Salt,
    FrameOffset,
    /// The backup does not say that it rests on the full one.
    Reference,
    /// The manifest names a range that the pack does not hold.
    Range,
    /// The manifest has another checksum of a file than the pack.
    Checksum,
    /// The same of a file of several ranges.
    SplitChecksum,
    Count,
    Order,
    Head,
}

pub(crate) struct Incremental {
    pub(crate) label: BackupLabel,
    pub(crate) pack: String,
    pub(crate) manifest: String,
}

/// Publishes it. Its WAL is segment 8.
pub(crate) async fn incremental(site: &Site, full: BackupLabel, flaw: Flaw) -> Incremental {
    let prior = site.record(full).await;
    let mut manifest =
        ManifestReader::open(&site.repository, &site.stanza, full, &prior.manifest).await.unwrap();
    let mut head = manifest.head().clone();
    let mut records = Vec::new();
    while let Some(more) = manifest.next_records(&site.repository).await.unwrap() {
        records.extend(more);
    }
    let label = BackupLabel::next(BackupKind::Incr, Some(full), Timestamp(0), site.labels().await);
    let pack = PackName { label, plan: PlanNumber(1), unit: UnitId(0), attempt: Attempt(1) };
    head.label = label;
    head.backup = Site::identity(50);
    head.kind = BackupKind::Incr;
    head.prior = Some(full);
    head.references = vec![full];
    (head.lsn_start, head.lsn_stop) = (Some(Lsn(8 * MIB + 0x28)), Some(Lsn(8 * MIB + 0x100)));
    (head.wal_start, head.wal_stop) = (Some(super::segment(8)), Some(super::segment(8)));
    for record in &mut records {
        let Record::File(file) = record else { continue };
        file.ranges.iter_mut().for_each(|range| range.label = 1);
        if file.path.as_str() == CHANGED {
            let range = store_changed(site, &prior, file, pack, flaw).await;
            file.checksum = file_checksum(&site.cluster.hash_secret, &[range.checksum]);
            file.ranges = vec![own_range(file, pack)];
        }
    }
    hurt(&mut records, &mut head, flaw);
    let reference = write_manifest(site, &head, &records).await;
    publish(site, &prior, &head, reference, flaw).await;
    Incremental { label, pack: pack.key(&site.stanza), manifest: layout::manifest(&site.stanza, label) }
}

fn own_range(file: &FileRecord, pack: PackName) -> RangeRecord {
    RangeRecord {
        label: 0,
        plan: pack.plan,
        unit: pack.unit,
        attempt: pack.attempt,
        place: 0,
        ..file.ranges[0]
    }
}

/// Keeps the first block of the file, which it borrows, and changes the second.
async fn store_changed(
    site: &Site,
    prior: &BackupRecord,
    file: &FileRecord,
    pack: PackName,
    flaw: Flaw,
) -> PackRange {
    let range = &file.ranges[0];
    let lender = PackName { label: prior.label, plan: range.plan, unit: range.unit, attempt: range.attempt };
    let secret = &site.cluster.hash_secret;
    let opened = PackReader::open(&site.repository, &site.stanza, lender, None, secret).await.unwrap();
    let there = opened.range(range.place, CHANGED, range.offset, range.length).unwrap();
    let run = there.runs[0];
    let number = run.frame() as usize;
    let raw = opened.object.read_frame(&site.repository, number).await.unwrap();
    let block = there.block_size as usize;
    let skip = run.skip() as usize;
    let mut bytes = raw[skip..skip + usize::try_from(there.length).unwrap()].to_vec();
    bytes[block + 5] ^= 1;
    let entry = opened.object.frames()[number];
    let offset = opened.object.stored_range(number..number + 1).start + u64::from(flaw == Flaw::FrameOffset);
    let (generation, mut salt) = match opened.object.protection() {
        Protection::None => (KeyGeneration(0), vec![0; 32]),
        Protection::Aes256Gcm { generation, salt } => (*generation, salt.to_vec()),
    };
    salt[0] ^= u8::from(flaw == Flaw::Salt);
    let foreign = ForeignPack {
        label: prior.label,
        plan: lender.plan,
        unit: lender.unit,
        attempt: lender.attempt,
        generation,
        salt,
        frames: vec![ForeignFrame(
            run.frame(),
            offset,
            entry.stored_bytes(),
            entry.raw_bytes(),
            entry.codec(),
        )],
    };
    let skip = run.skip() + if flaw == Flaw::Place { there.block_size } else { 0 };
    let mut stored = PackFile::new(CHANGED, range.offset, bytes, there.block_size);
    stored.borrowed = vec![Some(BlockRun(1, 1, 0, skip))];
    stored.lies = flaw == Flaw::Hash;
    let (mut ranges, _) = write_pack(site, Site::identity(50), pack, &[stored], vec![foreign]).await;
    ranges.remove(0)
}

fn hurt(records: &mut [Record], head: &mut ManifestHead, flaw: Flaw) {
    fn file<'a>(records: &'a mut [Record], wanted: &str) -> &'a mut FileRecord {
        let found = records.iter_mut().find_map(|record| match record {
            Record::File(file) if file.path.as_str() == wanted => Some(file),
            _ => None,
        });
        found.unwrap()
    }
    match flaw {
        Flaw::Range => file(records, CHANGED).ranges[0].place = 7,
        Flaw::Checksum => file(records, CHANGED).checksum.0[0] ^= 1,
        Flaw::SplitChecksum => {
            let split = file(records, "base/5/1259");
            assert!(split.ranges.len() > 1);
            split.checksum.0[0] ^= 1;
        }
        Flaw::Count => head.files += 1,
        Flaw::Order => records.swap(0, 3),
        _ => {}
    }
}

async fn write_manifest(site: &Site, head: &ManifestHead, records: &[Record]) -> ManifestReference {
    let name = layout::manifest(&site.stanza, head.label);
    let (mut encoder, header) = site.repository.encoder(Kind::Manifest, &name).unwrap();
    let mut compressor = Compressor::new(Codec::Zst, Codec::Zst.default_level()).unwrap();
    let mut raw = Vec::new();
    records.iter().for_each(|record| record.encode(&mut raw));
    let mut stored = Vec::with_capacity(raw.len() + TAG_BYTES);
    let codec = compressor.compress(&raw, &mut stored).unwrap();
    let mut object = header.to_vec();
    object.extend_from_slice(&encoder.frame(codec, u32::try_from(raw.len()).unwrap(), stored).unwrap());
    object.extend_from_slice(&encoder.finish(head, &mut compressor).unwrap());
    let reference = ManifestReference { size: object.len() as u64, sha1: Sha1::digest(&object).into() };
    site.storage.put(&name.parse().unwrap(), PutMode::Create, object.into()).await.unwrap();
    reference
}

async fn publish(
    site: &Site,
    prior: &BackupRecord,
    head: &ManifestHead,
    manifest: ManifestReference,
    flaw: Flaw,
) {
    let (stanza, label) = (&site.stanza, head.label);
    let plan = PlanBody {
        label,
        backup: head.backup,
        kind: head.kind,
        number: PlanNumber(1),
        writer: writer(),
        written: head.started,
        references: head.references.clone(),
        unit_size: 1,
        units: 1,
        files: 1,
        bytes: 1,
    };
    site.repository.write_plan(stanza, &plan).await.unwrap();
    let stop = StopBody {
        start_lsn: head.lsn_start.unwrap(),
        stop_lsn: head.lsn_stop.unwrap(),
        timeline: head.timeline,
        stopped: head.stopped,
        backup_label: String::new(),
        tablespace_map: String::new(),
        kept: None,
    };
    site.repository.write_stop(stanza, label, PlanNumber(1), &stop, None).await.unwrap();
    let references = if flaw == Flaw::Reference { Vec::new() } else { head.references.clone() };
    let record = BackupRecord {
        label,
        backup: head.backup,
        kind: head.kind,
        prior: head.prior,
        references,
        lsn_start: head.lsn_start,
        lsn_stop: head.lsn_stop.map(|lsn| Lsn(lsn.0 + u64::from(flaw == Flaw::Head))),
        wal_start: head.wal_start,
        wal_stop: head.wal_stop,
        manifest,
        ..prior.clone()
    };
    let entry = CatalogueBody::Published(Box::new(record));
    let name = layout::catalogue_entry(stanza, label);
    site.repository.put_object(Kind::Catalogue, &name, &entry).await.unwrap();
}
