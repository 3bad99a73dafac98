//! What archive-push and archive-get share: how they start, and how they find the data directory that they serve.
//!
//! Both run once per WAL file, so they start a runtime without threads of its own, which is there in microseconds.

pub(super) mod background;
pub(super) mod daemon;

use crate::context::Context;
use crate::repositories::repository_set;
use pgconvoy_core::config::{BackupOptions, RepoConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_worker::archive::{Connect, data_directory};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Threads for calls that block: a few repositories at once, and one that compresses.
const BLOCKING_THREADS_MAX: usize = 16;
/// For each further file: one that reads and compresses it, and calls of its stores.
const THREADS_PER_FILE: usize = 3;
/// Calls that block get so long to clean up behind themselves; one that hangs must not keep the process from ending.
const END_GRACE: Duration = Duration::from_secs(1);

/// Runs to the end of the work or to SIGTERM, whichever comes first.
pub(super) fn run_until_terminated<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    run_on_threads(BLOCKING_THREADS_MAX, work)
}

/// As [`run_until_terminated`], where so many files are on their way at once.
pub(super) fn run_wide_until_terminated<T>(
    files: usize,
    work: impl Future<Output = T>,
) -> Result<T, Failure> {
    run_on_threads(BLOCKING_THREADS_MAX + files * THREADS_PER_FILE, work)
}

/// A process that stays must not keep a file system from being unmounted.
pub(super) fn leave_directory() {
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::debug!("staying in the current directory: {error}");
    }
}

/// A runtime without threads of its own, but for calls that block.
fn runtime(blocking_threads: usize) -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(blocking_threads)
        .build()
        .map_err(|error| failed(&error))
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::new(ErrorCode::Unknown, format!("cannot start a runtime: {error}"))
}

fn run_on_threads<T>(threads: usize, work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = runtime(threads)?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(&error))?;
        tokio::select! {
            biased;
            outcome = work => Ok(outcome),
            _ = terminate.recv() => Err(Failure::new(ErrorCode::Term, "terminated by SIGTERM")),
        }
    });
    runtime.shutdown_timeout(END_GRACE);
    outcome
}

pub(super) fn connect(repos: &[RepoConfig], options: &BackupOptions) -> Connect {
    let (repos, options) = (repos.to_vec(), options.clone());
    Arc::new(move |key| {
        let chosen = repos.iter().find(|repo| repo.key == key);
        repository_set(chosen.map_or(&[], std::slice::from_ref), &options)
    })
}

/// Where the data directory of the server that calls may be: it runs commands there, and names files in its pg_wal.
pub(super) fn candidates(pg_path: Option<&Path>, file: &Path) -> Vec<PathBuf> {
    match pg_path {
        Some(pg_path) => vec![pg_path.to_owned()],
        None => {
            let above_pg_wal = file.parent().and_then(Path::parent).filter(|above| *above != Path::new(""));
            std::iter::once(PathBuf::from(".")).chain(above_pg_wal.map(Path::to_owned)).collect()
        }
    }
}

/// The first of these that is a data directory, or the one that is configured for the stanza on this machine.
pub(super) fn data_directory_of(context: &Context, mut candidates: Vec<PathBuf>) -> Option<PathBuf> {
    let stanza: Option<StanzaName> = context.stanza.as_deref().and_then(|name| name.parse().ok());
    let configured = stanza.and_then(|name| context.config.stanzas.get(&name));
    let here = configured.iter().flat_map(|stanza| &stanza.pg).filter(|server| server.host.is_none());
    candidates.extend(here.map(|server| PathBuf::from(&server.path)));
    data_directory::find(candidates)
}
