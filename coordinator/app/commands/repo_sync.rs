//! `repo-sync`: copies what one repository lacks from another. PostgreSQL need not run.

mod source;

use crate::args::Output;
use crate::host::{HostLock, cores, now, writer};
use crate::output;
use crate::repositories::repository_set;
use crate::runtime::{block_on, terminated};
use crate::settings::RepoSyncRequest;
use pgconvoy_coordinator::prepare::{LIVENESS_WINDOW, process_runs};
use pgconvoy_core::config::CipherType;
use pgconvoy_core::failure::{Context as _, ErrorCode, Failure};
use pgconvoy_core::ids::{RepoKey, WorkerName};
use pgconvoy_core::units::ByteCount;
use pgconvoy_core::wire::{CopyOrder, ErrandEnd};
use pgconvoy_repository::sync::{Crew, SyncMate, SyncOptions, SyncReport, Watch, json_to_text, sync};
use pgconvoy_repository::verify::VerifyProgress;
use pgconvoy_repository::{Repository, RepositorySet};
use pgconvoy_worker::copying::{Share, Team};
use pgconvoy_worker::desk::Desk;
use serde_json::json;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What is copied must not expire on its way, neither here nor there; backups may go on.
const LOCK_KIND: &str = "expire";
/// Held only while it is judged what a backup left in the target.
const BACKUP_LOCK_KIND: &str = "backup";
/// Often enough to see that it goes on, seldom enough for a log of a night.
const LINE_EVERY: Duration = Duration::from_secs(30);

pub fn run(request: &RepoSyncRequest) -> Result<ExitCode, Failure> {
    let synced = block_on(async {
        let cancel = CancellationToken::new();
        tokio::select! {
            synced = synced(request, Doer::Command, None, cancel.clone()) => synced,
            failure = terminated() => {
                cancel.cancel();
                Err(failure.hint("the same command goes on where this one ended"))
            }
        }
    })??;
    match request.output {
        Output::Json => output::json(&synced.to_json())?,
        Output::Text => output::text(&json_to_text(&synced.to_json()))?,
    };
    for error in synced.others() {
        tracing::error!("[{}] {error}", error.code);
    }
    synced.verdict().map(|()| ExitCode::SUCCESS)
}

/// On whose behalf this process copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doer {
    Command,
    /// A worker of a fleet, whose backups are led by coordinators that come and go: a process that is gone proves nothing there.
    Job,
}

/// Does it as the main worker of a fleet's job.
pub async fn shared(
    request: &RepoSyncRequest,
    desk: Arc<Desk>,
    cancel: CancellationToken,
) -> Result<ErrandEnd, Failure> {
    let team = Arc::new(Team::new(desk, request.options.slots(cores())));
    let synced = synced(request, Doer::Job, Some(team.clone()), cancel).await?;
    let mut result = synced.to_json();
    let one = |(name, share): (WorkerName, Share)| json!({"name": name.as_str(), "objects": share.objects, "bytes": share.bytes});
    result["workers"] = team.shares().into_iter().map(one).collect();
    let warning =
        |(name, failure): (WorkerName, Failure)| json!(format!("worker {name} is left out: {failure}"));
    result["warnings"] = team.left_out().into_iter().map(warning).collect();
    Ok(ErrandEnd { result: Some(result.to_string()), failure: synced.verdict().err() })
}

/// Helps another worker with it. What must not expire is locked by that one and by its coordinator.
pub async fn help(
    request: &RepoSyncRequest,
    order: CopyOrder,
    desk: Arc<Desk>,
    cancel: CancellationToken,
) -> Result<(), Failure> {
    let (from, to) = (request.from.key, request.to.key);
    let set = repository_set(&[request.from.clone(), request.to.clone()], &request.options)?;
    let source = source::open(request, &set).await?;
    let target = set.open(to).await.context(format!("repo {to}"))?;
    let options = options(request, Doer::Job, None, cancel.clone());
    let copier = SyncMate::open(source, target, &request.stanza, &options).await?;
    let slots = options.process_max;
    tracing::info!("help with the repo-sync from repo {from} to repo {to}");
    let helping = move || pgconvoy_worker::copying::help(&copier, order, &desk, slots, &cancel);
    tokio::task::spawn_blocking(helping).await.map_err(|error| {
        Failure::new(ErrorCode::Assert, format!("the thread that helps with repo-sync is gone: {error}"))
    })?
}

/// Copies it all, until it is told to stop.
async fn synced(
    request: &RepoSyncRequest,
    doer: Doer,
    crew: Option<Arc<dyn Crew>>,
    cancel: CancellationToken,
) -> Result<SyncReport, Failure> {
    let _locks = locks(request)?;
    let set = repository_set(&[request.from.clone(), request.to.clone()], &request.options)?;
    let source = source::open(request, &set).await?;
    let target = target(request, doer, &set).await?;
    let options = options(request, doer, crew, cancel);
    let last = Mutex::new(Instant::now());
    sync(source, target, &request.stanza, &options, Arc::new(move |progress| note(&last, &progress))).await
}

fn options(
    request: &RepoSyncRequest,
    doer: Doer,
    crew: Option<Arc<dyn Crew>>,
    cancel: CancellationToken,
) -> SyncOptions {
    SyncOptions {
        set: request.set,
        process_max: request.options.slots(cores()),
        writer: writer(),
        now: now(),
        watch: watch(request, doer),
        cancel,
        crew,
    }
}

/// A path that is no repository may be a mount that is missing, or a directory of another host: nothing is made unasked.
async fn target(
    request: &RepoSyncRequest,
    doer: Doer,
    set: &RepositorySet,
) -> Result<Arc<Repository>, Failure> {
    let key = request.to.key;
    if !request.create {
        return set.open(key).await.map_err(|error| {
            let is_absent = source::is_no_repository(&error);
            let failure = Failure::from(error).context(format!("repo {key}"));
            match doer {
                _ if !is_absent => failure,
                Doer::Command => failure.hint(
                    "pgconvoy stanza-create makes it; where PostgreSQL is gone for good, --create of this command does",
                ),
                Doer::Job => failure.hint("pgconvoy stanza-create makes it"),
            }
        });
    }
    let (target, is_new) = set.open_or_create(key, now()).await.context(format!("repo {key}"))?;
    if is_new && request.to.cipher != CipherType::None {
        tracing::warn!(
            "repo {key} is encrypted: whoever loses its key loses its backups. Keep a copy elsewhere"
        );
    }
    Ok(target)
}

/// In order of number, so that two that go opposite ways do not wait for each other.
fn locks(request: &RepoSyncRequest) -> Result<Vec<HostLock>, Failure> {
    let mut keys: Vec<RepoKey> = vec![request.from.key, request.to.key];
    keys.sort_unstable();
    let lock = |key| HostLock::acquire(&request.lock_path, &request.stanza, LOCK_KIND, key);
    keys.into_iter().map(lock).collect()
}

fn watch(request: &RepoSyncRequest, doer: Doer) -> Watch {
    let (path, stanza, key) = (request.lock_path.clone(), request.stanza.clone(), request.to.key);
    Watch {
        lock: Arc::new(move || {
            HostLock::acquire(&path, &stanza, BACKUP_LOCK_KIND, key)
                .map(|lock| Box::new(lock) as Box<dyn Send>)
        }),
        process_runs: match doer {
            Doer::Command => process_runs,
            Doer::Job => |_| true,
        },
        window: LIVENESS_WINDOW,
    }
}

fn note(last: &Mutex<Instant>, progress: &VerifyProgress) {
    let VerifyProgress { what, done, total, bytes } = progress;
    let bytes = ByteCount(*bytes);
    tracing::debug!("{what}: {done} of {total}, {bytes} copied");
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if last.elapsed() >= LINE_EVERY {
        *last = Instant::now();
        tracing::info!("{what}: {done} of {total}, {bytes} copied");
    }
}
