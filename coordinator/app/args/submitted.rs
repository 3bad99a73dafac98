//! A command's options as a job carries them, and back: by name, each with its values as they are typed.
//!
//! Options that say how this process behaves (where its configuration is, what it prints, whether it waits) are no part of a job.
//!
//! Invariants
//! 1. What comes back from a job's options is what a line with these options would have meant.
//! 2. A job's options cannot reach what is not an option of its command: neither paths nor logs of the process that does it.

use super::{Parsed, Typed, definition, parse};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::job::{JobKind, JobOptions};
use std::ffi::OsString;

/// Options of a command that concern whoever typed them.
const NOT_FOR_JOBS: [&str; 3] = ["output", "plan", "detach"];

/// What was typed of the options that a job carries. `command` is the definition of the innermost one.
pub(super) fn of_line(command: &Command, matches: &ArgMatches) -> JobOptions {
    let mut options = JobOptions::default();
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        let id = arg.get_id().as_str();
        if NOT_FOR_JOBS.contains(&long) || matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        if is_switch(arg) {
            let (name, is_on) = long.strip_prefix("no-").map_or((long, true), |name| (name, false));
            if !NOT_FOR_JOBS.contains(&name) {
                options.set(name, vec![is_on.to_string()]);
            }
        } else if let Some(values) = matches.get_raw(id) {
            options.set(long, values.map(|value| value.to_string_lossy().into_owned()).collect());
        }
    }
    options
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse)
}

/// What a line with these options means.
pub fn as_typed(kind: JobKind, options: &JobOptions) -> Result<Typed, Failure> {
    let definition = definition();
    let command = definition.find_subcommand(kind.name()).ok_or_else(|| {
        Failure::new(ErrorCode::NotSupported, format!("a job of kind {kind} is not part of this build"))
    })?;
    let mut line: Vec<OsString> = vec!["pgconvoy".into(), kind.name().into()];
    for (name, values) in &options.0 {
        line.extend(words(&definition, command, name, values)?.into_iter().map(OsString::from));
    }
    match parse(&line)? {
        Parsed::Typed(typed) => Ok(*typed),
        Parsed::Help(_) => Err(Failure::new(ErrorCode::OptionInvalid, "help is no option of a job")),
    }
}

fn words(
    definition: &Command,
    command: &Command,
    name: &str,
    values: &[String],
) -> Result<Vec<String>, Failure> {
    let find = |long: &str| command.get_arguments().find(|arg| arg.get_long() == Some(long));
    let is_everywhere = definition.get_arguments().any(|arg| arg.get_long() == Some(name));
    let is_spelled_as_one =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_spelled_as_one || is_everywhere || NOT_FOR_JOBS.contains(&name) || matches!(name, "" | "help") {
        let message = format!("option '--{name}' is not valid for a job of kind {}", command.get_name());
        return Err(Failure::new(ErrorCode::OptionInvalid, message));
    }
    let negation = format!("no-{name}");
    let switch = find(name).or_else(|| find(&negation)).filter(|arg| is_switch(arg));
    if switch.is_none() {
        // One that does not exist is complained of by whoever reads the line.
        return Ok(values.iter().map(|value| format!("--{name}={value}")).collect());
    }
    values
        .iter()
        .map(|value| match value.as_str() {
            "true" | "y" => Ok(format!("--{name}")),
            "false" | "n" => Ok(format!("--{negation}")),
            _ => {
                let message = format!("'{value}' is not allowed for '--{name}' option");
                Err(Failure::new(ErrorCode::OptionInvalidValue, message).hint("allowed are true, false"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    fn typed(line: &str) -> Typed {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        match parse(&words).unwrap() {
            Parsed::Typed(typed) => *typed,
            Parsed::Help(_) => panic!("{line} asks for help"),
        }
    }

    fn options(pairs: &[(&str, &[&str])]) -> JobOptions {
        let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        JobOptions(pairs.iter().map(|(name, values)| ((*name).to_owned(), owned(values))).collect())
    }

    #[test]
    fn a_job_carries_what_was_typed_and_nothing_else() {
        let line = "p backup --stanza=main --config=/c --type=full --repo=1 --repo=2 --start-fast --no-resume --no-online --force \
                    --exclude=a --exclude=b --annotation=k=v --output=json --detach --log-level-console=info --embedded";
        let expected = options(&[
            ("type", &["full"]),
            ("repo", &["1", "2"]),
            ("start-fast", &["y"]),
            ("resume", &["false"]),
            ("online", &["false"]),
            ("force", &["true"]),
            ("exclude", &["a", "b"]),
            ("annotation", &["k=v"]),
        ]);
        assert_eq!(typed(line).options, expected);
        assert_eq!(typed("p backup").options, JobOptions::default());
    }

    #[test]
    fn what_a_job_carries_means_what_was_typed() {
        for (kind, rest) in [
            (
                JobKind::Backup,
                "--type=full --repo=1 --repo=2 --start-fast --no-resume --no-online --force --exclude=a",
            ),
            (JobKind::Backup, "--start-fast=n --compress-type=lz4 --compress-level=-3 --no-force --online"),
            (JobKind::Verify, "--set=20261122-103000F --repo=3 --process-max=2"),
            (JobKind::RepoSync, "--from=1 --to=2 --create --set=20261122-103000F --process-max=2"),
            (
                JobKind::Restore,
                "--worker=db1 --pg-path=/data --tablespace-map=a=/b --link-all --type=immediate",
            ),
            (JobKind::Restore, "--worker=db1 --worker=db2 --no-delta --force --set=latest"),
        ] {
            let line = typed(&format!("p {kind} {rest}"));
            let again = as_typed(kind, &line.options).unwrap();
            assert_eq!(format!("{:?}", again.command), format!("{:?}", line.command), "{rest}");
            let values = |typed: &Typed| format!("{:?}", typed.overrides).replace("\"false\"", "\"n\"");
            assert_eq!(values(&again), values(&line), "{rest}");
        }
    }

    #[test]
    fn a_job_cannot_name_what_is_no_option_of_its_command() {
        let failure = as_typed(JobKind::Backup, &options(&[("start-fst", &["y"])])).unwrap_err();
        assert_eq!(failure.code, ErrorCode::OptionInvalid);
        assert_eq!(failure.hints, ["did you mean '--start-fast'?"]);
        for name in [
            "config",
            "log-path",
            "lock-path",
            "stanza",
            "output",
            "plan",
            "help",
            "version",
            "",
            "x=1 --force",
            "-v",
        ] {
            let failure = as_typed(JobKind::Backup, &options(&[(name, &["x"])])).unwrap_err();
            assert_eq!(failure.code, ErrorCode::OptionInvalid, "{name}: {failure}");
        }
        let failure = as_typed(JobKind::Backup, &options(&[("force", &["perhaps"])])).unwrap_err();
        assert_eq!(failure.code, ErrorCode::OptionInvalidValue);
        let failure = as_typed(JobKind::Backup, &options(&[("type", &["fll"])])).unwrap_err();
        assert_eq!(failure.hints, ["did you mean 'full'?"]);
    }
}
