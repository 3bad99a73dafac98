//! The command line as clap sees it: what `args` declares, the registry's settings, and a negation for every switch.

use super::{ArchiveGetArgs, ArchivePushArgs, Cli, Common};
use clap::builder::RangedI64ValueParser;
use clap::{Arg, ArgAction, Args as _, Command, CommandFactory};
use pgconvoy_core::config::registry::{self, Commands, OptionSpec};
use pgconvoy_core::config::{REPO_KEY_MAX, ValueType};

const AFTER_HELP: &str = "\
Options are accepted before and after the command, as --opt=value and --opt value. --no-OPT negates a switch.
Any setting can also be made in the configuration file or the environment; pgconvoy help COMMAND OPTION says where.";

/// Repositories are numbered as in the configuration.
pub(super) fn repo_number() -> RangedI64ValueParser<u16> {
    RangedI64ValueParser::new().range(1..=REPO_KEY_MAX)
}

/// The definition that parsing, help, completions and man pages share.
pub fn definition() -> Command {
    with_settings(Cli::command())
}

/// The same with one command only, for those that PostgreSQL runs for each WAL file: to define all commands takes longer than
/// everything else that such a process does before its work.
pub(super) fn of_wal_command(name: &str) -> Option<Command> {
    let command = match name {
        "archive-push" => ArchivePushArgs::augment_args(Command::new("archive-push")),
        "archive-get" => ArchiveGetArgs::augment_args(Command::new("archive-get")),
        _ => return None,
    };
    let root = Common::augment_args(Command::new("pgconvoy")).subcommand(command);
    Some(with_settings(root.disable_help_subcommand(true).disable_version_flag(true)))
}

fn with_settings(root: Command) -> Command {
    let everywhere = registry::all().iter().filter(|spec| spec.commands == Commands::All);
    let root = everywhere.fold(root, |command, spec| {
        command.arg(of_setting(spec).global(true).help_heading("General options"))
    });
    let root = root.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        let settings = registry::of_command(&name).filter(|spec| spec.commands != Commands::All);
        let command =
            settings.fold(command, |command, spec| command.arg(of_setting(spec).help_heading("Settings")));
        with_negations(command)
    });
    with_negations(root).after_help(AFTER_HELP).max_term_width(TERM_WIDTH_MAX)
}

/// Longer lines are hard to read, however wide the terminal.
const TERM_WIDTH_MAX: usize = 120;

pub(super) fn negation(long: &str) -> String {
    format!("no-{long}")
}

fn of_setting(spec: &'static OptionSpec) -> Arg {
    let help = match spec.default {
        Some(default) => format!("{} [default: {default}]", capitalised(spec.help)),
        None => capitalised(spec.help),
    };
    let arg = Arg::new(spec.long).long(spec.long).help(help).action(match spec.value_type {
        ValueType::List(_) | ValueType::Map => ArgAction::Append,
        _ => ArgAction::Set,
    });
    match spec.value_type {
        ValueType::Boolean => {
            arg.value_name("y|n").num_args(0..=1).require_equals(true).default_missing_value("y")
        }
        ValueType::Choice(names) => arg.value_name(names.join("|")),
        ValueType::Integer(..) => arg.value_name("N").allow_negative_numbers(true),
        ValueType::Size(..) => arg.value_name("SIZE"),
        ValueType::Duration(..) => arg.value_name("TIME"),
        ValueType::Map => arg.value_name("KEY=VALUE"),
        ValueType::Path => arg.value_name("DIR"),
        _ => arg.value_name("TEXT"),
    }
}

/// In help, sentences start as sentences do.
fn capitalised(sentence: &str) -> String {
    let mut rest = sentence.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

/// Adds the form that is not declared: `--no-force` to `--force`, `--online` to `--no-online`. The last one typed wins.
fn with_negations(command: Command) -> Command {
    let switches: Vec<(String, String)> = command
        .get_arguments()
        .filter(|arg| is_switch(arg) && !matches!(arg.get_id().as_str(), "help" | "version"))
        .filter_map(|arg| Some((arg.get_id().to_string(), arg.get_long()?.to_owned())))
        .collect();
    switches.into_iter().fold(command, |command, (id, long)| {
        let is_global = command.get_arguments().any(|arg| *arg.get_id() == *id && arg.is_global_set());
        let opposite = long.strip_prefix("no-").map_or_else(|| negation(&long), str::to_owned);
        command.arg(
            Arg::new(if opposite == id { format!("yes-{id}") } else { opposite.clone() })
                .long(opposite)
                .action(ArgAction::SetTrue)
                .overrides_with(id)
                .global(is_global)
                .hide(true),
        )
    })
}

fn is_switch(arg: &Arg) -> bool {
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => true,
        ArgAction::Set => arg.is_require_equals_set(),
        _ => false,
    }
}
