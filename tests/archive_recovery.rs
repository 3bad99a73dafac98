//! Recovery through the spool of archive-get from the only repository there is, which goes away, is damaged, has another
//! key or is slow: PostgreSQL stops where it does not get on, goes on when the cause is mended, and never promotes short
//! of its target.

mod support;

use std::time::Duration;
use support::bad_disk::{BadDisk, Call, Fault};
use support::outage::{OUTAGES, assert_does_not_promote};
use support::repository::name_of;
use support::site::copy_overrides;
use support::wal::SEGMENT_MIB;
use support::{
    Cluster, ClusterOptions, Pgconvoy, Result, Site, SiteOptions, config, damage, data, ensure, limits, note,
};

/// After the backup; each has one row.
const SEGMENTS: usize = 30;
const TARGET: &str = "the-end";
/// An object takes so long, and each of those that tell whose WAL it is.
const SLOW: Duration = Duration::from_millis(300);
/// How PostgreSQL words the exit code that makes it stop.
const EXIT_126: &str = "command not executable";

struct Stage {
    site: Site,
    /// With one repository.
    alone: Pgconvoy,
    expected: String,
    /// What recovery will ask for.
    segments: Vec<String>,
}

impl Stage {
    fn new() -> Result<Stage> {
        let cluster = ClusterOptions { wal_segment_mib: SEGMENT_MIB, ..ClusterOptions::default() };
        let mut site = Site::prepare(&SiteOptions { cluster, ..SiteOptions::default() })?;
        site.scratch.private_dir("log")?;
        site.config = site
            .config
            .clone()
            .backup("archive-async", "true")
            .backup("archive-get-queue-max", "\"3MiB\"")
            .backup("archive-timeout", "\"5s\"");
        site.config.write(&site.scratch.config_file())?;
        site.cluster.start()?;
        site.pgconvoy.run(["stanza-create"])?.ok()?;
        site.cluster.psql("create table step (n int)")?;
        site.backup(&[])?;
        let names = site.cluster.psql(&format!(
            "create temporary table ended (name text);
             do $$ begin
                 for n in 1..{SEGMENTS} loop
                     insert into step values (n);
                     insert into ended select pg_walfile_name(pg_current_wal_insert_lsn());
                     commit;
                     perform pg_switch_wal();
                 end loop;
             end $$;
             select name from ended"
        ))?;
        let mut segments: Vec<String> = names.lines().map(str::to_owned).collect();
        ensure!(segments.len() == SEGMENTS, "{} segments: {names}", segments.len());
        let expected = data::fingerprint(&site.cluster)?;
        site.cluster.psql(&format!(
            "select pg_create_restore_point('{TARGET}'); insert into step values (1000000)"
        ))?;
        segments.push(site.cluster.switch_and_archive()?);
        site.cluster.stop()?;
        let alone = site.only_repos(&[1])?;
        Ok(Stage { site, alone, expected, segments })
    }

    /// A copy that recovers to the target; its restore_command may be another one.
    fn restore(&self, name: &str, restore_command: Option<String>) -> Result<Cluster> {
        let mut overrides = copy_overrides();
        overrides.extend(restore_command.map(|command| format!("restore_command='{command}'")));
        let copy = Cluster::attach(&self.site.scratch, name, overrides)?;
        let path = format!("--pg-path={}", copy.data().display());
        let target = format!("--target={TARGET}");
        self.alone.run(["restore", &path, "--type=name", &target, "--target-action=promote"])?.ok()?;
        // What one copy left is no help to the next.
        let spool = self.site.scratch.join("spool");
        if spool.exists() {
            std::fs::remove_dir_all(&spool)?;
        }
        Ok(copy)
    }

    fn reaches_its_target(&self, copy: &Cluster) -> Result<()> {
        copy.start_and_recover()?;
        support::same_data(copy, &self.expected)?;
        let log = copy.log();
        ensure!(restored(copy) >= SEGMENTS, "it did not ask for all of them\n{log}");
        copy.stop()
    }
}

/// Segments that recovery got so far.
fn restored(copy: &Cluster) -> usize {
    copy.log().matches("restored log file").count()
}

fn stopped_for_want_of(copy: &Cluster, segment: &str) -> Result<()> {
    let log = copy.log();
    let line = format!("could not restore file \"{segment}\" from archive: {EXIT_126}");
    ensure!(log.contains(&line), "it did not stop for want of {segment}\n{log}");
    Ok(())
}

#[test]
fn a_damaged_segment_stops_recovery_right_before_it_until_it_is_healed() -> Result<()> {
    let stage = Stage::new()?;
    for (index, at) in [2, SEGMENTS / 2, SEGMENTS - 1].into_iter().enumerate() {
        let segment = &stage.segments[at];
        let copy = stage.restore(&format!("copy-{index}"), None)?;
        {
            let _wound = damage::flip_bit(&stage.site.repository(1)?.segment(segment)?)?;
            assert_does_not_promote(&copy)?;
            stopped_for_want_of(&copy, segment)?;
            let before = &stage.segments[at - 1];
            ensure!(copy.log().contains(&format!("restored log file \"{before}\"")), "{}", copy.log());
            assert_does_not_promote(&copy)?;
        }
        stage.reaches_its_target(&copy)?;
    }
    Ok(())
}

#[test]
fn with_another_key_recovery_gets_nothing_and_with_the_right_one_all() -> Result<()> {
    let stage = Stage::new()?;
    let copy = stage.restore("copy", None)?;
    let key = stage.site.repos[0].key_file.clone().expect("the repositories are encrypted");
    let right = std::fs::read(&key)?;
    config::write_key(&key, 99)?;
    assert_does_not_promote(&copy)?;
    ensure!(copy.log().contains(EXIT_126), "{}", copy.log());
    assert_eq!(restored(&copy), 0);
    std::fs::write(&key, right)?;
    stage.reaches_its_target(&copy)
}

#[test]
fn a_slow_repository_that_goes_away_in_the_middle_stops_recovery_until_it_is_back() -> Result<()> {
    let stage = Stage::new()?;
    let repository = &stage.site.repos[0].path;
    let disk = BadDisk::below(&stage.site.scratch, repository)?;
    disk.suffers(&[Fault::slow(Call::Read, SLOW)])?;
    for (index, (what, begin)) in OUTAGES.iter().enumerate() {
        note(format!("the repository is {what}"));
        let command = format!(
            "{} --config={} --stanza={} archive-get %f %p",
            disk.program().display(),
            stage.alone.config_file().display(),
            config::STANZA
        );
        let copy = stage.restore(&format!("copy-{index}"), Some(command))?;
        copy.start()?;
        limits::wait_for("some segments", limits::SOON, || Ok((restored(&copy) >= 2).then_some(())))?;
        {
            let _outage = begin(repository)?;
            copy.wait_until_gone(limits::SOON)?;
            let got = restored(&copy);
            ensure!(got < stage.segments.len(), "it had all before the repository went away");
            note(format!("it stopped after {got} segments"));
            copy.was_not_promoted()?;
            ensure!(copy.log().contains(EXIT_126), "{}", copy.log());
            assert_does_not_promote(&copy)?;
        }
        stage.reaches_its_target(&copy)?;
    }
    let segments = stage.site.repository(1)?.segments()?;
    ensure!(segments.iter().any(|path| name_of(path) == stage.segments[0]), "the repository is as it was");
    Ok(())
}
