//! `help`: the program, a command, or one option of a command. `help config` lists every setting there is.

use crate::args::{HelpArgs, definition};
use crate::output;
use clap::Command;
use pgconvoy_core::config::nearest;
use pgconvoy_core::config::registry::{self, OptionSpec, Section};
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::fmt::Write;
use std::process::ExitCode;

pub fn run(args: &HelpArgs) -> Result<ExitCode, Failure> {
    let (mut command, rest) = find(&args.topic)?;
    let Some(option) = rest.first() else {
        let mut text = command.render_long_help().to_string();
        if args.topic.first().is_some_and(|topic| topic == "config") {
            text.push_str(&settings());
        }
        return output::text(&text);
    };
    let name = option.trim_start_matches('-');
    let setting =
        registry::by_long(name).filter(|spec| args.topic.first().is_some_and(|topic| spec.accepts(topic)));
    if let Some(spec) = setting {
        return output::text(&explain(spec));
    }
    let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
        let path = args.topic[..args.topic.len() - rest.len()].join(" ");
        let failure =
            Failure::new(ErrorCode::OptionInvalid, format!("command '{path}' has no option '--{name}'"));
        let near = nearest(name, command.get_arguments().filter_map(clap::Arg::get_long));
        return Err(near
            .into_iter()
            .fold(failure, |failure, near| failure.hint(format!("did you mean '--{near}'?"))));
    };
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    output::text(&format!("--{name}: {help}\n"))
}

/// The command that a topic names, complete with the options of all commands, and what follows its name.
pub(super) fn find(topic: &[String]) -> Result<(Command, &[String]), Failure> {
    let mut command = definition();
    command.build();
    let mut rest = topic;
    while let Some((name, more)) = rest.split_first() {
        let Some(inner) = command.find_subcommand(name) else { break };
        command = inner.clone();
        rest = more;
    }
    match rest.first() {
        Some(name) if rest.len() == topic.len() => {
            let failure = Failure::new(ErrorCode::CommandInvalid, format!("invalid command '{name}'"));
            Err(match nearest(name, command.get_subcommands().map(Command::get_name)) {
                Some(near) => failure.hint(format!("did you mean '{near}'?")),
                None => failure.hint("pgconvoy help lists the commands"),
            })
        }
        _ => Ok((command, rest)),
    }
}

fn explain(spec: &OptionSpec) -> String {
    let mut text =
        format!("--{}: {}\n\n  value:       {}\n", spec.long, spec.help, spec.value_type.describe());
    let lines = [
        ("default", spec.default.map(str::to_owned)),
        ("file", Some(format!("{} {}", spec.section.title(), spec.name))),
        ("environment", Some(variable(spec))),
    ];
    for (what, line) in lines.into_iter().filter_map(|(what, line)| Some((what, line?))) {
        writeln!(text, "  {:13}{line}", format!("{what}:"))
            .expect("a string takes all that is written to it");
    }
    text
}

fn variable(spec: &OptionSpec) -> String {
    let table = spec.section.title().trim_matches(['[', ']']);
    let place = if spec.section == Section::Pg { format!("{table}.N") } else { table.to_owned() };
    format!("PGCONVOY_{}", format!("{place}.{}", spec.name).replace(['.', '-'], "_").to_ascii_uppercase())
}

/// All settings by table, for the reader of `help config`.
fn settings() -> String {
    let mut text = String::from("\nSettings of the configuration file:\n");
    let mut table = None;
    for spec in registry::all() {
        if table != Some(spec.section) {
            let also = if spec.section == Section::Backup { " (a stanza may override each)" } else { "" };
            write!(text, "\n  {}{also}\n", spec.section.title())
                .expect("a string takes all that is written to it");
            table = Some(spec.section);
        }
        let default = spec.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let required = if spec.required { " [required]" } else { "" };
        writeln!(text, "    {:24} {}{default}{required}", spec.name, spec.help)
            .expect("a string takes all that is written to it");
    }
    text
}
