//! A command that becomes a job of the fleet, is watched, and ends as the command would have ended here.

use super::client::{Client, failure_of};
use super::follow;
use crate::args::Output;
use crate::commands;
use crate::context::Context;
use crate::output;
use crate::runtime::block_on;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_repository::{sync, verify};
use serde_json::{Value, json};
use std::process::ExitCode;

/// What becomes a job.
pub struct Submission<'a> {
    pub kind: JobKind,
    pub options: &'a JobOptions,
    /// Prints the job's id and does not wait.
    pub detach: bool,
    pub output: Output,
}

/// Whether commands of this configuration become jobs.
pub fn is_wanted(context: &Context) -> bool {
    !context.embedded && context.config.fleet.as_ref().is_some_and(|fleet| !fleet.api.is_empty())
}

pub fn run(context: &Context, submission: &Submission<'_>) -> Result<ExitCode, Failure> {
    let stanza = context.stanza_named()?;
    if context.embedded {
        let message = "options '--embedded' and '--worker' contradict each other";
        return Err(Failure::new(ErrorCode::OptionInvalid, message));
    }
    let client = Client::new(context.config.fleet.as_ref())?;
    let body = json!({
        "kind": submission.kind.name(),
        "stanza": stanza.as_str(),
        "options": submission.options,
    });
    let job = block_on(async {
        let submitted = client.post("jobs", &body).await.map_err(|failure| match failure.code {
            ErrorCode::HostConnect => failure.hint("--embedded does the work in this process instead"),
            _ => failure,
        })?;
        let id = submitted["id"].as_str().unwrap_or_default().to_owned();
        if submission.detach {
            return Ok(Value::String(id));
        }
        tracing::info!("job {id} is submitted");
        follow::to_the_end(&client, &id).await
    })??;
    match job {
        Value::String(id) => output::text(&format!("{id}\n")),
        job => tell(submission, &job),
    }
}

/// As the command itself would have told it.
fn tell(submission: &Submission<'_>, job: &Value) -> Result<ExitCode, Failure> {
    let verdict = failure_of(&job["error"]).map_or(Ok(()), Err);
    let result = &job["result"];
    if submission.kind == JobKind::Backup {
        return commands::backup::tell(submission.output, result, verdict);
    }
    for warning in result["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tracing::warn!("{warning}");
    }
    if !result.is_null() {
        match (submission.output, submission.kind) {
            (Output::Json, _) => output::json(result)?,
            (Output::Text, JobKind::Verify) => output::text(&verify::json_to_text(result))?,
            (Output::Text, JobKind::RepoSync) => output::text(&sync::json_to_text(result))?,
            (Output::Text, _) => output::text(&commands::restore::to_text(result))?,
        };
    }
    verdict.map(|()| ExitCode::SUCCESS)
}
