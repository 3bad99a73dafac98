//! A backup that is read from a primary and its standbys together, each with a worker of its own, and what becomes of it when one of
//! them turns into something else.

mod support;

use rustix::process::Signal;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;
use support::fleet::{Fleet, FleetOptions};
use support::middle::{SLOW, is_done, restores_from_each, site, source_of};
use support::site::copy_overrides;
use support::units::in_manifest;
use support::{Cluster, Context, Json, Random, Result, Site, data, ensure, limits, note, same_data};

const PREFER: &str = "--backup-standby=prefer";

/// A primary and two standbys that stream from it, each with the worker that has its number.
struct Copies {
    site: Site,
    standbys: Vec<Cluster>,
    fleet: Fleet,
}

impl Copies {
    fn start(bandwidth_max: &str) -> Result<Copies> {
        let site = site()?;
        site.backup(&[])?;
        let standbys = vec![standby(&site, "first")?, standby(&site, "second")?];
        let options = FleetOptions {
            workers: 3,
            coordinators: 1,
            bandwidth_max: Some(bandwidth_max.to_owned()),
            with_network: true,
            ..FleetOptions::default()
        };
        let mut fleet = Fleet::prepare(&site, &options)?;
        for (number, standby) in standbys.iter().enumerate() {
            fleet.configure_worker(&site, number + 1, &site.config.clone().for_cluster(standby))?;
        }
        fleet.start_all()?;
        Ok(Copies { site, standbys, fleet })
    }

    fn begin(&self) -> Result<String> {
        self.fleet.submit_backup(&[&SLOW[..], &[PREFER]].concat())
    }

    /// Waits until that worker has so many of the job's units done.
    fn await_units_of(&self, id: &str, worker: usize, count: usize) -> Result<()> {
        let name = &self.fleet.workers[worker].name;
        limits::wait_for(&format!("{count} units of {name}"), limits::COMMAND, || {
            let units = self.fleet.units(&self.site, id)?;
            let theirs = units.iter().filter(|unit| unit.is_done && unit.worker == *name).count();
            Ok((theirs >= count).then_some(()))
        })
    }

    fn ends_whole(&self, id: &str) -> Result<Json> {
        let end = self.fleet.await_end(id)?;
        is_done(&end)?;
        let copy =
            self.site.restore(&format!("copy-{id}"), &["--type=immediate", "--target-action=promote"])?;
        copy.start_and_recover()?;
        same_data(&copy, &data::fingerprint(&self.site.cluster)?)?;
        checked_by_pg_amcheck(&copy)?;
        copy.stop()?;
        Ok(end)
    }

    /// The standby with that number stands as it did at first, and so does its worker.
    fn mend(&mut self, number: usize) -> Result<()> {
        let standby = &self.standbys[number];
        if standby.is_running() {
            standby.stop()?;
        }
        std::fs::remove_dir_all(standby.data())?;
        self.site.make_standby(standby)?;
        self.fleet.await_workers(3)
    }
}

fn standby(site: &Site, name: &str) -> Result<Cluster> {
    site.standby(name, copy_overrides())
}

fn checked_by_pg_amcheck(copy: &Cluster) -> Result<()> {
    copy.psql("create extension if not exists amcheck")?;
    copy.client("pg_amcheck")?.args(["--all", "--install-missing"]).run(limits::COMMAND)?.ok()?;
    Ok(())
}

#[test]
fn a_backup_is_read_from_a_primary_and_two_standbys_at_once_while_everything_changes() -> Result<()> {
    let copies = Copies::start("2MiB")?;
    let load = copies.site.cluster.load(2, 40)?;
    let id = copies.begin()?;
    let end = copies.fleet.await_end(&id)?;
    is_done(&end)?;
    load.kill_and_wait()?;
    let label = end["label"].as_str().context("a label")?;
    for repo in [1, 2] {
        let workers: Vec<String> = in_manifest(&copies.site, repo, label)?.into_values().collect();
        let share = |name: &str| workers.iter().filter(|worker| *worker == name).count();
        let shares = ["worker-0", "worker-1", "worker-2"].map(share);
        note(format!("units of the primary's worker and of the two standbys': {shares:?}"));
        ensure!(shares.iter().all(|units| *units * 6 >= workers.len()), "no even shares: {shares:?}");
    }
    let expected = data::fingerprint(&copies.site.cluster)?;
    copies.site.cluster.switch_and_archive()?;
    let copy = copies.site.restore("copy", &[])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    checked_by_pg_amcheck(&copy)?;
    copies.site.pgconvoy.run(["verify"])?.ok()?;

    // With y the primary's worker reads nothing that a standby has.
    let arguments = ["--type=incr", "--delta", "--backup-standby=y", "--detach"];
    let finished = copies.fleet.client.run(["backup"].iter().chain(&arguments))?.ok()?;
    let end = copies.fleet.await_end(finished.stdout.trim())?;
    is_done(&end)?;
    let names = in_files(&copies.site, end["label"].as_str().context("a label")?, "worker-0")?;
    ensure!(!names.is_empty(), "pg_control comes from the primary");
    let from_primary: Vec<&String> = names.iter().filter(|name| name.starts_with("base/")).collect();
    ensure!(
        from_primary.iter().all(|name| name.contains("pg_filenode.map") || name.contains("PG_VERSION")),
        "{from_primary:?}"
    );
    Ok(())
}

/// Pages are damaged on the disk of the second standby, and nowhere else.
#[test]
fn pages_that_are_damaged_on_one_server_are_taken_from_another_one() -> Result<()> {
    const PAGE: u64 = 8192;
    let copies = Copies::start("4MiB")?;
    let standby = &copies.standbys[1];
    let path = standby.psql("select pg_relation_filepath('pgbench_accounts')")?;
    standby.stop()?;
    let file = std::fs::OpenOptions::new().write(true).open(standby.data().join(&path))?;
    let pages = file.metadata()?.len() / PAGE;
    for page in (0..pages).step_by(16) {
        file.write_all_at(b"lost", page * PAGE + PAGE / 2)?;
    }
    drop(file);
    standby.start()?;
    let id = copies.begin()?;
    let end = copies.ends_whole(&id)?;
    let log = copies.fleet.coordinators[0].said()?;
    ensure!(log.contains("are damaged where worker worker-2 reads: another server is asked"), "{log}");
    ensure!(log.contains("that are damaged where worker worker-2 reads are intact where worker"), "{log}");
    let set = format!("--set={}", end["label"].as_str().context("a label")?);
    let info = copies.site.pgconvoy.run(["info", "--output=json", &set])?.ok()?.json()?;
    ensure!(info[0]["backup"][0]["error"] == false, "{info}");
    Ok(())
}

/// Files that this worker has read for this backup.
fn in_files(site: &Site, label: &str, worker: &str) -> Result<BTreeSet<String>> {
    let set = format!("--set={label}");
    let manifest = site.only_repos(&[1])?.run(["manifest", "--output=json", &set])?.ok()?.json()?;
    let mut names = BTreeSet::new();
    for file in manifest["file"].as_array().context("files of the manifest")? {
        let ranges = file["range"].as_array().context("ranges of a file")?;
        let is_its = |range: &Json| {
            let pack = range["pack"].as_str().unwrap_or_default();
            range["worker"] == worker && pack.starts_with(label)
        };
        if ranges.iter().any(is_its) {
            names.insert(file["name"].as_str().context("a name")?.to_owned());
        }
    }
    Ok(names)
}

#[test]
fn whatever_becomes_of_a_standby_in_mid_backup_the_backup_ends_whole() -> Result<()> {
    let mut copies = Copies::start("1536KiB")?;

    note("the first standby is promoted");
    let id = copies.begin()?;
    copies.await_units_of(&id, 1, 4)?;
    copies.standbys[0].psql("select pg_promote()")?;
    // What it writes now belongs to no backup of the primary.
    copies.standbys[0].psql("create table astray as select generate_series(1, 100000)")?;
    let label = copies.ends_whole(&id)?["label"].as_str().context("a label")?.to_owned();
    let log = copies.fleet.coordinators[0].said()?;
    ensure!(log.contains("worker-1 takes no further part"), "{log}");
    ensure!(log.contains("gave are read again"), "{log}");
    note(format!("the packs of worker-1: {}", packs_of(&copies.site, &label, "worker-1")?));
    copies.mend(0)?;

    note("the second standby is stopped");
    let id = copies.begin()?;
    copies.await_units_of(&id, 2, 4)?;
    copies.standbys[1].crash()?;
    copies.ends_whole(&id)?;
    copies.standbys[1].start()?;

    note("the first standby is made anew");
    let id = copies.begin()?;
    copies.await_units_of(&id, 1, 4)?;
    copies.mend(0)?;
    copies.ends_whole(&id)?;

    note("the replay of the second standby stands still");
    copies.standbys[1].psql("select pg_wal_replay_pause()")?;
    copies.site.cluster.psql("create table later as select generate_series(1, 1000) as n")?;
    let id = copies.begin()?;
    copies.await_units_of(&id, 1, 4)?;
    let label = copies.ends_whole(&id)?["label"].as_str().context("a label")?.to_owned();
    ensure!(packs_of(&copies.site, &label, "worker-2")? == 0, "a standby that is behind was read");
    copies.standbys[1].psql("select pg_wal_replay_resume()")?;

    note("the worker of the first standby is cut off, then that of the second is killed");
    let id = copies.begin()?;
    copies.await_units_of(&id, 1, 4)?;
    copies.fleet.cut(1)?;
    copies.await_units_of(&id, 2, 6)?;
    copies.fleet.workers[2].signal(Signal::KILL)?;
    let end = copies.ends_whole(&id)?;
    let label = end["label"].as_str().context("a label")?;
    ensure!(packs_of(&copies.site, label, "worker-2")? == 0, "nobody can confirm what it read");
    restores_from_each(&copies.site, &data::fingerprint(&copies.site.cluster)?)
}

/// How many packs of the backup are that worker's, by its manifest.
fn packs_of(site: &Site, label: &str, worker: &str) -> Result<usize> {
    Ok(in_manifest(site, 1, label)?.into_values().filter(|by| by == worker).count())
}

#[test]
fn a_primary_that_ends_in_mid_backup_is_a_clear_error_and_a_standby_is_not_waited_for_for_ever() -> Result<()>
{
    let copies = Copies::start("1536KiB")?;
    let id = copies.begin()?;
    copies.await_units_of(&id, 1, 4)?;
    ensure!(source_of(&copies.fleet, &id)? == "worker-0", "the session is with the primary");
    copies.site.cluster.crash()?;
    let end = copies.fleet.await_end(&id)?;
    ensure!(end["state"] == "failed" && end["error"]["code"] == 56, "{end}");
    copies.site.cluster.start_and_recover()?;
    let id = copies.begin()?;
    copies.ends_whole(&id)?;

    copies.standbys.iter().try_for_each(Cluster::stop)?;
    let begun = std::time::Instant::now();
    let submitted = copies.fleet.submit_backup(&["--backup-standby=y"])?;
    let end = copies.fleet.await_end(&submitted)?;
    ensure!(end["state"] == "failed" && end["error"]["code"] == 49, "{end}");
    ensure!(begun.elapsed() > Duration::from_secs(50), "it waited for {:?} only", begun.elapsed());
    Ok(())
}

#[test]
fn after_a_failover_the_next_backup_begins_on_the_server_that_took_over() -> Result<()> {
    let site = site()?;
    site.backup(&[])?;
    let standby = site.standby("next", vec!["fsync=off".to_owned()])?;
    let options = FleetOptions { coordinators: 1, ..FleetOptions::default() };
    let mut fleet = Fleet::prepare(&site, &options)?;
    fleet.configure_worker(&site, 1, &site.config.clone().for_cluster(&standby))?;
    fleet.start_all()?;
    site.cluster.crash()?;
    standby.psql("select pg_promote()")?;
    standby.psql("create table afterwards as select generate_series(1, 1000) as n")?;
    for worker in &fleet.workers {
        worker.await_log("a server of this worker is something else now")?;
    }
    fleet.await_workers(2)?;
    let id = fleet.submit_backup(&[])?;
    is_done(&fleet.await_end(&id)?)?;
    ensure!(source_of(&fleet, &id)? == "worker-1", "{}", fleet.job(&id)?);
    let copy = site.restore("copy", &["--type=immediate", "--target-action=promote"])?;
    copy.start_and_recover()?;
    same_data(&copy, &data::fingerprint(&standby)?)
}

/// Rounds of chance: few in the short form, as many as are asked for in the long one.
const ROUNDS: &str = "PGCONVOY_STANDBY_ROUNDS";
const ROUNDS_SHORT: u64 = 3;

/// What may become of a standby, or of its worker.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Promoted,
    Crashed,
    MadeAnew,
    Behind,
    CutOff,
    WorkerKilled,
}

const FATES: [Fate; 6] =
    [Fate::Promoted, Fate::Crashed, Fate::MadeAnew, Fate::Behind, Fate::CutOff, Fate::WorkerKilled];

impl Copies {
    fn meets(&mut self, fate: Fate, number: usize) -> Result<()> {
        let worker = number + 1;
        match fate {
            Fate::Promoted => self.standbys[number].psql("select pg_promote()").map(drop),
            Fate::Crashed => self.standbys[number].crash(),
            Fate::MadeAnew => self.mend(number),
            Fate::Behind => self.standbys[number].psql("select pg_wal_replay_pause()").map(drop),
            Fate::CutOff => self.fleet.cut(worker),
            Fate::WorkerKilled => self.fleet.workers[worker].signal(Signal::KILL),
        }
    }

    /// All stands as before the round.
    fn recovers_from(&mut self, fate: Fate, number: usize) -> Result<()> {
        let worker = number + 1;
        match fate {
            Fate::MadeAnew => return Ok(()),
            Fate::Promoted => self.mend(number)?,
            Fate::Crashed => self.standbys[number].start()?,
            Fate::Behind => drop(self.standbys[number].psql("select pg_wal_replay_resume()")?),
            Fate::CutOff => self.fleet.heal(worker)?,
            Fate::WorkerKilled => {
                self.fleet.workers[worker].kill()?;
                self.fleet.workers[worker].start()?;
            }
        }
        self.fleet.await_workers(3)
    }
}

#[test]
fn whichever_standby_meets_whatever_fate_at_whatever_time_the_backup_ends_whole() -> Result<()> {
    /// Units done by then; a backup has some seventy.
    const LATEST: u64 = 40;
    let rounds = match std::env::var(ROUNDS) {
        Ok(text) => text.parse().context(ROUNDS)?,
        Err(_) => ROUNDS_SHORT,
    };
    let mut random = Random::from_environment()?;
    let mut copies = Copies::start("1536KiB")?;
    for round in 0..rounds {
        let number = usize::try_from(random.below(2))?;
        let fate = FATES[usize::try_from(random.below(FATES.len() as u64))?];
        let units = random.below(LATEST);
        note(format!("round {round}: after {units} units standby {number}: {fate:?}"));
        let id = copies.begin()?;
        copies.fleet.await_units(&id, units)?;
        copies.meets(fate, number)?;
        copies.ends_whole(&id)?;
        copies.recovers_from(fate, number)?;
    }
    Ok(())
}
