//! Footers of packs that earlier backups stored, kept while a job may ask for them again.
//!
//! Units of one job ask for the same few packs one after another: what lies beside each other was packed together. Memory is
//! bounded by [`SHELF_BYTES`], whatever the size of the prior backup.

use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::{FrameEntry, Protection};
use pgconvoy_core::format::pack::{ForeignFrame, PackBody};
use pgconvoy_core::ids::{KeyGeneration, RepoKey, StanzaName};
use pgconvoy_repository::Repository;
use pgconvoy_repository::pack::PackReader;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What all footers together may take, roughly; one is kept in any case.
const SHELF_BYTES: usize = 16 << 20;

/// What a footer says, and what is needed to refer to its frames.
#[derive(Debug)]
pub struct PackMap {
    pub name: PackName,
    pub body: PackBody,
    frames: Vec<FrameEntry>,
    offsets: Vec<u64>,
    protection: Protection,
}

impl PackMap {
    fn new(name: PackName, reader: PackReader) -> PackMap {
        let frames = reader.object.frames().to_vec();
        let offsets = (0..frames.len()).map(|at| reader.object.stored_range(at..at + 1).start).collect();
        let protection = *reader.object.protection();
        PackMap { name, body: reader.body, frames, offsets, protection }
    }

    /// Generation and salt of the pack itself.
    pub fn opening(&self) -> (KeyGeneration, Vec<u8>) {
        match &self.protection {
            Protection::None => (KeyGeneration(0), vec![0; 32]),
            Protection::Aes256Gcm { generation, salt } => (*generation, salt.to_vec()),
        }
    }

    /// One of its own frames, as a later pack refers to it.
    pub fn frame(&self, number: u32) -> Option<ForeignFrame> {
        let (entry, offset) = (self.frames.get(number as usize)?, *self.offsets.get(number as usize)?);
        Some(ForeignFrame(number, offset, entry.stored_bytes(), entry.raw_bytes(), entry.codec()))
    }

    fn bytes(&self) -> usize {
        let of_ranges: usize = self
            .body
            .ranges
            .iter()
            .map(|range| range.path.len() + range.hashes.len() + 16 * range.runs.len() + 200)
            .sum();
        let of_foreign: usize = self.body.foreign.iter().map(|pack| 24 * pack.frames.len() + 150).sum();
        of_ranges + of_foreign + 24 * self.frames.len()
    }
}

type Shelf = VecDeque<(RepoKey, Arc<PackMap>)>;

/// The most recently used come first.
#[derive(Debug, Default)]
pub struct PackShelf(Mutex<Shelf>);

impl PackShelf {
    fn find(&self, key: RepoKey, name: PackName) -> Option<Arc<PackMap>> {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = shelf.iter().position(|(of, map)| *of == key && map.name == name)?;
        let found = shelf.remove(at)?;
        let map = found.1.clone();
        shelf.push_front(found);
        Some(map)
    }

    fn keep(&self, key: RepoKey, map: Arc<PackMap>) {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.push_front((key, map));
        let mut bytes = 0;
        let too_much = shelf.iter().position(|(_, map)| {
            bytes += map.bytes();
            bytes > SHELF_BYTES
        });
        if let Some(beyond) = too_much {
            shelf.truncate(beyond.max(1));
        }
    }

    /// From the shelf, or from the repository.
    pub async fn get(
        &self,
        repository: &Repository,
        stanza: &StanzaName,
        name: PackName,
        secret: &HashSecret,
    ) -> Result<Arc<PackMap>, Failure> {
        let key = repository.number();
        if let Some(map) = self.find(key, name) {
            return Ok(map);
        }
        let reader = PackReader::open(repository, stanza, name, None, secret).await?;
        let map = Arc::new(PackMap::new(name, reader));
        self.keep(key, map.clone());
        Ok(map)
    }
}
