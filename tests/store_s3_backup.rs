//! A cluster backed up to a directory and to S3 at once, and brought back from S3 alone, over a network that fails and one that does not.

mod support;

use support::stores::http_proxy::{HttpProxy, Weather};
use support::stores::seaweed::{self, BUCKET, SECRET_KEY, Seaweed};
use support::stores::tour::{TwoPaths, came_back, goes_there_and_comes_back};
use support::{
    Context, Pgconvoy, Random, Result, Site, SiteOptions, assert_refused, ensure, labels, limits, note,
    same_data,
};

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
fn between_two_paths_of_one_bucket_the_store_copies_and_the_copy_stands_alone() -> Result<()> {
    let server = Seaweed::start()?;
    let proxy = HttpProxy::before(server.address(), Random::from_environment()?)?;
    let table = seaweed::table(&proxy.endpoint(), SECRET_KEY);
    let paths = TwoPaths::filled("s3", ["/pg/main", "/pg/copy"], &table)?;
    let packs = format!("/{BUCKET}?list-type=2&prefix=pg/copy/main/backup/");
    paths.is_killed_amid_packs(|| Ok(server.anonymous("GET", &packs, "")?.body))?;
    paths.store_copies(&proxy)?;
    ensure!(
        server.unfinished_uploads()?.len() <= 1,
        "only what was under way when it was killed may be left"
    );
    server.anonymous("DELETE", &format!("/{BUCKET}/pg/main/pgconvoy.repo"), "")?;
    paths.second_stands_alone()
}

#[test]
fn without_encryption_it_comes_back_from_s3_as_well() -> Result<()> {
    let server = Seaweed::start()?;
    let site = site(&server.endpoint(), SECRET_KEY)?.without_keys()?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)
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

/// One server and one cluster for both: what is locked, and what that is good for.
#[test]
fn all_that_lasts_is_locked_and_survives_whoever_deletes_everything() -> Result<()> {
    let server = Seaweed::start()?;
    server.create_locking_bucket(LOCKING_BUCKET)?;
    let site = locking_site(&server, LOCKING_BUCKET)?;
    let alone = site.only_repos(&[2])?;
    let expected = came_back(&site, &alone)?;
    only_what_lasts_is_locked(&server)?;
    let then = a_moment_that_passes()?;
    server.anonymous("PUT", &format!("/{LOCKING_BUCKET}/pg/main/pgconvoy.repo"), "another repository")?;
    server.delete_all(LOCKING_BUCKET)?;
    the_past_is_there(&site, &alone, &then, &expected)
}

fn is_brief(key: &str) -> bool {
    ["/heartbeat/", "/check/", "create-only-probe-"].iter().any(|part| key.contains(part))
}

fn only_what_lasts_is_locked(server: &Seaweed) -> Result<()> {
    let versions = server.versions(LOCKING_BUCKET)?;
    let (mut locked, mut free) = (Vec::new(), Vec::new());
    for stored in versions.iter().filter(|stored| !stored.is_mark) {
        let answer = server.head(LOCKING_BUCKET, stored)?;
        ensure!(answer.status == 200, "{stored:?}: {answer:?}");
        let head = answer.head.to_ascii_lowercase();
        let has_mode = head.contains("x-amz-object-lock-mode: governance");
        ensure!(has_mode == head.contains("x-amz-object-lock-retain-until-date: 20"), "{stored:?}: {head}");
        if has_mode { locked.push(stored) } else { free.push(stored) }
    }
    ensure!(locked.iter().all(|stored| !is_brief(&stored.key)), "{locked:?}");
    ensure!(free.iter().all(|stored| is_brief(&stored.key)), "{free:?}");
    ensure!(!free.is_empty(), "nothing was left unlocked, so nothing tells one from the other");
    for part in
        ["pgconvoy.repo", "/keys/", "/pack/", "/manifest", "/catalogue/", "/wal/", "/cluster/", "/stop-"]
    {
        ensure!(locked.iter().any(|stored| stored.key.contains(part)), "nothing locked is called {part}");
    }
    // A creation clears the place of its key slot before it makes one: that mark is older than the slot, and listed behind it.
    let deleted = locked.iter().find(|stored| {
        let newest = versions.iter().find(|other| other.key == stored.key);
        newest.is_some_and(|newest| newest.is_mark)
    });
    ensure!(deleted.is_none(), "what lasts was deleted: {deleted:?}");
    // Nobody without a special right removes what is locked.
    let pack = locked.iter().find(|stored| stored.key.contains("/pack/")).context("a pack")?;
    for stored in [*pack, *free.first().context("a brief object")?] {
        let path = format!("/{LOCKING_BUCKET}/{}?versionId={}", stored.key, stored.id);
        let deleted = server.anonymous("DELETE", &path, "")?;
        ensure!((deleted.status == 204) == is_brief(&stored.key), "{stored:?}: {deleted:?}");
    }
    Ok(())
}

/// Now, to the second, of which nothing is left when this returns.
fn a_moment_that_passes() -> Result<String> {
    let second = || jiff::Timestamp::now().as_second();
    let now = second();
    limits::wait_for("the next second", limits::SOON, || Ok((second() > now).then_some(())))?;
    Ok(jiff::Timestamp::from_second(now)?.to_string())
}

/// Nothing is left of the repository but its past.
fn the_past_is_there(site: &Site, alone: &Pgconvoy, then: &str, expected: &str) -> Result<()> {
    assert_eq!(labels(alone, 2).unwrap_or_default(), Vec::<String>::new());
    let gone = alone.run(["info", "--repo=2"])?;
    ensure!(!gone.stdout.contains("full backup"), "{gone}");
    let time = format!("--repo-target-time={then}");
    let past = ["--repo=2", time.as_str()];
    let with = |command: &[&str]| command.iter().copied().chain(past).map(str::to_owned).collect::<Vec<_>>();
    let told = alone.run(with(&["info"]))?.ok()?;
    ensure!(told.stdout.contains("full backup") && told.stdout.contains("incr backup"), "{told}");
    let listed = alone.run(with(&["repo-ls", "--recurse"]))?.ok()?;
    ensure!(listed.stdout.contains("pgconvoy.repo"), "{listed}");
    alone.run(with(&["manifest"]))?.ok()?;
    alone.run(with(&["verify"]))?.ok()?;
    let copy = site.copy("past")?;
    let path = format!("--pg-path={}", copy.data().display());
    alone.run(with(&["restore", &path]))?.ok()?;
    let settings = std::fs::read_to_string(copy.data().join("postgresql.auto.conf"))?;
    ensure!(settings.contains("archive-get --repo=2 --repo-target-time=20"), "{settings}");
    copy.start_and_recover()?;
    same_data(&copy, expected)?;
    copy.stop()?;
    // What was never there is absent, as it is in the present.
    let wal = format!("{}/unknown", site.scratch.path().display());
    let absent = alone.run(with(&["archive-get", "0000000100000000000000FF", &wal]))?;
    ensure!(absent.code == Some(1), "{absent}");
    let early =
        alone.run(["restore", &path, "--repo=2", "--repo-target-time=2020-01-01 00:00:00+00", "--force"])?;
    ensure!(early.code != Some(0), "{early}");
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
