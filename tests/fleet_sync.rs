//! One repo-sync whose objects several workers of a fleet copy: real processes, and what it survives.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::fleet::{Fleet, FleetOptions};
use support::{
    Context, Json, Result, Running, Site, data, ensure, files, labels, limits, note, same_data,
    site::SiteOptions,
};

const SYNC: [&str; 4] = ["repo-sync", "--from=1", "--to=2", "--output=json"];
const ALL: usize = 3;
/// Objects in the target when something befalls a worker: some of the first backup's, by far not all.
const SOME: usize = 8;
/// A worker's lease.
const LEASE: Duration = Duration::from_secs(15);

/// A first repository with two backups of many small packs and their WAL, and a second one that has none of it.
struct Stage {
    site: Site,
    fleet: Fleet,
    known: Vec<String>,
    expected: String,
}

impl Stage {
    fn prepare() -> Result<Stage> {
        let mut site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
        site.config = site.config.clone().backup("unit-size", "\"1MiB\"");
        site.config.write(&site.scratch.config_file())?;
        let many_files = ["-i", "-q", "-I", "dtGvp", "-s", "6", "--partitions=20", "postgres"];
        site.cluster.client("pgbench")?.args(many_files).run(limits::LARGE_COMMAND)?.ok()?;
        let mut known = vec![site.backup_label(&["--repo=1"])?];
        site.cluster
            .psql("create table later as select n, md5(n::text) from generate_series(1, 200000) n")?;
        site.cluster.psql("checkpoint")?;
        let incremental = ["backup", "--type=incr", "--repo=1", "--output=json"];
        let report = site.pgconvoy.run(incremental)?.ok()?.json()?;
        known.push(report["label"].as_str().context("label")?.to_owned());
        site.cluster.switch_and_archive()?;
        let expected = data::fingerprint(&site.cluster)?;
        site.cluster.stop()?;
        let options = FleetOptions { workers: ALL, ..FleetOptions::default() };
        let fleet = Fleet::start(&site, &options)?;
        Ok(Stage { site, fleet, known, expected })
    }

    /// A job, followed by a client, once some objects are there.
    fn begin(&self) -> Result<Running> {
        let client = self.fleet.client.start(SYNC)?;
        limits::wait_for("some objects in the target", limits::COMMAND, || {
            Ok((self.packs()?.len() >= SOME).then_some(()))
        })?;
        Ok(client)
    }

    /// Whole ones, in the target.
    fn packs(&self) -> Result<BTreeSet<PathBuf>> {
        let backups = self.site.repository(2)?.stanza().join("backup");
        // What goes away while it is looked at is no longer there.
        let found = files::walk(&backups).unwrap_or_default().into_iter();
        let is_pack = |path: &PathBuf| {
            let text = path.to_string_lossy();
            text.contains("/pack/") && !text.contains(".pgconvoy") && path.is_file()
        };
        Ok(found.filter(is_pack).collect())
    }

    fn published(&self) -> Result<Vec<String>> {
        labels(&self.site.pgconvoy, 2)
    }

    /// All is in the target, whole, and enough for a restore without the source.
    fn stands_alone(&self) -> Result<()> {
        assert_eq!(self.published()?, self.known);
        self.site.pgconvoy.run(["verify", "--repo=2"])?.ok()?;
        let alone = self.site.only_repos(&[2])?;
        let copy = self.site.copy("alone")?;
        alone.run(["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
        copy.start_and_recover()?;
        same_data(&copy, &self.expected)?;
        copy.stop()
    }

    /// Whose job the newest one is, as its log tells: it says of each mate that it helps.
    fn main_worker(&self) -> Result<usize> {
        for (number, worker) in self.fleet.workers.iter().enumerate() {
            if worker.said()?.contains("helps with the repo-sync") {
                return Ok(number);
            }
        }
        support::bail!("no worker leads")
    }
}

fn objects_by_worker(result: &Json) -> Result<Vec<(String, u64)>> {
    let workers = result["workers"].as_array().with_context(|| format!("no workers in {result}"))?;
    let one = |worker: &Json| Some((worker["name"].as_str()?.to_owned(), worker["objects"].as_u64()?));
    workers.iter().map(|worker| one(worker).with_context(|| result.to_string())).collect()
}

/// Of a job that must end well.
fn result_of(client: Running) -> Result<Json> {
    client.wait(limits::COMMAND)?.ok()?.json()
}

#[test]
fn three_workers_copy_shares_of_one_repo_sync_and_the_target_stands_alone() -> Result<()> {
    let stage = Stage::prepare()?;
    let client = stage.begin()?;
    let result = result_of(client)?;
    let by_worker = objects_by_worker(&result)?;
    note(format!("objects by worker: {by_worker:?}"));
    assert_eq!(by_worker.len(), ALL, "somebody did nothing: {result}");
    let copied = result["backup"].as_array().context("backup")?.iter().map(|one| &one["packs"]["copied"]);
    let copied: u64 = copied.filter_map(Json::as_u64).sum();
    assert_eq!(usize::try_from(copied)?, stage.packs()?.len(), "{result}");
    let shared: u64 = by_worker.iter().map(|(_, objects)| objects).sum();
    let with_wal = copied + result["archive"][0]["files"].as_u64().unwrap_or_default();
    ensure!(
        shared * 2 > with_wal && shared <= with_wal,
        "{shared} of {with_wal} objects were shared: {result}"
    );
    assert_eq!(result["warnings"], serde_json::json!([]), "{result}");
    let job = &stage.fleet.client.run(["job", "list", "--output=json"])?.ok()?.json()?[0];
    assert_eq!(
        (&job["state"], &job["units"]["done"]),
        (&Json::from("done"), &job["units"]["total"]),
        "{job}"
    );
    ensure!(job["units"]["done"].as_u64() >= Some(shared), "{job}");
    stage.stands_alone()
}

#[test]
fn a_mate_that_is_killed_and_one_that_is_frozen_cost_only_their_share_and_a_late_one_harms_nothing()
-> Result<()> {
    let mut stage = Stage::prepare()?;
    let client = stage.begin()?;
    let main = stage.main_worker()?;
    let (killed, frozen) = ((main + 1) % ALL, (main + 2) % ALL);
    stage.fleet.workers[frozen].freeze()?;
    stage.fleet.workers[killed].kill()?;
    let since = Instant::now();
    ensure!(stage.published()?.len() < stage.known.len(), "it was over before anything befell a worker");
    result_of(client)?;
    note(format!("it ended {:?} after that", since.elapsed()));
    stage.stands_alone()?;

    let repository = stage.site.repository(2)?.stanza();
    let before = files::snapshot(&repository)?;
    stage.fleet.workers[frozen].thaw()?;
    limits::wait_for("the mate's return", limits::SOON, || {
        let up = stage.fleet.workers_in_state("up")?;
        Ok(up.contains(&format!("worker-{frozen}")).then_some(()))
    })?;
    let changes = files::changes(&before, &files::snapshot(&repository)?);
    note(format!("changed when it woke: {changes:?}"));
    // What it had in hand when it was frozen it gives up: that is no object yet.
    let is_object = |path: &PathBuf| !path.to_string_lossy().contains(".pgconvoy-");
    assert_eq!(changes.into_iter().filter(is_object).collect::<Vec<_>>(), Vec::<PathBuf>::new());
    stage.site.pgconvoy.run(["verify", "--repo=2"])?.ok().map(drop)
}

#[test]
fn a_main_worker_that_is_killed_is_followed_by_another() -> Result<()> {
    let mut stage = Stage::prepare()?;
    let client = stage.begin()?;
    let main = stage.main_worker()?;
    stage.fleet.workers[main].kill()?;
    let since = Instant::now();
    ensure!(stage.published()?.len() < stage.known.len(), "it was over before its main worker was");
    let result = result_of(client)?;
    ensure!(since.elapsed() < LEASE * 4, "it took {:?}", since.elapsed());
    let packs = |what: &str| -> u64 {
        let backups = result["backup"].as_array().cloned().unwrap_or_default();
        backups.iter().filter_map(|backup| backup["packs"][what].as_u64()).sum()
    };
    ensure!(packs("present") > 0, "it copied again what was there: {result}");
    stage.stands_alone()
}
