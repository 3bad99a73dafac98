//! One restore that several workers of a fleet share: real processes on one target; and what it survives.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;
use support::fleet::{Fleet, FleetOptions};
use support::{
    Cluster, Context, Json, Pgconvoy, Result, Running, Site, data, ensure, files, limits, note, same_data,
};

/// Where mates stage, in each place that files of the cluster go to.
const STAGING: &str = "pgconvoy.restore.d";
const MARKER: &str = "pgconvoy.restore";
/// A worker's lease.
const LEASE: Duration = Duration::from_secs(15);

/// A database of many files of some megabytes, one of them in a tablespace, and a published backup of it. Shares are small.
struct Stage {
    site: Site,
    expected: String,
}

impl Stage {
    fn prepare() -> Result<Stage> {
        let mut site = Site::start()?;
        site.config = site.config.clone().backup("unit-size", "\"1MiB\"");
        site.config.write(&site.scratch.config_file())?;
        let many_files = ["-i", "-q", "-I", "dtGvp", "-s", "10", "--partitions=40", "postgres"];
        site.cluster.client("pgbench")?.args(many_files).run(limits::LARGE_COMMAND)?.ok()?;
        site.cluster.create_tablespace("east", &site.scratch.join("east"))?;
        site.cluster.psql(
            "create table far (n bigint, text text) tablespace east;
             insert into far select n, md5(n::text) from generate_series(1, 50000) n;
             checkpoint",
        )?;
        let expected = data::fingerprint(&site.cluster)?;
        site.backup_label(&[])?;
        Ok(Stage { site, expected })
    }

    fn fleet(&self, workers: usize) -> Result<Fleet> {
        Fleet::start(&self.site, &FleetOptions { workers, ..FleetOptions::default() })
    }

    fn copy(&self) -> Result<Copy> {
        // Whatever happens in it, its server leaves its files alone.
        let mut settings = support::site::copy_overrides();
        settings.push("autovacuum=off".to_owned());
        let cluster = Cluster::attach(&self.site.scratch, "copy", settings)?;
        Ok(Copy { cluster, tablespace: self.site.scratch.join("copy-east") })
    }

    fn is_restored(&self, copy: &Copy) -> Result<()> {
        copy.is_left_alone()?;
        copy.cluster.start_and_recover()?;
        same_data(&copy.cluster, &self.expected)
    }
}

struct Copy {
    cluster: Cluster,
    tablespace: PathBuf,
}

impl Copy {
    fn data(&self) -> &Path {
        self.cluster.data()
    }

    fn arguments(&self, workers: &[&str]) -> Vec<String> {
        let mut arguments = vec!["restore".to_owned()];
        arguments.extend(workers.iter().map(|worker| format!("--worker={worker}")));
        arguments.push(format!("--pg-path={}", self.data().display()));
        arguments.push(format!("--tablespace-map=east={}", self.tablespace.display()));
        let rest = ["--type=immediate", "--target-action=promote", "--output=json"];
        arguments.extend(rest.map(str::to_owned));
        arguments
    }

    /// A job, followed by a client.
    fn begin(&self, client: &Pgconvoy, workers: &[&str]) -> Result<Running> {
        client.start(self.arguments(workers))
    }

    /// Files that mates have staged and that were not adopted yet.
    fn staged(&self) -> Vec<PathBuf> {
        let roots = [self.data(), &self.tablespace];
        // What goes away while it is looked at is no longer there.
        roots.iter().filter_map(|root| files::walk(&root.join(STAGING)).ok()).flatten().collect()
    }

    fn await_staged(&self) -> Result<()> {
        limits::wait_for("a staged file", limits::SOON, || Ok((!self.staged().is_empty()).then_some(())))
    }

    /// Nothing of the restore itself is left.
    fn is_left_alone(&self) -> Result<()> {
        for root in [self.data(), &self.tablespace] {
            for entry in std::fs::read_dir(root)? {
                let name = entry?.file_name();
                ensure!(
                    !name.to_string_lossy().starts_with(MARKER),
                    "{} is in {}",
                    name.display(),
                    root.display()
                );
            }
        }
        Ok(())
    }
}

fn bytes_by_worker(result: &Json) -> Result<Vec<(String, u64)>> {
    let workers = result["workers"].as_array().with_context(|| format!("no workers in {result}"))?;
    let one = |worker: &Json| Some((worker["name"].as_str()?.to_owned(), worker["bytes"].as_u64()?));
    workers.iter().map(|worker| one(worker).with_context(|| result.to_string())).collect()
}

/// Of a restore that must end well.
fn result_of(client: Running) -> Result<Json> {
    client.wait(limits::COMMAND)?.ok()?.json()
}

#[test]
fn a_restore_that_three_workers_share_is_the_same_cluster_and_each_did_some_of_it() -> Result<()> {
    let stage = Stage::prepare()?;
    let fleet = stage.fleet(3)?;
    let copy = stage.copy()?;
    let client = copy.begin(&fleet.client, &["worker-0", "worker-1", "worker-2"])?;
    let result = &result_of(client)?;
    let by_worker = bytes_by_worker(result)?;
    note(format!("bytes by worker: {by_worker:?}"));
    assert_eq!(by_worker.len(), 3, "somebody did nothing: {result}");
    assert_eq!(
        by_worker.iter().map(|(_, bytes)| bytes).sum::<u64>(),
        result["bytes"].as_u64().context("bytes")?
    );
    assert_eq!(result["warnings"], serde_json::json!([]), "{result}");
    let end = &fleet.client.run(["job", "list", "--output=json"])?.ok()?.json()?[0];
    assert_eq!((&end["state"], &end["label"]), (&Json::from("done"), &result["label"]), "{end}");
    assert_eq!(end["bytes"]["done"], end["bytes"]["total"], "{end}");
    ensure!(end["bytes"]["total"].as_u64() > Some(100 << 20), "{end}");
    stage.is_restored(&copy)
}

#[test]
fn a_mate_that_is_killed_costs_only_its_share() -> Result<()> {
    let stage = Stage::prepare()?;
    let mut fleet = stage.fleet(2)?;
    let copy = stage.copy()?;
    let client = copy.begin(&fleet.client, &["worker-0", "worker-1"])?;
    copy.await_staged()?;
    fleet.workers[1].kill()?;
    result_of(client)?;
    stage.is_restored(&copy)
}

#[test]
fn a_mate_that_wakes_beside_the_running_cluster_changes_nothing_in_it() -> Result<()> {
    let stage = Stage::prepare()?;
    let mut fleet = stage.fleet(2)?;
    let copy = stage.copy()?;
    let client = copy.begin(&fleet.client, &["worker-0", "worker-1"])?;
    copy.await_staged()?;
    fleet.workers[1].freeze()?;
    let frozen = std::time::Instant::now();
    result_of(client)?;
    ensure!(frozen.elapsed() > LEASE / 2, "it had nothing in hand: the restore did not wait for its lease");
    assert_eq!(fleet.workers_in_state("lost")?, ["worker-1"]);
    stage.is_restored(&copy)?;
    copy.cluster.psql("checkpoint")?;
    for path in open_files(fleet.workers[1].id()?)? {
        let is_of_the_cluster = path.starts_with(copy.data()) || path.starts_with(&copy.tablespace);
        ensure!(!is_of_the_cluster || !path.exists(), "a frozen mate has {} open", path.display());
    }
    let look = || -> Result<_> {
        Ok((files::snapshot(&copy.data().join("base"))?, files::snapshot(&copy.tablespace)?))
    };
    let before = look()?;
    fleet.workers[1].thaw()?;
    limits::wait_for("the mate's return", limits::SOON, || {
        Ok(fleet.workers_in_state("up")?.contains(&"worker-1".to_owned()).then_some(()))
    })?;
    limits::wait_for("the end of its part", limits::SOON, || {
        let open = open_files(fleet.workers[1].id()?)?;
        let is_of_a_restore = |path: &PathBuf| path.to_string_lossy().contains(MARKER);
        Ok((!open.iter().any(is_of_a_restore)).then_some(()))
    })?;
    let after = look()?;
    assert_eq!(files::changes(&before.0, &after.0), Vec::<PathBuf>::new());
    assert_eq!(files::changes(&before.1, &after.1), Vec::<PathBuf>::new());
    copy.is_left_alone()?;
    same_data(&copy.cluster, &stage.expected)
}

/// By the names that they had or have.
fn open_files(process: u32) -> Result<Vec<PathBuf>> {
    let handles = std::fs::read_dir(format!("/proc/{process}/fd"))?;
    // A handle that is closed meanwhile is not open.
    Ok(handles.filter_map(|handle| std::fs::read_link(handle.ok()?.path()).ok()).collect())
}

#[test]
fn a_main_worker_that_is_killed_begins_anew_when_it_is_back() -> Result<()> {
    let stage = Stage::prepare()?;
    let mut fleet = stage.fleet(2)?;
    let copy = stage.copy()?;
    let client = copy.begin(&fleet.client, &["worker-0", "worker-1"])?;
    copy.await_staged()?;
    fleet.workers[0].kill()?;
    ensure!(copy.data().join(MARKER).exists() && !copy.data().join("global/pg_control").exists());
    fleet.workers[0].start()?;
    result_of(client)?;
    stage.is_restored(&copy)
}

#[test]
fn a_leader_that_is_killed_in_mid_restore_costs_nothing_of_it() -> Result<()> {
    let stage = Stage::prepare()?;
    let mut fleet = stage.fleet(2)?;
    let copy = stage.copy()?;
    let client = copy.begin(&fleet.client, &["worker-0", "worker-1"])?;
    copy.await_staged()?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader].kill()?;
    result_of(client)?;
    stage.is_restored(&copy)
}

#[test]
fn a_worker_whose_configuration_leads_elsewhere_is_left_out_with_a_warning() -> Result<()> {
    let stage = Stage::prepare()?;
    let mut fleet = Fleet::prepare(&stage.site, &FleetOptions::default())?;
    let elsewhere = Cluster::attach(&stage.site.scratch, "elsewhere", Vec::new())?;
    fleet.configure_worker(&stage.site, 1, &stage.site.config.clone().for_cluster(&elsewhere))?;
    fleet.start_all()?;
    // The disaster itself: each worker's configuration says where the cluster was.
    stage.site.cluster.stop()?;
    std::fs::remove_dir_all(stage.site.cluster.data())?;
    std::fs::remove_dir_all(stage.site.scratch.join("east"))?;
    let restored =
        fleet.client.run(["restore", "--worker=worker-0", "--worker=worker-1", "--output=json"])?.ok()?;
    let result = restored.json()?;
    let by_worker = bytes_by_worker(&result)?;
    assert_eq!(by_worker.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["worker-0"]);
    let warning =
        "worker worker-1 is left out: data directory, maps or program differ from the main worker's";
    assert_eq!(result["warnings"], serde_json::json!([warning]), "{result}");
    ensure!(restored.stderr.contains(warning), "nobody is told\n{restored}");
    ensure!(!elsewhere.data().exists(), "it wrote where its configuration leads");
    stage.site.cluster.start_and_recover()?;
    same_data(&stage.site.cluster, &stage.expected)
}
