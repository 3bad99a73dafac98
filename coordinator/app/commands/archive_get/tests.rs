#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::args::{Command, Parsed, parse};
use std::collections::BTreeMap;

/// A data directory that shows what PostgreSQL does in it.
fn data(signal: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("pg_wal")).unwrap();
    std::fs::write(directory.path().join("PG_VERSION"), "15\n").unwrap();
    std::fs::write(directory.path().join(signal), "").unwrap();
    directory
}

/// Runs archive-get as a server of that directory would, with its destination told in full.
fn run_in(directory: &Path, config: &str, file: &str, more: &[&str]) -> Result<ExitCode, Failures> {
    let config_file = directory.join("pgconvoy.toml");
    std::fs::write(&config_file, config).unwrap();
    let destination = directory.join("pg_wal/RECOVERYXLOG");
    let texts =
        ["pgconvoy", "--config", config_file.to_str().unwrap(), COMMAND, file, destination.to_str().unwrap()];
    let arguments: Vec<OsString> = texts.iter().chain(more).map(OsString::from).collect();
    let Parsed::Typed(typed) = parse(&arguments).unwrap() else { panic!("no help was asked for") };
    let invocation = Invocation { arguments, environment: BTreeMap::new(), is_root: false };
    let Command::ArchiveGet(args) = &typed.command else { panic!("another command was asked for") };
    run(&invocation, &typed, args)
}

fn code_of(outcome: Result<ExitCode, Failures>) -> String {
    let text = format!("{:?}", outcome.unwrap_err());
    text.split("code: ").nth(1).unwrap().split(',').next().unwrap().to_owned()
}

const SEGMENT: &str = "000000010000000000000001";

#[test]
fn every_mistake_is_126_in_archive_recovery_and_its_own_code_elsewhere() {
    let gone = "[repo.1]\npath = \"/nowhere/at/all\"\n[backup]\narchive-timeout = \"100ms\"\n";
    let no_key =
        "[repo.1]\npath = \"/nowhere\"\nkey-file = \"/nowhere/key\"\n[backup]\narchive-timeout = \"100ms\"\n";
    let cases: [(&str, &str, &[&str], &str); 7] = [
        ("no toml at all", SEGMENT, &["--stanza=main"], "Config"),
        ("[repo.1]\ncolour = 1\n", SEGMENT, &["--stanza=main"], "Config"),
        ("", SEGMENT, &["--stanza=main"], "OptionRequired"),
        (gone, SEGMENT, &[], "OptionRequired"),
        (gone, "nonsense", &["--stanza=main"], "ParamInvalid"),
        (gone, SEGMENT, &["--stanza=main"], "FileMissing"),
        (no_key, SEGMENT, &["--stanza=main"], "FileMissing"),
    ];
    for (config, file, more, code) in cases {
        let outcome = run_in(data("recovery.signal").path(), config, file, more);
        assert_eq!(code_of(outcome), "CannotTell", "{config}");
        for signal in ["standby.signal", "postgresql.conf"] {
            let outcome = run_in(data(signal).path(), config, file, more);
            assert_eq!(code_of(outcome), code, "{config} with {signal}");
        }
    }
}

#[test]
fn a_command_line_that_is_no_archive_get_keeps_its_code() {
    let failure = || Failure::new(ErrorCode::OptionInvalid, "invalid option");
    let typed = |text: &str| -> Vec<OsString> { text.split(' ').map(OsString::from).collect() };
    assert_eq!(misspelt(&typed("pgconvoy backup --tpe=full"), failure()), failure());
    let recovering = data("recovery.signal");
    let judged = judge(failure(), Some(recovering.path()));
    assert_eq!(judged.code, ErrorCode::CannotTell);
    assert!(judged.message.ends_with("invalid option (error 031)") && judged.hints.len() == 1);
    assert_eq!(judge(failure(), None), failure());
}
