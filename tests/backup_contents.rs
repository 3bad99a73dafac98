//! What a backup holds beside the usual: WAL of its own, the WAL of a stopped cluster; and what is left out of it by name.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};
use support::{
    Cluster, ClusterOptions, Context, Json, Result, Site, SiteOptions, assert_refused, data, ensure, labels,
    limits, note, same_data,
};

/// A value that an option cannot have.
const OPTION_VALUE: i32 = 32;
const PG_RUNNING: i32 = 38;

/// Paths below pg_wal that the manifest lists as files.
fn wal_in_manifest(site: &Site, label: &str) -> Result<Vec<(String, u64)>> {
    let manifest = site.pgconvoy.run(["manifest", "--set", label, "--output=json"])?.ok()?.json()?;
    let files = manifest["file"].as_array().context("file")?;
    let in_wal = files.iter().filter_map(|file| {
        let name = file["name"].as_str()?.strip_prefix("pg_wal/")?;
        Some((name.to_owned(), file["size"].as_u64()?))
    });
    Ok(in_wal.collect())
}

fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The archive of both repositories is gone, as if nothing had ever been archived.
fn lose_the_archive(site: &Site) -> Result<()> {
    for repo in &site.repos {
        let wal = Path::new(&repo.path).join("main/wal");
        ensure!(wal.is_dir(), "{} is where WAL lies", wal.display());
        std::fs::remove_dir_all(wal)?;
    }
    Ok(())
}

#[test]
fn a_backup_with_its_own_wal_starts_without_any_archive() -> Result<()> {
    let cluster = ClusterOptions { wal_segment_mib: 1, linked_wal: true, ..ClusterOptions::default() };
    let site = Site::start_with(&SiteOptions { cluster, ..SiteOptions::default() })?;
    let load = {
        site.cluster
            .client("pgbench")?
            .args(["-i", "-q", "-s", "2", "postgres"])
            .run(limits::LARGE_COMMAND)?
            .ok()?;
        site.cluster.load(2, 300)?
    };
    // Small units, so that WAL is copied in several of them, and read from both repositories.
    let report = site.backup(&["--archive-copy", "--unit-size=2MiB", "--process-max=2"])?;
    drop(load);
    let label = report["label"].as_str().context("label")?;
    let of = |end: &str| report["archive"][end].as_str().map(str::to_owned).context(end.to_owned());
    let (start, stop) = (of("start")?, of("stop")?);
    let copied = wal_in_manifest(&site, label)?;
    ensure!(
        copied.len() >= 2 && copied.iter().all(|(name, size)| is_segment(name) && *size == 1 << 20),
        "{copied:?}"
    );
    ensure!(copied.first().map(|(name, _)| name) == Some(&start), "{start} is first in {copied:?}");
    ensure!(copied.last().map(|(name, _)| name) == Some(&stop), "{stop} is last in {copied:?}");
    site.pgconvoy.run(["verify", "--set", label])?.ok()?;

    // What its archiver still has to push would come back.
    site.cluster.stop()?;
    lose_the_archive(&site)?;
    for repo in ["--repo=1", "--repo=2"] {
        let copy = site.restore(
            &format!("copy{repo}"),
            &["--type=none", "--archive-mode=off", "--tablespace-map-all=/nowhere", repo],
        )?;
        ensure!(!copy.data().join("recovery.signal").exists(), "it recovers from what it has");
        ensure!(copy.data().join("pg_wal").join(&start).exists(), "{start} lies in pg_wal");
        copy.start_and_recover()?;
        consistent(&copy)?;
        copy.stop()?;
    }
    Ok(())
}

/// pgbench keeps its balances equal, whatever moment a copy is of.
fn consistent(copy: &support::Cluster) -> Result<()> {
    let balances = "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)
                       and (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta), 0) from pgbench_history)
                       and (select count(*) from pgbench_accounts) = 200000
                       and (select count(*) from document) > 0";
    let found = copy.psql(balances)?;
    ensure!(found == "t", "a copy has other rows than its original: {found}");
    Ok(())
}

#[test]
fn wal_is_copied_only_where_that_was_asked_for_and_known_to_be_there() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let plain = site.backup_label(&[])?;
    ensure!(wal_in_manifest(&site, &plain)?.is_empty(), "nobody asked for WAL");
    let unchecked = site.try_backup(&["--archive-copy", "--no-archive-check"])?.ok()?;
    ensure!(unchecked.stderr.contains("archive-copy"), "it says that WAL is not copied\n{unchecked}");
    let label = unchecked.json()?["label"].as_str().context("label")?.to_owned();
    ensure!(wal_in_manifest(&site, &label)?.is_empty(), "nobody knows whether it is there");
    Ok(())
}

#[test]
fn what_is_excluded_is_left_out_and_what_is_needed_cannot_be() -> Result<()> {
    let site = Site::start()?;
    site.cluster.psql("create database spare")?;
    let oid = site.cluster.psql("select oid from pg_database where datname = 'spare'")?;
    let data_dir = site.cluster.data().to_owned();
    for folder in ["junk", "junk/deep", "dumps"] {
        support::user::private_dir(&data_dir.join(folder))?;
    }
    for file in ["junk/deep/file", "junk/file", "dumps/file", "keep.me"] {
        std::fs::write(data_dir.join(file), "words")?;
        support::user::give(&data_dir.join(file))?;
    }
    let expected = data::fingerprint(&site.cluster)?;
    let spare = format!("--exclude=base/{oid}/");
    let finished =
        site.try_backup(&["--exclude=junk", "--exclude=dumps/", "--exclude=mispelt/", &spare])?.ok()?;
    for warning in [format!("base/{oid}"), "mispelt".to_owned()] {
        ensure!(finished.stderr.contains(&format!("exclude '{warning}'")), "{warning}\n{finished}");
    }
    ensure!(!finished.stderr.contains("exclude 'junk'"), "there is nothing to say of it\n{finished}");
    site.cluster.switch_and_archive()?;

    let copy = site.restore("copy", &[])?;
    for (path, is_there) in [
        ("junk", false),
        ("dumps", true),
        ("dumps/file", false),
        ("keep.me", true),
        (&format!("base/{oid}"), true),
    ] {
        ensure!(copy.data().join(path).exists() == is_there, "{path}: expected {is_there}");
    }
    ensure!(
        std::fs::read_dir(copy.data().join(format!("base/{oid}")))?.count() == 0,
        "its database is left out"
    );
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()?;

    let before = labels(&site.pgconvoy, 1)?;
    for needed in ["global/pg_control", "global", "base/", "pg_xact", "pg_wal", "PG_VERSION", "../elsewhere"]
    {
        assert_refused(&site.try_backup(&[&format!("--exclude={needed}")])?, OPTION_VALUE)
            .with_context(|| needed.to_owned())?;
    }
    ensure!(labels(&site.pgconvoy, 1)? == before, "a refused backup was published");
    Ok(())
}

#[test]
fn an_offline_backup_holds_the_wal_of_a_stopped_cluster_and_needs_nothing_else() -> Result<()> {
    let site = Site::start()?;
    assert_refused(&site.try_backup(&["--no-online"])?, PG_RUNNING)?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.stop()?;
    let label = site.backup_label(&["--no-online"])?;
    let wal = wal_in_manifest(&site, &label)?;
    ensure!(wal.iter().any(|(name, _)| is_segment(name)), "{wal:?}");
    assert_refused(&site.try_backup(&["--no-online", "--exclude=pg_wal/"])?, OPTION_VALUE)?;
    site.pgconvoy.run(["verify", "--set", &label])?.ok()?;
    lose_the_archive(&site)?;
    let copy = site.restore("copy", &["--set", &label, "--archive-mode=off"])?;
    for file in ["recovery.signal", "backup_label"] {
        ensure!(!copy.data().join(file).exists(), "{file}: an offline backup needs no recovery");
    }
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn a_crashed_cluster_is_backed_up_as_it_is_only_by_force() -> Result<()> {
    let site = Site::start()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.crash()?;
    assert_refused(&site.try_backup(&["--no-online"])?, PG_RUNNING)?;
    let finished = site.try_backup(&["--no-online", "--force"])?.ok()?;
    ensure!(finished.stderr.contains("not shut down cleanly"), "it warns\n{finished}");
    let report: Json = finished.json()?;
    ensure!(report["lsn"]["start"].is_null() && report["archive"]["stop"].is_null(), "{report}");
    // Its WAL is in the backup, so it recovers as the original would have.
    let copy = site.restore("copy", &["--archive-mode=off"])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn a_repository_gets_no_more_bytes_a_second_than_it_may() -> Result<()> {
    let site = Site::start()?;
    let stored = |report: &Json| report["repos"][0]["bytes-stored"].as_u64().context("bytes-stored");
    let free = stored(&site.backup(&[])?)?;
    // Four seconds for what one repository gets; the other one has no limit.
    let rate = (free / 4) >> 10;
    let limited = site
        .pgconvoy
        .call(["backup", "--type=full", "--output=json"])?
        .env("PGCONVOY_REPO_1_BANDWIDTH_MAX", format!("{rate}KiB"));
    let begin = Instant::now();
    let report = limited.run(limits::LARGE_COMMAND)?.ok()?.json()?;
    let took = begin.elapsed().as_secs_f64();
    let needed = stored(&report)? as f64 / (rate << 10) as f64;
    ensure!(took >= needed - 0.5, "{took} s for what takes {needed} s");
    Ok(())
}

#[test]
fn each_repository_is_compressed_in_its_own_way() -> Result<()> {
    let site = Site::start()?;
    let expected = data::fingerprint(&site.cluster)?;
    let backup = site.pgconvoy.call(["backup", "--type=full", "--output=json"])?;
    let report =
        backup.env("PGCONVOY_REPO_2_COMPRESS_TYPE", "none").run(limits::LARGE_COMMAND)?.ok()?.json()?;
    let stored = |repo: usize| report["repos"][repo]["bytes-stored"].as_u64().context("bytes-stored");
    let read = report["bytes"]["read"].as_u64().context("bytes.read")?;
    ensure!(stored(1)? >= read && stored(0)? * 2 < stored(1)?, "{report}");
    site.pgconvoy.run(["verify"])?.ok()?;
    for number in [1, 2] {
        let copy = site.copy(&format!("copy-{number}"))?;
        let path = format!("--pg-path={}", copy.data().display());
        site.only_repos(&[number])?
            .run(["restore", &path, "--type=immediate", "--target-action=promote"])?
            .ok()?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
    }
    Ok(())
}

#[test]
fn a_restore_takes_most_from_the_repository_that_is_quick() -> Result<()> {
    /// Taken from the slow one alone, a restore takes that many times as long as the rest of its work does.
    const TIMES: u32 = 8;
    let site = Site::start()?;
    let report = site.backup(&["--unit-size=1MiB"])?;
    let stored = report["repos"][0]["bytes-stored"].as_u64().context("bytes-stored")?;
    let restore = |name: &str, rate: Option<u64>| -> Result<(Cluster, Duration)> {
        let copy = site.copy(name)?;
        let target = format!("--pg-path={}", copy.data().display());
        let arguments = ["restore", &target, "--type=immediate", "--target-action=promote"];
        let mut call = site.pgconvoy.call(arguments)?;
        if let Some(rate) = rate {
            call = call.env("PGCONVOY_REPO_1_BANDWIDTH_MAX", format!("{}KiB", rate >> 10));
        }
        let begin = Instant::now();
        let finished = call.run(limits::LARGE_COMMAND)?.ok()?;
        note(format!("{name}: {:?}\n{}", begin.elapsed(), finished.stderr));
        Ok((copy, begin.elapsed()))
    };
    let (_, unlimited) = restore("unlimited", None)?;
    let alone = (unlimited * TIMES).max(Duration::from_secs(30));
    let (copy, took) = restore("limited", Some(stored / alone.as_secs()))?;
    ensure!(took < alone / 2, "{took:?}, where {alone:?} would have been one repository's");
    copy.start_and_recover()?;
    same_data(&copy, &data::fingerprint(&site.cluster)?)
}
