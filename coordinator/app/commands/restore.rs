//! `restore`: rebuilds a data directory here, with nothing but a repository, its key and the configuration.

use crate::args::Output;
use crate::context::Context;
use crate::host::cores;
use crate::output;
use crate::progress::Bar;
use crate::repositories::repository_set;
use crate::settings::RestoreRequest;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::plan::recovery::{RecoveryOptions, restore_command};
use pgconvoy_core::units::ByteCount;
use pgconvoy_core::wire::AssistOrder;
use pgconvoy_worker::desk::Desk;
use pgconvoy_worker::restore::{Existing, Progress, RestoreOrder, RestoreReport, Surroundings, restore};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Stores are waited for on these; decoding and writing have threads of their own.
const RUNTIME_THREADS: usize = 2;
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// A store's call that hangs must not keep a finished command from ending.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_millis(500);

pub fn run(context: &Context, request: &RestoreRequest) -> Result<ExitCode, Failure> {
    let order = order(context, request)?;
    let runtime = runtime()?;
    let around = Surroundings {
        runtime: runtime.handle().clone(),
        stop: CancellationToken::new(),
        progress: Arc::default(),
        desk: None,
    };
    cancel_on_signals(runtime.handle(), &around.stop)?;
    let over = CancellationToken::new();
    let showing = runtime.spawn(show(around.progress.clone(), over.clone()));
    let outcome = restore(&order, &around);
    over.cancel();
    // A bar that could not be drawn is nobody's loss.
    let _ = runtime.block_on(showing);
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    report(request, &outcome?)
}

fn order(context: &Context, request: &RestoreRequest) -> Result<RestoreOrder, Failure> {
    Ok(RestoreOrder {
        stanza: request.stanza.clone(),
        set: request.set,
        repositories: repository_set(&request.repos, &request.options)?,
        target: request.target.clone(),
        recovery: RecoveryOptions {
            restore_command: archive_get(context, request)?,
            ..request.recovery.clone()
        },
        replay_into_existing: request.force,
        existing: match (request.delta, request.force) {
            (false, false) => Existing::Refused,
            (false, true) => Existing::Replaced,
            (true, false) => Existing::Compared,
            (true, true) => Existing::Believed,
        },
        backup_manifest: request.backup_manifest,
        slots: request.options.slots(cores()),
        share_size: request.options.unit_size.0,
    })
}

/// This very program with this very configuration, wherever PostgreSQL is started from.
fn archive_get(context: &Context, request: &RestoreRequest) -> Result<String, Failure> {
    let text = |path: std::io::Result<std::path::PathBuf>| {
        let path = path.map_err(|error| {
            Failure::new(ErrorCode::FileOpen, format!("cannot tell where this program is: {error}"))
        })?;
        path.into_os_string().into_string().map_err(|path| {
            Failure::new(
                ErrorCode::OptionInvalidValue,
                format!("path {} is not valid UTF-8", path.to_string_lossy()),
            )
            .hint("PostgreSQL could not be given it in a restore_command")
        })
    };
    let program = text(std::env::current_exe())?;
    let config = context.config_file.as_ref().map(|path| text(std::path::absolute(path))).transpose()?;
    // Only a repository that was named by hand can be looked at as it was.
    let as_of = request.only_repo.and_then(|key| request.repos.iter().find(|repo| repo.key == key)?.as_of);
    Ok(restore_command(&program, config.as_deref(), &request.stanza, request.only_repo, as_of))
}

fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    built.map_err(|error| Failure::new(ErrorCode::Unknown, format!("cannot start a runtime: {error}")))
}

fn cancel_on_signals(runtime: &Handle, stop: &CancellationToken) -> Result<(), Failure> {
    let _inside = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)
            .map_err(|error| Failure::new(ErrorCode::Unknown, format!("cannot wait for signals: {error}")))?;
        let stop = stop.clone();
        runtime.spawn(async move {
            if signals.recv().await.is_some() {
                stop.cancel();
            }
        });
    }
    Ok(())
}

async fn show(progress: Arc<Progress>, over: CancellationToken) {
    let mut bar: Option<Bar> = None;
    while tokio::time::timeout(PROGRESS_EVERY, over.cancelled()).await.is_err() {
        let (done, total) = progress.get();
        if total > 0 {
            bar.get_or_insert_with(|| Bar::new("restore", total)).set(done);
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
}

fn report(request: &RestoreRequest, report: &RestoreReport) -> Result<ExitCode, Failure> {
    let result = as_json(request, report);
    match request.output {
        Output::Json => output::json(&result),
        Output::Text => output::text(&to_text(&result)),
    }
}

fn as_json(request: &RestoreRequest, report: &RestoreReport) -> Value {
    let mut told = json!({
        "label": report.label.to_string(),
        "repo": report.repository.0,
        "path": request.target.directory,
        "bytes": report.bytes,
        "bytes-kept": report.bytes_kept,
        "bytes-fetched": report.bytes_fetched,
        "files": report.files,
        "duration-ms": u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
    });
    if let Some(team) = &report.team {
        let workers = team.workers.iter();
        told["workers"] =
            workers.map(|(name, bytes)| json!({"name": name.as_str(), "bytes": bytes})).collect();
        let left_out = team.left_out.iter();
        told["warnings"] =
            left_out.map(|(name, failure)| json!(format!("worker {name} is left out: {failure}"))).collect();
    }
    told
}

/// The command's result for people, wherever it came from.
pub fn to_text(result: &Value) -> String {
    let text = |key: &str| result[key].as_str().unwrap_or_default();
    let number = |key: &str| result[key].as_u64().unwrap_or_default();
    let (size, files) = (ByteCount(number("bytes")), number("files"));
    let took = Duration::from_millis(number("duration-ms")).as_secs_f64();
    format!("{}: {size} in {files} files restored to {} in {took:.1} s\n", text("label"), text("path"))
}

/// Does it as the main worker of a fleet's restore, and answers with the command's result.
pub async fn shared(
    context: &Context,
    request: &RestoreRequest,
    desk: Arc<Desk>,
    stop: CancellationToken,
) -> Result<Value, Failure> {
    let order = order(context, request)?;
    let report = on_a_thread(desk, stop, move |around| restore(&order, around)).await?;
    Ok(as_json(request, &report))
}

/// Helps another worker with it.
pub async fn assist(
    context: &Context,
    request: &RestoreRequest,
    assist: AssistOrder,
    desk: Arc<Desk>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let order = order(context, request)?;
    on_a_thread(desk, stop, move |around| pgconvoy_worker::restore::assist(order, &assist, around)).await
}

async fn on_a_thread<T: Send + 'static>(
    desk: Arc<Desk>,
    stop: CancellationToken,
    work: impl FnOnce(&Surroundings) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (runtime, progress) = (Handle::current(), Arc::default());
    let around = Surroundings { runtime, stop, progress, desk: Some(desk) };
    let worked = tokio::task::spawn_blocking(move || work(&around)).await;
    worked
        .map_err(|error| Failure::new(ErrorCode::Assert, format!("the restore's thread is gone: {error}")))?
}
