//! `archive-push`: archive_command. Every exit status stays below 126: PostgreSQL would shut its archiver down for more.

use super::archive::{candidates, connect, data_directory_of, run_until_terminated};
use crate::context::Context;
use crate::host::cores;
use crate::settings::ArchivePushRequest;
use pgconvoy_core::config::BackupOptions;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::WalFileName;
use pgconvoy_repository::codec::{Codec, Level};
use pgconvoy_repository::wal::{PushManner, Pushed};
use pgconvoy_worker::archive::{Push, PushReport, PushRepository, data_directory};
use std::path::Path;
use std::process::ExitCode;

/// Frames of a segment are compressed side by side.
const PUSH_THREADS_MIN: usize = 2;

pub fn run(context: &Context, request: &ArchivePushRequest) -> Result<ExitCode, Failure> {
    let file = wal_file(&request.path)?;
    let directory = data_directory_of(context, candidates(request.pg_path.as_deref(), &request.path));
    let repositories: Vec<PushRepository> = request
        .repos
        .iter()
        .map(|repo| PushRepository { key: repo.key, is_required: repo.required })
        .collect();
    let is_header_checked = request.options.archive_header_check;
    let is_segment = matches!(file, WalFileName::Segment(_) | WalFileName::Partial(_));
    // A segment tells by itself whose it is.
    let asks_directory = !(is_segment && is_header_checked);
    let cluster = match directory.filter(|_| asks_directory) {
        Some(directory) => data_directory::identity(&directory)?,
        None => None,
    };
    let push = Push {
        connect: &connect(&request.repos, request.options.io_timeout),
        repositories: &repositories,
        stanza: &request.stanza,
        file,
        path: &request.path,
        cluster,
        is_header_checked,
        manner: manner(&request.options)?,
    };
    let report = run_until_terminated(push.run())??;
    tell(&file, &report);
    Ok(ExitCode::SUCCESS)
}

fn wal_file(path: &Path) -> Result<WalFileName, Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.parse().map_err(|error| {
        Failure::new(ErrorCode::ParamInvalid, format!("{error}"))
            .hint("archive_command = 'pgconvoy --stanza=NAME archive-push %p'")
    })
}

fn manner(options: &BackupOptions) -> Result<PushManner, Failure> {
    let codec: Codec = options.compression.kind.into();
    let level = Level::new(codec, options.compression.level)?;
    // PostgreSQL waits for each segment: its wall time counts, and it is short.
    let threads = options.slots(cores()).max(PUSH_THREADS_MIN);
    Ok(PushManner { codec, level, threads, stall: options.io_timeout })
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
