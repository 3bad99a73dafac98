//! `archive-get`: restore_command. Exit status 0: found; 1: known to be absent everywhere; else an error.
//!
//! PostgreSQL takes every status up to 125 for "no such file". In standby mode it then asks again; in archive recovery it
//! ends recovery and promotes. Where the data directory shows archive recovery, *every* failure therefore ends in 126:
//! also a broken configuration, a missing key file, a wrong option or a panic of ours. The one failure that cannot be
//! recognised is a misspelt command name.
//!
//! The directory is looked for where PostgreSQL leaves traces: `--pg-path`, the current directory, the one that the
//! destination lies in, and the configured one.

mod ahead;

use super::archive::{candidates, connect, data_directory_of, run_until_terminated};
use crate::Invocation;
use crate::args::{ArchiveGetArgs, Typed};
use crate::context::Context;
use crate::logging;
use crate::output::Failures;
use crate::settings::ArchiveGetRequest;
use ahead::Ahead;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_worker::archive::data_directory::{self, Recovery};
use pgconvoy_worker::archive::{EndOfArchive, Fetched, Get, HandedOut};
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Every repository was asked, and none has the file.
const KNOWN_ABSENT: u8 = 1;
const COMMAND: &str = "archive-get";
/// Before the next try to tell whether an archive ends.
const END_PAUSE: Duration = Duration::from_secs(1);

pub fn run(invocation: &Invocation, typed: &Typed, args: &ArchiveGetArgs) -> Result<ExitCode, Failures> {
    let traces = candidates(args.pg_path.as_deref(), &args.destination);
    catch_unwind(AssertUnwindSafe(|| run_unguarded(invocation, typed, args, &traces))).unwrap_or_else(|_| {
        let failure = Failure::new(ErrorCode::Assert, "a bug ended the command");
        Err(judge(failure, data_directory::find(traces).as_deref()).into())
    })
}

fn run_unguarded(
    invocation: &Invocation,
    typed: &Typed,
    args: &ArchiveGetArgs,
    traces: &[PathBuf],
) -> Result<ExitCode, Failures> {
    let context = match Context::open(invocation, typed) {
        Ok(context) => context,
        Err(failures) => match data_directory::find(traces.to_vec()).filter(|directory| must_stop(directory))
        {
            Some(directory) => {
                // There may be several; the last line then says why the process ends as it does.
                failures.report();
                let failure = Failure::new(ErrorCode::Config, "the configuration cannot be used");
                return Err(judge(failure, Some(&directory)).into());
            }
            None => return Err(failures),
        },
    };
    let run = logging::start(&context);
    let directory = data_directory_of(&context, traces.to_vec());
    let outcome = fetch(&context, args, directory.as_deref());
    let outcome = outcome.map_err(|failure| judge(failure, directory.as_deref()));
    run.end(&outcome);
    Ok(outcome?)
}

/// A command line that cannot be parsed, if it is one of archive-get.
pub fn misspelt(arguments: &[OsString], failure: Failure) -> Failure {
    if arguments.iter().any(|argument| argument == COMMAND) {
        judge(failure, data_directory::find([PathBuf::from(".")]).as_deref())
    } else {
        failure
    }
}

fn fetch(context: &Context, args: &ArchiveGetArgs, directory: Option<&Path>) -> Result<ExitCode, Failure> {
    let request = ArchiveGetRequest::new(context, args)?;
    let file: WalFileName = request.file.parse().map_err(|error| {
        Failure::new(ErrorCode::ParamInvalid, format!("{error}"))
            .hint("restore_command = 'pgconvoy --stanza=NAME archive-get %f \"%p\"'")
    })?;
    let cluster = match directory {
        Some(directory) => data_directory::identity_for_recovery(directory)?,
        None => None,
    };
    let ahead = Ahead::of(context, &request, directory, cluster);
    if request.is_background {
        ahead.map_or(Ok(()), |ahead| ahead.fetch(&file))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(ahead) = ahead.as_ref().filter(|ahead| ahead.take(&file)) {
        tracing::info!("found {file} in the spool");
        ahead.prepare_for_next(&file);
        return Ok(ExitCode::SUCCESS);
    }
    let repositories: Vec<RepoKey> = request.repos.iter().map(|repo| repo.key).collect();
    let connect = connect(&request.repos, &request.options);
    let get = Get {
        connect: &connect,
        repositories: &repositories,
        stanza: &request.stanza,
        file,
        destination: &request.destination,
        cluster,
        patience: request.options.archive_timeout,
        is_kept: false,
    };
    let end = end_of_archive(&get, directory);
    Ok(match run_until_terminated(found_or_ended(&get, end.as_ref()))?? {
        Delivered::Whole(key) => {
            tracing::info!("found {file} in repo {key}");
            if let Some(ahead) = ahead {
                ahead.prepare_for_next(&file);
            }
            ExitCode::SUCCESS
        }
        Delivered::Streamed(HandedOut { from, end }) => {
            tracing::warn!(
                "{file} is not archived as a whole: found what was streamed of it in repo {from}, up to {end}, where recovery will end"
            );
            ExitCode::SUCCESS
        }
        Delivered::Nothing => {
            tracing::info!("unable to find {file} in the archive");
            ExitCode::from(KNOWN_ABSENT)
        }
    })
}

enum Delivered {
    Whole(RepoKey),
    Streamed(HandedOut),
    Nothing,
}

/// What was streamed of a segment is for a server that ends its recovery without it. A standby will get the segment.
fn end_of_archive<'a>(get: &Get<'a>, directory: Option<&Path>) -> Option<EndOfArchive<'a>> {
    let directory = directory.filter(|directory| must_stop(directory))?;
    let WalFileName::Segment(segment) = get.file else { return None };
    Some(EndOfArchive {
        connect: get.connect,
        repositories: get.repositories,
        stanza: get.stanza,
        segment,
        size: data_directory::segment_size(directory)?,
        destination: get.destination,
        cluster: get.cluster?,
    })
}

/// The segment is asked for again wherever it cannot be told whether the archive ends there: it may have come meanwhile.
async fn found_or_ended(get: &Get<'_>, end: Option<&EndOfArchive<'_>>) -> Result<Delivered, Failure> {
    let deadline = tokio::time::Instant::now() + get.patience;
    loop {
        if let Fetched::From(key) = get.run().await? {
            return Ok(Delivered::Whole(key));
        }
        let Some(end) = end else { return Ok(Delivered::Nothing) };
        match end.run().await {
            Ok(handed_out) => return Ok(handed_out.map_or(Delivered::Nothing, Delivered::Streamed)),
            Err(failure) if tokio::time::Instant::now() >= deadline => return Err(failure),
            Err(failure) => {
                tracing::debug!("{failure}; trying again");
                tokio::time::sleep(END_PAUSE).await;
            }
        }
    }
}

fn must_stop(directory: &Path) -> bool {
    data_directory::recovery(directory) == Recovery::Archive
}

/// Any failure becomes one that PostgreSQL cannot take for absence, where that would make it promote.
fn judge(mut failure: Failure, directory: Option<&Path>) -> Failure {
    let Some(directory) = directory.filter(|directory| must_stop(directory)) else { return failure };
    if failure.code == ErrorCode::CannotTell {
        return failure;
    }
    failure.message = format!("{} (error {})", failure.message, failure.code);
    failure.code = ErrorCode::CannotTell;
    // PostgreSQL's log should not say '.'.
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    failure.hint(format!(
        "recovery in '{}' stops here, because PostgreSQL would promote without this file; start it again once the cause is repaired",
        directory.display()
    ))
}

#[cfg(test)]
mod tests;
