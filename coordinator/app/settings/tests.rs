//! From a line and a configuration to a request, or to the error that says what is wrong with the two.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use super::*;
use crate::args::{self, Command, Parsed, Typed};
use pgconvoy_core::config::Config;
use pgconvoy_core::plan::recovery::{RecoveryTarget, TargetAction};
use std::collections::BTreeMap;

const CONFIG: &str = "\
[repo.1]
path = \"/one\"
[repo.2]
path = \"/two\"
[repo.3]
path = \"/three\"
[backup]
process-max = 4
[stanza.main]
repos = [1, 3]
start-fast = true
[[stanza.main.pg]]
path = \"/data/main\"
[stanza.fleet]
[[stanza.fleet.pg]]
path = \"/data/fleet\"
host = \"db1\"
";

fn typed(line: &str) -> Result<Typed, Failure> {
    let arguments: Vec<_> = format!("pgconvoy {line}").split(' ').map(Into::into).collect();
    match args::parse(&arguments)? {
        Parsed::Typed(typed) => Ok(*typed),
        Parsed::Help(_) => panic!("no help was asked for"),
    }
}

fn context(config: &str, line: &str) -> (Context, Command) {
    let typed = typed(line).unwrap();
    let config = Config::load(Some(("c", config)), &BTreeMap::new(), |_| Err(String::new())).unwrap();
    let context = Context {
        config,
        config_file: None,
        overrides: typed.overrides,
        stanza: typed.common.stanza,
        embedded: typed.common.embedded,
        command: typed.command.name(),
        environment: BTreeMap::new(),
        is_root: false,
        arguments: Vec::new(),
    };
    (context, typed.command)
}

fn backup(line: &str) -> Result<BackupRequest, Failure> {
    let (context, command) = context(CONFIG, line);
    let Command::Backup(args) = command else { panic!("{line} is a backup") };
    BackupRequest::new(&context, &args)
}

fn restore(line: &str) -> Result<RestoreRequest, Failure> {
    let (context, command) = context(CONFIG, line);
    let Command::Restore(args) = command else { panic!("{line} is a restore") };
    RestoreRequest::new(&context, &args)
}

fn keys(repos: &[RepoConfig]) -> Vec<u16> {
    repos.iter().map(|repo| repo.key.0).collect()
}

fn said(failure: &Failure) -> String {
    crate::output::lines(failure)
}

#[test]
fn a_backup_goes_to_all_repositories_of_its_stanza_with_its_policy() {
    let request = backup("--stanza=main backup").unwrap();
    assert_eq!(keys(&request.repos), [1, 3]);
    assert_eq!((request.kind, request.online, request.force), (BackupKind::Incr, true, false));
    assert_eq!((request.options.process_max, request.options.start_fast), (Some(4), true));
}

#[test]
fn options_may_stand_before_and_after_the_command_and_be_negated() {
    let line = "--type full --no-start-fast --repo 3 backup --stanza=main --process-max=7 --delta --no-online --force";
    let request = backup(line).unwrap();
    assert_eq!((request.kind, keys(&request.repos)), (BackupKind::Full, vec![3]));
    assert_eq!((request.online, request.force), (false, true));
    let options = request.options;
    assert_eq!((options.start_fast, options.delta, options.process_max), (false, true, Some(7)));
}

#[test]
fn the_last_of_two_contradicting_switches_wins() {
    let switched = |line: &str| backup(&format!("backup --stanza=main {line}")).unwrap();
    assert!(switched("--delta --no-delta --delta").options.delta);
    assert!(!switched("--no-delta --delta --no-delta").options.delta);
    assert!(switched("--no-online --online").online);
    assert!(!switched("--online --no-online").online);
    assert!(!switched("--plan --no-plan").plan_only);
    assert!(!switched("--start-fast=n").options.start_fast);
}

#[test]
fn what_is_missing_or_unknown_is_said_with_what_there_is() {
    assert_eq!(
        said(&backup("backup").unwrap_err()),
        "ERROR: [037]: command 'backup' requires option: --stanza\nHINT: configured are fleet, main\n"
    );
    assert_eq!(
        said(&backup("backup --stanza=mian").unwrap_err()),
        "ERROR: [032]: stanza 'mian' is not configured\nHINT: did you mean 'main'?\n"
    );
    assert_eq!(
        said(&backup("backup --stanza=main --repo=2").unwrap_err()),
        "ERROR: [032]: repository 2 is not configured here\nHINT: there are 1, 3\n"
    );
    assert_eq!(
        said(&backup("backup --stanza=main --compress-type=gz --compress-level=22").unwrap_err()),
        "ERROR: [032]: option '--compress-level': compress-level 22 is out of range for gz: -1 to 9\n\
         HINT: gz compresses well at 6\n"
    );
    assert!(
        said(&backup("backup --stanza=a/b").unwrap_err()).starts_with("ERROR: [032]: option '--stanza': ")
    );
    let failure = backup("backup --stanza=main --force").unwrap_err();
    assert!(
        said(&failure)
            .starts_with("ERROR: [031]: option '--force' is not valid without option '--no-online'\n")
    );
}

#[test]
fn a_restore_takes_the_stanzas_directory_on_this_machine() {
    let request = restore("restore --stanza=main").unwrap();
    assert_eq!(
        (request.target.directory.as_str(), request.set, request.only_repo),
        ("/data/main", None, None)
    );
    assert_eq!(request.recovery.target, RecoveryTarget::Default);
    let failure = restore("restore --stanza=fleet").unwrap_err();
    assert_eq!(failure.code, ErrorCode::OptionRequired);
    assert!(failure.message.contains("--pg-path"), "{failure}");
}

#[test]
fn a_restore_needs_no_stanza_in_the_configuration() {
    let line = "restore --stanza=lost --pg1-path /new/ --set=20261122-103000F --repo=2 --type=immediate \
                --target-action=promote --tablespace-map=a=/x --tablespace-map 7=/y --link-map=pg_wal=/w";
    let request = restore(line).unwrap();
    assert_eq!((request.target.directory.as_str(), keys(&request.repos)), ("/new", vec![2]));
    assert_eq!(request.set.unwrap().to_string(), "20261122-103000F");
    assert_eq!((request.only_repo, request.recovery.action), (Some(RepoKey(2)), Some(TargetAction::Promote)));
    assert_eq!(request.target.tablespace_map.len(), 2);
    assert_eq!(request.target.link_map["pg_wal"], "/w");
}

#[test]
fn a_restore_that_makes_no_sense_is_refused_before_anything_is_read() {
    for (options, code) in [
        ("--set=yesterday", ErrorCode::BackupSetInvalid),
        ("--type=tomorrow", ErrorCode::OptionInvalidValue),
        ("--target-action=promote", ErrorCode::OptionInvalid),
        ("--pg-path=relative", ErrorCode::OptionInvalidValue),
        ("--pg-path=/a/../b", ErrorCode::OptionInvalidValue),
        ("--tablespace-map=/x", ErrorCode::OptionInvalidValue),
        ("--tablespace-map=a=x", ErrorCode::OptionInvalidValue),
        ("--link-map=a=/x --link-map=a=/y", ErrorCode::OptionInvalidValue),
        ("--repo=9", ErrorCode::OptionInvalidValue),
    ] {
        let failure = restore(&format!("restore --stanza=main {options}")).unwrap_err();
        assert_eq!(failure.code, code, "{options}: {failure}");
    }
}

#[test]
fn wal_files_are_found_below_the_data_directory_that_is_named() {
    let (context, command) = context(CONFIG, "archive-push pg_wal/0001 --stanza=main --pg-path=/data/main");
    let Command::ArchivePush(args) = command else { panic!("an archive-push") };
    let request = ArchivePushRequest::new(&context, &args).unwrap();
    assert_eq!(request.path, std::path::Path::new("/data/main/pg_wal/0001"));
    assert_eq!(keys(&request.repos), [1, 3]);
}

#[test]
fn check_is_for_one_stanza_or_for_all_and_info_too() {
    let (context, _) = context(CONFIG, "check");
    let requests = CheckRequest::all(&context).unwrap();
    assert_eq!(
        requests.iter().map(|request| request.stanza.name.as_str()).collect::<Vec<_>>(),
        ["fleet", "main"]
    );
    assert_eq!(keys(&requests[0].repos), [1, 2, 3]);
    let (context, command) = self::context(CONFIG, "info --stanza=lost --type=diff");
    let Command::Info(args) = command else { panic!("an info") };
    let request = InfoRequest::new(&context, &args).unwrap();
    assert_eq!((keys(&request.repos), request.kind), (vec![1, 2, 3], Some(BackupKind::Diff)));
}

#[test]
fn without_a_repository_nothing_can_be_read() {
    let (context, command) = context("[backup]\ndelta = true\n", "repo-ls");
    let Command::RepoLs(args) = command else { panic!("a repo-ls") };
    let failure = RepoLsRequest::new(&context, &args).unwrap_err();
    assert_eq!(failure.code, ErrorCode::OptionRequired);
}

/// The commands of the registry are names of commands that exist.
#[test]
fn every_command_that_a_setting_names_can_be_typed() {
    let definition = args::definition();
    for spec in pgconvoy_core::config::registry::all() {
        if let pgconvoy_core::config::registry::Commands::Only(names) = spec.commands {
            for name in names {
                assert!(definition.find_subcommand(name).is_some(), "--{} names {name}", spec.long);
            }
        }
    }
}

/// clap checks names, conflicts and defaults only when asked.
#[test]
fn the_definition_of_the_command_line_holds_together() {
    args::definition().debug_assert();
}

#[test]
fn only_one_repository_that_keeps_versions_is_seen_as_it_was() {
    let config = "[repo.1]\npath = \"/one\"\n[repo.2]\ntype = \"s3\"\n[repo.2.s3]\nbucket = \"b\"\nendpoint = \"e\"\n\
                  region = \"r\"\nkey = \"k\"\nkey-secret = \"s\"\n";
    let info = |line: &str| {
        let (context, command) = context(config, &format!("info {line}"));
        let Command::Info(args) = command else { panic!("{line} is info") };
        InfoRequest::new(&context, &args)
    };
    let seen = info("--repo=2 --repo-target-time=2026-11-26T10:00:07.089Z").unwrap().repos;
    let moment = seen[0].as_of.unwrap();
    assert_eq!((seen.len(), moment.to_string().as_str()), (1, "2026-11-26T10:00:07.089Z"));
    assert!(info("--repo=2").unwrap().repos.iter().all(|repo| repo.as_of.is_none()));
    let refusals = [
        ("--repo-target-time=2026-11-26T10:00:00Z", ErrorCode::OptionInvalid, "without option '--repo'"),
        ("--repo=1 --repo-target-time=2026-11-26T10:00:00Z", ErrorCode::OptionInvalid, "has type posix"),
        (
            "--repo=2 --repo-target-time=yesterday",
            ErrorCode::OptionInvalidValue,
            "'yesterday' is not allowed",
        ),
    ];
    for (line, code, words) in refusals {
        let failure = info(line).unwrap_err();
        assert_eq!(failure.code, code, "{line}");
        assert!(failure.message.contains(words) && !failure.hints.is_empty(), "{failure:?}");
    }
    assert!(typed("backup --repo=2 --repo-target-time=2026-11-26T10:00:00Z").is_err());
}

#[test]
fn a_repository_is_not_copied_into_itself_and_all_there_are_are_named() {
    let (context, command) = context(CONFIG, "repo-sync --stanza=main --from=3 --to=3");
    let Command::RepoSync(args) = command else { panic!("it is a repo-sync") };
    assert_eq!(
        said(&RepoSyncRequest::new(&context, &args).unwrap_err()),
        "ERROR: [032]: options '--from' and '--to' name the same repository\n\
         HINT: --from names one that has the backups, --to one that lacks them; the stanza has 1, 3\n"
    );
}
