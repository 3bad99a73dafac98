//! Repositories, disks and servers that fail while somebody depends on them.
//!
//! One bad repository costs only its own copy: the other one gets its backup and its WAL, and the exit code says so.

mod support;

use std::time::Duration;
use support::bad_disk::{BadDisk, Call, Fault};
use support::checks::{assert_nothing_startable, repo_report};
use support::files::Closed;
use support::tmpfs::Tmpfs;
use support::{
    Cluster, Context, Finished, Result, Site, SiteOptions, assert_refused, assert_refused_with_one_of, data,
    ensure, labels, limits, same_data,
};

/// Some repository that was required did not get what the others got.
const COMMAND: i32 = 104;
const WRITE: i32 = 64;
const DB_CONNECT: i32 = 56;
const DB_QUERY: i32 = 57;
/// Room for everything that a test stores: the tests fill it up when they want it full.
const SMALL_REPO_MIB: u32 = 256;

fn site_with_second_repo_on_a_small_disk() -> Result<Site> {
    let options = SiteOptions { small_second_repo_mib: Some(SMALL_REPO_MIB), ..SiteOptions::default() };
    impatient(Site::start_with(&options)?)
}

/// A repository that fails must not cost the tests the default minute for each segment.
fn impatient(mut site: Site) -> Result<Site> {
    site.config = site.config.clone().backup("archive-timeout", "\"15s\"");
    site.config.write(&site.scratch.config_file())?;
    Ok(site)
}

fn mount_of(site: &Site) -> Result<&Tmpfs> {
    site.mounts.first().context("no mount")
}

/// With repository 2 failing: repository 1 gets the backup and restores alone, and everybody is told about 2.
fn the_first_repository_has_its_backup(site: &Site) -> Result<()> {
    let before = labels(&site.only_repos(&[1])?, 1)?;
    let finished = site.try_backup(&[])?;
    assert_refused(&finished, COMMAND)?;
    names_repository_2(&finished)?;
    let report = finished.json()?;
    assert_eq!(report["status"], "partial", "{report}");
    assert_eq!(repo_report(&report, 1)?["status"], "ok", "{report}");
    let second = repo_report(&report, 2)?;
    assert_eq!(second["status"], "error", "{report}");
    assert!(!second["error"].is_null(), "{report}");
    assert_eq!(labels(&site.only_repos(&[1])?, 1)?.len(), before.len() + 1);

    let expected = data::fingerprint(&site.cluster)?;
    let recovery = ["--repo=1", "--type=immediate", "--target-action=promote"];
    let copy = site.restore("copy", &recovery)?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

fn names_repository_2(finished: &Finished) -> Result<()> {
    let named = ["repo2", "repository 2", "repo 2"].iter().any(|name| finished.stderr.contains(name));
    ensure!(named, "nobody says that it is repository 2\n{finished}");
    Ok(())
}

/// With repository 2 failing: `archive-push` says so, and repository 1 has the segment all the same.
fn the_first_repository_has_its_wal(site: &Site) -> Result<()> {
    let segment = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    site.cluster.psql("select txid_current(); select pg_switch_wal()")?;
    let path = site.cluster.data().join("pg_wal").join(&segment);
    let pushed = site.pgconvoy.archive_push(site.cluster.data(), &path)?;
    assert_refused(&pushed, COMMAND)?;
    names_repository_2(&pushed)?;
    let fetched = site.scratch.join("fetched");
    site.only_repos(&[1])?.archive_get(site.cluster.data(), &segment, &fetched, &[])?.ok()?;
    assert!(std::fs::read(&fetched)? == std::fs::read(&path)?, "the segment came back changed");
    Ok(())
}

/// After the fault: PostgreSQL's own retries fill the gap, and the next backup is in both.
fn all_is_well_again(site: &Site) -> Result<()> {
    site.cluster.switch_and_archive()?;
    let report = site.backup(&[])?;
    assert_eq!(report["status"], "ok", "{report}");
    let label = report["label"].as_str().context("label")?;
    assert!(labels(&site.pgconvoy, 2)?.iter().any(|listed| listed == label));
    site.pgconvoy.run(["verify", "--set", label])?.ok()?;
    Ok(())
}

#[test]
fn a_read_only_repository_costs_only_its_own_copy() -> Result<()> {
    let site = site_with_second_repo_on_a_small_disk()?;
    site.cluster.switch_and_archive()?;
    mount_of(&site)?.set_read_only(true)?;
    the_first_repository_has_its_backup(&site)?;
    the_first_repository_has_its_wal(&site)?;
    mount_of(&site)?.set_read_only(false)?;
    all_is_well_again(&site)
}

#[test]
fn a_repository_that_fills_up_costs_only_its_own_copy() -> Result<()> {
    let site = site_with_second_repo_on_a_small_disk()?;
    site.cluster.switch_and_archive()?;
    // Enough for plan and first packs: it must fail in the middle, not at once.
    mount_of(&site)?.fill_up_to(3 << 20)?;
    the_first_repository_has_its_backup(&site)?;
    mount_of(&site)?.relieve()?;
    mount_of(&site)?.fill_up_to(4 << 10)?;
    site.cluster
        .psql("insert into document select n, '{}', md5(n::text) from generate_series(10000, 60000) n")?;
    the_first_repository_has_its_wal(&site)?;
    mount_of(&site)?.relieve()?;
    all_is_well_again(&site)
}

#[test]
fn a_repository_that_refuses_writes_costs_only_its_own_copy() -> Result<()> {
    let site = impatient(Site::start()?)?;
    site.cluster.switch_and_archive()?;
    {
        let _closed = Closed::tree(&site.repos[1].path, 0o500)?;
        the_first_repository_has_its_backup(&site)?;
        the_first_repository_has_its_wal(&site)?;
    }
    all_is_well_again(&site)
}

#[test]
fn a_repository_that_is_gone_is_set_aside_before_the_backup() -> Result<()> {
    let site = impatient(Site::start()?)?;
    site.cluster.switch_and_archive()?;
    let away = site.scratch.join("away");
    std::fs::rename(&site.repos[1].path, &away)?;
    the_first_repository_has_its_backup(&site)?;
    the_first_repository_has_its_wal(&site)?;
    if site.repos[1].path.exists() {
        ensure!(support::files::walk(&site.repos[1].path)?.is_empty(), "a lost repository was begun anew");
        std::fs::remove_dir_all(&site.repos[1].path)?;
    }
    std::fs::rename(&away, &site.repos[1].path)?;
    all_is_well_again(&site)
}

#[test]
fn a_repository_that_is_not_required_may_fail_without_an_error() -> Result<()> {
    let mut site = impatient(Site::start()?)?;
    site.repos[1].required = false;
    site.config = site.config.clone().repos(&site.repos);
    site.config.write(&site.scratch.config_file())?;
    site.cluster.switch_and_archive()?;
    let _closed = Closed::tree(&site.repos[1].path, 0o500)?;
    let finished = site.try_backup(&[])?.ok()?;
    names_repository_2(&finished)?;
    let report = finished.json()?;
    assert_eq!(report["status"], "partial", "{report}");
    assert_eq!(repo_report(&report, 2)?["status"], "error", "{report}");
    Ok(())
}

#[test]
fn a_backup_that_no_repository_takes_fails_and_publishes_nothing() -> Result<()> {
    let site = impatient(Site::start()?)?;
    let label = site.backup_label(&[])?;
    {
        let _first = Closed::tree(&site.repos[0].path, 0o500)?;
        let _second = Closed::tree(&site.repos[1].path, 0o500)?;
        let finished = site.try_backup(&[])?;
        let code = finished.code.filter(|code| (1..126).contains(code)).context("a code below 126")?;
        assert_refused(&finished, code)?;
    }
    for number in [1, 2] {
        assert_eq!(labels(&site.pgconvoy, number)?, std::slice::from_ref(&label));
    }
    all_is_well_again(&site)
}

#[test]
fn a_restore_onto_a_full_disk_says_so_and_leaves_nothing_startable() -> Result<()> {
    let site = Site::start()?;
    site.backup(&[])?;
    let mount = Tmpfs::mount(&site.scratch.join("target"), 24)?;
    let data = mount.path().join("data");
    let copy = Cluster::attach_at(&site.scratch, "copy", &data, support::site::copy_overrides())?;
    assert_refused(&site.try_restore(&data, &[])?, WRITE)?;
    assert!(!data.join("global/pg_control").exists(), "pg_control comes last");
    assert_nothing_startable(&copy)?;
    Ok(())
}

/// The check of free space passes, and the disk fills up afterwards: somebody else writes to it too.
#[test]
fn a_disk_that_fills_up_while_a_restore_writes_ends_it_and_the_next_one_goes_on() -> Result<()> {
    let site = Site::start()?;
    site.backup(&[])?;
    let expected = data::fingerprint(&site.cluster)?;
    let mount = Tmpfs::mount(&site.scratch.join("target"), 384)?;
    let data = mount.path().join("data");
    let copy = Cluster::attach_at(&site.scratch, "copy", &data, support::site::copy_overrides())?;
    let recovery = ["--type=immediate", "--target-action=promote"];
    let finished = overtaken_by_a_full_disk(&site, &mount, &data, &recovery)?;
    assert_refused(&finished, WRITE)?;
    ensure!(finished.stderr.contains("space"), "nobody says that the disk is full\n{finished}");
    assert!(!data.join("global/pg_control").exists(), "pg_control comes last");
    assert_nothing_startable(&copy)?;

    mount.relieve()?;
    site.try_restore(&data, &recovery)?.ok()?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

/// A restore whose disk is filled up after its first bytes. One that is quicker than the look at it is begun anew.
fn overtaken_by_a_full_disk(
    site: &Site,
    mount: &Tmpfs,
    data: &std::path::Path,
    recovery: &[&str],
) -> Result<Finished> {
    const TRIES: usize = 10;
    let path = format!("--pg-path={}", data.display());
    let arguments = ["restore", path.as_str(), "--process-max=1"];
    for _ in 0..TRIES {
        let mut running = site.pgconvoy.start(arguments.iter().chain(recovery))?;
        limits::wait_for("the first bytes", limits::SOON, || {
            let has_begun = data.exists() && holds_bytes(data);
            Ok((has_begun || running.has_ended()?).then_some(()))
        })?;
        running.signal(rustix::process::Signal::STOP)?;
        // It stops a moment after it is told to, and takes room until then.
        let fill_up = || Ok(mount.fill_up_to(64 << 10).ok());
        limits::wait_for("a disk that is full", limits::SOON, fill_up)?;
        running.signal(rustix::process::Signal::CONT)?;
        let finished = running.wait(limits::COMMAND)?;
        if finished.code != Some(0) {
            return Ok(finished);
        }
        mount.relieve()?;
        std::fs::remove_dir_all(data)?;
    }
    anyhow::bail!("{TRIES} restores were over before their disk could fill up")
}

/// Of a directory in which files come and go.
fn holds_bytes(directory: &std::path::Path) -> bool {
    let files = support::files::walk(directory).unwrap_or_default();
    files.iter().any(|file| std::fs::symlink_metadata(file).is_ok_and(|found| found.len() > 0))
}

/// Slow on purpose: one slot and the hardest compression give time to pull the server away.
fn slow_backup(site: &Site) -> Result<support::Running> {
    site.pgconvoy.start([
        "backup",
        "--type=full",
        "--process-max=1",
        "--compress-type=zst",
        "--compress-level=19",
        "--unit-size=1MiB",
    ])
}

/// Waits until the backup has stored something of its own.
fn until_it_stores(site: &Site) -> Result<()> {
    let repository = site.repository(1)?;
    limits::wait_for("the first pack", limits::SOON, || Ok(repository.holds_a_pack().then_some(())))
}

#[test]
fn a_server_that_goes_away_ends_the_backup_with_a_clear_error() -> Result<()> {
    let site = impatient(Site::start()?)?;
    let running = slow_backup(&site)?;
    until_it_stores(&site)?;
    site.cluster.crash()?;
    let finished = running.wait(limits::COMMAND)?;
    assert_refused_with_one_of(&finished, &[DB_CONNECT, DB_QUERY])?;
    assert!(labels(&site.pgconvoy, 1)?.is_empty() && labels(&site.pgconvoy, 2)?.is_empty());
    site.cluster.start()?;
    all_is_well_again(&site)
}

#[test]
fn a_second_backup_at_the_same_time_is_refused_and_harms_nothing() -> Result<()> {
    const LOCK: i32 = 50;
    let site = Site::start()?;
    let running = slow_backup(&site)?;
    until_it_stores(&site)?;
    assert_refused(&site.try_backup(&[])?, LOCK)?;
    running.wait(limits::COMMAND)?.ok()?;
    assert_eq!(labels(&site.pgconvoy, 1)?.len(), 1);
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

/// What tells two hosts from one is that they share no lock file.
#[test]
fn of_two_hosts_that_begin_at_once_at_most_one_backs_up_and_the_other_is_told() -> Result<()> {
    const LOCK: i32 = 50;
    const ROUNDS: usize = 4;
    let site = impatient(Site::start()?)?;
    let elsewhere = site.config.clone().lock_path(&site.scratch.private_dir("lock-of-another-host")?);
    let elsewhere = site.pgconvoy.with_config(&site.scratch, "another-host.toml", &elsewhere)?;
    let mut published = 0;
    for _ in 0..ROUNDS {
        let arguments = ["backup", "--type=full", "--output=json"];
        let both = [site.pgconvoy.start(arguments)?, elsewhere.start(arguments)?];
        let mut finished = Vec::new();
        for one in both {
            finished.push(one.wait(limits::COMMAND)?);
        }
        let won = finished.iter().filter(|one| one.code == Some(0)).count();
        ensure!(won <= 1, "both went on\n{}\n{}", finished[0], finished[1]);
        for lost in finished.iter().filter(|one| one.code != Some(0)) {
            assert_refused(lost, LOCK)?;
        }
        published += won;
        for number in [1, 2] {
            assert_eq!(labels(&site.pgconvoy, number)?.len(), published);
        }
    }
    assert!(published > 0, "nobody won in {ROUNDS} rounds");
    site.pgconvoy.run(["verify"])?.ok()?;
    all_is_well_again(&site)
}

#[test]
fn a_termination_signal_ends_the_backup_with_its_own_code() -> Result<()> {
    const TERM: i32 = 63;
    let site = Site::start()?;
    let mut running = slow_backup(&site)?;
    until_it_stores(&site)?;
    running.signal(rustix::process::Signal::TERM)?;
    running.wait(limits::COMMAND)?.with_code(TERM)?;
    assert!(labels(&site.pgconvoy, 1)?.is_empty());
    all_is_well_again(&site)
}

/// All of 300 MiB is one pack, which the disk writes in fifteen seconds, and a step may take five.
#[test]
fn a_large_pack_reaches_a_slow_disk_step_by_step_and_not_at_its_end() -> Result<()> {
    let mut site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    site.config = site.config.clone().backup("io-timeout", "\"5s\"");
    site.config.write(&site.scratch.config_file())?;
    site.cluster.psql(
        "create table large as select md5(n::text) || md5((n * 7)::text) || md5((n * 13)::text) as text \
         from generate_series(1, 2000000) n",
    )?;
    site.cluster.psql("checkpoint")?;
    let disk = BadDisk::below(&site.scratch, &site.repos[1].path)?;
    disk.suffers(&[Fault::slow(Call::Flush, Duration::from_millis(50))])?;
    let alone = disk.of(&site.only_repos(&[2])?);
    let args = ["backup", "--type=full", "--compress-type=none", "--unit-size=1GiB", "--output=json"];
    let report = alone.run(args)?.ok()?.json()?;
    ensure!(report["status"] == "ok", "{report}");
    Ok(())
}
