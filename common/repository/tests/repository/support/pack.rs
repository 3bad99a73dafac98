//! Packs as a worker writes them, in small.

use super::Site;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::{Kind, TAG_BYTES};
use pgconvoy_core::format::pack::{BlockRun, ForeignPack, PackBody, PackRange};
use pgconvoy_core::ids::Identity;
use pgconvoy_repository::codec::{Codec, Compressor};
use pgconvoy_storage::PutMode;
use std::ops::AddAssign;

/// Small frames, so that a small file has several.
const FRAME_BYTES: usize = 32 << 10;

/// A range to store: its bytes, and for each block the place in another pack where it lies already.
pub(crate) struct PackFile {
    pub(crate) path: String,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) block_size: u32,
    pub(crate) borrowed: Vec<Option<BlockRun>>,
    /// Stores other bytes than it hashes.
    pub(crate) lies: bool,
}

impl PackFile {
    pub(crate) fn new(path: &str, offset: u64, bytes: Vec<u8>, block_size: u32) -> Self {
        PackFile { path: path.to_owned(), offset, bytes, block_size, borrowed: Vec::new(), lies: false }
    }
}

/// Writes the pack and gives its ranges and size.
pub(crate) async fn write_pack(
    site: &Site,
    backup: Identity,
    name: PackName,
    files: &[PackFile],
    foreign: Vec<ForeignPack>,
) -> (Vec<PackRange>, u64) {
    let key = name.key(&site.stanza);
    let (mut encoder, header) = site.repository.encoder(Kind::Pack, &key).unwrap();
    let mut compressor = Compressor::new(Codec::Zst, Codec::Zst.default_level()).unwrap();
    let mut object = header.to_vec();
    let mut ranges = Vec::new();
    for file in files {
        let mut runs = Vec::new();
        let mut hashes = Vec::new();
        let mut frame: Vec<u8> = Vec::new();
        for (number, block) in file.bytes.chunks(file.block_size as usize).enumerate() {
            hashes.extend_from_slice(&site.cluster.hash_secret.hash(block).0);
            if let Some(Some(run)) = file.borrowed.get(number) {
                runs.push(*run);
                continue;
            }
            runs.push(BlockRun(1, 0, encoder.frames(), u32::try_from(frame.len()).unwrap()));
            frame.extend_from_slice(block);
            if file.lies {
                frame.last_mut().unwrap().add_assign(1);
            }
            if frame.len() >= FRAME_BYTES {
                seal(&mut encoder, &mut compressor, &mut frame, &mut object);
            }
        }
        seal(&mut encoder, &mut compressor, &mut frame, &mut object);
        ranges.push(PackRange {
            path: file.path.clone(),
            offset: file.offset,
            length: file.bytes.len() as u64,
            block_size: file.block_size,
            checksum: site.cluster.hash_secret.hash(&hashes),
            hashes,
            runs,
            bad_pages: Vec::new(),
            sha1: None,
        });
    }
    let body = PackBody {
        backup,
        label: name.label,
        plan: name.plan,
        unit: name.unit,
        attempt: name.attempt,
        worker: "db1".parse().unwrap(),
        slot: 1,
        ranges: ranges.clone(),
        foreign,
        vanished: Vec::new(),
        skipped: 0,
        plain: false,
    };
    object.extend_from_slice(&encoder.finish(&body, &mut compressor).unwrap());
    let size = object.len() as u64;
    site.storage.put(&key.parse().unwrap(), PutMode::Create, object.into()).await.unwrap();
    (ranges, size)
}

fn seal(
    encoder: &mut pgconvoy_repository::object::ObjectEncoder,
    compressor: &mut Compressor,
    frame: &mut Vec<u8>,
    object: &mut Vec<u8>,
) {
    if frame.is_empty() {
        return;
    }
    let mut stored = Vec::with_capacity(frame.len() + TAG_BYTES);
    let codec = compressor.compress(frame, &mut stored).unwrap();
    let raw_bytes = u32::try_from(frame.len()).unwrap();
    object.extend_from_slice(&encoder.frame(codec, raw_bytes, stored).unwrap());
    frame.clear();
}
