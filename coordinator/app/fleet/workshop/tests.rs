#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::args::{Parsed, Typed, parse};
use crate::fleet::errands::CommandErrands;
use pgconvoy_core::config::Config;
use pgconvoy_core::ids::Identity;
use pgconvoy_core::job::JobState;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{ErrandOrder, JobId};
use pgconvoy_worker::errand::Errands;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

const CONFIG: &str = "\
[repo.1]
path = \"/nowhere/one\"
[repo.2]
path = \"/nowhere/two\"
required = false
[backup]
start-fast = true
[stanza.main]
compress-type = \"lz4\"
[[stanza.main.pg]]
path = \"/data\"
host = \"db1\"
";

fn typed(line: &str) -> Typed {
    let words: Vec<std::ffi::OsString> = format!("pgconvoy {line}").split(' ').map(Into::into).collect();
    match parse(&words).unwrap() {
        Parsed::Typed(typed) => *typed,
        Parsed::Help(_) => panic!("no help was asked for"),
    }
}

fn context() -> Context {
    Context {
        config: Config::load(Some(("c", CONFIG)), &BTreeMap::new(), |_| Err(String::new())).unwrap(),
        config_file: None,
        overrides: Default::default(),
        stanza: None,
        embedded: false,
        command: "coordinator",
        environment: BTreeMap::new(),
        is_root: false,
        arguments: Vec::new(),
    }
}

fn workshop() -> CommandWorkshop {
    CommandWorkshop::new(Arc::new(Current::new(context())))
}

fn options(pairs: &[(&str, &str)]) -> JobOptions {
    JobOptions(pairs.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()])).collect())
}

fn main() -> StanzaName {
    "main".parse().unwrap()
}

fn record(options: JobOptions) -> JobRecord {
    JobRecord {
        id: JobId(Identity::from_random_bytes([7; 16])),
        kind: JobKind::Backup,
        stanza: main(),
        options,
        priority: 0,
        state: JobState::Queued,
        submitted_by: "ops".to_owned(),
        created: Timestamp(1),
        started: None,
        finished: None,
        begun: None,
        main_worker: None,
        failure: None,
        result: None,
    }
}

#[test]
fn a_job_does_what_its_command_would_have_done_here() {
    for line in [
        "backup --stanza=main",
        "backup --stanza=main --type=full --repo=2 --no-online --force --exclude=a --exclude=b/",
        "backup --stanza=main --start-fast=n --compress-type=zst --compress-level=-2 --unit-size=1MiB --annotation=k=v",
        "backup --stanza=main --no-archive-check --no-checksum-page --output=json --detach",
    ] {
        let line_typed = typed(line);
        let embedded = context().for_job(&main(), &line_typed);
        let Command::Backup(args) = &line_typed.command else { panic!("{line} is a backup") };
        let request = BackupRequest::new(&embedded, args).unwrap();
        let record = record(line_typed.options.clone());
        let here = backup::spec(&request, Identity::from_random_bytes([9; 16]), Epoch(1));
        let there = workshop().spec(&record, Epoch(5)).unwrap();
        assert_eq!(there.source_patience_ms, 600_000);
        assert_eq!((there.job, there.epoch), (record.id, Epoch(5)));
        let expected = BackupSpec {
            job: there.job,
            backup: there.backup,
            epoch: there.epoch,
            source_patience_ms: there.source_patience_ms,
            ..here
        };
        assert_eq!(there, expected, "{line}");
        let written = workshop().check(JobKind::Backup, &main(), &record.options).unwrap();
        assert_eq!(written, there.repositories, "{line}");
    }
}

#[test]
fn a_job_that_makes_no_sense_is_refused_in_the_words_of_its_command() {
    let refused = |kind, stanza: &str, options| {
        let failure = workshop().check(kind, &stanza.parse().unwrap(), &options).unwrap_err();
        (failure.code.number(), failure.hints.join(" "))
    };
    for (kind, stanza, pairs, code, hint) in [
        (JobKind::Backup, "main", [("start-fst", "y")], 31, "did you mean '--start-fast'?"),
        (JobKind::Backup, "man", [("type", "full")], 32, "did you mean 'main'?"),
        (JobKind::Backup, "main", [("type", "fll")], 32, "did you mean 'full'?"),
        (JobKind::Backup, "main", [("repo", "9")], 32, "there are 1, 2"),
        (JobKind::Backup, "main", [("force", "true")], 31, "an online backup has nothing to force"),
        (JobKind::Verify, "main", [("set", "latest")], 32, "name a label; pgconvoy info lists them"),
        (JobKind::Verify, "main", [("type", "full")], 31, "it is an option of backup, restore, info"),
        (
            JobKind::Restore,
            "main",
            [("delta", "true")],
            37,
            "name the worker on whose host the data directory is to be",
        ),
    ] {
        assert_eq!(refused(kind, stanza, options(&pairs)), (code, hint.to_owned()), "{kind} {pairs:?}");
    }
}

#[test]
fn where_a_restore_goes_is_for_the_worker_to_know() {
    let check = |pairs: &[(&str, &str)]| workshop().check(JobKind::Restore, &main(), &options(pairs));
    assert_eq!(check(&[("worker", "db1")]).unwrap(), []);
    assert_eq!(check(&[("worker", "db1"), ("pg-path", "relative")]).unwrap_err().code.number(), 32);
}

#[test]
fn a_copy_between_repositories_has_both_to_itself() {
    let check = |pairs: &[(&str, &str)]| workshop().check(JobKind::RepoSync, &main(), &options(pairs));
    assert_eq!(check(&[("from", "2"), ("to", "1")]).unwrap(), [RepoKey(2), RepoKey(1)]);
    assert_eq!(check(&[("from", "2"), ("to", "2")]).unwrap_err().code.number(), 32);
    assert_eq!(check(&[("from", "2")]).unwrap_err().code.number(), 37);
    let made = check(&[("from", "2"), ("to", "1"), ("create", "true")]).unwrap_err();
    assert_eq!(made.code.number(), 31, "no worker makes a repository");
    let set =
        workshop().looked_at(JobKind::RepoSync, &main(), &options(&[("from", "2"), ("to", "1")])).unwrap();
    assert_eq!(set.keys().collect::<Vec<_>>(), [RepoKey(1), RepoKey(2)]);
}

#[test]
fn a_backup_reaches_all_repositories_of_its_stanza_though_it_writes_to_one() {
    let tools = workshop().tools(&main(), &options(&[("repo", "2")])).unwrap();
    assert_eq!(tools.repositories.keys().collect::<Vec<_>>(), [RepoKey(1), RepoKey(2)]);
    assert_eq!(tools.archive_timeout, Duration::from_secs(60));
}

#[tokio::test]
async fn a_worker_does_errands_for_its_own_stanzas_only() {
    let errands = CommandErrands::new(Arc::new(Current::new(context())));
    let run = |stanza: &str, kind, options| {
        let order = ErrandOrder { kind, stanza: stanza.parse().unwrap(), options };
        errands.run(order, CancellationToken::new())
    };
    let refused = run("other", JobKind::Verify, JobOptions::default()).await.unwrap_err();
    assert_eq!(refused.message, "the configuration of this worker does not name stanza other");
    let end = run("main", JobKind::Verify, options(&[("repo", "1")])).await.unwrap();
    let result: serde_json::Value = serde_json::from_str(&end.result.unwrap()).unwrap();
    assert_eq!((&result[0]["name"], &result[0]["status"]), (&"main".into(), &"error".into()));
    assert!(end.failure.is_some(), "a repository that is not there is no good one");
    assert!(run("main", JobKind::Backup, JobOptions::default()).await.is_err(), "a backup is no errand");
}
