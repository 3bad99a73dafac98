//! Rebuilds a data directory from a backup: the disaster case, which needs a repository, its key and nothing else.
//!
//! Code map: [`choice`] finds the backup and [`source`] its manifest, [`target`] judges and marks the directory ([`marker`],
//! [`clean`], [`destination`], [`space`]), [`tree`] makes what is not data, [`lead`] sees to the data, alone or with mates
//! ([`assist`], [`staging`], [`desk`]); [`data`] runs the slots ([`stock`] what they take, [`pack`] one pack, [`ledger`] the books,
//! [`sync`] durability), [`recovery`] tells PostgreSQL what to do, and [`control`] comes last.
//!
//! It is not: a decision. What becomes of each path is [`pgconvoy_core::plan::restore`]'s, before anything is written.
//!
//! Invariants
//! 1. Nothing is written before the target is proved to be empty or our own, and not in use by anybody.
//! 2. While the marker is in the target, there is no startable cluster beside it: pg_control gets its name when all else is
//!    written, synced and proved complete, and the marker goes after that.
//! 3. Every block is checked by its hash before it is written, every file by its checksum after its last part.
//! 4. A block comes from another repository only if that has the same backup, by UUID.
//! 5. The tablespace map that PostgreSQL returned is never written: links are made, and lead where the plan says.
//! 6. Only the main worker's process ever opens a file of the cluster for writing by its own name, and when pg_control comes,
//!    no mate has a place to write to any more.
//! 7. Memory is bounded by slots, apart from the plan itself, which grows with the number of files.
//!
//! Failure story: an error, a signal or a loss of power leaves the marker and no pg_control. The same command, run again,
//! finds its marker and goes on: what is there already is compared, block by block. Another one empties what the marker lists.

mod assist;
mod choice;
mod clean;
mod control;
mod data;
mod destination;
mod error;
mod existing;
mod files;
mod foresight;
mod lead;
mod ledger;
mod marker;
mod opening;
mod origin;
mod owners;
mod pack;
mod places;
mod recovery;
mod source;
mod space;
mod staging;
mod stock;
mod sync;
mod target;
mod tree;
mod verifiable;

#[cfg(test)]
mod tests;

pub use assist::assist;

use crate::desk::Desk;
use error::RestoreError;
pub use existing::Existing;
use existing::Standing;
use owners::Owners;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::{RepoKey, StanzaName, WorkerName};
use pgconvoy_core::plan::recovery::{RecoveryOptions, RecoveryTarget};
use pgconvoy_core::plan::restore::RestoreTarget;
use pgconvoy_repository::RepositorySet;
use places::Places;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use target::Target;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// What is wanted.
#[derive(Debug)]
pub struct RestoreOrder {
    pub stanza: StanzaName,
    /// `None`: the latest.
    pub set: Option<BackupLabel>,
    /// Asked in order; none but these is consulted.
    pub repositories: Arc<RepositorySet>,
    pub target: RestoreTarget,
    pub recovery: RecoveryOptions,
    /// Go on although replay would create a tablespace at a path that exists on this host.
    pub replay_into_existing: bool,
    pub existing: Existing,
    /// Also write PostgreSQL's own `backup_manifest`.
    pub backup_manifest: bool,
    /// Threads that decode and write.
    pub slots: usize,
    /// Bytes of a share, about: see [`Shares`](pgconvoy_core::plan::shares::Shares).
    pub share_size: u64,
}

impl RestoreOrder {
    fn standing(&self) -> Standing {
        // A manifest for verification has a checksum of every file: each must have been read.
        let existing = match self.existing {
            Existing::Believed if self.backup_manifest => Existing::Compared,
            existing => existing,
        };
        Standing { existing, preserves_settings: self.recovery.target == RecoveryTarget::Preserve }
    }
}

/// What a restore runs in.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// A multi-thread runtime; stores are waited for on it, from plain threads.
    pub runtime: Handle,
    pub stop: CancellationToken,
    pub progress: Arc<Progress>,
    /// Who shares the restore out; `None`: it is this process's alone.
    pub desk: Option<Arc<Desk>>,
}

/// Bytes of files, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    kept: AtomicU64,
    fetched: AtomicU64,
}

impl Progress {
    /// `(done, total)`; a total of 0 is not known yet.
    pub fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are there already.
    fn keep(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        self.add(bytes);
    }

    /// Bytes of packs, as they are stored.
    fn fetch(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    pub label: BackupLabel,
    /// Where the manifest came from, and all packs that were in order there.
    pub repository: RepoKey,
    pub bytes: u64,
    /// Of these, what the target held already.
    pub bytes_kept: u64,
    /// Of packs, as they are stored.
    pub bytes_fetched: u64,
    pub files: u64,
    pub elapsed: Duration,
    /// `None`: it was not shared out.
    pub team: Option<Team>,
}

/// Who did a restore that is shared out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Team {
    /// Bytes of each.
    pub workers: Vec<(WorkerName, u64)>,
    /// Those that could not help, and why.
    pub left_out: Vec<(WorkerName, Failure)>,
}

/// Blocks until the cluster is whole and durable. Not to be called on a thread of the runtime.
pub fn restore(order: &RestoreOrder, around: &Surroundings) -> Result<RestoreReport, Failure> {
    let begun = Instant::now();
    let found = Target::look(&order.target.directory, order.existing)?;
    let chosen = source::choose(order, around)?;
    let (head, plan) = (&chosen.head, &chosen.plan);
    tracing::info!("restore backup {} from repo {}", head.label, chosen.origin.key());
    let recovery = recovery::decide(head, &order.recovery)?;
    if order.backup_manifest {
        verifiable::check_version(head)?;
    }
    destination::check(plan, head, &order.target.directory, &found)?;
    foresight::check(&chosen, order, around)?;

    let target = Target::begin(found, &chosen, order.standing())?;
    let standing = target.standing();
    let places = Places::new(target.directory(), plan);
    let owners = Owners::new(head, plan, target.owner()?);
    if standing.existing.may_be_a_cluster() {
        existing::prune(plan, &places, standing)?;
    }
    space::check(plan, &places)?;
    tree::make(plan, &places, &owners)?;
    stop_if_asked(around)?;

    around.progress.expect(plan.bytes);
    let lead::Written { crcs, team } = lead::write(&chosen, &places, &owners, order, standing, around)?;
    let label = recovery::write_backup_label(head, &places, &owners)?;
    let settings = recovery::write(&recovery, plan, &places, &owners)?;
    let control = control::read(&chosen, &places)?;
    if order.backup_manifest {
        let own: Vec<verifiable::OwnFile> = [label, settings].into_iter().flatten().collect();
        verifiable::write(&chosen, &crcs, &control, &own, &places, &owners)?;
    }
    stop_if_asked(around)?;
    tree::sync(plan, &places)?;

    control::put_in_place(&control, &places)?;
    target.end()?;
    Ok(RestoreReport {
        label: head.label,
        repository: chosen.origin.key(),
        bytes: plan.bytes,
        bytes_kept: around.progress.kept.load(Ordering::Relaxed),
        bytes_fetched: around.progress.fetched.load(Ordering::Relaxed),
        files: plan.files.len() as u64,
        elapsed: begun.elapsed(),
        team,
    })
}

fn stop_if_asked(around: &Surroundings) -> Result<(), Failure> {
    if around.stop.is_cancelled() { Err(terminated()) } else { Ok(()) }
}

fn terminated() -> Failure {
    Failure::new(ErrorCode::Term, "the restore was terminated by a signal")
        .hint("run the same restore again: it finds what this one left, and begins anew")
}
