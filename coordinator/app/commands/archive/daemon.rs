//! A worker pushes ahead for the stanzas whose data directories it sees, as the commands' background process does: with the
//! same lock, so that there is one of them, and the same spool, so that the commands see no difference. Where it is asked
//! for, it also streams their WAL.

use super::super::archive_push::{self, COMMAND};
use super::runtime;
use crate::context::Context;
use crate::host::HostLock;
use crate::settings::ArchivePushRequest;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_worker::keeper::SourceConfig;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The lock of whoever streams.
const STREAM: &str = "archive-stream";
/// For the files that are on their way, however many that are at once.
const BLOCKING_THREADS_MAX: usize = 256;
/// After so long with nothing to do, everything is looked at anew: the cluster, the repositories, the keys.
const LINGER: Duration = Duration::from_secs(600);
/// Before the next try, where there is nothing to be pushed or nowhere to push it.
const PAUSE: Duration = Duration::from_secs(5);
/// Before the next try to stream: what is written meanwhile is in no repository.
const STREAM_PAUSE: Duration = Duration::from_secs(1);

/// One stanza's pushing and streaming, on a thread and a runtime of its own; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Archiver {
    _stop: DropGuard,
}

impl Archiver {
    pub(crate) fn start(
        context: Context,
        stanza: StanzaName,
        source: SourceConfig,
    ) -> Result<Archiver, Failure> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = runtime(BLOCKING_THREADS_MAX)?;
        let work = move || {
            let serving = async {
                tokio::join!(
                    serve(&context, &stanza, &source.directory),
                    serve_stream(&context, &stanza, &source)
                )
            };
            runtime.block_on(stopped.run_until_cancelled(serving));
            // A store that hangs must not keep the process from ending.
            runtime.shutdown_background();
        };
        std::thread::Builder::new()
            .name(COMMAND.to_owned())
            .spawn(work)
            .map_err(|error| Failure::new(ErrorCode::Unknown, format!("cannot start a thread: {error}")))?;
        Ok(Archiver { _stop: stop.drop_guard() })
    }
}

async fn serve(context: &Context, stanza: &StanzaName, data: &Path) {
    loop {
        if let Err(failure) = serve_once(context, stanza, data).await {
            tracing::warn!("stanza {stanza} is not archived ahead: {failure}");
        }
        sleep(PAUSE).await;
    }
}

async fn serve_once(context: &Context, stanza: &StanzaName, data: &Path) -> Result<(), Failure> {
    let request = ArchivePushRequest::of_worker(context, stanza, data)?;
    if !request.options.archive_async {
        return Ok(());
    }
    let Some(_lock) = HostLock::acquire_background(&context.config.paths.lock, stanza, COMMAND)? else {
        return Ok(());
    };
    archive_push::ahead(context, &request, LINGER)?.run().await
}

async fn serve_stream(context: &Context, stanza: &StanzaName, source: &SourceConfig) {
    let mut told = None;
    loop {
        let pause = match stream_once(context, stanza, source).await {
            Ok(Streaming::NotWanted) => return,
            Ok(Streaming::Ended) => {
                told = None;
                PAUSE
            }
            Err(failure) => {
                let failure = failure.to_string();
                if told.as_ref() != Some(&failure) {
                    tracing::warn!("WAL of stanza {stanza} is not streamed: {failure}");
                }
                told = Some(failure);
                STREAM_PAUSE
            }
        };
        sleep(pause).await;
    }
}

enum Streaming {
    /// Nobody asked for it, and the server knows.
    NotWanted,
    Ended,
}

async fn stream_once(
    context: &Context,
    stanza: &StanzaName,
    source: &SourceConfig,
) -> Result<Streaming, Failure> {
    let request = ArchivePushRequest::of_worker(context, stanza, &source.directory)?;
    let Some(_lock) = HostLock::acquire_background(&context.config.paths.lock, stanza, STREAM)? else {
        return Ok(Streaming::Ended);
    };
    let is_wanted = request.options.archive_stream;
    let stream = match archive_push::stream(context, &request, &source.connect) {
        Ok(stream) => stream,
        Err(_) if !is_wanted => return Ok(Streaming::Ended),
        Err(failure) => return Err(failure),
    };
    if is_wanted {
        stream.run().await?;
        return Ok(Streaming::Ended);
    }
    match stream.release().await {
        Ok(()) => Ok(Streaming::NotWanted),
        Err(failure) => {
            tracing::debug!(
                "it cannot be told whether stanza {stanza} has a slot that nobody needs: {failure}"
            );
            Ok(Streaming::Ended)
        }
    }
}
