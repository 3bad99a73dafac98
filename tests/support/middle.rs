//! Backups of a fleet that take long enough for something to happen in the middle of them, and how long they may take then.

use super::fleet::{Fleet, FleetOptions};
use super::{Cluster, Context, Json, Result, Site, ensure, limits, note, same_data};
use std::time::{Duration, Instant};

/// Progress is back within this time after a leader's loss, or once etcd has its quorum again.
pub const TAKE_OVER_MAX: Duration = Duration::from_secs(15);
/// A worker's lease: after this time its units are somebody else's.
pub const WORKER_LEASE: Duration = Duration::from_secs(15);
/// For the end of a backup that follows its last unit: stop, WAL, manifest, and what a busy machine takes.
const ENDING: Duration = Duration::from_secs(6);
/// Of each worker, where nothing else is said.
const RATE: u64 = 2 << 20;

/// Units small enough for every worker to get many, and slow enough for something to happen meanwhile.
pub const SLOW: [&str; 3] = ["--unit-size=1MiB", "--compress-type=zst", "--compress-level=12"];

pub fn site() -> Result<Site> {
    let mut site = Site::start()?;
    site.config = site.config.clone().backup("archive-timeout", "\"30s\"");
    site.config.write(&site.scratch.config_file())?;
    Ok(site)
}

pub fn limited(bandwidth: &str) -> FleetOptions {
    FleetOptions { bandwidth_max: Some(bandwidth.to_owned()), ..FleetOptions::default() }
}

/// At [`RATE`]: a backup of two workers takes about twenty seconds.
pub fn slow() -> FleetOptions {
    limited(&format!("{RATE}B"))
}

/// A slow backup with some of its units done.
pub fn under_way(site: &Site, options: &FleetOptions) -> Result<(Fleet, String)> {
    let fleet = Fleet::start(site, options)?;
    let id = fleet.submit_backup(&SLOW)?;
    fleet.await_units(&id, 10)?;
    Ok((fleet, id))
}

/// The worker that keeps the session: the only one that has an open backup in PostgreSQL.
pub fn source_of(fleet: &Fleet, id: &str) -> Result<String> {
    let job = fleet.job(id)?;
    Ok(job["source"].as_str().context("the job's source")?.to_owned())
}

/// The place of a worker that does units and does not keep the session.
pub fn beside_the_source(fleet: &Fleet, id: &str) -> Result<usize> {
    let source = source_of(fleet, id)?;
    fleet.workers.iter().position(|worker| worker.name != source).context("another worker")
}

pub fn is_done(job: &Json) -> Result<()> {
    ensure!(job["state"] == "done", "{job}");
    Ok(())
}

/// A published backup restores from each repository alone, to what the cluster holds.
pub fn restores_from_each(site: &Site, expected: &str) -> Result<()> {
    for number in [1, 2] {
        let repo = format!("--repo={number}");
        let copy =
            site.restore(&format!("copy-{number}"), &[&repo, "--type=immediate", "--target-action=promote"])?;
        copy.start_and_recover()?;
        same_data(&copy, expected)?;
    }
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

/// What is left of a backup when one of its two workers is lost.
pub struct Remainder {
    since: Instant,
    /// What the other worker takes for all of it.
    alone: Duration,
}

impl Remainder {
    /// At [`RATE`].
    pub fn of(job: &Json) -> Result<Remainder> {
        let bytes = |key: &str| job["bytes"][key].as_u64().context("bytes of the job");
        let left = bytes("total")? - bytes("done")?;
        Ok(Remainder { since: Instant::now(), alone: Duration::from_millis(left * 1000 / RATE) })
    }

    /// The job is over now. Undisturbed, both would have done half of what was left: the other half is the lost share, and the
    /// lost worker's units wait for the end of its lease.
    pub fn cost_a_share_and_a_lease(&self) -> Result<()> {
        let (took, alone) = (self.since.elapsed(), self.alone);
        note(format!("one worker would need {alone:?}; it took {took:?}"));
        ensure!(
            took < alone + WORKER_LEASE + ENDING,
            "it took {took:?}, and {alone:?} is what one worker needs"
        );
        Ok(())
    }
}

/// Units go on, under whoever leads by then: more of them than workers had in hand when it happened.
pub fn goes_on(fleet: &Fleet, site: &Site, before: &Json, since: Instant) -> Result<Json> {
    const IN_HAND: u64 = 8;
    let (id, done) =
        (before["id"].as_str().context("a job")?, before["units"]["done"].as_u64().context("units")?);
    let path = format!("jobs/{id}");
    let after = limits::wait_for("units done after it", limits::COMMAND, || {
        // Not through a client, which may ask a coordinator first that answers nobody.
        let job = fleet.get(site, fleet.leader()?, "operator", &path).unwrap_or_default();
        Ok((job["units"]["done"].as_u64() > Some(done + IN_HAND)).then_some(job))
    })?;
    note(format!("units go on after {:?}", since.elapsed()));
    ensure!(since.elapsed() < TAKE_OVER_MAX, "units go on after {:?} only", since.elapsed());
    ensure!(after["label"] == before["label"], "another backup: {before}, then {after}");
    Ok(after)
}

/// The server's log tells which backends begin and end backups, from now on.
pub fn log_statements(cluster: &Cluster) -> Result<()> {
    cluster.psql("alter system set log_statement = 'all'; select pg_reload_conf()")?;
    limits::wait_for("statements in the log", limits::SOON, || {
        let logged = cluster.psql("select setting from pg_settings where name = 'log_statement'")?;
        Ok((logged == "all").then_some(()))
    })
}

/// One backend has begun a backup, the same one has ended it, and nobody else has done either.
pub fn kept_one_session(cluster: &Cluster) -> Result<()> {
    let log = cluster.log();
    let backends = |call: &str| -> Vec<String> {
        let lines = log.lines().filter(|line| line.contains(call) && line.contains("] LOG:  execute"));
        lines.filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned())).collect()
    };
    let (began, ended) = (backends("pg_backup_start("), backends("pg_backup_stop("));
    ensure!(began.len() == 1 && began == ended, "begun by {began:?}, ended by {ended:?}");
    Ok(())
}
