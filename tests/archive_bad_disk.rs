//! A real PostgreSQL archives a thousand segments while one of two repositories lies on a bad disk: every object there takes
//! a second, or one object in five fails. Nothing is lost, whatever the order, and what the bad repository missed it
//! gets when its disk is mended.
//!
//! Shown for a slow repository: one that nobody requires, with the usual number of processes, so that a thousand objects
//! would take it more than five minutes; the pushes must be done long before. A slow one that is required sets
//! the pace by its nature: that this is its pace with all its lanes in use, and not one segment after another, is shown
//! with fewer segments. For a failing one: both forms. Segments have the smallest size, 1 MiB.

mod support;

use rustix::io::Errno;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::bad_disk::{BadDisk, Call, Fault};
use support::repository::name_of;
use support::wal::SEGMENT_MIB;
use support::{ClusterOptions, Result, Site, SiteOptions, config, ensure, limits, note};

const SEGMENTS: usize = 1000;
/// An object of the slow repository takes so long.
const SLOW: Duration = Duration::from_secs(1);

struct Stage {
    site: Site,
    /// Repository 2 lies on it.
    disk: BadDisk,
}

impl Stage {
    /// A server that archives through the bad disk, which has no faults yet.
    fn new(second_required: bool, processes: usize) -> Result<Stage> {
        let cluster = ClusterOptions {
            wal_segment_mib: SEGMENT_MIB,
            settings: vec!["wal_init_zero = off".to_owned()],
            ..ClusterOptions::default()
        };
        let mut site = Site::prepare(&SiteOptions { cluster, ..SiteOptions::default() })?;
        site.repos[1].required = second_required;
        site.scratch.private_dir("log")?;
        site.config = site
            .config
            .clone()
            .repos(&site.repos)
            .backup("archive-async", "true")
            .backup("process-max", &processes.to_string());
        site.config.write(&site.scratch.config_file())?;
        let disk = BadDisk::below(&site.scratch, &site.repos[1].path)?;
        site.cluster.start()?;
        site.pgconvoy.run(["stanza-create"])?.ok()?;
        site.cluster.psql(&format!(
            "alter system set archive_command = '{} --config={} --stanza={} archive-push %p'; select pg_reload_conf()",
            disk.program().display(),
            site.scratch.config_file().display(),
            config::STANZA
        ))?;
        site.cluster.switch_and_archive()?;
        Ok(Stage { site, disk })
    }

    /// Ends so many segments, and names them.
    fn segments(&self, count: usize) -> Result<Vec<String>> {
        let names = self.site.cluster.psql(&format!(
            "create temporary table ended (name text);
             do $$ begin
                 for n in 1..{count} loop
                     perform pg_logical_emit_message(false, 'a segment', n::text);
                     insert into ended select pg_walfile_name(pg_current_wal_insert_lsn());
                     perform pg_switch_wal();
                 end loop;
             end $$;
             select name from ended"
        ))?;
        let names: Vec<String> = names.lines().map(str::to_owned).collect();
        let different: BTreeSet<&String> = names.iter().collect();
        ensure!(different.len() == count, "{} segments for {count}", different.len());
        Ok(names)
    }

    fn archiver(&self, field: &str) -> Result<String> {
        self.site.cluster.psql(&format!("select {field} from pg_stat_archiver"))
    }

    fn failed(&self) -> Result<usize> {
        Ok(self.archiver("failed_count")?.parse()?)
    }

    fn held(&self, number: u16) -> Result<BTreeSet<String>> {
        Ok(self.site.repository(number)?.segments()?.iter().map(|path| name_of(path)).collect())
    }

    fn missing(&self, number: u16, names: &[String]) -> Result<Vec<String>> {
        let held = self.held(number)?;
        Ok(names.iter().filter(|name| !held.contains(*name)).cloned().collect())
    }

    fn wait_until_archived(&self, names: &[String]) -> Result<()> {
        let last = names.iter().max().map(String::as_str).unwrap_or_default();
        self.site.cluster.wait_until_archived(last)
    }

    /// Nothing is lost: both have each of them, and all that they have can be read.
    fn both_get_all(&self, names: &[String]) -> Result<()> {
        ensure!(self.missing(1, names)?.is_empty(), "repository 1 lacks {:?}", self.missing(1, names)?);
        limits::wait_for("the backlog of repository 2", limits::COMMAND, || {
            Ok(self.missing(2, names)?.is_empty().then_some(()))
        })?;
        for number in [1, 2] {
            self.site.only_repos(&[number])?.run(["verify"])?.ok()?;
        }
        let archived: usize = self.archiver("archived_count")?.parse()?;
        ensure!(archived >= names.len(), "PostgreSQL counts {archived}");
        Ok(())
    }
}

#[test]
fn a_thousand_segments_do_not_wait_for_a_slow_repository_that_nobody_needs() -> Result<()> {
    let stage = Stage::new(false, 2)?;
    stage.disk.suffers(&[Fault::slow(Call::Name, SLOW)])?;
    let begun = Instant::now();
    let names = stage.segments(SEGMENTS)?;
    stage.wait_until_archived(&names)?;
    let behind = stage.missing(2, &names)?.len();
    note(format!("archived after {:?}, {behind} of them not by the slow one", begun.elapsed()));
    ensure!(behind > SEGMENTS / 2, "it was hardly slow: it lacks {behind}");
    assert_eq!(stage.failed()?, 0, "slow is no failure");
    stage.disk.mend()?;
    stage.both_get_all(&names)?;
    note(format!("in both after {:?}", begun.elapsed()));
    Ok(())
}

#[test]
fn a_slow_repository_that_is_required_gets_as_many_segments_at_once_as_it_has_lanes() -> Result<()> {
    const FEW: usize = 120;
    const PROCESSES: usize = 8;
    let stage = Stage::new(true, PROCESSES)?;
    stage.disk.suffers(&[Fault::slow(Call::Name, SLOW)])?;
    let begun = Instant::now();
    let names = stage.segments(FEW)?;
    limits::wait_for("the first segments", limits::SOON, || {
        let last = stage.archiver("last_archived_wal")?;
        let counted: Vec<String> = names.iter().filter(|name| **name <= last).cloned().collect();
        ensure!(stage.missing(2, &counted)?.is_empty(), "counted and not there: {counted:?}");
        Ok((counted.len() > FEW / 4).then_some(()))
    })?;
    stage.wait_until_archived(&names)?;
    let elapsed = begun.elapsed();
    note(format!("archived after {elapsed:?}"));
    // In eight lanes it takes an eighth of the time that they take one after another; twice that is allowed.
    ensure!(elapsed < SLOW * u32::try_from(2 * FEW / PROCESSES)?, "they went one after another");
    ensure!(stage.missing(2, &names)?.is_empty(), "it counts as archived, and one of two lacks it");
    assert_eq!(stage.failed()?, 0, "slow is no failure");
    stage.disk.mend()?;
    stage.both_get_all(&names)
}

/// In three places, of which each fails for one object in fifteen, and what is said of it. Directories are synced too, so
/// that is two calls.
const ONE_IN_FIVE: [(Call, u32, Errno, &str); 3] = [
    (Call::Create, 15, Errno::ACCESS, "permission denied"),
    (Call::Sync, 31, Errno::IO, "Input/output error"),
    (Call::Name, 16, Errno::NOSPC, "no space is left"),
];

fn failing_one_in_five() -> Vec<Fault> {
    ONE_IN_FIVE.iter().map(|(call, every, error, _)| Fault::failing(*call, *every, *error)).collect()
}

#[test]
fn a_thousand_segments_reach_a_required_repository_that_fails_one_in_five() -> Result<()> {
    let stage = Stage::new(true, 2)?;
    stage.disk.suffers(&failing_one_in_five())?;
    let names = stage.segments(SEGMENTS)?;
    limits::wait_for("all segments", limits::COMMAND, || {
        let last = stage.archiver("last_archived_wal")?;
        let counted: Vec<String> = names.iter().filter(|name| **name <= last).cloned().collect();
        ensure!(stage.missing(2, &counted)?.is_empty(), "counted and not there: {counted:?}");
        Ok((counted.len() == SEGMENTS).then_some(()))
    })?;
    note(format!("PostgreSQL saw {} of the failures", stage.failed()?));
    stage.has_failed()?;
    stage.both_get_all(&names)
}

#[test]
fn what_a_repository_that_nobody_needs_missed_by_failing_one_in_five_it_gets_when_it_is_mended() -> Result<()>
{
    let stage = Stage::new(false, 2)?;
    stage.disk.suffers(&failing_one_in_five())?;
    let names = stage.segments(SEGMENTS)?;
    stage.wait_until_archived(&names)?;
    note(format!("it lacks {} segments", stage.missing(2, &names)?.len()));
    assert_eq!(stage.failed()?, 0, "nobody needs it");
    stage.has_failed()?;
    stage.disk.mend()?;
    stage.both_get_all(&names)
}

impl Stage {
    /// The faults were real: the background process tells of many, in each of the three places.
    fn has_failed(&self) -> Result<()> {
        let log = std::fs::read_to_string(self.site.scratch.join("log/main-archive-push.log"))?;
        for (.., text) in ONE_IN_FIVE {
            let count = log.lines().filter(|line| line.contains("repo 2") && line.contains(text)).count();
            ensure!(count > SEGMENTS / 50, "only {count} times '{text}'");
        }
        Ok(())
    }
}
