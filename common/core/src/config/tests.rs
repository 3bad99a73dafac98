//! The contract as golden text: what a configuration means, and what is said of a wrong one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod sources;

use super::*;
use crate::failure::{Classify, ErrorCode};
use std::time::Duration;

const EXAMPLE: &str = include_str!("tests/example.toml");

fn load(text: &str) -> Result<Config, Vec<ConfigProblem>> {
    Config::load(Some(("pgconvoy.toml", text)), &BTreeMap::new(), |_| Err("no file is read here".into()))
}

/// What an operator reads.
fn complaints(text: &str) -> String {
    rendered(&load(text).expect_err("the configuration is wrong"))
}

fn rendered(problems: &[ConfigProblem]) -> String {
    let lines = problems.iter().map(|problem| match &problem.hint {
        Some(hint) => format!("{problem}\n  HINT: {hint}\n"),
        None => format!("{problem}\n"),
    });
    lines.collect()
}

fn stanza(name: &str) -> StanzaName {
    name.parse().unwrap()
}

#[test]
fn the_example_sets_what_it_says() {
    let config = load(EXAMPLE).unwrap();
    let first = &config.repos[&RepoKey(1)];
    assert_eq!(first.kind, RepoKind::Posix);
    assert_eq!(
        (first.path.as_str(), first.layout, first.cipher),
        ("/var/lib/pgconvoy", Layout::Packed, CipherType::Aes256Gcm)
    );
    assert_eq!(first.key_source, KeySource::KeyFile("/etc/pgconvoy/repo1.key".into()));
    assert_eq!(
        (first.retention.full, first.retention.full_type, first.required),
        (Some(2), RetentionFullType::Count, true)
    );

    let RepoKind::S3(s3) = &config.repos[&RepoKey(2)].kind else { panic!("repository 2 is an S3 bucket") };
    assert_eq!((s3.bucket.as_str(), s3.uri_style, s3.tls.verify), ("backups", UriStyle::Path, true));
    assert_eq!(s3.key_secret.as_ref().unwrap().expose(), "the-secret");

    let main = &config.stanzas[&stanza("main")];
    assert_eq!(main.repos, [RepoKey(1), RepoKey(2)]);
    assert_eq!(main.schedule["incr"], "0 */4 * * *");
    assert_eq!((main.pg[0].path.as_str(), main.pg[0].port), ("/var/lib/postgresql/15/main", 5432));
    assert_eq!(main.pg[0].host, None);

    let options = config.effective(Some(&stanza("main")), &Overrides::default()).unwrap();
    assert_eq!(options.compression, Compression { kind: CompressType::Zst, level: 3 });
    assert_eq!((options.process_max, options.start_fast, options.resume), (Some(4), true, true));

    let fleet = config.fleet.unwrap();
    assert_eq!(fleet.api, ["https://coord1:7433"]);
    assert_eq!(config.coordinator.quic_listen.port(), 7432);
    assert_eq!(config.worker.bandwidth_max.unwrap().to_string(), "200MiB");
    assert!(config.worker.compute.allows(&stanza("main")) && !config.worker.compute.allows(&stanza("other")));
    assert_eq!(config.worker.labels["zone"], "a");
}

#[test]
fn every_setting_of_the_registry_can_be_written_and_read() {
    let text = include_str!("tests/everything.toml");
    let config = load(text).map_err(|problems| rendered(&problems)).unwrap();
    let shown: BTreeSet<(String, &str)> = config
        .settings()
        .into_iter()
        .filter(|s| s.origin != Origin::Default)
        .map(|s| (s.table, s.key))
        .collect();
    for spec in registry::all() {
        let title = spec.section.title().replace("NAME", "main");
        let written = (1..=6).any(|n| shown.contains(&(title.replace('N', &n.to_string()), spec.name)));
        // The three ways to name a key contradict each other, so each repository has one of them.
        assert!(written, "{} {} is not in everything.toml", spec.section.title(), spec.name);
    }
}

#[test]
fn nothing_but_a_place_and_a_data_directory_must_be_said() {
    let text = "[repo.1]\npath = \"/backup\"\n[[stanza.a.pg]]\npath = \"/data/\"\n";
    let config = load(text).unwrap();
    let repo = &config.repos[&RepoKey(1)];
    assert_eq!(
        (repo.cipher, &repo.key_source, repo.retention.full),
        (CipherType::None, &KeySource::None, None)
    );
    assert_eq!(config.stanzas[&stanza("a")].pg[0].path, "/data");
    assert_eq!(config.paths.lock, "/var/lib/pgconvoy/lock");
    assert_eq!(config.fleet, None);
    let options = config.effective(None, &Overrides::default()).unwrap();
    assert_eq!(options.unit_size.to_string(), "32MiB");
    assert_eq!(
        (options.archive_timeout, options.db_timeout),
        (Duration::from_secs(60), Duration::from_secs(1800))
    );
    assert_eq!((options.slots(16), options.slots(3)), (4, 1));
}

#[test]
fn all_mistakes_are_reported_in_the_order_of_the_file() {
    let text = r#"[repo.1]
path = "backup"
retention-full = 0
chipher = "none"
start-fast = true

[repo.0]
path = "/x"

[backup]
compres-type = "lz4"
process-max = "4"
unit-size = "1.5MiB"
archive-timeout = "2 weeks"
offload = "sometimes"

[stanza.main]
schedule = { full = "0 1 * *" }
repos = [1, 7]

[fleeet]
name = "prod"

[worker]
bandwidth-max = 1.5
"#;
    assert_eq!(
        complaints(text),
        "\
pgconvoy.toml:2:8: path: 'backup' is not an absolute path
pgconvoy.toml:3:18: retention-full: 0 is out of range: 1 to 9999999
pgconvoy.toml:4:1: unknown key 'chipher' in [repo.1]
  HINT: did you mean 'cipher'?
pgconvoy.toml:5:1: unknown key 'start-fast' in [repo.1]
  HINT: 'start-fast' is a key of [backup]
pgconvoy.toml:7:7: '0' is not a repository's number
  HINT: repositories are numbered: [repo.1] to [repo.256]
pgconvoy.toml:11:1: unknown key 'compres-type' in [backup]
  HINT: did you mean 'compress-type'?
pgconvoy.toml:12:15: process-max: expected a whole number from 1 to 999, found a string
pgconvoy.toml:13:13: unit-size: '1.5MiB' is not a size: the unit is none of B, KiB, MiB, GiB, TiB, PiB
pgconvoy.toml:14:19: archive-timeout: '2 weeks' is not a duration: the unit is none of ms, s, m, h, d
pgconvoy.toml:15:11: offload: 'sometimes' is none of never, prefer, always
pgconvoy.toml:17:9: stanza 'main' has no server
  HINT: add [[stanza.main.pg]] with the path of its data directory
pgconvoy.toml:18:12: schedule: the cron line '0 1 * *' of 'full' has not five fields
pgconvoy.toml:19:9: repository 7 is not configured
  HINT: add [repo.7]
pgconvoy.toml:21:2: unknown table [fleeet]
  HINT: did you mean [fleet]?
pgconvoy.toml:25:17: bandwidth-max: expected a size from 64KiB to 1PiB, such as \"16MiB\", found a number with a decimal point
"
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let text = r#"[repo.1]
path = "/plain"
layout = "plain"
key-file = "/k"
[repo.2]
path = "/b"
cipher = "aes-256-gcm"
[repo.3]
path = "/c"
cipher = "none"
key-file = "/k"
passphrase-file = "/p"
[repo.4]
type = "s3"
layout = "plain"
[repo.4.azure]
account = "a"
container = "c"
key = "k"
[repo.5]
path = "/b"
[repo.6.sftp]
host = "h"
[fleet]
name = "f"
cert-file = "/c"
"#;
    assert_eq!(
        complaints(text),
        "\
pgconvoy.toml:3:10: layout = \"plain\" contradicts cipher = \"aes-256-gcm\"
  HINT: a plain repository is not encrypted: remove the cipher and its key, or use layout = \"packed\"
pgconvoy.toml:7:10: cipher = \"aes-256-gcm\" needs a key
  HINT: add key-file, passphrase-file or key-command; pgconvoy repo-key create FILE makes a key file
pgconvoy.toml:10:10: cipher = \"none\" contradicts the key that is named
  HINT: remove one of the two
pgconvoy.toml:12:19: key-file and passphrase-file contradict each other
  HINT: keep the one that opens the repository
pgconvoy.toml:13:7: [repo.4.s3] has no 'bucket'
  HINT: bucket
pgconvoy.toml:13:7: [repo.4.s3] has no 'endpoint'
  HINT: address of the service, with http:// for an unencrypted one
pgconvoy.toml:13:7: [repo.4.s3] has no 'region'
  HINT: region of the bucket
pgconvoy.toml:13:7: key-type = \"shared\" needs 'key'
  HINT: add key, or choose another key-type
pgconvoy.toml:13:7: key-type = \"shared\" needs 'key-secret'
  HINT: add key-secret, or choose another key-type
pgconvoy.toml:15:10: layout = \"plain\" contradicts type = \"s3\"
  HINT: only a posix repository can hold data directories
pgconvoy.toml:16:9: [repo.4.azure] contradicts type = \"s3\"
  HINT: remove the table, or set type = \"azure\" in [repo.4]
pgconvoy.toml:21:8: repositories 2 and 5 are the same place
  HINT: give each repository a place of its own
pgconvoy.toml:22:7: [repo.6] has no 'path'
  HINT: directory, or prefix of all object names, that holds the repository (required for posix and sftp; else /)
pgconvoy.toml:22:9: [repo.6.sftp] contradicts type = \"posix\"
  HINT: remove the table, or set type = \"sftp\" in [repo.6]
pgconvoy.toml:26:13: 'cert-file' means nothing without 'key-file'
  HINT: add key-file
"
    );
}

#[test]
fn what_could_not_be_read_is_not_also_said_to_be_missing() {
    let text = "[repo.1]\ntype = \"s4\"\n[repo.1.s3]\nbucket = \"b\"\n[stanza.a]\nrepos = [1]\n[[stanza.a.pg]]\npath = 7\n";
    assert_eq!(
        complaints(text),
        "\
pgconvoy.toml:2:8: type: 's4' is none of posix, s3, azure, gcs, sftp
pgconvoy.toml:8:8: path: expected an absolute path, found a number
"
    );
}

#[test]
fn text_that_is_no_toml_is_reported_with_its_place() {
    let found = complaints("[backup]\nstart-fast = yes please\nresume = true\nresume = false\n[[stanza]]\n");
    assert!(found.starts_with("pgconvoy.toml:2:14: "), "{found}");
    assert!(found.contains("pgconvoy.toml:4:1: duplicate key"), "{found}");
    assert!(found.contains("pgconvoy.toml:5:3: 'stanza' must be a table"), "{found}");
    let found = complaints("[stanza.main.pg]\npath = \"/data\"\n");
    assert!(
        found.contains("HINT: write [[stanza.main.pg]], with two brackets, once for each server"),
        "{found}"
    );
    assert!(complaints("process-max = 4\n").contains("the key 'process-max' stands in no table"));
}

#[test]
fn a_configuration_problem_is_error_27_and_one_of_the_command_line_32() {
    let problems = load("[backup]\nx = 1\n").unwrap_err();
    assert_eq!(problems[0].code(), ErrorCode::Config);
    let problem = Overrides::default().set("process-max", "none").unwrap_err();
    assert_eq!(problem.to_string(), "option '--process-max': 'none' is not a whole number");
    assert_eq!(problem.code(), ErrorCode::OptionInvalidValue);
}

#[test]
fn what_is_shown_can_be_loaded_again_and_holds_no_secret() {
    for text in [EXAMPLE, include_str!("tests/everything.toml")] {
        let config = load(text).unwrap();
        let shown = config.show();
        for secret in
            ["the-key", "the-secret", "the-token", "the-passphrase", "the-password", "the-customer-key"]
        {
            assert!(!shown.contains(secret), "{shown}");
            assert!(!format!("{config:?}").contains(secret));
        }
        let again = load(&shown).map_err(|problems| format!("{}{shown}", rendered(&problems))).unwrap();
        let values = |config: &Config| -> Vec<(String, &str, String)> {
            config.settings().into_iter().map(|setting| (setting.table, setting.key, setting.value)).collect()
        };
        assert_eq!(values(&again), values(&config));
    }
}

#[test]
fn what_is_shown_says_where_it_comes_from() {
    let config =
        load("[repo.1]\npath = \"/backup\"\n[stanza.a]\nprocess-max = 2\n[[stanza.a.pg]]\npath = \"/d\"\n")
            .unwrap();
    let shown = config.show();
    assert!(
        shown.starts_with("[repo.1]\ntype = \"posix\"  # default\npath = \"/backup\"  # pgconvoy.toml:2:8\n"),
        "{shown}"
    );
    assert!(
        shown.contains("\n[stanza.a]\nprocess-max = 2  # pgconvoy.toml:4:15\n\n[[stanza.a.pg]]\npath = "),
        "{shown}"
    );
}

#[test]
fn a_lock_is_a_mode_and_a_period_of_a_store_that_can_lock() {
    let s3 = |lines: &str| {
        let table = "[repo.1.s3]\nbucket = \"b\"\nendpoint = \"e\"\nregion = \"r\"\nkey = \"k\"\nkey-secret = \"s\"\n";
        format!("[repo.1]\ntype = \"s3\"\n{lines}{table}")
    };
    let lock =
        load(&s3("lock-mode = \"compliance\"\nlock-period = \"30d\"\n")).unwrap().repos[&RepoKey(1)].lock;
    let period = Duration::from_secs(30 * 86_400);
    assert_eq!(lock, Some(LockConfig { mode: LockMode::Compliance, period }));
    assert_eq!(load(&s3("")).unwrap().repos[&RepoKey(1)].lock, None);
    assert_eq!(
        complaints(&s3("lock-mode = \"governance\"\n")),
        "pgconvoy.toml:3:13: lock-mode needs lock-period beside it\n  HINT: say how long objects are locked, such as lock-period = \"30d\"\n"
    );
    assert_eq!(
        complaints(&s3("lock-period = \"1m\"\nlock-mode = \"governance\"\n")),
        "pgconvoy.toml:3:15: lock-period: 1m is out of range: 1h to 36500d\n"
    );
    assert_eq!(
        complaints("[repo.1]\npath = \"/a\"\nlock-mode = \"governance\"\nlock-period = \"1d\"\n"),
        "pgconvoy.toml:3:13: lock-mode contradicts type = \"posix\"\n  HINT: only s3, azure and gcs can lock objects\n"
    );
}

#[test]
fn creations_are_the_stores_business_unless_a_lock_is_asked_for() {
    let repo = |lines: &str| load(&format!("[repo.1]\npath = \"/a\"\n{lines}[paths]\nlock = \"/run/a\"\n"));
    let decided = |lines: &str| repo(lines).unwrap().repos[&RepoKey(1)].create_only;
    assert_eq!(decided(""), CreateOnlyBy::Store);
    assert_eq!(decided("create-only = \"lock\"\n"), CreateOnlyBy::Lock);
    assert_eq!(
        rendered(&repo("layout = \"plain\"\ncreate-only = \"lock\"\n").unwrap_err()),
        "pgconvoy.toml:4:15: create-only = \"lock\" contradicts layout = \"plain\"\n  HINT: the files of a plain repository are linked, which no lock replaces: use layout = \"packed\"\n"
    );
}

#[test]
fn a_repository_knows_where_its_host_keeps_locks() {
    let mut config = load("[repo.1]\npath = \"/a\"\n[paths]\nlock = \"/run/a\"\n").unwrap();
    assert_eq!(config.repos[&RepoKey(1)].lock_path, "/run/a");
    let mut overrides = Overrides::default();
    overrides.set("lock-path", "/run/b").unwrap();
    config.apply(&overrides);
    assert_eq!(config.repos[&RepoKey(1)].lock_path, "/run/b");
}
