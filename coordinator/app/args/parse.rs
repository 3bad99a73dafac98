//! From the words of the command line to [`Typed`].

use super::{Cli, Command, Common, VersionArgs, VersionOutput, definition, mistake, order, submitted};
use clap::FromArgMatches;
use pgconvoy_core::config::{Overrides, registry};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::job::JobOptions;
use std::ffi::OsString;

/// What was typed, complete and of the right form.
#[derive(Debug)]
pub struct Typed {
    pub common: Common,
    pub command: Command,
    /// Settings of the configuration that were given as options.
    pub overrides: Overrides,
    /// The command's own options and settings, as a job would carry them.
    pub options: JobOptions,
}

pub enum Parsed {
    Typed(Box<Typed>),
    /// `--help` was asked for.
    Help(String),
}

/// `arguments` start with the program's name.
pub fn parse(arguments: &[OsString]) -> Result<Parsed, Failure> {
    let definition = definition::definition();
    let ordered = order::command_first(&definition, arguments);
    let matches = match definition.clone().try_get_matches_from(&ordered) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Parsed::Help(error.render().to_string())),
        Err(error) => return Err(mistake::explain(&error, &definition, &ordered)),
    };
    let cli =
        Cli::from_arg_matches(&matches).map_err(|error| mistake::explain(&error, &definition, &ordered))?;
    let command = match cli.command {
        _ if cli.common.version => Command::Version(VersionArgs { output: VersionOutput::Text }),
        Some(command) => command,
        None => {
            let failure = Failure::new(ErrorCode::CommandRequired, "no command found");
            return Err(failure.hint("pgconvoy help lists the commands"));
        }
    };
    let overrides = overrides(&matches, command.name())?;
    let options = match (definition.find_subcommand(command.name()), matches.subcommand()) {
        (Some(definition), Some((_, matches))) => submitted::of_line(definition, matches),
        _ => JobOptions::default(),
    };
    Ok(Parsed::Typed(Box::new(Typed { common: cli.common, command, overrides, options })))
}

/// Collects the settings among the options; those of all commands may stand at any level.
fn overrides(matches: &clap::ArgMatches, command: &str) -> Result<Overrides, Failure> {
    let mut overrides = Overrides::default();
    let innermost = innermost(matches);
    for spec in registry::of_command(command) {
        let (yes, no) = (spec.long, definition::negation(spec.long));
        if let Ok(Some(values)) = innermost.try_get_many::<String>(yes) {
            for value in values {
                overrides.set(yes, value)?;
            }
        }
        if let Ok(Some(true)) = innermost.try_get_one::<bool>(&no) {
            overrides.set(yes, "n")?;
        }
    }
    Ok(overrides)
}

fn innermost(matches: &clap::ArgMatches) -> &clap::ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => self::innermost(inner),
        None => matches,
    }
}
