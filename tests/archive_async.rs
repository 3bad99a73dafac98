//! WAL that is pushed and fetched ahead by a background process, with a real PostgreSQL on both ends.

mod support;

use std::path::{Path, PathBuf};
use support::wal::SEGMENT_MIB;
use support::{
    ClusterOptions, Context, FakeArchiver, Result, Site, SiteOptions, assert_refused,
    assert_refused_with_one_of, data, ensure, files, limits, same_data,
};

const ARCHIVE_MISMATCH: i32 = 44;
const ARCHIVE_DUPLICATE: i32 = 45;
const VERSION: i32 = 46;
const ARCHIVE_TIMEOUT: i32 = 82;
const KNOWN_ABSENT: i32 = 1;

fn site(options: SiteOptions, more: &[(&str, &str)]) -> Result<Site> {
    let mut site = Site::prepare(&options)?;
    site.config = site.config.clone().backup("archive-async", "true");
    for (key, value) in more {
        site.config = site.config.clone().backup(key, value);
    }
    site.config.write(&site.scratch.config_file())?;
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    Ok(site)
}

fn small_segments() -> SiteOptions {
    let cluster = ClusterOptions { wal_segment_mib: SEGMENT_MIB, ..ClusterOptions::default() };
    SiteOptions { cluster, without_data: true, ..SiteOptions::default() }
}

/// Files of the stanza in the spool, by their names.
fn spooled(site: &Site, way: &str) -> Result<Vec<String>> {
    let folder = site.scratch.join("spool").join("archive/main").join(way);
    let names = files::walk(&folder)?.into_iter();
    Ok(names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

#[test]
fn a_loaded_server_is_recovered_to_its_last_row() -> Result<()> {
    let site = site(SiteOptions::default(), &[("archive-get-queue-max", "\"64MiB\"")])?;
    data::seed_small(&site.cluster)?;
    site.backup(&[])?;
    {
        let _load = site.cluster.load(4, 200)?;
        for _ in 0..8 {
            site.cluster.psql(
                "create table if not exists bulk (n int, text text);
                 insert into bulk select n, md5(n::text) from generate_series(1, 100000) n",
            )?;
            site.cluster.switch_and_archive()?;
        }
    }
    site.cluster.psql("create table last_row as select 1 as n")?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    let archived: u32 = site.cluster.psql("select archived_count from pg_stat_archiver")?.parse()?;
    ensure!(archived >= 9, "only {archived} segments were archived");
    assert_eq!(site.cluster.psql("select failed_count from pg_stat_archiver")?, "0");
    site.cluster.stop()?;

    let copy = site.restore("copy", &[])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    ensure!(copy.log().contains("restored log file"), "{}", copy.log());
    let log = std::fs::read_to_string(site.scratch.join("log/main-archive-get.log")).unwrap_or_default();
    ensure!(log.is_empty() || log.contains("in the spool"), "nothing was fetched ahead:\n{log}");
    Ok(())
}

#[test]
fn segments_lie_ready_before_they_are_asked_for_and_leave_when_they_are() -> Result<()> {
    let site = site(small_segments(), &[("archive-get-queue-max", "\"8MiB\"")])?;
    let archiver = FakeArchiver::of(&site)?;
    for number in 1..=30 {
        archiver.fill(number)?;
    }
    (1..=30).try_for_each(|number| archiver.archive(&site.pgconvoy, number)?.ok().map(drop))?;
    let destination = archiver.data().join("pg_wal/RECOVERYXLOG");
    let mut ready = 0;
    for number in 1..=30 {
        let name = FakeArchiver::name(number);
        let was_ready = spooled(&site, "in").unwrap_or_default().contains(&name);
        site.pgconvoy.archive_get(archiver.data(), &name, &destination, &[])?.ok()?;
        ensure!(
            std::fs::read(&destination)? == archiver.content(number)?,
            "segment {number} came back changed"
        );
        std::fs::remove_file(&destination)?;
        if number == 1 {
            limits::wait_for("eight segments ahead", limits::SOON, || {
                let whole = spooled(&site, "in")?.iter().filter(|name| !name.contains(".pgconvoy")).count();
                Ok((whole == 8).then_some(()))
            })?;
        }
        // One that was on its way while the command fetched it by itself comes after it, and goes with the next look ahead.
        ensure!(!was_ready || !spooled(&site, "in")?.contains(&name), "{name} was not taken away");
        ready += u32::from(was_ready);
    }
    ensure!(ready > 5, "hardly anything was ready when it was asked for");
    // What is not there is asked for, whatever lies in the spool.
    for absent in [FakeArchiver::name(31), "00000002.history".to_owned()] {
        site.pgconvoy.archive_get(archiver.data(), &absent, &destination, &[])?.with_code(KNOWN_ABSENT)?;
    }
    archiver.fill(31)?;
    archiver.archive(&site.pgconvoy, 31)?.ok()?;
    let name = FakeArchiver::name(31);
    site.pgconvoy.archive_get(archiver.data(), &name, &destination, &[])?.ok()?;
    Ok(())
}

#[test]
fn what_does_not_belong_there_is_refused_with_its_own_code() -> Result<()> {
    let site = site(small_segments(), &[])?;
    let archiver = FakeArchiver::of(&site)?;
    archiver.fill(1)?;
    archiver.push(&site.pgconvoy, 1)?.ok()?;
    archiver.push(&site.pgconvoy, 1)?.ok().context("the same segment again is success")?;

    let change = |number: u32, at: usize, bytes: &[u8]| -> Result<()> {
        archiver.fill(number)?;
        let mut content = std::fs::read(archiver.path(number))?;
        content[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(archiver.path(number), content)?;
        Ok(())
    };
    change(1, 500_000, b"other content")?;
    assert_refused(&archiver.push(&site.pgconvoy, 1)?, ARCHIVE_DUPLICATE)?;
    change(2, 24, &[7; 8])?;
    assert_refused(&archiver.push(&site.pgconvoy, 2)?, ARCHIVE_MISMATCH)?;
    // Version 14, and one that does not exist.
    change(3, 0, &[0x0D])?;
    assert_refused(&archiver.push(&site.pgconvoy, 3)?, ARCHIVE_MISMATCH)?;
    change(4, 0, &[0xFF])?;
    assert_refused_with_one_of(&archiver.push(&site.pgconvoy, 4)?, &[VERSION])?;
    archiver.fill(5)?;
    archiver.push(&site.pgconvoy, 5)?.ok().context("what is refused does not stop the rest")?;
    Ok(())
}

#[test]
fn a_background_process_that_does_nothing_is_noticed_in_time() -> Result<()> {
    let site = site(small_segments(), &[("archive-timeout", "\"1s\"")])?;
    let archiver = FakeArchiver::of(&site)?;
    archiver.fill(1)?;
    // Somebody who holds the lock and does nothing stands for one that hangs.
    let lock = site.scratch.join("lock/main-archive-push-background.lock");
    archiver.push(&site.pgconvoy, 1)?.ok()?;
    let file = limits::wait_for("the end of the background process", limits::SOON, || {
        let file = std::fs::File::open(&lock)?;
        Ok(file.try_lock().is_ok().then_some(file))
    })?;
    archiver.fill(2)?;
    assert_refused(&archiver.push(&site.pgconvoy, 2)?, ARCHIVE_TIMEOUT)?;
    drop(file);
    archiver.push(&site.pgconvoy, 2)?.ok()?;
    Ok(())
}

#[test]
fn more_than_may_wait_is_dropped_loudly_and_the_gap_is_on_record() -> Result<()> {
    for is_async in ["true", "false"] {
        let options = small_segments();
        let site = site(options, &[("archive-push-queue-max", "\"4MiB\""), ("archive-async", is_async)])?;
        site.cluster.switch_and_archive()?;
        let away: Vec<PathBuf> = site.repos.iter().map(|repo| repo.path.with_extension("away")).collect();
        for (repo, away) in site.repos.iter().zip(&away) {
            std::fs::rename(&repo.path, away)?;
        }
        // The last ones may wait, and do.
        let dropped = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
        for _ in 0..10 {
            site.cluster.psql("select txid_current(); select pg_switch_wal()")?;
        }
        site.cluster.wait_until_archived(&dropped)?;
        let log = site.cluster.log();
        ensure!(log.contains("WARN") && log.contains("dropped WAL file"), "nobody said so:\n{log}");
        for (repo, away) in site.repos.iter().zip(&away) {
            std::fs::rename(away, &repo.path)?;
        }
        site.cluster.switch_and_archive()?;
        the_gap_is_told(&site)?;
    }
    Ok(())
}

/// What was on its way when it was dropped may have arrived all the same, and may still; what is missing is told by name.
fn the_gap_is_told(site: &Site) -> Result<()> {
    let finished = limits::wait_for("a record of the gap, and of nothing else", limits::SOON, || {
        site.cluster.switch_and_archive()?;
        let finished = site.pgconvoy.run(["verify", "--output=json"])?;
        let log = site.cluster.log();
        let dropped = log.split("dropped WAL file '").skip(1).filter_map(|rest| rest.split('\'').next());
        let mut missing = 0;
        for segment in dropped {
            let is_there = site.repository(1)?.segment(segment).is_ok();
            let is_told = finished.stdout.contains(&format!("{segment}: it was dropped"));
            if is_there == is_told {
                return Ok(None);
            }
            missing += u32::from(!is_there);
        }
        Ok((missing > 0).then_some(finished))
    })?;
    ensure!(finished.code != Some(0), "{finished}");
    let report = finished.json()?;
    let ranges = report[0]["repo"][0]["archive"][0]["ranges"].as_array().map_or(0, Vec::len);
    ensure!(ranges >= 2, "the archive has no gap: {report}");
    Ok(())
}

/// Whole in the spool of one cluster is not whole for another.
#[test]
fn another_choice_of_repositories_has_a_spool_of_its_own() -> Result<()> {
    let site = site(small_segments(), &[])?;
    let archiver = FakeArchiver::of(&site)?;
    (1..=4).try_for_each(|number| archiver.fill(number))?;
    (1..=4).try_for_each(|number| archiver.archive(&site.pgconvoy, number)?.ok().map(drop))?;
    let destination = archiver.data().join("pg_wal/RECOVERYXLOG");
    let get = |number: u32, more: &[&str]| {
        site.pgconvoy.archive_get(archiver.data(), &FakeArchiver::name(number), &destination, more)
    };
    get(1, &[])?.ok()?;
    limits::wait_for("the next segment", limits::SOON, || {
        Ok(spooled(&site, "in")?.contains(&FakeArchiver::name(2)).then_some(()))
    })?;
    remove_segment(&site, 2, &FakeArchiver::name(2))?;
    get(2, &["--repo=2"])?.with_code(KNOWN_ABSENT).context("the spool answered for repository 2")?;
    get(2, &[])?.ok()?;
    Ok(())
}

fn remove_segment(site: &Site, repository: u16, name: &str) -> Result<()> {
    let path: &Path = &site.repository(repository)?.segment(name)?;
    Ok(std::fs::remove_file(path)?)
}
