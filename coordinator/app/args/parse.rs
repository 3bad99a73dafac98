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
    match of_wal_command(arguments) {
        Some(typed) => Ok(Parsed::Typed(Box::new(typed))),
        None => of_any_command(arguments),
    }
}

/// By the definition of that command alone, which is built sooner. Whatever it does not accept is for the whole definition to explain.
fn of_wal_command(arguments: &[OsString]) -> Option<Typed> {
    let names = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    let definition = names.filter_map(definition::of_wal_command).next()?;
    let ordered = order::command_first(&definition, arguments);
    let matches = definition.clone().try_get_matches_from(&ordered).ok()?;
    let cli = Cli::from_arg_matches(&matches).ok().filter(|cli| !cli.common.version)?;
    typed(&definition, &matches, cli).ok()
}

fn of_any_command(arguments: &[OsString]) -> Result<Parsed, Failure> {
    let definition = definition::definition();
    let ordered = order::command_first(&definition, arguments);
    let matches = match definition.clone().try_get_matches_from(&ordered) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Parsed::Help(error.render().to_string())),
        Err(error) => return Err(mistake::explain(&error, &definition, &ordered)),
    };
    let cli =
        Cli::from_arg_matches(&matches).map_err(|error| mistake::explain(&error, &definition, &ordered))?;
    Ok(Parsed::Typed(Box::new(typed(&definition, &matches, cli)?)))
}

fn typed(definition: &clap::Command, matches: &clap::ArgMatches, cli: Cli) -> Result<Typed, Failure> {
    let command = match cli.command {
        _ if cli.common.version => Command::Version(VersionArgs { output: VersionOutput::Text }),
        Some(command) => command,
        None => {
            let failure = Failure::new(ErrorCode::CommandRequired, "no command found");
            return Err(failure.hint("pgconvoy help lists the commands"));
        }
    };
    let overrides = overrides(matches, command.name())?;
    let options = match (definition.find_subcommand(command.name()), matches.subcommand()) {
        (Some(definition), Some((_, matches))) => submitted::of_line(definition, matches),
        _ => JobOptions::default(),
    };
    Ok(Typed { common: cli.common, command, overrides, options })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_wal_command_means_the_same_by_its_own_definition_as_by_that_of_all() {
        for line in [
            "p archive-push pg_wal/1",
            "p --stanza=main --config /c.toml archive-push --archive-async --pg1-path=/data pg_wal/1",
            "p --stanza main archive-push --no-archive-async --log-level-console=info --pg-path /data /wal/1",
            "p --embedded --process-max=3 archive-push --background --compress-type=zst pg_wal/1",
            "p archive-push --stanza=main -- pg_wal/1",
            "p --stanza archive-get archive-get 1 RECOVERYXLOG",
            "p --repo 2 archive-get --stanza=main --archive-async 1 RECOVERYXLOG",
            "p --log-level-console detail archive-get --repo=1 --no-embedded 1 RECOVERYXLOG",
        ] {
            let alone = of_wal_command(&words(line)).unwrap_or_else(|| panic!("{line}"));
            let Ok(Parsed::Typed(among_all)) = of_any_command(&words(line)) else { panic!("{line}") };
            assert_eq!(format!("{alone:?}"), format!("{among_all:?}"), "{line}");
        }
    }

    #[test]
    fn what_a_wal_command_does_not_take_is_left_to_the_definition_of_all() {
        for line in [
            "p",
            "p backup",
            "p archive-push",
            "p archive-push --help",
            "p --version archive-push pg_wal/1",
            "p archive-push --nonsense pg_wal/1",
            "p archive-push --process-max=many pg_wal/1",
            "p --stanza archive-push backup",
            "p help archive-push",
        ] {
            assert!(of_wal_command(&words(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn a_wal_command_has_the_options_that_it_has_among_all() {
        let options = |command: &clap::Command| -> BTreeSet<String> {
            // Where help shows it, which is told by the definition of all.
            command.get_arguments().map(|arg| format!("{:?}", arg.clone().display_order(0))).collect()
        };
        let all = definition::definition();
        for name in ["archive-push", "archive-get"] {
            let alone = definition::of_wal_command(name).expect("a WAL command");
            assert_eq!(options(&alone), options(&all));
            assert_eq!(
                options(alone.find_subcommand(name).expect("it is there")),
                options(all.find_subcommand(name).expect("it is there"))
            );
        }
    }
}
