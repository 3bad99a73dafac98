//! `config check` and `config show`: what is wrong with the configuration, and what holds.

use crate::Invocation;
use crate::args::{Common, ConfigArgs, ConfigCommand, Output};
use crate::context::Source;
use crate::output::{self, Failures};
use pgconvoy_core::config::{Config, ConfigProblem, Origin};
use pgconvoy_core::failure::Failure;
use serde_json::{Value, json};
use std::process::ExitCode;

pub fn run(invocation: &Invocation, common: &Common, command: &ConfigCommand) -> Result<ExitCode, Failures> {
    let source = Source::read(invocation, common)?;
    let loaded = source.load(invocation);
    match command {
        ConfigCommand::Check(args) => check(loaded, args),
        ConfigCommand::Show(args) => Ok(show(&loaded?, args)?),
    }
}

/// With JSON the problems are the result; they are reported on stderr all the same.
fn check(loaded: Result<Config, Vec<ConfigProblem>>, args: &ConfigArgs) -> Result<ExitCode, Failures> {
    let problems = loaded.as_ref().err().map(Vec::as_slice).unwrap_or_default();
    if args.output == Output::Json {
        output::json(&problems.iter().map(problem).collect())?;
    }
    let config = loaded?;
    if args.output == Output::Text {
        let (repos, stanzas) = (config.repos.len(), config.stanzas.len());
        output::text(&format!("the configuration is valid: repositories: {repos}, stanzas: {stanzas}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn problem(problem: &ConfigProblem) -> Value {
    let mut value = json!({ "reason": problem.reason, "hint": problem.hint });
    match &problem.origin {
        Origin::File(at) => {
            value["file"] = json!(&*at.file);
            value["line"] = json!(at.line);
            value["column"] = json!(at.column);
        }
        origin => value["origin"] = json!(origin.to_string()),
    }
    value
}

fn show(config: &Config, args: &ConfigArgs) -> Result<ExitCode, Failure> {
    match args.output {
        Output::Text => output::text(&config.show()),
        Output::Json => output::json(
            &config
                .settings()
                .iter()
                .map(|setting| {
                    let origin = setting.origin.to_string();
                    json!({ "table": setting.table, "key": setting.key, "value": setting.value, "origin": origin })
                })
                .collect(),
        ),
    }
}
