//! `job`: what the fleet has to do, is doing and has done.

use crate::args::{JobArgs, JobCommand, Output};
use crate::context::Context;
use crate::fleet::client::{Client, failure_of, segment};
use crate::fleet::follow;
use crate::output;
use crate::runtime::block_on;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::units::ByteCount;
use serde_json::{Value, json};
use std::process::ExitCode;

pub fn run(context: &Context, command: &JobCommand) -> Result<ExitCode, Failure> {
    let client = Client::new(context.config.fleet.as_ref())?;
    block_on(async {
        match command {
            JobCommand::List(form) => {
                let jobs = client.get("jobs").await?;
                match form.output {
                    Output::Json => output::json(&jobs),
                    Output::Text => output::text(&output::table(&HEAD, &rows(&jobs))),
                }
            }
            JobCommand::Show(job) => tell(job, &client.get(&path(job)).await?),
            JobCommand::Follow(job) => {
                let end = follow::to_the_end(&client, &segment(&job.id)).await?;
                tell(job, &end)?;
                failure_of(&end["error"]).map_or(Ok(ExitCode::SUCCESS), Err)
            }
            JobCommand::Cancel(job) => change(&client, job, "cancel", &Value::Null).await,
            JobCommand::Pause(job) => change(&client, job, "pause", &Value::Null).await,
            JobCommand::Resume(job) => change(&client, job, "resume", &Value::Null).await,
            JobCommand::Priority { job, priority } => {
                change(&client, job, "priority", &json!({"priority": priority})).await
            }
        }
    })?
}

fn path(job: &JobArgs) -> String {
    format!("jobs/{}", segment(&job.id))
}

async fn change(client: &Client, job: &JobArgs, how: &str, body: &Value) -> Result<ExitCode, Failure> {
    tell(job, &client.post(&format!("{}/{how}", path(job)), body).await?)
}

fn tell(args: &JobArgs, job: &Value) -> Result<ExitCode, Failure> {
    match args.form.output {
        Output::Json => output::json(job),
        Output::Text => output::text(&to_text(job)),
    }
}

const HEAD: [&str; 7] = ["ID", "KIND", "STANZA", "STATE", "PRIORITY", "CREATED", "DONE"];

fn rows(jobs: &Value) -> Vec<[String; 7]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |job: &Value| {
        [
            text(&job["id"]),
            text(&job["kind"]),
            text(&job["stanza"]),
            text(&job["state"]),
            job["priority"].to_string(),
            text(&job["created"]),
            done(job),
        ]
    };
    jobs.as_array().into_iter().flatten().map(row).collect()
}

/// The share of the bytes that are done, while that is known.
fn done(job: &Value) -> String {
    let bytes = &job["bytes"];
    match (bytes["done"].as_u64(), bytes["total"].as_u64()) {
        (Some(done), Some(total)) => format!("{}%", u128::from(done) * 100 / u128::from(total.max(1))),
        _ => "-".to_owned(),
    }
}

fn to_text(job: &Value) -> String {
    let mut lines = Vec::new();
    for key in ["id", "kind", "stanza", "state", "label", "submitted-by", "created", "started", "finished"] {
        if let Some(text) = job[key].as_str() {
            lines.push(format!("{key}: {text}"));
        }
    }
    lines.push(format!("priority: {}", job["priority"]));
    if let (Some(done), Some(total)) = (job["units"]["done"].as_u64(), job["units"]["total"].as_u64()) {
        lines.push(format!("units: {done} of {total}"));
    }
    if let (Some(bytes), Some(rate)) = (job["bytes"]["total"].as_u64(), job["bytes"]["rate"].as_u64()) {
        lines.push(format!("bytes: {} of {}, {}/s", done(job), ByteCount(bytes), ByteCount(rate)));
    }
    if let Some(failure) = failure_of(&job["error"]) {
        lines.push(format!("error: [{}]: {}", failure.code, failure.message));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_told_with_what_is_known_of_it() {
        let mut job = json!({"id": "j", "kind": "backup", "stanza": "main", "state": "queued", "priority": 0, "label": null,
            "units": null, "bytes": null, "error": null});
        assert_eq!(to_text(&job), "id: j\nkind: backup\nstanza: main\nstate: queued\npriority: 0\n");
        job["units"] = json!({"total": 4, "done": 1});
        job["bytes"] = json!({"total": 4 << 20, "done": 1 << 20, "rate": 1024});
        job["error"] = json!({"code": 63, "message": "cancelled by ops"});
        let told = to_text(&job);
        let end = "units: 1 of 4\nbytes: 25% of 4MiB, 1KiB/s\nerror: [063]: cancelled by ops\n";
        assert!(told.ends_with(end), "{told}");
        let table = output::table(&HEAD, &rows(&json!([job])));
        assert!(table.contains("\nj   backup  main    queued  0                  25%\n"), "{table}");
    }
}
