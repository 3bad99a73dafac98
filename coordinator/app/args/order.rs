//! Puts the command in front of options that were typed before it, so that `--type=full backup` is `backup --type=full`.

use clap::{ArgAction, Command};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// Moves options that stand before the command behind everything else; the rest keeps its order.
pub(super) fn command_first(definition: &Command, arguments: &[OsString]) -> Vec<OsString> {
    let Some((program, typed)) = arguments.split_first() else { return vec!["pgconvoy".into()] };
    let takes_value = takes_value(definition);
    let mut at = 0;
    while let Some(text) =
        typed.get(at).and_then(|argument| argument.to_str()).filter(|text| text.starts_with('-'))
    {
        if text == "--" {
            break;
        }
        let value_follows =
            text.strip_prefix("--").is_some_and(|long| takes_value.get(long).copied().unwrap_or(false));
        at += if value_follows { 2 } else { 1 };
    }
    let (before, from_command) = typed.split_at(at.min(typed.len()));
    let escape = from_command.iter().position(|argument| argument == "--").unwrap_or(from_command.len());
    let (command, escaped) = from_command.split_at(escape);
    std::iter::once(program).chain(command).chain(before).chain(escaped).cloned().collect()
}

/// By its long name, whether an option's value is the argument after it. A test proves that commands agree about this.
fn takes_value(definition: &Command) -> BTreeMap<&str, bool> {
    all_arguments(definition)
        .flat_map(|arg| {
            let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
                && !arg.is_require_equals_set();
            let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
            names.map(move |name| (name, takes)).collect::<Vec<_>>()
        })
        .collect()
}

fn all_arguments(command: &Command) -> Box<dyn Iterator<Item = &clap::Arg> + '_> {
    Box::new(command.get_arguments().chain(command.get_subcommands().flat_map(all_arguments)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::definition;

    fn ordered(line: &str) -> String {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let ordered = command_first(&definition(), &arguments);
        ordered.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_before_the_command_move_behind_it() {
        for (typed, expected) in [
            ("p backup --type=full", "p backup --type=full"),
            (
                "p --stanza main --start-fast backup --type full",
                "p backup --type full --stanza main --start-fast",
            ),
            (
                "p --type full --repo 1 --repo=2 --no-resume backup",
                "p backup --type full --repo 1 --repo=2 --no-resume",
            ),
            ("p --log-level-console=info config show", "p config show --log-level-console=info"),
            ("p --pg1-path /data restore", "p restore --pg1-path /data"),
            ("p --stanza=a repo-get -- --odd", "p repo-get --stanza=a -- --odd"),
            ("p --stanza", "p --stanza"),
            ("p --help", "p --help"),
            ("p", "p"),
        ] {
            assert_eq!(ordered(typed), expected);
        }
    }

    #[test]
    fn an_option_takes_a_value_in_all_commands_or_in_none() {
        let definition = definition();
        let agreed = takes_value(&definition);
        for command in definition.get_subcommands() {
            for (name, takes) in takes_value(command) {
                assert_eq!(agreed[name], takes, "--{name} of {}", command.get_name());
            }
        }
    }
}
