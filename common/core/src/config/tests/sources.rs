//! Which source wins, and how each of them writes a setting.

use super::*;

const BASE: &str = "\
[repo.1]
path = \"/backup\"
[backup]
process-max = 4
compress-type = \"zst\"
compress-level = 19
[stanza.prod-1]
process-max = 2
[[stanza.prod-1.pg]]
path = \"/data\"
";

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let secrets = |path: &str| match path {
        "/run/secrets/s3" => Ok("from a file\n".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    Config::load(Some(("pgconvoy.toml", text)), &environment, secrets).map_err(|problems| rendered(&problems))
}

fn overrides(options: &[(&str, &str)]) -> Overrides {
    let mut overrides = Overrides::default();
    for (option, text) in options {
        overrides.set(option, text).unwrap();
    }
    overrides
}

#[test]
fn the_command_line_beats_the_environment_and_the_environment_beats_the_file() {
    let prod = stanza("prod-1");
    let processes = |variables: &[(&str, &str)], options: &[(&str, &str)]| {
        let config = load_with(BASE, variables).unwrap();
        config.effective(Some(&prod), &overrides(options)).unwrap().process_max.unwrap()
    };
    assert_eq!(processes(&[], &[]), 2);
    assert_eq!(processes(&[("PGCONVOY_BACKUP_PROCESS_MAX", "5")], &[]), 5);
    let both = [("PGCONVOY_BACKUP_PROCESS_MAX", "5"), ("PGCONVOY_STANZA_PROD_1_PROCESS_MAX", "6")];
    assert_eq!(processes(&both, &[]), 6);
    assert_eq!(processes(&both, &[("process-max", "7")]), 7);
    let config = load_with(BASE, &[]).unwrap();
    assert_eq!(config.effective(None, &Overrides::default()).unwrap().process_max, Some(4));
}

#[test]
fn a_level_is_meant_for_the_codec_it_was_chosen_for() {
    let config = load_with(BASE, &[]).unwrap();
    let compression =
        |options: &[(&str, &str)]| config.effective(None, &overrides(options)).map(|o| o.compression);
    assert_eq!(compression(&[]).unwrap(), Compression { kind: CompressType::Zst, level: 19 });
    let gz = Compression { kind: CompressType::Gz, level: 6 };
    assert_eq!(compression(&[("compress-type", "gz")]).unwrap(), gz);
    assert_eq!(
        compression(&[("compress-level", "7")]).unwrap(),
        Compression { kind: CompressType::Zst, level: 7 }
    );
    assert_eq!(compression(&[("compress-type", "none")]).unwrap().level, 0);
    let problems = compression(&[("compress-type", "gz"), ("compress-level", "19")]).unwrap_err();
    assert_eq!(
        rendered(&problems),
        "option '--compress-level': compress-level 19 is out of range for gz: -1 to 9\n  HINT: gz compresses well at 6\n"
    );
}

#[test]
fn a_level_out_of_range_is_found_when_the_file_is_read() {
    let text = "[stanza.a]\ncompress-type = \"bz2\"\ncompress-level = 12\n[[stanza.a.pg]]\npath = \"/d\"\n";
    assert_eq!(
        complaints(text),
        "pgconvoy.toml:3:18: compress-level 12 is out of range for bz2: 1 to 9\n  HINT: bz2 compresses well at 9\n"
    );
}

#[test]
fn a_repository_has_its_own_compression_unless_one_is_named_for_the_call() {
    let text = format!("{BASE}[repo.2]\npath = \"/other\"\ncompress-type = \"gz\"\n");
    let of = |variables: &[(&str, &str)], options: &[(&str, &str)]| {
        let config = load_with(&text, variables).unwrap();
        let policy = config.effective(None, &overrides(options)).unwrap();
        [1, 2].map(|number| policy.compression_in(&config.repos[&RepoKey(number)]))
    };
    let zst = |level| Compression { kind: CompressType::Zst, level };
    let gz = |level| Compression { kind: CompressType::Gz, level };
    assert_eq!(of(&[], &[]), [zst(19), gz(6)]);
    assert_eq!(of(&[("PGCONVOY_REPO_2_COMPRESS_LEVEL", "9")], &[]), [zst(19), gz(9)]);
    assert_eq!(of(&[], &[("compress-level", "7")]), [zst(7), zst(7)]);
    assert_eq!(of(&[("PGCONVOY_BACKUP_COMPRESS_TYPE", "gz")], &[]), [gz(6), gz(6)]);
}

#[test]
fn a_repositorys_compression_is_whole_and_fits_its_layout() {
    let level = "[repo.1]\npath = \"/b\"\ncompress-level = 3\n";
    assert_eq!(
        complaints(level),
        "pgconvoy.toml:3:18: compress-level needs compress-type beside it\n  HINT: a level means something for one codec only\n"
    );
    let plain = "[repo.1]\npath = \"/b\"\nlayout = \"plain\"\ncompress-type = \"lz4\"\n";
    assert_eq!(
        complaints(plain),
        "pgconvoy.toml:4:17: layout = \"plain\" contradicts compress-type\n  HINT: the files of a plain repository are stored as they are\n"
    );
}

#[test]
fn repeated_options_add_up_and_a_comma_belongs_to_the_value() {
    let options = overrides(&[
        ("exclude", "log/"),
        ("exclude", "a,b"),
        ("annotation", "by=me"),
        ("annotation", "why=x=y, z"),
        ("process-max", "1"),
        ("process-max", "9"),
        ("resume", "n"),
    ]);
    let effective = load_with(BASE, &[]).unwrap().effective(None, &options).unwrap();
    assert_eq!(effective.exclude, ["log/", "a,b"]);
    assert_eq!(
        effective.annotation,
        BTreeMap::from([("by".into(), "me".into()), ("why".into(), "x=y, z".into())])
    );
    assert_eq!((effective.process_max, effective.resume), (Some(9), false));
}

#[test]
fn the_environment_alone_is_enough() {
    let environment = BTreeMap::from(
        [
            ("PGCONVOY_REPO_1_TYPE", "s3"),
            ("PGCONVOY_REPO_1_S3_BUCKET", "b"),
            ("PGCONVOY_REPO_1_S3_ENDPOINT", "http://s3"),
            ("PGCONVOY_REPO_1_S3_REGION", "r"),
            ("PGCONVOY_REPO_1_S3_KEY", "k"),
            ("PGCONVOY_REPO_1_S3_KEY_SECRET_FILE", "/run/secrets/s3"),
            ("PGCONVOY_REPO_1_KEY_FILE", "/etc/repo1.key"),
            ("PGCONVOY_REPO_1_REQUIRED", "n"),
            ("PGCONVOY_STANZA_MAIN_PG_1_PATH", "/data"),
            ("PGCONVOY_STANZA_MAIN_PG_1_PASSWORD_FILE", "/pgpass"),
            ("PGCONVOY_STANZA_MAIN_SCHEDULE", "{ full = '0 1 * * mon,wed' }"),
            ("PGCONVOY_BACKUP_EXCLUDE", "log/, tmp"),
            ("PGCONVOY_BACKUP_ANNOTATION", "a=b, c=d"),
            ("PGCONVOY_BACKUP_UNIT_SIZE", "16MiB"),
            ("PGCONVOY_LOG_LEVEL_CONSOLE", "debug"),
            ("PGCONVOY_CONFIG", "/ignored/here"),
            ("PGCONVOY_STANZA", "main"),
            ("PATH", "/bin"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let config = Config::load(None, &environment, |_| Ok("from a file\n".into())).unwrap();
    let repo = &config.repos[&RepoKey(1)];
    let RepoKind::S3(s3) = &repo.kind else { panic!("the repository is an S3 bucket") };
    assert_eq!(s3.key_secret.as_ref().unwrap().expose(), "from a file");
    assert_eq!((repo.path.as_str(), repo.required), ("/", false));
    assert_eq!(repo.key_source, KeySource::KeyFile("/etc/repo1.key".into()));
    let main = &config.stanzas[&stanza("main")];
    assert_eq!(main.pg[0].password_file.as_deref(), Some("/pgpass"));
    assert_eq!(main.schedule["full"], "0 1 * * mon,wed");
    assert_eq!(config.log.console, LogLevel::Debug);
    let options = config.effective(Some(&stanza("main")), &Overrides::default()).unwrap();
    assert_eq!((options.exclude.len(), options.annotation.len()), (2, 2));
}

#[test]
fn a_wrong_variable_is_named_and_the_right_one_too() {
    let wrong = [
        ("PGCONVOY_BACKUP_PROCES_MAX", "4"),
        ("PGCONVOY_REPO_2_S3_KEY_SECRT", "x"),
        ("PGCONVOY_REPO_1_REQUIRED", "maybe"),
        ("PGCONVOY_REPO_1_RETENTION_FULL", ""),
        ("PGCONVOY_REPO_1_KEY_FILE_FILE", "/nowhere"),
        ("PGCONVOY_STANZA_PROD_1_PG_3_PORT", "1"),
    ];
    assert_eq!(
        load_with(BASE, &wrong).unwrap_err(),
        "\
environment variable PGCONVOY_BACKUP_PROCES_MAX: no key has this name
  HINT: did you mean PGCONVOY_BACKUP_PROCESS_MAX?
environment variable PGCONVOY_REPO_1_KEY_FILE_FILE: cannot read '/nowhere': no such file
environment variable PGCONVOY_REPO_1_REQUIRED: 'maybe' is neither y nor n
environment variable PGCONVOY_REPO_1_RETENTION_FULL: the value is empty
  HINT: unset the variable or give it a value
environment variable PGCONVOY_REPO_2_S3_KEY_SECRT: no key has this name
  HINT: did you mean PGCONVOY_REPO_2_S3_KEY_SECRET?
environment variable PGCONVOY_STANZA_PROD_1_PG_3_PORT: [[stanza.prod-1.pg]] has no 'path'
  HINT: data directory
environment variable PGCONVOY_STANZA_PROD_1_PG_3_PORT: stanza 'prod-1' has server 3 but no server 2
  HINT: servers are numbered from 1, in the order of the file
"
    );
}

#[test]
fn a_value_and_a_file_with_the_value_contradict_each_other() {
    let both = [("PGCONVOY_REPO_1_PATH", "/a"), ("PGCONVOY_REPO_1_PATH_FILE", "/run/secrets/s3")];
    assert_eq!(
        load_with(BASE, &both).unwrap_err(),
        "environment variable PGCONVOY_REPO_1_PATH_FILE: PGCONVOY_REPO_1_PATH is set too\n  HINT: unset one of the two\n"
    );
}

#[test]
fn what_kubernetes_says_of_a_service_of_our_name_is_not_ours() {
    let links = [
        ("PGCONVOY_PORT", "tcp://10.0.0.1:7433"),
        ("PGCONVOY_PORT_7433_TCP_ADDR", "10.0.0.1"),
        ("PGCONVOY_SERVICE_HOST", "10.0.0.1"),
        ("PGCONVOY_WORKER_SERVICE_PORT_QUIC", "7434"),
    ];
    assert!(load_with(BASE, &links).is_ok());
}

#[test]
fn paths_and_logs_follow_the_command_line() {
    let mut config = load_with(BASE, &[("PGCONVOY_LOG_LEVEL_FILE", "off")]).unwrap();
    config.apply(&overrides(&[("log-level-console", "detail"), ("lock-path", "/run/lock/")]));
    assert_eq!((config.log.console, config.log.file), (LogLevel::Detail, LogLevel::Off));
    assert_eq!(config.paths.lock, "/run/lock");
}

#[test]
fn two_stanzas_that_a_variable_cannot_tell_apart_are_said_to_be_so() {
    let text =
        "[stanza.a-b]\n[[stanza.a-b.pg]]\npath = \"/1\"\n[stanza.a_b]\n[[stanza.a_b.pg]]\npath = \"/2\"\n";
    assert_eq!(
        load_with(text, &[("PGCONVOY_STANZA_A_B_PROCESS_MAX", "2")]).unwrap_err(),
        "environment variable PGCONVOY_STANZA_A_B_PROCESS_MAX: it could mean stanza 'a-b' or 'a_b'\n  HINT: set it in the file\n"
    );
}
