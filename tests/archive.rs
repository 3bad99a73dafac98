//! WAL into the repositories and back, and the exit codes on which PostgreSQL bases its decision to promote.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::outage::{OUTAGES, assert_does_not_promote};
use support::{
    Cluster, Context, Finished, Pgconvoy, Result, Site, SiteOptions, assert_refused, data, ensure, files,
    limits, note, same_data,
};

const ARCHIVE_DUPLICATE: i32 = 45;
const TABLESPACE_MAP: i32 = 76;
const KNOWN_ABSENT: i32 = 1;
/// PostgreSQL takes every exit up to 125 for "no such file"; above it stops.
const CANNOT_TELL: i32 = 126;
/// How long archive-get asks again in these tests, and how the configuration says it.
const PATIENCE: Duration = Duration::from_secs(3);

fn site(without_data: bool) -> Result<Site> {
    let mut site = Site::start_with(&SiteOptions { without_data, ..SiteOptions::default() })?;
    site.config = site.config.clone().backup("archive-timeout", &format!("\"{}s\"", PATIENCE.as_secs()));
    site.config.write(&site.scratch.config_file())?;
    Ok(site)
}

/// A data directory as archive-get sees it in recovery: pg_control and a signal file.
fn in_recovery(site: &Site, name: &str, signal: &str) -> Result<PathBuf> {
    let data = site.scratch.private_dir(name)?;
    for folder in ["global", "pg_wal"] {
        support::user::private_dir(&data.join(folder))?;
    }
    let copies = ["global/pg_control", "PG_VERSION"];
    for file in copies {
        std::fs::copy(site.cluster.data().join(file), data.join(file))?;
        support::user::give(&data.join(file))?;
    }
    std::fs::write(data.join(signal), "")?;
    Ok(data)
}

/// The name of a segment that nobody has written yet, on the same timeline.
const NEVER_WRITTEN: &str = "00000001000000EE000000EE";

#[test]
fn a_segment_comes_back_as_it_went_and_absence_is_exit_1() -> Result<()> {
    let site = site(true)?;
    let segment = site.cluster.switch_and_archive()?;
    let data = in_recovery(&site, "standby", "recovery.signal")?;
    let destination = data.join("pg_wal/RECOVERYXLOG");
    site.pgconvoy.archive_get(&data, &segment, &destination, &[])?.ok()?;
    let original = site.cluster.data().join("pg_wal").join(&segment);
    assert!(std::fs::read(&destination)? == std::fs::read(&original)?, "the segment came back changed");
    std::fs::remove_file(&destination)?;
    for absent in [NEVER_WRITTEN, "00000009.history"] {
        let started = Instant::now();
        site.pgconvoy.archive_get(&data, absent, &destination, &[])?.with_code(KNOWN_ABSENT)?;
        assert!(started.elapsed() < PATIENCE + limits::SOON);
        assert_eq!(files::walk(&data.join("pg_wal"))?.len(), 0, "nothing is left beside the destination");
    }
    Ok(())
}

#[test]
fn the_same_segment_twice_is_fine_and_a_different_one_is_refused() -> Result<()> {
    let site = site(true)?;
    let segment = site.cluster.switch_and_archive()?;
    let data = site.cluster.data();
    let path = data.join("pg_wal").join(&segment);
    site.pgconvoy.archive_push(data, &path)?.ok()?;
    let original = std::fs::read(&path)?;
    let stored =
        |number| -> Result<Vec<u8>> { Ok(std::fs::read(site.repository(number)?.segment(&segment)?)?) };
    let before = [stored(1)?, stored(2)?];

    let forged = forge(&site, &segment, &original)?;
    assert_refused(&site.pgconvoy.archive_push(data, &forged)?, ARCHIVE_DUPLICATE)?;
    assert!([stored(1)?, stored(2)?] == before, "a stored segment was changed");
    let fetched = site.scratch.join("fetched");
    site.pgconvoy.archive_get(data, &segment, &fetched, &[])?.ok()?;
    assert!(std::fs::read(&fetched)? == original);
    Ok(())
}

/// A segment of the same name and header whose contents differ.
fn forge(site: &Site, segment: &str, original: &[u8]) -> Result<PathBuf> {
    let path = site.scratch.private_dir("forged")?.join(segment);
    let mut bytes = original.to_vec();
    *bytes.last_mut().context("an empty segment")? ^= 1;
    std::fs::write(&path, bytes)?;
    support::user::give(&path)?;
    Ok(path)
}

#[test]
fn repositories_that_disagree_about_a_segment_are_both_refused() -> Result<()> {
    let site = site(true)?;
    let data = site.cluster.data();
    // Kept from the archiver, so that each repository can be given its own.
    site.cluster.psql("alter system set archive_command = '/bin/false'; select pg_reload_conf()")?;
    let segment = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    site.cluster.psql("select txid_current(); select pg_switch_wal()")?;
    let path = data.join("pg_wal").join(&segment);
    let forged = forge(&site, &segment, &std::fs::read(&path)?)?;
    site.only_repos(&[1])?.archive_push(data, &path)?.ok()?;
    let destination = site.scratch.join("fetched");
    let get = |more: &[&str]| site.pgconvoy.archive_get(data, &segment, &destination, more);

    get(&["--repo=2"])?.with_code(KNOWN_ABSENT).context("after restore --repo=2 only 2 is consulted")?;
    get(&["--repo=1"])?.ok()?;
    std::fs::remove_file(&destination)?;

    site.only_repos(&[2])?.archive_push(data, &forged)?.ok()?;
    let finished = get(&[])?;
    ensure!(finished.code.is_some_and(|code| code > KNOWN_ABSENT), "one of two truths was taken\n{finished}");
    assert!(!destination.exists());
    Ok(())
}

#[test]
fn what_archive_get_cannot_tell_is_126_in_archive_recovery_and_below_in_standby_mode() -> Result<()> {
    let site = site(true)?;
    let segment = site.cluster.switch_and_archive()?;
    let alone = site.only_repos(&[1])?;
    let recovery = in_recovery(&site, "recovery", "recovery.signal")?;
    let standby = in_recovery(&site, "standby", "standby.signal")?;
    for (what, begin) in OUTAGES {
        note(format!("repository 1 is {what}"));
        let _outage = begin(&site.repos[0].path)?;
        for name in [segment.as_str(), NEVER_WRITTEN, "00000002.history"] {
            let finished = get(&alone, &recovery, name)?.with_code(CANNOT_TELL)?;
            ensure!(finished.stderr.contains("ERROR: ") && finished.has_hint(), "{finished}");
            ensure!(finished.elapsed >= PATIENCE, "it did not ask again\n{finished}");
            let finished = get(&alone, &standby, name)?;
            ensure!(finished.code.is_some_and(|code| (1..=125).contains(&code)), "{finished}");
        }
        // Absence is known only when everybody could be asked; presence is known from one.
        get(&site.pgconvoy, &recovery, NEVER_WRITTEN)?.with_code(CANNOT_TELL)?;
        get(&site.pgconvoy, &recovery, &segment)?.ok()?;
    }
    get(&alone, &recovery, &segment)?.ok()?;
    Ok(())
}

fn get(pgconvoy: &Pgconvoy, data: &Path, name: &str) -> Result<Finished> {
    pgconvoy.archive_get(data, name, &data.join("pg_wal/RECOVERYXLOG"), &[])
}

#[test]
fn postgresql_never_promotes_while_the_repository_cannot_be_asked() -> Result<()> {
    let site = site(false)?;
    site.backup(&[])?;
    site.cluster.psql("create table later as select generate_series(1, 1000) n")?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    for (index, (what, begin)) in OUTAGES.iter().enumerate() {
        note(format!("both repositories are {what}"));
        let copy = site.restore(&format!("copy-{index}"), &[])?;
        {
            let _first = begin(&site.repos[0].path)?;
            let _second = begin(&site.repos[1].path)?;
            assert_does_not_promote(&copy)?;
        }
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        copy.stop()?;
    }
    Ok(())
}

#[test]
fn a_promoted_copy_archives_its_history_before_its_first_segment() -> Result<()> {
    let site = site(true)?;
    site.backup(&[])?;
    site.cluster.switch_and_archive()?;
    site.cluster.stop()?;
    // The copy takes over: it archives where its original did.
    let copy = Cluster::attach(&site.scratch, "successor", vec!["fsync=off".to_owned()])?;
    site.try_restore(copy.data(), &[])?.ok()?;
    copy.start_and_recover()?;
    let segment = copy.switch_and_archive()?;
    assert!(segment.starts_with("00000002"), "{segment}");
    for name in ["00000002.history", segment.as_str()] {
        let fetched = site.scratch.join(&format!("fetched-{name}"));
        site.pgconvoy.archive_get(copy.data(), name, &fetched, &[])?.ok()?;
        assert!(
            std::fs::read(&fetched)? == std::fs::read(copy.data().join("pg_wal").join(name))?,
            "{name} differs"
        );
    }
    Ok(())
}

#[test]
fn a_tablespace_moved_on_the_same_host_leaves_the_original_untouched() -> Result<()> {
    let site = site(true)?;
    let original = site.scratch.join("original");
    site.cluster.create_tablespace("east", &original)?;
    site.cluster.psql("create table in_east tablespace east as select generate_series(1, 5000) n")?;
    site.backup(&[])?;
    site.cluster.psql("insert into in_east select generate_series(5001, 10000)")?;
    site.cluster.switch_and_archive()?;
    site.cluster.stop()?;
    let before = files::snapshot(&original)?;

    let moved = site.scratch.private_dir("moved")?;
    let copy = site.restore("copy", &[&format!("--tablespace-map=east={}", moved.display())])?;
    let stored_map = std::fs::read_to_string(copy.data().join("tablespace_map")).unwrap_or_default();
    ensure!(
        !stored_map.contains(&original.display().to_string()),
        "the stored map would relink:\n{stored_map}"
    );
    copy.start_and_recover()?;
    copy.psql(
        "update in_east set n = n + 1; checkpoint; create table another (n int) tablespace east; checkpoint",
    )?;
    assert_eq!(copy.psql("select count(*) from in_east")?, "10000");
    assert_eq!(
        copy.psql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 'east'")?,
        moved.display().to_string()
    );
    copy.stop()?;
    let changed = files::changes(&before, &files::snapshot(&original)?);
    ensure!(changed.is_empty(), "the copy wrote into its original: {changed:?}");
    site.cluster.start()?;
    assert_eq!(site.cluster.psql("select count(*) from in_east")?, "10000");
    Ok(())
}

#[test]
fn a_tablespace_created_after_the_backup_needs_force_where_its_path_exists() -> Result<()> {
    let site = site(true)?;
    site.backup(&[])?;
    let original = site.scratch.join("original");
    site.cluster.create_tablespace("later", &original)?;
    site.cluster.psql("create table in_later tablespace later as select generate_series(1, 5000) n")?;
    site.cluster.switch_and_archive()?;
    site.cluster.stop()?;
    let before = files::snapshot(&original)?;

    let copy = site.copy("copy")?;
    let finished = site.try_restore(copy.data(), &[])?;
    ensure!(
        finished.code.is_some_and(|code| (1..126).contains(&code)),
        "its replay would reach the original\n{finished}"
    );
    ensure!(
        finished.stderr.contains(&original.display().to_string()),
        "the location is not named\n{finished}"
    );
    ensure!(
        finished.has_hint() && finished.stderr.contains("--force"),
        "the hint does not name --force\n{finished}"
    );
    assert!(!copy.data().join("global/pg_control").exists());

    // Up to the backup's end nothing creates it.
    let early = site.restore("early", &["--type=immediate", "--target-action=promote"])?;
    early.start_and_recover()?;
    early.stop()?;
    let changed = files::changes(&before, &files::snapshot(&original)?);
    ensure!(changed.is_empty(), "the copy wrote into its original: {changed:?}");
    Ok(())
}

/// What PostgreSQL says now.
fn said(site: &Site, what: &str) -> Result<String> {
    Ok(site.cluster.psql(&format!("select {what}"))?.trim().to_owned())
}

#[test]
fn a_target_before_a_tablespace_was_created_needs_no_force() -> Result<()> {
    let site = site(true)?;
    site.backup(&[])?;
    site.cluster.psql("create table before as select 1 as n; select pg_create_restore_point('before')")?;
    let (moment, position) = (said(&site, "clock_timestamp()")?, said(&site, "pg_current_wal_insert_lsn()")?);
    // The transaction that ends behind the moment is where replay to it ends.
    let number = site.cluster.psql("begin; create table stop (n int); select txid_current(); commit")?;
    site.cluster.create_tablespace("later", &site.scratch.join("original"))?;
    site.cluster.psql("create table in_later tablespace later as select 1 as n")?;
    let (late, end) = (said(&site, "clock_timestamp()")?, said(&site, "pg_current_wal_insert_lsn()")?);
    site.cluster.switch_and_archive()?;
    site.cluster.stop()?;

    let refused = site.scratch.join("refused");
    let (late, position_of_ours) = (format!("--target={late}"), format!("--target={position}"));
    // PostgreSQL obeys the user's own setting.
    let own = format!("--recovery-option=recovery_target_lsn={end}");
    let refused_targets: [&[&str]; 3] = [
        &["--type=time", &late],
        &["--type=name", "--target=nobody-made-it"],
        &["--type=lsn", &position_of_ours, &own],
    ];
    for target in refused_targets {
        let finished = site.try_restore(&refused, target)?;
        assert_refused(&finished, TABLESPACE_MAP).with_context(|| format!("{target:?}"))?;
    }
    let targets = [("time", moment.as_str()), ("lsn", &position), ("name", "before"), ("xid", number.trim())];
    for (kind, target) in targets {
        let (kind_option, target_option) = (format!("--type={kind}"), format!("--target={target}"));
        let options = [kind_option.as_str(), &target_option, "--target-action=promote"];
        let copy = site.restore(kind, &options).with_context(|| format!("{kind} {target}"))?;
        copy.start_and_recover()?;
        let tables = copy.psql("select relname from pg_class where relname in ('before', 'in_later')")?;
        assert_eq!(tables.trim(), "before", "{kind}");
        copy.stop()?;
    }
    Ok(())
}

#[test]
fn new_tablespaces_are_found_in_wal_that_only_another_repository_has() -> Result<()> {
    let site = site(true)?;
    site.backup(&[])?;
    site.cluster.create_tablespace("later", &site.scratch.join("original"))?;
    let segment = site.cluster.switch_and_archive()?;
    site.cluster.stop()?;
    let target = site.scratch.join("target");
    let of = |repository: usize| {
        site.repos[repository].path.join("main/wal/15-1").join(&segment[..16]).join(&segment)
    };
    std::fs::remove_file(of(0))?;
    assert_refused(&site.try_restore(&target, &[])?, TABLESPACE_MAP).context("the first one lacks it")?;
    let mut stored = std::fs::read(of(1))?;
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    std::fs::write(of(0), &stored)?;
    support::user::give(&of(0))?;
    assert_refused(&site.try_restore(&target, &[])?, TABLESPACE_MAP).context("the first one is damaged")?;
    ensure!(!target.join("global/pg_control").exists(), "something was restored");
    Ok(())
}
