//! `check` as an operator reads it: everything that is well, and everything that is not, at once.

mod support;

use support::config::write_key;
use support::{Finished, Json, Result, Site, SiteOptions, ensure};

const CRYPTO: i32 = 95;
const COMMAND: i32 = 104;
const DB_CONNECT: i32 = 56;

fn site() -> Result<Site> {
    Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })
}

/// What is said of one thing.
fn of<'a>(report: &'a Json, name: &str, repo: Option<u64>) -> &'a Json {
    let checks = report[0]["check"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_it = |check: &&Json| check["name"] == name && check["repo-key"].as_u64() == repo;
    checks.iter().find(is_it).unwrap_or(&Json::Null)
}

fn report(finished: &Finished) -> Result<Json> {
    finished.json()
}

#[test]
fn everything_is_looked_at_and_told_in_text_and_json() -> Result<()> {
    let site = site()?;
    let told = report(&site.pgconvoy.run(["check", "--output=json"])?.ok()?)?;
    ensure!(told[0]["name"] == "main" && told[0]["status"] == "ok", "{told}");
    for name in ["cluster", "archiving", "clock"] {
        ensure!(of(&told, name, None)["status"] == "ok", "{name}: {told}");
    }
    for repo in [1, 2] {
        for name in ["repository", "space", "wal"] {
            ensure!(of(&told, name, Some(repo))["status"] != "error", "{name} of {repo}: {told}");
        }
        ensure!(of(&told, "wal", Some(repo))["message"].to_string().contains("arrived within"), "{told}");
    }
    let text = site.pgconvoy.run(["check"])?.ok()?.stdout;
    ensure!(text.starts_with("stanza: main\n    status: ok\n    cluster: ok: PostgreSQL 15"), "{text}");
    Ok(())
}

#[test]
fn one_thing_that_is_wrong_hides_no_other() -> Result<()> {
    let site = site()?;
    // Another key than the one that the repository was made with.
    write_key(&site.scratch.join("repo2.key"), 99)?;
    let finished = site.pgconvoy.run(["check", "--output=json"])?.with_code(COMMAND)?;
    let told = report(&finished)?;
    ensure!(told[0]["status"] == "error", "{told}");
    ensure!(of(&told, "repository", Some(2))["code"] == CRYPTO, "{told}");
    ensure!(of(&told, "repository", Some(2))["hint"][0].is_string(), "{told}");
    ensure!(of(&told, "repository", Some(1))["status"] == "ok", "{told}");
    // PostgreSQL's own archive_command fails for repository 2 and has stored the segment in 1.
    ensure!(of(&told, "wal", Some(1))["status"] == "ok", "{told}");

    site.cluster.stop()?;
    let finished = site.pgconvoy.run(["check", "--output=json"])?.with_code(DB_CONNECT)?;
    let told = report(&finished)?;
    ensure!(of(&told, "cluster", None)["code"] == DB_CONNECT, "{told}");
    ensure!(of(&told, "repository", Some(1))["status"] == "ok", "{told}");
    ensure!(*of(&told, "wal", Some(1)) == Json::Null, "there is no server to send any: {told}");
    Ok(())
}
