//! A cluster backed up to a directory and to S3 at once, and brought back from S3 alone, over a network that fails and one that does not.

mod support;

use support::stores::http_proxy::{HttpProxy, Weather};
use support::stores::seaweed::{self, BUCKET, SECRET_KEY, Seaweed};
use support::stores::tour::goes_there_and_comes_back;
use support::{Random, Result, Site, SiteOptions, assert_refused, ensure, note};

const REPO_INVALID: i32 = 103;

fn site(endpoint: &str, secret: &str) -> Result<Site> {
    Site::prepare(&SiteOptions::default())?.with_second_repo_in(
        "s3",
        "/pg/main",
        &seaweed::table(endpoint, secret),
    )
}

#[test]
fn a_backup_to_a_directory_and_to_s3_at_once_comes_back_from_s3_alone() -> Result<()> {
    let server = Seaweed::start()?;
    let site = site(&server.endpoint(), SECRET_KEY)?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)?;
    assert_eq!(server.unfinished_uploads()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_network_that_fails_every_fifth_request_only_costs_time() -> Result<()> {
    let server = Seaweed::start()?;
    let proxy = HttpProxy::before(server.address(), Random::from_environment()?)?;
    proxy.set(Weather::bad(20));
    let site = site(&proxy.endpoint(), SECRET_KEY)?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)?;
    note(format!("{:?}", proxy.seen()));
    ensure!(proxy.seen().faults.len() > 5, "{:?}", proxy.seen());
    assert_eq!(server.unfinished_uploads()?, Vec::<String>::new());
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
