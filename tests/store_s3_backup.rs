//! A cluster backed up to a directory and to S3 at once, and brought back from S3 alone, over a network that fails and one that does not.

mod support;

use support::stores::http_proxy::{HttpProxy, Weather};
use support::stores::seaweed::{self, BUCKET, SECRET_KEY, Seaweed};
use support::stores::tour::goes_there_and_comes_back;
use support::{Random, Result, Site, SiteOptions, assert_refused, ensure, note};

/// Of a bucket that was made with Object Lock.
const LOCKING_BUCKET: &str = "locking";
const LOCK: &str = "lock-mode = \"governance\"\nlock-period = \"30d\"";

const REPO_INVALID: i32 = 103;

fn site(endpoint: &str, secret: &str) -> Result<Site> {
    Site::prepare(&SiteOptions::default())?.with_second_repo_in(
        "s3",
        "/pg/main",
        &seaweed::table(endpoint, secret),
    )
}

/// Repository 2 lies in this bucket, and is to lock what lasts.
fn locking_site(server: &Seaweed, bucket: &str) -> Result<Site> {
    let site = Site::prepare(&SiteOptions::default())?;
    let table = seaweed::table(&server.endpoint(), SECRET_KEY).replace(BUCKET, bucket);
    let second = site.repos[1].clone().in_store("s3", "/pg/main", &table).with(LOCK);
    let first = site.repos[0].clone();
    site.with_repos(vec![first, second])
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

#[test]
fn all_that_lasts_is_locked_and_what_ordinary_running_removes_is_not() -> Result<()> {
    let server = Seaweed::start()?;
    server.create_locking_bucket(LOCKING_BUCKET)?;
    let site = locking_site(&server, LOCKING_BUCKET)?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)?;
    let versions = server.versions(LOCKING_BUCKET)?;
    let (mut locked, mut free) = (Vec::new(), Vec::new());
    for stored in versions.iter().filter(|stored| !stored.is_mark) {
        let head = server.head(LOCKING_BUCKET, stored)?;
        ensure!(head.status == 200, "{stored:?}: {head:?}");
        let head = head.head.to_ascii_lowercase();
        let has_mode = head.contains("x-amz-object-lock-mode: governance");
        assert_eq!(has_mode, head.contains("x-amz-object-lock-retain-until-date: 20"), "{stored:?}: {head}");
        if has_mode { locked.push(stored) } else { free.push(stored) }
    }
    let is_brief =
        |key: &str| ["/heartbeat/", "/check/", "create-only-probe-"].iter().any(|part| key.contains(part));
    ensure!(locked.iter().all(|stored| !is_brief(&stored.key)), "{locked:?}");
    ensure!(free.iter().all(|stored| is_brief(&stored.key)), "{free:?}");
    for part in
        ["pgconvoy.repo", "/keys/", "/pack/", "/manifest", "/catalogue/", "/wal/", "/cluster/", "/stop-"]
    {
        ensure!(locked.iter().any(|stored| stored.key.contains(part)), "nothing locked is called {part}");
    }
    ensure!(!free.is_empty(), "nothing was left unlocked, so nothing tells one from the other");
    // Nobody had to remove what is locked, and nobody without a special right can.
    for stored in &locked {
        ensure!(
            !versions.iter().any(|other| other.is_mark && other.key == stored.key),
            "{stored:?} was deleted"
        );
    }
    let pack = locked.iter().find(|stored| stored.key.contains("/pack/")).map(|stored| (*stored).clone());
    for stored in pack.iter().chain(free.first().copied()) {
        let path = format!("/{LOCKING_BUCKET}/{}?versionId={}", stored.key, stored.id);
        let deleted = server.anonymous("DELETE", &path, "")?;
        assert_eq!(deleted.status == 204, is_brief(&stored.key), "{stored:?}: {deleted:?}");
    }
    Ok(())
}

#[test]
fn a_bucket_without_object_lock_is_refused_where_locks_are_asked_for() -> Result<()> {
    let server = Seaweed::start()?;
    let unlocked = site(&server.endpoint(), SECRET_KEY)?;
    unlocked.cluster.start()?;
    let asking = unlocked.repos[1].clone().with(LOCK);
    let asking = unlocked.pgconvoy.with_config(
        &unlocked.scratch,
        "asking.toml",
        &unlocked.config.clone().repos(&[unlocked.repos[0].clone(), asking]),
    )?;
    let refused = asking.run(["stanza-create"])?;
    ensure!(refused.code != Some(0) && refused.has_hint(), "{refused}");
    ensure!(refused.stderr.contains("bucket 'backups' has no Object Lock"), "{refused}");
    let listed = server.anonymous("GET", &format!("/{BUCKET}?list-type=2"), "")?;
    ensure!(!listed.body.contains("<Key>"), "{listed:?}");
    unlocked.pgconvoy.run(["stanza-create"])?.ok()?;
    let checked = asking.run(["check", "--output=json"])?;
    let found = checked.json()?;
    let findings = found[0]["check"].as_array().into_iter().flatten();
    let lock: Vec<_> = findings.filter(|finding| finding["name"] == "lock").collect();
    ensure!(lock.len() == 1 && lock[0]["status"] == "error" && lock[0]["repo-key"] == 2, "{found}");
    // Nothing is stored without the retention that was asked for.
    let refused = asking.run(["backup", "--type=full", "--repo=2"])?;
    ensure!(
        refused.code != Some(0) && refused.stderr.contains("enable Object Lock on the bucket"),
        "{refused}"
    );
    Ok(())
}
