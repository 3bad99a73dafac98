//! The shell around the commands, as a user meets it: help, versions, mistakes and the configuration.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use support::{Finished, Json, Program, Result, Scratch, ensure, limits};

/// The binary in a folder of its own, with nothing in its environment.
struct Shell {
    scratch: Scratch,
}

impl Shell {
    fn new() -> Result<Shell> {
        Ok(Shell { scratch: Scratch::new()? })
    }

    fn call(&self, line: &str) -> Result<Program> {
        Ok(Program::new(self.scratch.binary())?.args(line.split_whitespace()))
    }

    fn run(&self, line: &str) -> Result<Finished> {
        self.call(line)?.run(limits::TOOL)
    }

    /// With a configuration file of that text.
    fn with_config(&self, text: &str, line: &str) -> Result<Finished> {
        let file = self.scratch.config_file();
        std::fs::write(&file, text)?;
        self.call(line)?.env("PGCONVOY_CONFIG", &file).run(limits::TOOL)
    }
}

const GOOD: &str = "[repo.1]\npath = \"/backup\"\n[stanza.main]\n[[stanza.main.pg]]\npath = \"/data\"\n";

#[test]
fn a_mistake_in_the_command_line_has_pgbackrests_code_and_a_hint() -> Result<()> {
    let shell = Shell::new()?;
    for (line, code, said) in [
        ("", 30, "ERROR: [030]: no command found\nHINT: pgconvoy help lists the commands\n"),
        (
            "config",
            30,
            "ERROR: [030]: command 'config' is not complete\nHINT: one of check, show must follow\n",
        ),
        ("bakup", 48, "ERROR: [048]: invalid command 'bakup'\nHINT: did you mean 'backup'?\n"),
        ("help bakup", 48, "ERROR: [048]: invalid command 'bakup'\nHINT: did you mean 'backup'?\n"),
        (
            "backup --start-fst",
            31,
            "ERROR: [031]: invalid option '--start-fst'\nHINT: did you mean '--start-fast'?\n",
        ),
        (
            "backup --no-resum",
            31,
            "ERROR: [031]: invalid option '--no-resum'\nHINT: did you mean '--no-resume'?\n",
        ),
        (
            "backup --no-repo",
            31,
            "ERROR: [031]: option '--repo' cannot be negated\nHINT: leave it out instead\n",
        ),
        (
            "restore --unit-size=1MiB",
            31,
            "ERROR: [031]: option '--unit-size' is not valid for command 'restore'\nHINT: it is an option of backup\n",
        ),
        ("backup --stanza", 31, "ERROR: [031]: option '--stanza' requires an argument\n"),
        (
            "backup --stanza=a --stanza=b",
            31,
            "ERROR: [031]: option '--stanza' cannot be set multiple times\n",
        ),
        (
            "backup --type=fll",
            32,
            "ERROR: [032]: 'fll' is not allowed for '--type' option\nHINT: did you mean 'full'?\n",
        ),
        (
            "--process-max=none backup",
            32,
            "ERROR: [032]: option '--process-max': 'none' is not a whole number\n",
        ),
        (
            "repo-key create",
            43,
            "ERROR: [043]: command 'repo-key create' requires parameter: <FILE>\n\
             HINT: pgconvoy help repo-key create explains it\n",
        ),
        ("version 1", 96, "ERROR: [096]: command 'version' does not take the parameter '1'\n"),
    ] {
        let finished = shell.run(line)?.with_code(code)?;
        assert_eq!(finished.stderr, said, "{line}");
        assert_eq!(finished.stdout, "", "{line}");
    }
    Ok(())
}

#[test]
fn a_value_of_an_unknown_option_is_not_repeated_since_it_may_be_a_secret() -> Result<()> {
    let finished = Shell::new()?.run("backup --repo1-cipher-pass=hunter2")?.with_code(31)?;
    ensure!(finished.stderr.contains("'--repo1-cipher-pass'"), "{}", finished.stderr);
    ensure!(!finished.stderr.contains("hunter2"), "{}", finished.stderr);
    Ok(())
}

#[test]
fn help_is_a_result_and_tells_of_every_command_and_option() -> Result<()> {
    let shell = Shell::new()?;
    let general = shell.run("--help")?.ok()?;
    assert_eq!(general.stderr, "");
    for command in ["stanza-create", "backup", "restore", "archive-push", "repo-key", "config"] {
        ensure!(general.stdout.contains(&format!("\n  {command} ")), "{}", general.stdout);
    }
    let backup = shell.run("help backup")?.ok()?.stdout;
    for option in ["--type", "--repo", "--start-fast", "--unit-size", "--log-level-console"] {
        ensure!(backup.contains(option), "{option} is not in {backup}");
    }
    ensure!(
        shell.run("--help backup")?.ok()?.stdout.contains("--unit-size"),
        "options may stand before the command"
    );
    let option = shell.run("help backup unit-size")?.ok()?.stdout;
    for line in
        ["default:     32MiB", "file:        [backup] unit-size", "environment: PGCONVOY_BACKUP_UNIT_SIZE"]
    {
        ensure!(option.contains(line), "{line} is not in {option}");
    }
    ensure!(shell.run("help config")?.ok()?.stdout.contains("[repo.N.s3]"), "help config lists all settings");
    Ok(())
}

#[test]
fn completions_and_man_pages_come_from_the_same_definition() -> Result<()> {
    let shell = Shell::new()?;
    for name in ["bash", "zsh", "fish"] {
        let script = shell.run(&format!("completions {name}"))?.ok()?.stdout;
        ensure!(script.contains("archive-push") && script.contains("unit-size"), "{name}");
    }
    ensure!(shell.run("man")?.ok()?.stdout.contains(".SH NAME"), "the program has a page");
    ensure!(shell.run("man backup")?.ok()?.stdout.contains("unit\\-size"), "a command has a page");
    shell.run("man bakup")?.with_code(48)?;
    Ok(())
}

#[test]
fn under_pgbackrests_name_it_answers_with_the_interface_that_it_speaks() -> Result<()> {
    let shell = Shell::new()?;
    let own = format!("pgconvoy {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(shell.run("version")?.ok()?.stdout, own);
    assert_eq!(shell.run("--version")?.ok()?.stdout, own);
    let link = shell.scratch.join("pgbackrest");
    symlink(shell.scratch.binary(), &link)?;
    let answer = |args: &[&str]| -> Result<String> {
        Ok(Program::new(&link)?.args(args).run(limits::TOOL)?.ok()?.stdout)
    };
    assert_eq!(answer(&["version"])?, "pgBackRest 2.58.0\n");
    assert_eq!(answer(&["--version"])?, "pgBackRest 2.58.0\n");
    assert_eq!(answer(&["--output=num", "version"])?, "2058000\n");
    Ok(())
}

#[test]
fn everything_that_is_wrong_with_a_configuration_is_said_at_once() -> Result<()> {
    let shell = Shell::new()?;
    let wrong = "[repo.1]\npath = \"relative\"\nretention-ful = 2\n[backup]\nprocess-max = 0\n";
    let file = shell.scratch.config_file().display().to_string();
    let expected = format!(
        "ERROR: [027]: {file}:2:8: path: 'relative' is not an absolute path\n\
         ERROR: [027]: {file}:3:1: unknown key 'retention-ful' in [repo.1]\n\
         HINT: did you mean 'retention-full'?\n\
         ERROR: [027]: {file}:5:15: process-max: 0 is out of range: 1 to 999\n"
    );
    for line in ["config check", "config show", "--stanza=main backup"] {
        let finished = shell.with_config(wrong, line)?.with_code(27)?;
        assert_eq!((finished.stderr.as_str(), finished.stdout.as_str()), (expected.as_str(), ""), "{line}");
    }
    let json = shell.with_config(wrong, "config check --output=json")?.with_code(27)?.json()?;
    assert_eq!(json.as_array().map(Vec::len), Some(3));
    assert_eq!((json[1]["line"].as_u64(), json[1]["column"].as_u64()), (Some(3), Some(1)));
    assert_eq!(json[1]["hint"], "did you mean 'retention-full'?");
    Ok(())
}

#[test]
fn a_good_configuration_is_shown_with_its_origins_and_without_its_secrets() -> Result<()> {
    let shell = Shell::new()?;
    let checked = shell.with_config(GOOD, "config check")?.ok()?;
    assert_eq!(checked.stdout, "the configuration is valid: repositories: 1, stanzas: 1\n");
    let secret = shell.scratch.join("secret");
    std::fs::write(&secret, "hunter2\n")?;
    std::fs::write(shell.scratch.config_file(), GOOD)?;
    let show = |more: &str| -> Result<Finished> {
        shell
            .call(&format!("config show {more}"))?
            .env("PGCONVOY_CONFIG", shell.scratch.config_file())
            .env("PGCONVOY_BACKUP_PROCESS_MAX", "3")
            .env("PGCONVOY_REPO_2_TYPE", "s3")
            .env("PGCONVOY_REPO_2_S3_BUCKET", "b")
            .env("PGCONVOY_REPO_2_S3_ENDPOINT", "http://s3")
            .env("PGCONVOY_REPO_2_S3_REGION", "r")
            .env("PGCONVOY_REPO_2_S3_KEY", "hunter2")
            .env("PGCONVOY_REPO_2_S3_KEY_SECRET_FILE", &secret)
            .run(limits::TOOL)?
            .ok()
    };
    let text = show("")?;
    ensure!(!text.stdout.contains("hunter2"), "{}", text.stdout);
    for line in [
        "process-max = 3  # environment variable PGCONVOY_BACKUP_PROCESS_MAX",
        "key-secret = \"<secret>\"  # environment variable PGCONVOY_REPO_2_S3_KEY_SECRET_FILE",
    ] {
        ensure!(text.stdout.contains(line), "{line} is not in {}", text.stdout);
    }
    let json = show("--output=json")?.json()?;
    let of_repo_1 = |row: &&Json| row["table"] == "[repo.1]" && row["key"] == "path";
    let row = json.as_array().and_then(|rows| rows.iter().find(of_repo_1)).cloned().unwrap_or_default();
    assert_eq!(row["value"], "\"/backup\"");
    Ok(())
}

#[test]
fn a_configuration_file_that_was_named_must_exist() -> Result<()> {
    let shell = Shell::new()?;
    let finished = shell.run("--config=/nonexistent/pgconvoy.toml config check")?.with_code(55)?;
    ensure!(
        finished.stderr.contains("/nonexistent/pgconvoy.toml") && finished.has_hint(),
        "{}",
        finished.stderr
    );
    let by_variable = shell.call("config check")?.env("PGCONVOY_CONFIG", "/nonexistent").run(limits::TOOL)?;
    by_variable.with_code(55)?;
    if !Path::new("/etc/pgconvoy/pgconvoy.toml").exists() {
        shell.run("config check")?.ok()?;
    }
    Ok(())
}

/// Whether the command itself succeeds is another test's business.
#[test]
fn what_a_command_does_is_logged_to_stderr_and_to_a_file_as_asked() -> Result<()> {
    let shell = Shell::new()?;
    let logs = shell.scratch.private_dir("log")?;
    let config = format!("{GOOD}[paths]\nlog = \"{}\"\n", logs.display());
    let quiet = shell.with_config(&config, "repo-ls")?;
    ensure!(!quiet.stderr.contains("INFO"), "{}", quiet.stderr);
    let log = std::fs::read_to_string(logs.join("all-repo-ls.log"))?;
    ensure!(log.contains(" P00   INFO: repo-ls command begin "), "{log}");
    ensure!(log.contains(" P00   INFO: repo-ls command end: "), "{log}");

    let loud =
        shell.with_config(&config, "--stanza=main --log-level-console=info --log-level-file=off repo-ls")?;
    ensure!(loud.stderr.contains(" P00   INFO: repo-ls command begin "), "{}", loud.stderr);
    ensure!(!logs.join("main-repo-ls.log").exists(), "nobody asked for a file");

    let json = shell.with_config(&config, "--log-level-console=info --log-format=json repo-ls")?;
    let first: Json = serde_json::from_str(json.stderr.lines().next().unwrap_or_default())?;
    assert_eq!(first["level"], "info");
    Ok(())
}
