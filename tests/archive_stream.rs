//! WAL that a worker streams: what is in the repositories when a host dies in the middle of a segment.

mod support;

use std::path::PathBuf;
use std::time::Duration;
use support::fleet::{Fleet, FleetOptions};
use support::wal::SEGMENT_MIB;
use support::{
    Cluster, ClusterOptions, Context, Result, Site, SiteOptions, anyhow, ensure, files, limits, note,
};

const TABLESPACE_MAP: i32 = 76;
const SLOT: &str = "pgconvoy_main";
/// A second of commits is lost with a host; the rest is for a machine that has other things to do.
const LOSS_MAX: Duration = Duration::from_secs(5);
/// How long commits are made.
const LOAD: Duration = Duration::from_secs(8);

struct Streamed {
    fleet: Fleet,
    site: Site,
}

fn start(options: SiteOptions, more: &[(&str, &str)]) -> Result<Streamed> {
    let mut site = Site::start_with(&options)?;
    site.backup(&[])?;
    site.config = site.config.clone().backup("archive-stream", "true");
    for (key, value) in more {
        site.config = site.config.clone().backup(key, value);
    }
    let one_of_each = FleetOptions { coordinators: 1, workers: 1, ..FleetOptions::default() };
    let fleet = Fleet::start(&site, &one_of_each)?;
    let streamed = Streamed { fleet, site };
    streamed.await_stream()?;
    Ok(streamed)
}

impl Streamed {
    /// Until everything that is written now is durable in every required repository.
    fn await_stream(&self) -> Result<()> {
        self.await_stream_of(&self.site.cluster)
    }

    fn await_stream_of(&self, cluster: &Cluster) -> Result<()> {
        let written = cluster.psql("select pg_current_wal_lsn()")?;
        let query = format!(
            "select count(*) from pg_replication_slots where slot_name = '{SLOT}' and active and restart_lsn >= '{written}'"
        );
        limits::wait_for("the stream", limits::SOON, || Ok((cluster.psql(&query)? == "1").then_some(())))
            .with_context(|| self.fleet.workers[0].said().unwrap_or_default())
    }

    fn parts(&self, repository: usize) -> Result<Vec<String>> {
        let found = files::walk(&self.site.repos[repository].path)?.into_iter();
        let names = found.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(names.filter(|name| name.contains(".partial-") && !name.starts_with('.')).collect())
    }

    /// The host is gone at once: the postmaster and the worker together.
    fn kill_host(&mut self) -> Result<()> {
        let text = std::fs::read_to_string(self.site.cluster.data().join("postmaster.pid"))?;
        let id = text.lines().next().context("an empty postmaster.pid")?.trim().parse()?;
        let id = rustix::process::Pid::from_raw(id).context("no process number")?;
        rustix::process::kill_process(id, rustix::process::Signal::KILL)?;
        self.fleet.workers[0].kill()
    }

    /// The repositories' folders are away.
    fn hide_repository(&self, number: usize) -> Result<PathBuf> {
        let away = self.site.repos[number].path.with_extension("away");
        std::fs::rename(&self.site.repos[number].path, &away)?;
        Ok(away)
    }
}

#[test]
fn a_host_that_dies_takes_about_a_second_of_commits_with_it() -> Result<()> {
    let mut streamed = start(SiteOptions::default(), &[])?;
    let cluster = &streamed.site.cluster;
    cluster.psql("create table commits (n bigserial, at timestamptz not null)")?;
    let script = streamed.site.scratch.join("commit.sql");
    std::fs::write(&script, "insert into commits (at) values (clock_timestamp());\n")?;
    let seconds = limits::COMMAND.as_secs().to_string();
    let load = cluster
        .client("pgbench")?
        .args(["-n", "-c", "1", "-R", "100", "-T", &seconds, "-f"])
        .arg(&script)
        .arg("postgres")
        .start()?;
    let loaded = format!(
        "select max(at) - min(at) > interval '{} s' from commits having count(*) > 0",
        LOAD.as_secs()
    );
    limits::wait_for("commits", limits::SOON, || Ok((cluster.psql(&loaded)? == "t").then_some(())))?;
    streamed.kill_host()?;
    drop(load);
    for number in 0..2 {
        ensure!(!streamed.parts(number)?.is_empty(), "repository {} has no parts", number + 1);
    }
    let site = &streamed.site;
    let mut last = Vec::new();
    for number in ["1", "2"] {
        let copy = site.restore(&format!("copy{number}"), &[&format!("--repo={number}")])?;
        copy.start_and_recover()?;
        ensure!(copy.psql("select count(*) = max(n) from commits")? == "t", "commits are missing in between");
        last.push(copy.psql("select max(at) from commits")?);
        copy.stop()?;
    }
    // The host comes back, and tells what was committed.
    limits::wait_for("start of the original", limits::SERVER, || Ok(site.cluster.start().ok()))?;
    for (number, last) in (1..).zip(last) {
        let lost = site.cluster.psql(&format!(
            "select extract(epoch from max(at) - '{last}'), count(*) filter (where at > '{last}') from commits"
        ))?;
        let (span, count) = lost.split_once('|').with_context(|| lost.clone())?;
        note(format!("repository {number}: the last {count} commits are missing, of {span} s"));
        ensure!(span.parse::<f64>()? <= LOSS_MAX.as_secs_f64(), "too much is lost: {lost}");
    }
    Ok(())
}

#[test]
fn a_worker_that_comes_back_goes_on_and_parts_leave_when_segments_come() -> Result<()> {
    let mut streamed = start(SiteOptions { without_data: true, ..SiteOptions::default() }, &[])?;
    streamed.site.cluster.psql("create table one as select generate_series(1, 1000) n")?;
    streamed.await_stream()?;
    ensure!(!streamed.parts(0)?.is_empty() && !streamed.parts(1)?.is_empty(), "there are no parts");
    streamed.site.pgconvoy.run(["verify"])?.ok().context("verify takes a part for a fault")?;
    streamed.site.pgconvoy.run(["info"])?.ok()?;
    streamed.fleet.workers[0].kill()?;
    let site = &streamed.site;
    site.cluster.psql("create table two as select generate_series(1, 1000) n")?;
    streamed.fleet.workers[0].start()?;
    streamed.await_stream()?;
    let site_cluster = &streamed.site.cluster;
    for _ in 0..3 {
        site_cluster.switch_and_archive()?;
        site_cluster.psql("insert into two select generate_series(1, 1000)")?;
    }
    streamed.await_stream()?;
    let current = site_cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    limits::wait_for("only parts of the current segment", limits::SOON, || {
        let parts = [streamed.parts(0)?, streamed.parts(1)?].concat();
        Ok(parts.iter().all(|part| part.starts_with(&current)).then_some(()))
    })?;
    // Both ways met, and neither found anything but its own.
    ensure!(site_cluster.psql("select failed_count from pg_stat_archiver")? == "0", "{}", site_cluster.log());
    let said = streamed.fleet.workers[0].said()?;
    ensure!(!said.contains("does not take streamed WAL"), "{said}");
    streamed.site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

#[test]
fn a_repository_that_is_away_holds_back_neither_the_other_nor_the_servers_disk_nor_its_end() -> Result<()> {
    let cluster = ClusterOptions { wal_segment_mib: SEGMENT_MIB, ..ClusterOptions::default() };
    let options = SiteOptions { cluster, without_data: true, ..SiteOptions::default() };
    let streamed = start(options, &[("archive-stream-retain-max", "\"16MiB\"")])?;
    let away = streamed.hide_repository(1)?;
    let cluster = &streamed.site.cluster;
    for _ in 0..20 {
        cluster.psql("select txid_current(); select pg_switch_wal()")?;
    }
    streamed.fleet.workers[0].await_log("it is dropped, and streaming begins anew")?;
    let current = cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    cluster.psql("create table meanwhile (n int)")?;
    limits::wait_for("parts in the other repository", limits::SOON, || {
        Ok(streamed.parts(0)?.iter().any(|part| part.starts_with(&current)).then_some(()))
    })?;
    cluster.stop().context("the server does not end")?;
    std::fs::rename(away, &streamed.site.repos[1].path)?;
    cluster.start()?;
    streamed.await_stream()
}

/// Where the archive goes on, ending early would lose what is archived.
#[test]
fn parts_are_no_end_where_there_is_later_wal() -> Result<()> {
    let streamed = start(SiteOptions { without_data: true, ..SiteOptions::default() }, &[])?;
    let site = &streamed.site;
    site.cluster.psql("create table one as select generate_series(1, 1000) n")?;
    streamed.await_stream()?;
    let segment = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    let copy = site.restore("copy", &[])?;
    let destination = copy.data().join("pg_wal/RECOVERYXLOG");
    let get = || site.pgconvoy.archive_get(copy.data(), &segment, &destination, &[]);
    get()?.ok().context("the end of the archive is not handed out")?;
    let handed_out = std::fs::read(&destination)?;
    ensure!(handed_out.len() == 16 << 20, "{} bytes", handed_out.len());
    let original = std::fs::read(site.cluster.data().join("pg_wal").join(&segment))?;
    let same = handed_out.iter().zip(&original).take_while(|(one, other)| one == other).count();
    ensure!(handed_out[same..].iter().all(|byte| *byte == 0), "what follows is no padding");
    std::fs::remove_file(&destination)?;

    let later = format!("{}{:08X}", &segment[..16], u32::from_str_radix(&segment[16..], 16)? + 5);
    let like = streamed.parts(0)?.first().map(|name| name.split('.').next().unwrap_or_default().to_owned());
    let like = like.ok_or_else(|| anyhow!("there are no parts"))?;
    ensure!(like == segment, "{like} is not {segment}");
    let folder = site.repos[0].path.join("main/wal/15-1").join(&segment[..16]);
    let before = files::walk(&folder)?;
    std::fs::copy(&before[0], folder.join(later))?;
    get()?.with_code(1).context("it is handed out though the archive goes on")?;
    ensure!(!destination.exists(), "it lies there");
    Ok(())
}

#[test]
fn a_restore_looks_for_new_tablespaces_in_what_was_streamed() -> Result<()> {
    let streamed = start(SiteOptions { without_data: true, ..SiteOptions::default() }, &[])?;
    let site = &streamed.site;
    site.cluster.create_tablespace("later", &site.scratch.join("later"))?;
    streamed.await_stream()?;
    let target = site.scratch.join("refused");
    support::assert_refused(&site.try_restore(&target, &[])?, TABLESPACE_MAP)?;
    site.try_restore(&target, &["--type=immediate"])?.ok()?;
    Ok(())
}

/// Nothing but the stream brings its WAL into the archive, the history of the new timeline included.
#[test]
fn a_copy_that_took_over_is_streamed_on_a_timeline_of_its_own() -> Result<()> {
    let mut streamed = start(SiteOptions { without_data: true, ..SiteOptions::default() }, &[])?;
    streamed.site.cluster.psql("create table kept (who text); insert into kept values ('original')")?;
    streamed.await_stream()?;
    let switched = streamed.site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    streamed.kill_host()?;

    let heir = streamed.site.restore("heir", &[])?;
    heir.start_and_recover()?;
    let config = streamed.site.config.clone().for_cluster(&heir);
    streamed.fleet.configure_worker(&streamed.site, 0, &config)?;
    streamed.fleet.workers[0].start()?;
    heir.psql("insert into kept values ('heir')")?;
    streamed.await_stream_of(&heir)?;
    heir.crash()?;
    streamed.fleet.workers[0].kill()?;

    let site = &streamed.site;
    for number in ["1", "2"] {
        let copy = site.restore(&format!("copy{number}"), &[&format!("--repo={number}")])?;
        let refused = site.pgconvoy.archive_get(copy.data(), &switched, &site.scratch.join("old"), &[])?;
        refused.with_code(1).context("the old timeline is no end any more")?;
        copy.start_and_recover()?;
        assert_eq!(copy.psql("select string_agg(who, ' ' order by who) from kept")?, "heir original");
        copy.stop()?;
    }
    Ok(())
}

/// The worker beside the standby waits while the primary is streamed, and goes on where that ends.
#[test]
fn a_standby_that_is_promoted_is_streamed_from_then_on() -> Result<()> {
    let mut streamed = start(SiteOptions { without_data: true, ..SiteOptions::default() }, &[])?;
    let site = &streamed.site;
    let standby = site.standby("standby", support::site::copy_overrides())?;
    let beside = site.config.clone().for_cluster(&standby);
    let mut worker = streamed.fleet.worker(site, 1, &beside)?;
    worker.start()?;
    streamed.fleet.await_workers(2)?;
    site.cluster.psql("create table kept (who text); insert into kept values ('primary')")?;
    streamed.await_stream()?;
    let slots = "select count(*) from pg_replication_slots";
    ensure!(standby.psql(slots)? == "0", "nothing is streamed from a standby");
    limits::wait_for("the standby's replay", limits::RECOVERY, || {
        Ok((standby.psql("select count(*) from pg_class where relname = 'kept'")? == "1").then_some(()))
    })?;
    let left = streamed.site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    streamed.kill_host()?;

    standby.psql("select pg_promote()")?;
    standby.psql("insert into kept values ('standby')")?;
    streamed.await_stream_of(&standby)?;
    standby.crash()?;
    worker.kill()?;

    let site = &streamed.site;
    for number in ["1", "2"] {
        let copy = site.restore(&format!("copy{number}"), &[&format!("--repo={number}")])?;
        let refused = site.pgconvoy.archive_get(copy.data(), &left, &site.scratch.join("old"), &[])?;
        refused.with_code(1).context("the old timeline is no end any more")?;
        copy.start_and_recover()?;
        assert_eq!(copy.psql("select string_agg(who, ' ' order by who) from kept")?, "primary standby");
        copy.stop()?;
    }
    Ok(())
}
