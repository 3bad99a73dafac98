//! Turns what clap complains of into pgBackRest's codes and words.
//!
//! Invariant: the value of an option that does not exist is never repeated; somebody may have meant a secret.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};
use pgconvoy_core::config::nearest;
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::ffi::OsString;

/// `ordered` has the command in front.
pub(super) fn explain(error: &Error, definition: &Command, ordered: &[OsString]) -> Failure {
    let (command, path) = command_of(definition, ordered);
    match error.kind() {
        ErrorKind::InvalidSubcommand => unknown_command(error, command),
        ErrorKind::UnknownArgument => unknown_argument(error, definition, command, &path),
        ErrorKind::MissingRequiredArgument => missing(error, &path),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            let failure =
                Failure::new(ErrorCode::CommandRequired, format!("command '{path}' is not complete"));
            failure.hint(format!("one of {} must follow", names.join(", ")))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => invalid_value(error),
        ErrorKind::ArgumentConflict => Failure::new(
            ErrorCode::OptionInvalid,
            format!("option '{}' cannot be set multiple times", option(error)),
        ),
        ErrorKind::NoEquals
        | ErrorKind::TooManyValues
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues => Failure::new(
            ErrorCode::OptionInvalid,
            format!("option '{}' does not take that value", option(error)),
        ),
        ErrorKind::InvalidUtf8 => Failure::new(ErrorCode::ParamInvalid, "an argument is not valid UTF-8"),
        _ => Failure::new(ErrorCode::OptionInvalid, error.kind().to_string()),
    }
}

/// The innermost command that was named, and how it was typed.
fn command_of<'a>(definition: &'a Command, ordered: &[OsString]) -> (&'a Command, String) {
    let mut command = definition;
    let mut path = Vec::new();
    for argument in ordered.iter().skip(1) {
        match argument.to_str().and_then(|name| command.find_subcommand(name)) {
            Some(inner) => command = inner,
            None => break,
        }
        path.push(command.get_name());
    }
    (command, path.join(" "))
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

/// The option's name with its dashes, without a value and without what help puts behind it.
fn option(error: &Error) -> String {
    let shown = text(error, ContextKind::InvalidArg).unwrap_or_default();
    shown.split(['=', ' ', '[']).next().unwrap_or_default().to_owned()
}

fn unknown_command(error: &Error, command: &Command) -> Failure {
    let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
    let failure = Failure::new(ErrorCode::CommandInvalid, format!("invalid command '{name}'"));
    match nearest(&name, command.get_subcommands().map(Command::get_name)) {
        Some(near) => failure.hint(format!("did you mean '{near}'?")),
        None => failure.hint("pgconvoy help lists the commands"),
    }
}

fn longs(command: &Command) -> impl Iterator<Item = &str> {
    command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long())
}

fn unknown_argument(error: &Error, definition: &Command, command: &Command, path: &str) -> Failure {
    let typed = option(error);
    let Some(long) = typed.strip_prefix("--") else {
        return if typed.starts_with('-') {
            Failure::new(ErrorCode::OptionInvalid, format!("invalid option '{typed}'"))
        } else {
            Failure::new(
                ErrorCode::ParamInvalid,
                format!("command '{path}' does not take the parameter '{typed}'"),
            )
        };
    };
    let invalid = |message: String| Failure::new(ErrorCode::OptionInvalid, message);
    let here: Vec<&str> = longs(command).chain(longs(definition)).collect();
    let (prefix, positive) = long.strip_prefix("no-").map_or(("", long), |positive| ("no-", positive));
    if here.contains(&positive) {
        return invalid(format!("option '--{positive}' cannot be negated")).hint("leave it out instead");
    }
    let elsewhere = definition.get_subcommands().filter(|other| longs(other).any(|name| name == positive));
    let elsewhere: Vec<&str> = elsewhere.map(Command::get_name).collect();
    if !elsewhere.is_empty() && !path.is_empty() {
        let failure = invalid(format!("option '{typed}' is not valid for command '{path}'"));
        return failure.hint(format!("it is an option of {}", elsewhere.join(", ")));
    }
    let failure = invalid(format!("invalid option '{typed}'"));
    match nearest(positive, here) {
        Some(near) => failure.hint(format!("did you mean '--{prefix}{near}'?")),
        None => failure.hint("pgconvoy help COMMAND lists the options of a command"),
    }
}

fn missing(error: &Error, path: &str) -> Failure {
    let names = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let (code, what) = match names.starts_with("--") {
        true => (ErrorCode::OptionRequired, "option"),
        false => (ErrorCode::ParamRequired, "parameter"),
    };
    Failure::new(code, format!("command '{path}' requires {what}: {names}"))
        .hint(format!("pgconvoy help {path} explains it"))
}

fn invalid_value(error: &Error) -> Failure {
    let option = option(error);
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    if value.is_empty() {
        return Failure::new(ErrorCode::OptionInvalid, format!("option '{option}' requires an argument"));
    }
    let failure = Failure::new(
        ErrorCode::OptionInvalidValue,
        format!("'{value}' is not allowed for '{option}' option"),
    );
    let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue) else {
        let reason = std::error::Error::source(error).map(ToString::to_string);
        return reason.into_iter().fold(failure, Failure::hint);
    };
    match nearest(&value, allowed.iter().map(String::as_str)) {
        Some(near) => failure.hint(format!("did you mean '{near}'?")),
        None => failure.hint(format!("allowed are {}", allowed.join(", "))),
    }
}
