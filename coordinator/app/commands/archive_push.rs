//! `archive-push`: archive_command. Every exit status stays below 126: PostgreSQL would shut its archiver down for more.
//!
//! It pushes by itself, or with `archive-async` waits for the background process to do so. Either way the background
//! process is started where repositories lack something that others have.

mod asynchronous;

use super::archive::{self, background, candidates, connect, data_directory_of, run_until_terminated};
use crate::context::Context;
use crate::host::{HostLock, cores};
use crate::settings::ArchivePushRequest;
use pgconvoy_core::config::{BackupOptions, Compression, RepoConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::WalFileName;
use pgconvoy_postgres::connect::ConnectOptions;
use pgconvoy_repository::codec::{Codec, Level};
use pgconvoy_repository::wal::{PushManner, Pushed, Threads};
use pgconvoy_worker::archive::spool::OutSpool;
use pgconvoy_worker::archive::{
    BackgroundPush, ClusterIdentity, Doors, Nudge, Push, PushReport, PushRepository, Sibling, Stream,
    data_directory, ready,
};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub(super) const COMMAND: &str = "archive-push";
/// Frames of a segment are compressed side by side.
const COMPUTING_MIN: usize = 2;
/// In the background, files are pushed side by side: one more than is computed on, as the last steps of a file are its
/// store's.
const FILES_MORE: usize = 1;
/// How long the background process waits for the next segment.
const LINGER: Duration = Duration::from_secs(3);

pub fn run(context: &Context, request: &ArchivePushRequest) -> Result<ExitCode, Failure> {
    let file = wal_file(&request.path)?;
    if request.is_background {
        return run_background(context, request);
    }
    if let Some(spool) = spool(context, request) {
        run_until_terminated(asynchronous::run(context, request, &file, &spool))??;
        return Ok(ExitCode::SUCCESS);
    }
    if is_dropped(context, request, &file)? {
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = push(context, request, file);
    let is_background_due = match &outcome {
        Ok(report) => report.is_catch_up_due || has_dropped(context, request),
        // Some have it: what waits behind this file can go on to them.
        Err(failure) => failure.code == ErrorCode::Command,
    };
    if is_background_due && let Err(failure) = background::wake(context, &request.stanza, Nudge::CatchUp) {
        tracing::warn!("{failure}");
    }
    tell(&file, &outcome?);
    Ok(ExitCode::SUCCESS)
}

/// Statuses, if this file's is to be waited for. Only what PostgreSQL holds ready is seen in the background.
fn spool(context: &Context, request: &ArchivePushRequest) -> Option<OutSpool> {
    if !request.options.archive_async || !ready::is_waiting(&request.path) {
        return None;
    }
    match OutSpool::open(Path::new(&context.config.paths.spool), &request.stanza) {
        Ok(spool) => Some(spool),
        Err(failure) => {
            tracing::warn!("{failure}; pushing without a background process");
            None
        }
    }
}

/// Whether the server's disk is worth more than this file. What is lost with it is told and put on record.
fn is_dropped(context: &Context, request: &ArchivePushRequest, file: &WalFileName) -> Result<bool, Failure> {
    let (Some(max), Some(pg_wal)) = (request.options.archive_push_queue_max, request.path.parent()) else {
        return Ok(false);
    };
    let Some(waiting) = ready::waiting(pg_wal)? else { return Ok(false) };
    if !ready::is_too_much(waiting.len(), ready::segment_bytes(pg_wal, &waiting), max) {
        return Ok(false);
    }
    tracing::warn!("{}", ready::dropped(file, max));
    let noted = OutSpool::open(Path::new(&context.config.paths.spool), &request.stanza)
        .and_then(|spool| spool.note_dropped(file, &ready::drop_record(file, max)));
    if let Err(failure) = noted {
        tracing::warn!("no repository will know that {file} was dropped: {failure}");
    }
    Ok(true)
}

/// Whether some repository still has to be told of what was dropped.
fn has_dropped(context: &Context, request: &ArchivePushRequest) -> bool {
    let spool = OutSpool::existing(Path::new(&context.config.paths.spool), &request.stanza);
    spool.is_some_and(|spool| !spool.dropped().is_empty())
}

fn push(context: &Context, request: &ArchivePushRequest, file: WalFileName) -> Result<PushReport, Failure> {
    let is_header_checked = request.options.archive_header_check;
    let is_segment = matches!(file, WalFileName::Segment(_) | WalFileName::Partial(_));
    // A segment tells by itself whose it is.
    let cluster = if is_segment && is_header_checked { None } else { cluster(context, request)? };
    let doors = Doors::new(connect(&request.repos, &request.options), request.stanza.clone());
    let push = Push {
        doors: &doors,
        repositories: &repositories(request),
        file,
        path: &request.path,
        cluster,
        is_header_checked,
        manner: manner(request)?,
    };
    run_until_terminated(push.run())?
}

fn cluster(context: &Context, request: &ArchivePushRequest) -> Result<Option<ClusterIdentity>, Failure> {
    match data_directory_of(context, candidates(request.pg_path.as_deref(), &request.path)) {
        Some(directory) => data_directory::identity(&directory),
        None => Ok(None),
    }
}

/// Pushes what waits, until there is nothing to do or nothing can be done.
fn run_background(context: &Context, request: &ArchivePushRequest) -> Result<ExitCode, Failure> {
    let Some(_lock) = background::become_it(context, &request.stanza)? else { return Ok(ExitCode::SUCCESS) };
    let pushing = ahead(context, request, LINGER)?;
    archive::leave_directory();
    archive::run_wide_until_terminated(pushing.width * request.repos.len(), pushing.run())??;
    Ok(ExitCode::SUCCESS)
}

/// What pushes ahead for this stanza, here or in a worker.
pub(super) fn ahead(
    context: &Context,
    request: &ArchivePushRequest,
    linger: Duration,
) -> Result<BackgroundPush, Failure> {
    let cluster = cluster(context, request)?;
    let path = std::path::absolute(&request.path)
        .map_err(|error| Failure::new(ErrorCode::FileOpen, format!("no current directory: {error}")))?;
    let manner = manner(request)?;
    let spool_path = Path::new(&context.config.paths.spool);
    let spool = match request.options.archive_async {
        true => Some(OutSpool::open(spool_path, &request.stanza)?),
        false => OutSpool::existing(spool_path, &request.stanza),
    };
    let sibling = |repo: &RepoConfig| Sibling { key: repo.key, keeps_all: repo.retention.archive.is_none() };
    Ok(BackgroundPush {
        doors: Doors::new(connect(&request.repos, &request.options), request.stanza.clone()),
        repositories: repositories(request),
        siblings: request.repos.iter().map(sibling).collect(),
        pg_wal: path.parent().unwrap_or(Path::new("/")).to_owned(),
        spool,
        is_asked: request.options.archive_async,
        cluster,
        is_header_checked: request.options.archive_header_check,
        manner,
        width: computing_max(&request.options) + FILES_MORE,
        queue_max: request.options.archive_push_queue_max,
        nudges: HostLock::background_socket(&context.config.paths.lock, &request.stanza, COMMAND),
        linger,
    })
}

/// What streams this stanza's WAL in a worker.
pub(super) fn stream(
    context: &Context,
    request: &ArchivePushRequest,
    connect_options: &ConnectOptions,
) -> Result<Stream, Failure> {
    let cluster = cluster(context, request)?.ok_or_else(|| {
        Failure::new(ErrorCode::FileMissing, format!("there is no cluster at '{}'", request.path.display()))
            .hint("check the path of the stanza's server")
    })?;
    Ok(Stream {
        doors: Doors::new(connect(&request.repos, &request.options), request.stanza.clone()),
        repositories: repositories(request),
        connect: ConnectOptions {
            application_name: "pgconvoy [archive-stream]".to_owned(),
            ..connect_options.clone()
        },
        pg_wal: request.path.parent().unwrap_or(Path::new("/")).to_owned(),
        cluster,
        is_header_checked: request.options.archive_header_check,
        manner: PushManner { threads: Threads::new(1), ..manner(request)? },
        retain_max: request.options.archive_stream_retain_max,
    })
}

fn repositories(request: &ArchivePushRequest) -> Vec<PushRepository> {
    request.repos.iter().map(|repo| PushRepository { key: repo.key, is_required: repo.required }).collect()
}

fn wal_file(path: &Path) -> Result<WalFileName, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.parse().map_err(|error| {
        Failure::new(ErrorCode::ParamInvalid, format!("{error}"))
            .hint("archive_command = 'pgconvoy --stanza=NAME archive-push %p'")
    })
}

fn manner(request: &ArchivePushRequest) -> Result<PushManner, Failure> {
    let options = &request.options;
    let (codec, level) = codec_and_level(options.compression)?;
    let own = request.repos.iter().map(|repo| Ok((repo.key, codec_and_level(options.compression_in(repo))?)));
    let own = own.collect::<Result<_, Failure>>()?;
    let threads = Threads::new(computing_max(options));
    Ok(PushManner { codec, level, own, threads, stall: options.io_timeout })
}

fn codec_and_level(compression: Compression) -> Result<(Codec, Level), Failure> {
    let codec: Codec = compression.kind.into();
    Ok((codec, Level::new(codec, compression.level)?))
}

/// PostgreSQL waits for each segment: its wall time counts, and it is short.
fn computing_max(options: &BackupOptions) -> usize {
    options.slots(cores()).max(COMPUTING_MIN)
}

fn tell(file: &WalFileName, report: &PushReport) {
    for (key, pushed) in &report.stored {
        match pushed {
            Pushed::New => tracing::info!("pushed WAL file {file} to repo {key}"),
            Pushed::Identical => {
                tracing::info!("WAL file {file} is in repo {key} already, with the same content")
            }
        }
    }
    for (key, failure) in &report.missed {
        tracing::warn!("repo {key}, which is not required, does not have WAL file {file}: {failure}");
    }
}
