//! A server that speaks S3 and ignores conditions: refused as it is, and what locks on a host make of it.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;
use support::stores::garage::Garage;
use support::stores::http_proxy::{HttpProxy, Weather};
use support::stores::seaweed::{self, SECRET_KEY, Seaweed};
use support::stores::tour::goes_there_and_comes_back;
use support::{
    Context, Pgconvoy, Random, Repo, Result, Running, Site, SiteOptions, assert_refused, ensure, limits, note,
};

const LOCK: &str = "create-only = \"lock\"";
const REPO_INVALID: i32 = 103;
const ARCHIVE_DUPLICATE: i32 = 45;
/// Long enough for two processes that were started together to look before either puts.
const LATENCY: Duration = Duration::from_millis(300);
const ROUNDS: u8 = 3;

/// Repository 2 lies in a server that ignores conditions.
struct Stage {
    site: Site,
    /// The configuration of a host that knows only this repository, and takes its store at its word.
    trusting: Pgconvoy,
    /// The same, but with locks.
    alone: Pgconvoy,
    proxy: HttpProxy,
    server: Seaweed,
}

fn ignoring(latency: Duration) -> Weather {
    // Without the signature as well, which covers the condition: who signs nothing may do everything there.
    Weather { stripped: vec!["if-none-match", "authorization"], latency, ..Weather::default() }
}

fn stage() -> Result<Stage> {
    let server = Seaweed::start()?;
    let proxy = HttpProxy::before(server.address(), Random::seeded(1))?;
    proxy.set(ignoring(Duration::ZERO));
    let (site, trusting, alone) = hosts(&seaweed::table(&proxy.endpoint(), SECRET_KEY))?;
    Ok(Stage { site, trusting, alone, proxy, server })
}

/// A host with repository 2 in that store under locks, one that knows only this repository and trusts the store, and one that does not.
fn hosts(table: &str) -> Result<(Site, Pgconvoy, Pgconvoy)> {
    let site = Site::prepare(&SiteOptions::default())?;
    let bare: Repo = site.repos[1].clone().in_store("s3", "/pg/main", table);
    let trusting = site.config.clone().repos(std::slice::from_ref(&bare));
    let trusting = site.pgconvoy.with_config(&site.scratch, "trusting.toml", &trusting)?;
    let repos = vec![site.repos[0].clone(), bare.with(LOCK)];
    let site = site.with_repos(repos)?;
    let alone = site.only_repos(&[2])?;
    Ok((site, trusting, alone))
}

/// Made by who asks for locks; refused, with a way out, to who trusts the store.
fn made_under_locks_only(site: &Site, trusting: &Pgconvoy) -> Result<()> {
    let refused = trusting.run(["stanza-create"])?;
    assert_refused(&refused, REPO_INVALID)?;
    ensure!(refused.stderr.contains(LOCK), "the hint names no way: {refused}");
    let made = site.pgconvoy.run(["stanza-create"])?.ok()?;
    note(&made);
    ensure!(made.stderr.contains("the store lets one object replace another"), "{made}");
    Ok(())
}

#[test]
fn a_server_that_overwrites_is_used_under_locks_by_who_asks_for_them() -> Result<()> {
    let Stage { site, trusting, alone, proxy: _proxy, server } = stage()?;
    site.cluster.start()?;
    made_under_locks_only(&site, &trusting)?;
    let again = site.pgconvoy.run(["stanza-create"])?.ok()?;
    ensure!(!again.stderr.contains("replace another"), "once is enough: {again}");
    let checked = site.pgconvoy.run(["check", "--output=json"])?.ok()?;
    let found = checked.json()?;
    let findings = found[0]["check"].as_array().context("findings")?.iter();
    let repository: Vec<_> = findings.filter(|finding| finding["name"] == "repository").collect();
    let status = |number: usize| (&repository[number]["repo-key"], &repository[number]["status"]);
    ensure!(status(0) == (&1.into(), &"ok".into()) && status(1) == (&2.into(), &"warning".into()), "{found}");
    ensure!(trusting.run(["check"])?.code != Some(0), "check believes the store");
    site.cluster.stop()?;
    goes_there_and_comes_back(&site, &alone)?;
    assert_eq!(server.unfinished_uploads()?, Vec::<String>::new());
    match std::env::var_os("PGCONVOY_LONG") {
        Some(_) => garage_is_used_as_well(),
        None => Ok(()),
    }
}

/// Such a server by nature, with no proxy before it. Only the long form has it.
fn garage_is_used_as_well() -> Result<()> {
    let garage = Garage::start()?;
    let (site, trusting, alone) = hosts(&garage.table())?;
    site.cluster.start()?;
    made_under_locks_only(&site, &trusting)?;
    site.cluster.stop()?;
    goes_there_and_comes_back(&site, &alone)?;

    let garage = Garage::start()?;
    let (site, _, alone) = hosts(&garage.table())?;
    without_archiver(&site)?;
    (0..ROUNDS).try_for_each(|round| of_two_one_is_archived(&site, &alone, round))
}

/// Kept from the archiver, so that nobody but the test pushes.
fn without_archiver(site: &Site) -> Result<()> {
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    site.cluster.psql("alter system set archive_command = '/bin/false'; select pg_reload_conf()")?;
    Ok(())
}

#[test]
fn locks_that_a_server_does_not_need_are_said_to_be_needless() -> Result<()> {
    let Stage { site, proxy, server: _server, .. } = stage()?;
    proxy.set(Weather::default());
    site.cluster.start()?;
    let made = site.pgconvoy.run(["stanza-create"])?.ok()?;
    ensure!(made.stderr.contains("makes it weaker between hosts, remove it"), "{made}");
    Ok(())
}

#[test]
fn a_server_that_refuses_conditions_is_asked_once_and_used_under_locks_by_who_asks_for_them() -> Result<()> {
    let Stage { site, trusting, alone: _, proxy, server: _server } = stage()?;
    proxy.set(Weather { unknown: vec!["if-none-match"], ..Weather::default() });
    site.cluster.start()?;
    let refused = trusting.run(["stanza-create"])?;
    assert_refused(&refused, REPO_INVALID)?;
    ensure!(refused.stderr.contains("501 (NotImplemented"), "it does not say why: {refused}");
    // No answer is to be had by asking again.
    assert_eq!(proxy.seen().faults.get("answer"), Some(&1));
    made_under_locks_only(&site, &trusting)?;
    site.pgconvoy.run(["check"])?.ok()?;
    let checked = trusting.run(["check"])?;
    ensure!(checked.code != Some(0) && checked.to_string().contains(LOCK), "{checked}");
    Ok(())
}

/// A finished segment that nobody has archived, and another one of its name.
fn two_of_one_name(site: &Site, round: u8) -> Result<[PathBuf; 2]> {
    let segment = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    site.cluster.psql("select txid_current(); select pg_switch_wal()")?;
    let path = site.cluster.data().join("pg_wal").join(&segment);
    let mut bytes = std::fs::read(&path)?;
    *bytes.last_mut().context("an empty segment")? ^= 1;
    let forged = site.scratch.private_dir(&format!("forged-{round}"))?.join(&segment);
    std::fs::write(&forged, bytes)?;
    support::user::give(&forged)?;
    Ok([path, forged])
}

/// Both at once; the exit codes.
fn push_both(pgconvoy: &Pgconvoy, data: &Path, files: &[PathBuf; 2]) -> Result<[Option<i32>; 2]> {
    let start = |file: &PathBuf| -> Result<Running> {
        pgconvoy.call(["archive-push"])?.arg(file).current_dir(data).start()
    };
    let running = [start(&files[0])?, start(&files[1])?];
    let [first, second] = running.map(|push| push.wait(limits::COMMAND));
    let (first, second) = (first?, second?);
    note(format!("{first}{second}"));
    Ok([first.code, second.code])
}

fn of_two_one_is_archived(site: &Site, alone: &Pgconvoy, round: u8) -> Result<()> {
    let data = site.cluster.data();
    let files = two_of_one_name(site, round)?;
    let codes = push_both(alone, data, &files)?;
    let winner = codes.iter().position(|code| *code == Some(0)).context("nobody won")?;
    let (won, lost) = (&files[winner], &files[1 - winner]);
    ensure!(codes[1 - winner] == Some(ARCHIVE_DUPLICATE), "two winners, or another error: {codes:?}");
    assert_refused(&alone.archive_push(data, lost)?, ARCHIVE_DUPLICATE)?;
    alone.archive_push(data, won)?.ok()?;
    let name = won.file_name().context("a name")?.to_string_lossy();
    let fetched = site.scratch.join(&format!("fetched-{round}"));
    alone.archive_get(data, &name, &fetched, &[])?.ok()?;
    ensure!(std::fs::read(&fetched)? == std::fs::read(won)?, "the loser's segment is in the archive");
    Ok(())
}

#[test]
fn of_two_segments_of_one_name_pushed_at_once_one_is_archived() -> Result<()> {
    let Stage { site, trusting, alone, proxy, server: _server } = stage()?;
    without_archiver(&site)?;
    let data = site.cluster.data();
    proxy.set(ignoring(LATENCY));
    (0..ROUNDS).try_for_each(|round| of_two_one_is_archived(&site, &alone, round))?;
    // The same without the locks: both believe that theirs is there, so it was not the store that decided.
    let files = two_of_one_name(&site, ROUNDS)?;
    assert_eq!(push_both(&trusting, data, &files)?, [Some(0), Some(0)]);
    Ok(())
}
