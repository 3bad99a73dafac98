//! `check`: configuration, cluster, every repository, and the way of WAL between them.

use super::stanza_create::all_or_error;
use crate::args::Output;
use crate::context::Context;
use crate::host::source;
use crate::output;
use crate::repositories::repository_set;
use crate::runtime::block_on;
use crate::settings::CheckRequest;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_worker::check::{Check, Finding, Verdict};
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

pub fn run(_context: &Context, form: Output, requests: &[CheckRequest]) -> Result<ExitCode, Failure> {
    let mut stanzas = Vec::new();
    let mut verdicts = Vec::new();
    for request in requests {
        let source = source(&request.stanza, request.options.db_timeout, "check")?;
        let set = repository_set(&request.repos, &request.options)?;
        let keys: Vec<RepoKey> = request.repos.iter().map(|repo| repo.key).collect();
        let check = Check {
            set: &set,
            repositories: &keys,
            stanza: &request.stanza.name,
            source: &source,
            archive_check: request.options.archive_check,
            archive_mode_check: request.options.archive_mode_check,
            archive_timeout: request.options.archive_timeout,
        };
        let findings = block_on(check.run())?;
        for finding in &findings {
            if let Verdict::Odd(message) = &finding.verdict {
                tracing::warn!("stanza {}: {}{message}", request.stanza.name, place(finding));
            }
        }
        verdicts.push(verdict(&findings, keys.len()));
        stanzas.push(as_json(&request.stanza.name, &findings));
    }
    match form {
        Output::Json => output::json(&Value::Array(stanzas))?,
        Output::Text => output::text(&stanzas.iter().map(to_text).collect::<String>())?,
    };
    verdicts.into_iter().collect::<Result<Vec<()>, Failure>>().map(|_| ExitCode::SUCCESS)
}

/// What is wrong with the cluster comes before what is wrong with repositories.
fn verdict(findings: &[Finding], repositories: usize) -> Result<(), Failure> {
    let wrong = |of: Option<RepoKey>| {
        findings.iter().filter(move |finding| finding.repository == of).find_map(|finding| {
            match &finding.verdict {
                Verdict::Wrong(failure) => Some(failure.clone()),
                Verdict::Well(_) | Verdict::Odd(_) => None,
            }
        })
    };
    if let Some(failure) = wrong(None) {
        return Err(failure);
    }
    let mut keys: Vec<RepoKey> = findings.iter().filter_map(|finding| finding.repository).collect();
    keys.sort_unstable();
    keys.dedup();
    all_or_error(repositories, keys.into_iter().filter_map(|key| wrong(Some(key))).collect())
}

fn place(finding: &Finding) -> String {
    match finding.repository {
        Some(key) => format!("repo {key}: {}: ", finding.what),
        None => format!("{}: ", finding.what),
    }
}

fn as_json(stanza: &StanzaName, findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let (status, message) = match &finding.verdict {
            Verdict::Well(message) => ("ok", message),
            Verdict::Odd(message) => ("warning", message),
            Verdict::Wrong(failure) => ("error", &failure.message),
        };
        let mut value = json!({ "name": finding.what, "status": status, "message": message });
        if let Some(key) = finding.repository {
            value["repo-key"] = json!(key);
        }
        if let Verdict::Wrong(failure) = &finding.verdict {
            value["code"] = json!(failure.code.number());
            value["hint"] = json!(failure.hints);
        }
        value
    };
    let is_well = !findings.iter().any(|finding| matches!(finding.verdict, Verdict::Wrong(_)));
    json!({
        "name": stanza.as_str(),
        "status": if is_well { "ok" } else { "error" },
        "check": findings.iter().map(one).collect::<Vec<_>>(),
    })
}

fn to_text(stanza: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!("stanza: {}\n    status: {}\n", text(&stanza["name"]), text(&stanza["status"]));
    for check in stanza["check"].as_array().into_iter().flatten() {
        let repo = check["repo-key"].as_u64().map_or_else(String::new, |key| format!("repo {key} "));
        let (name, status) = (text(&check["name"]), text(&check["status"]));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "    {repo}{name}: {status}: {}", text(&check["message"]));
    }
    out
}
