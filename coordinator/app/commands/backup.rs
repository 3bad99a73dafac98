//! `backup`: to all repositories at once, from one read of the data.

use crate::args::Output;
use crate::context::Context;
use crate::embedded::Embedded;
use crate::host::{HostLock, cores, random_identity, source, writer};
use crate::output;
use crate::progress::Bar;
use crate::repositories::repository_set;
use crate::runtime::block_on;
use crate::settings::BackupRequest;
use pgconvoy_coordinator::Progress;
use pgconvoy_core::config::{BackupStandby, Compression, Layout, Offload};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Epoch, Identity, StanzaName};
use pgconvoy_core::machine::backup::event::RepositoryResult;
use pgconvoy_core::machine::backup::{BackupSpec, Outcome, Phase};
use pgconvoy_core::pg::bad_pages::{pages_by_file, told_pages};
use pgconvoy_core::units::ByteCount;
use pgconvoy_core::wire::{Compress, JobId, SourceOptions};
use pgconvoy_repository::codec::Codec;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const LOCK_KIND: &str = "backup";

pub fn run(context: &Context, request: &BackupRequest) -> Result<ExitCode, Failure> {
    refuse_what_is_not_there(request)?;
    let source = source(&request.stanza, request.options.db_timeout, "backup")?;
    let set = repository_set(&request.all_repos, &request.options)?;
    let mut locks = Vec::new();
    for repo in &request.repos {
        locks.push(HostLock::acquire(&context.config.paths.lock, &request.stanza.name, LOCK_KIND, repo.key)?);
    }
    let begun = Instant::now();
    let identity = random_identity()?;
    let embedded = Embedded {
        stanza: request.stanza.name.clone(),
        source,
        repositories: set,
        slots: u16::try_from(request.options.slots(cores())).unwrap_or(u16::MAX),
        archive_timeout: request.options.archive_timeout,
    };
    // There is nobody else who could help.
    let alone = |epoch| BackupSpec {
        standby: BackupStandby::No,
        offload: Offload::Never,
        ..spec(request, identity, epoch)
    };
    let outcome = block_on(embedded.backup(alone, show))??;
    drop(locks);
    report(request, &outcome, begun.elapsed())
}

fn refuse_what_is_not_there(request: &BackupRequest) -> Result<(), Failure> {
    let missing =
        |what: &str| Err(Failure::new(ErrorCode::NotSupported, format!("{what} is not part of this build")));
    if request.plan_only {
        return missing("--plan");
    }
    let needs_a_fleet = [
        ("backup-standby=y", request.options.backup_standby == BackupStandby::Yes),
        ("offload=always", request.options.offload == Offload::Always),
    ];
    if let Some((option, _)) = needs_a_fleet.iter().find(|(_, is_so)| *is_so) {
        let message = format!("{option} needs a fleet: this process reads what is on this host");
        return Err(Failure::new(ErrorCode::OptionInvalidValue, message)
            .hint("set [fleet] api, and leave out --embedded; workers on the other hosts take part"));
    }
    if request.detach {
        let failure =
            Failure::new(ErrorCode::OptionInvalid, "option '--detach' needs a fleet that does the work");
        return Err(failure.hint("set [fleet] api, and leave out --embedded"));
    }
    Ok(())
}

fn compress(compression: Compression) -> Compress {
    Compress { codec: Codec::from(compression.kind).number(), level: compression.level }
}

/// What a backup is to do; a fleet's job changes some of it.
pub fn spec(request: &BackupRequest, identity: Identity, epoch: Epoch) -> BackupSpec {
    let options = &request.options;
    BackupSpec {
        job: JobId(identity),
        epoch,
        backup: identity,
        kind: request.kind,
        delta: options.delta,
        resume: options.resume,
        stanza: request.stanza.name.clone(),
        repositories: request.repos.iter().map(|repo| repo.key).collect(),
        required: request.repos.iter().filter(|repo| repo.required).map(|repo| repo.key).collect(),
        source: SourceOptions {
            online: request.online,
            force: request.force,
            start_fast: options.start_fast,
            archive_check: options.archive_check && request.online,
            archive_mode_check: options.archive_mode_check,
            checksum_page: options.checksum_page,
            exclude: options.exclude.clone(),
            db_timeout_ms: u64::try_from(options.db_timeout.as_millis()).unwrap_or(u64::MAX),
        },
        compress: compress(options.compression),
        own_compress: request
            .repos
            .iter()
            .map(|repo| (repo.key, options.compression_in(repo)))
            .filter(|(_, own)| *own != options.compression)
            .map(|(key, own)| (key, compress(own)))
            .collect(),
        file_sha1: options.file_sha1,
        standby: options.backup_standby,
        offload: options.offload,
        page_errors: options.page_errors,
        archive_copy: options.archive_copy,
        unit_size: options.unit_size.0,
        whole_files: request.repos.iter().any(|repo| repo.layout == Layout::Plain),
        stall_timeout_ms: u64::try_from(options.io_timeout.as_millis()).unwrap_or(u64::MAX),
        // The worker is this very process.
        source_patience_ms: 0,
        annotations: options.annotation.clone(),
        writer: writer(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A bar on a terminal, a line now and then elsewhere.
async fn show(mut progress: watch::Receiver<Progress>) {
    let mut bar: Option<Bar> = None;
    while progress.changed().await.is_ok() {
        let seen = progress.borrow_and_update().clone();
        if seen.phase >= Phase::Copying && bar.is_none() {
            let label = seen.label.map_or_else(|| "backup".to_owned(), |label| format!("backup {label}"));
            bar = Some(Bar::new(&label, seen.bytes_total));
        }
        if let Some(bar) = &bar {
            bar.set(seen.bytes_done);
        }
        if seen.phase == Phase::Over {
            break;
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
}

fn report(request: &BackupRequest, outcome: &Outcome, took: Duration) -> Result<ExitCode, Failure> {
    let result = outcome.label.map(|_| as_json(&request.stanza.name, outcome, took));
    tell(request.output, &result.unwrap_or_default(), outcome.verdict())
}

/// Prints a result, wherever it came from; it is null where nothing came of the backup.
pub fn tell(form: Output, result: &Value, verdict: Result<(), Failure>) -> Result<ExitCode, Failure> {
    for (file, blocks) in pages_by_file(&bad_pages(result)) {
        let (page, verb) = if blocks.len() == 1 {
            ("page", "does not match its checksum")
        } else {
            ("pages", "do not match their checksums")
        };
        tracing::warn!("{file}: {page} {} {verb}", told_pages(&blocks));
    }
    match form {
        Output::Json if !result.is_null() => {
            output::json(result)?;
        }
        Output::Json => {}
        Output::Text => {
            if let Some(label) = result["label"].as_str().filter(|_| verdict.is_ok()) {
                let size = ByteCount(result["bytes"]["database"].as_u64().unwrap_or_default());
                let took = Duration::from_millis(result["duration-ms"].as_u64().unwrap_or_default());
                output::text(&format!("{label}: {size} in {:.1} s\n", took.as_secs_f64()))?;
            }
        }
    }
    verdict.map(|()| ExitCode::SUCCESS)
}

fn bad_pages(result: &Value) -> Vec<(String, u32)> {
    let page = |error: &Value| {
        let block = error["block"].as_u64().and_then(|block| u32::try_from(block).ok())?;
        Some((error["file"].as_str()?.to_owned(), block))
    };
    result["pages"]["errors"].as_array().into_iter().flatten().filter_map(page).collect()
}

/// The command's result.
pub fn as_json(stanza: &StanzaName, outcome: &Outcome, took: Duration) -> Value {
    let head = outcome.contents.as_ref().map(|contents| &contents.head);
    let errors: Vec<Value> =
        outcome.bad_pages.iter().map(|(file, block)| json!({"file": file, "block": block})).collect();
    let repos: Vec<Value> = outcome.repositories.iter().map(repository_json).collect();
    let workers: Vec<Value> = outcome
        .workers
        .iter()
        .map(|share| json!({"name": share.worker.as_str(), "units": share.units, "bytes": share.bytes}))
        .collect();
    let text = |value: Option<String>| value.map_or(Value::Null, Value::String);
    json!({
        "label": text(outcome.label.map(|label| label.to_string())),
        "type": outcome.label.map_or("full", |label| label.kind().name()),
        "prior": text(head.and_then(|head| head.prior).map(|prior| prior.to_string())),
        "stanza": stanza.as_str(),
        "status": outcome.status.name(),
        "lsn": {
            "start": text(head.and_then(|head| head.lsn_start).map(|lsn| lsn.to_string())),
            "stop": text(head.and_then(|head| head.lsn_stop).map(|lsn| lsn.to_string())),
        },
        "archive": {
            "start": text(head.and_then(|head| head.wal_start).map(|segment| segment.to_string())),
            "stop": text(head.and_then(|head| head.wal_stop).map(|segment| segment.to_string())),
        },
        "duration-ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "bytes": {
            "database": outcome.bytes_database,
            "read": outcome.bytes_read,
            "changed": outcome.bytes_changed,
            "skipped": outcome.bytes_skipped,
        },
        "units": {"total": outcome.units_total, "retried": outcome.units_retried, "resumed": outcome.units_resumed},
        "pages": {"checked": outcome.pages_checked, "errors": errors},
        "repos": repos,
        "workers": workers,
        "warnings": outcome.warnings,
    })
}

fn repository_json(result: &RepositoryResult) -> Value {
    json!({
        "key": result.repository.0,
        "status": if result.failure.is_none() { "ok" } else { "error" },
        "bytes-stored": result.stored,
        "error": result.failure.as_ref().map(|failure| json!({
            "code": failure.code.number(),
            "message": failure.message,
        })),
    })
}
