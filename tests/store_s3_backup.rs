//! A cluster backed up to a directory and to S3 at once, and brought back from S3 alone, over a network that fails and one that does not.

mod support;

use std::time::Duration;
use support::stores::http_proxy::{Fault, HttpProxy, Weather};
use support::stores::seaweed::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY, Seaweed};
use support::{Random, Result, Site, SiteOptions, assert_refused, data, ensure, labels, note, same_data};

const REPO_INVALID: i32 = 103;

/// Lines of `[repo.N.s3]`.
fn table(endpoint: &str, secret: &str) -> String {
    format!(
        "bucket = \"{BUCKET}\"\nendpoint = \"{endpoint}\"\nregion = \"{REGION}\"\nuri-style = \"path\"\n\
         key = \"{ACCESS_KEY}\"\nkey-secret = \"{secret}\""
    )
}

/// The second repository, encrypted like the first, lies in S3. Nothing is started yet.
fn site(endpoint: &str, secret: &str) -> Result<Site> {
    let mut site = Site::prepare(&SiteOptions::default())?;
    site.repos[1] = site.repos[1].clone().in_store("s3", "/pg/main", &table(endpoint, secret));
    site.config = site.config.clone().repos(&site.repos);
    site.config.write(&site.scratch.config_file())?;
    Ok(site)
}

/// Backup, WAL, verify, restore from S3 alone.
fn goes_there_and_comes_back(site: &Site) -> Result<()> {
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    data::seed_small(&site.cluster)?;
    site.pgconvoy.run(["check"])?.ok()?;
    let label = site.backup_label(&[])?;
    for repo in [1, 2] {
        ensure!(labels(&site.pgconvoy, repo)? == std::slice::from_ref(&label), "repository {repo}");
    }
    site.cluster.psql("create table later as select generate_series(1, 1000) n")?;
    site.cluster.switch_and_archive()?;
    let second = site.pgconvoy.run(["backup", "--type=incr", "--output=json"])?.ok()?.json()?;
    ensure!(second["status"] == "ok", "{second}");
    site.pgconvoy.run(["verify"])?.ok()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.switch_and_archive()?;
    let alone = site.only_repos(&[2])?;
    let copy = site.copy("copy")?;
    alone.run(["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn a_backup_to_a_directory_and_to_s3_at_once_comes_back_from_s3_alone() -> Result<()> {
    let server = Seaweed::start()?;
    let site = site(&server.endpoint(), SECRET_KEY)?;
    goes_there_and_comes_back(&site)?;
    assert_eq!(server.unfinished_uploads()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_network_that_fails_every_fifth_request_only_costs_time() -> Result<()> {
    let server = Seaweed::start()?;
    let proxy = HttpProxy::before(server.address(), Random::from_environment()?)?;
    let faults = vec![
        Fault::status(500),
        Fault::status(503),
        Fault::busy(0),
        Fault::ResetInRequest,
        Fault::ResetInAnswer,
        Fault::CutAnswer,
        Fault::LoseAnswer,
        Fault::DamageRequest,
        Fault::Stall(Duration::from_millis(500)),
    ];
    proxy.set(Weather { faults, percent: 20, ..Weather::default() });
    let site = site(&proxy.endpoint(), SECRET_KEY)?;
    goes_there_and_comes_back(&site)?;
    note(format!("{:?}", proxy.seen()));
    ensure!(proxy.seen().faults.len() > 5, "{:?}", proxy.seen());
    Ok(())
}

#[test]
fn a_server_that_overwrites_what_must_be_created_holds_no_repository() -> Result<()> {
    let server = Seaweed::start()?;
    let proxy = HttpProxy::before(server.address(), Random::seeded(1))?;
    proxy.set(Weather { stripped: vec!["if-none-match", "authorization"], ..Weather::default() });
    let site = site(&proxy.endpoint(), SECRET_KEY)?;
    site.cluster.start()?;
    let finished = site.pgconvoy.run(["stanza-create"])?;
    note(&finished);
    assert_refused(&finished, REPO_INVALID)?;
    ensure!(finished.stderr.contains("create"), "{finished}");
    let listed = server.anonymous("GET", &format!("/{BUCKET}?list-type=2"), "")?;
    ensure!(!listed.body.contains("pgconvoy.repo"), "{listed:?}");
    Ok(())
}

#[test]
fn a_wrong_secret_is_refused_with_a_hint_and_never_shown() -> Result<()> {
    let server = Seaweed::start()?;
    let site = site(&server.endpoint(), "not-the-secret")?;
    site.cluster.start()?;
    let finished = site.pgconvoy.run(["stanza-create", "--log-level-console=debug"])?;
    note(&finished);
    assert_refused(&finished, REPO_INVALID)?;
    ensure!(finished.stderr.contains("'key-secret' does not belong to 'key'"), "{finished}");
    ensure!(!format!("{finished}").contains("not-the-secret"), "{finished}");
    Ok(())
}
