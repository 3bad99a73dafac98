//! What every unit of one job needs, fixed when the units begin.

use pgconvoy_core::format::HashSecret;
use pgconvoy_core::ids::{RepoKey, WorkerName};
use pgconvoy_core::pg::{PageSize, PgVersion};
use pgconvoy_core::wire::{UnitContext, UnitPart};
use pgconvoy_postgres::roots::Roots;
use pgconvoy_repository::Repository;
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A data directory that was proved to be the one, and how to read it.
#[derive(Debug)]
pub struct Source {
    pub roots: Roots,
    pub version: PgVersion,
    pub page_size: PageSize,
    pub relation_segment_blocks: u32,
    /// Whether page checksums are looked at.
    pub check_pages: bool,
}

impl Source {
    pub fn directory(&self) -> &Path {
        self.roots.directory()
    }
}

#[derive(Debug)]
pub struct JobContext {
    pub worker: WorkerName,
    pub units: UnitContext,
    pub source: Source,
    pub secret: HashSecret,
    pub repositories: BTreeMap<RepoKey, Arc<Repository>>,
    /// The multi-thread runtime: slots are plain threads and hand their uploads to it.
    pub runtime: Handle,
}

impl JobContext {
    pub fn page_check(&self, part: &UnitPart) -> Option<PageSize> {
        (self.source.check_pages && part.class.page_checksummed()).then_some(self.source.page_size)
    }

    /// SHA-1 costs as much as a third of the whole pipeline: only where it was asked for, and only of whole files.
    pub fn digest_for(&self, part: &UnitPart) -> Option<FileDigest> {
        (self.units.file_sha1 && part.offset == 0).then(|| FileDigest(Sha1::new()))
    }
}

pub struct FileDigest(Sha1);

impl FileDigest {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}
