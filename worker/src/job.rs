//! What every unit of one job needs, fixed when the units begin; and what they learn for each other: repositories that
//! stall, tablespaces that were dropped, and that the job is over.

mod given_up;
mod packs;
mod summaries;
#[cfg(test)]
pub(crate) mod testing;

use crate::fetching::RemoteSources;
pub use given_up::GivenUp;
pub use packs::{PackMap, PackShelf};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::ids::{Oid, RepoKey, WorkerName};
use pgconvoy_core::pg::{PageSize, PgVersion};
use pgconvoy_core::wire::{FromStandby, Incarnation, UnitContext, UnitOrder, UnitPart};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::roots::Roots;
use pgconvoy_postgres::tablespaces::{AskTablespaces, is_dropped};
use pgconvoy_repository::Repository;
use pgconvoy_storage::bandwidth::Bandwidth;
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
pub use summaries::Summaries;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What there is to know of the cluster's files, whoever reads them.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub version: PgVersion,
    pub page_size: PageSize,
    pub relation_segment_blocks: u32,
    /// Whether page checksums are looked at.
    pub check_pages: bool,
}

/// A data directory that was proved to be the one.
#[derive(Debug)]
pub struct Source {
    pub roots: Roots,
    pub tablespaces: Tablespaces,
    /// The standby that it is of, if it is one.
    pub standby: Option<Incarnation>,
}

impl Source {
    pub fn directory(&self) -> &Path {
        self.roots.directory()
    }
}

/// Which tablespaces were dropped while the job runs. By default nobody can be asked, and none was.
#[derive(Default)]
pub struct Tablespaces {
    ask: Option<Arc<AskTablespaces>>,
    dropped: Mutex<BTreeSet<Oid>>,
}

impl Tablespaces {
    pub fn asking(ask: Arc<AskTablespaces>) -> Self {
        Tablespaces { ask: Some(ask), dropped: Mutex::default() }
    }

    /// Blocks. A tablespace that was dropped once is not asked for again: it had thousands of files.
    pub fn is_dropped(&self, oid: Oid) -> Result<bool, PostgresError> {
        let dropped = || self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if dropped().contains(&oid) {
            return Ok(true);
        }
        let Some(ask) = &self.ask else { return Ok(false) };
        let is_dropped = is_dropped(ask.as_ref(), oid)?;
        if is_dropped {
            dropped().insert(oid);
        }
        Ok(is_dropped)
    }
}

impl fmt::Debug for Tablespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tablespaces").field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub struct JobContext {
    pub worker: WorkerName,
    pub units: UnitContext,
    pub shape: Shape,
    /// `None`: this worker sees no data, and is served what it computes.
    pub source: Option<Source>,
    /// Sources that serve it.
    pub remote: RemoteSources,
    pub secret: HashSecret,
    pub repositories: BTreeMap<RepoKey, Arc<Repository>>,
    /// How fast data files may be read, by all slots together.
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// The multi-thread runtime: slots are plain threads and hand their uploads to it.
    pub runtime: Handle,
    /// Repositories that stalled, for all units of the job.
    pub given_up: GivenUp,
    /// Footers of packs of earlier backups.
    pub packs: PackShelf,
    /// What the server says of changes since the prior backup.
    pub summaries: Option<Summaries>,
    /// Set when the job or its keeper ends: work for it stops then and reports nothing.
    pub ended: CancellationToken,
}

impl JobContext {
    /// Nobody hears of this failure: it only ends the work.
    pub fn check_running(&self) -> Result<(), Failure> {
        if self.ended.is_cancelled() { Err(job_over()) } else { Ok(()) }
    }

    /// Waits as long as so many bytes take where reading is limited.
    pub fn pace(&self, bytes: usize) {
        if let Some(bandwidth) = &self.bandwidth {
            bandwidth.take(bytes as u64, || self.ended.is_cancelled());
        }
    }

    pub fn page_check(&self, part: &UnitPart) -> Option<PageSize> {
        (self.shape.check_pages && part.class.page_checksummed()).then_some(self.shape.page_size)
    }

    /// What its own directory gives, if it has one.
    pub fn own_source(&self) -> Result<&Source, Failure> {
        self.source.as_ref().ok_or_else(|| {
            let message = format!("worker {} has no data of stanza {}", self.worker, self.units.stanza);
            Failure::new(ErrorCode::OptionInvalid, message)
        })
    }

    /// The standby that the unit's bytes come from, if they do.
    pub fn standby(&self, order: &UnitOrder) -> Option<FromStandby> {
        let (worker, incarnation) = match &order.source {
            Some(remote) => (&remote.worker, remote.standby),
            None => (&self.worker, self.source.as_ref()?.standby),
        };
        Some(FromStandby { worker: worker.clone(), incarnation: incarnation? })
    }

    /// SHA-1 costs as much as a third of the whole pipeline: only where it was asked for, and only of whole files.
    pub fn digest_for(&self, part: &UnitPart) -> Option<FileDigest> {
        (self.units.file_sha1 && part.offset == 0).then(|| FileDigest(Sha1::new()))
    }
}

pub(crate) fn job_over() -> Failure {
    Failure::new(ErrorCode::Term, "the job is over")
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
