//! One backup to a directory, S3, Azure and Google Cloud Storage at once: from one read, in little more than the slowest takes
//! alone, and restorable from each alone.
//!
//! The three stores are reached by lines of their own, so that what limits is the line, as it is where stores are elsewhere.

mod support;

#[path = "support/stores/gcs_server.rs"]
mod gcs_server;

use gcs_server::GcsServer;
use std::time::{Duration, Instant};
use support::stores::azurite::Azurite;
use support::stores::http_proxy::{HttpProxy, Weather};
use support::stores::seaweed::{self, Seaweed};
use support::{
    Context, Random, Repo, Result, Site, SiteOptions, data, ensure, labels, limits, note, same_data, user,
};

const CONTAINER: &str = "kit";
const MIB: u64 = 1 << 20;
/// Of the lines to repositories 2, 3 and 4, in bytes a second.
const RATES: [(u16, u64); 3] = [(2, 12 * MIB), (3, 6 * MIB), (4, 9 * MIB)];
const LATENCY: Duration = Duration::from_millis(20);
/// Of the slowest one's time.
const TIME_MAX: f64 = 1.3;

/// Files beside the cluster's own: more than the process may ever hold.
const FILLER_FILES: usize = 20;
const FILLER_BYTES: usize = 32 << 20;
const SLOTS: u64 = 4;
/// A worker's 64 MiB and 24 MiB for each slot and each of three repositories; a coordinator's 64 MiB: here they are one process.
const MEMORY_MAX: u64 = (64 + 24 * SLOTS * 3 + 64) * MIB;

/// Fields drop in this order.
struct Stage {
    lines: Vec<HttpProxy>,
    site: Site,
    _s3: Seaweed,
    _azure: Azurite,
    _gcs: GcsServer,
}

impl Stage {
    fn start() -> Result<Stage> {
        let site = Site::prepare(&SiteOptions::default())?;
        let (s3, azure, gcs) = (Seaweed::start()?, Azurite::start()?, GcsServer::start()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(azure.create_container(CONTAINER))?;
        let servers = [s3.address(), azure.socket_address()?, gcs.address()];
        let lines: Vec<HttpProxy> = servers
            .into_iter()
            .map(|server| HttpProxy::before(server, Random::seeded(1)))
            .collect::<Result<_>>()?;
        let service = gcs.service_key(site.scratch.path())?;
        user::give(&service.file)?;
        let tables = [
            ("s3", seaweed::table(&lines[0].endpoint(), seaweed::SECRET_KEY)),
            ("azure", azure.table_at(&lines[1].endpoint(), CONTAINER, "")),
            ("gcs", gcs_server::table(&lines[2].endpoint(), &service.key_type())),
        ];
        let mut repos = vec![site.repos[0].clone()];
        for (number, (kind, table)) in (2..).zip(&tables) {
            repos.push(Repo::encrypted(&site.scratch, number)?.in_store(kind, "/pg", table));
        }
        let site = site.with_repos(repos)?;
        site.cluster.start()?;
        site.pgconvoy.run(["stanza-create"])?.ok()?;
        data::seed_small(&site.cluster)?;
        Ok(Stage { lines, site, _s3: s3, _azure: azure, _gcs: gcs })
    }

    fn slow_down(&self) {
        for (line, (_, rate)) in self.lines.iter().zip(RATES) {
            line.set(Weather { rate: Some(rate), latency: LATENCY, ..Weather::default() });
        }
    }

    fn speed_up(&self) {
        self.lines.iter().for_each(|line| line.set(Weather::default()));
    }

    /// What is stored is what is read, so that the lines have something to carry.
    fn timed_backup(&self, more: &[&str]) -> Result<(String, f64)> {
        let begin = Instant::now();
        let report = self.site.backup(&[&["--compress-type=none", "--start-fast"], more].concat())?;
        let took = begin.elapsed().as_secs_f64();
        ensure!(report["status"] == "ok", "{report}");
        Ok((report["label"].as_str().context("a label")?.to_owned(), took))
    }
}

#[test]
fn one_backup_to_four_kinds_of_store_takes_little_more_than_the_slowest_alone() -> Result<()> {
    let stage = Stage::start()?;
    let site = &stage.site;
    stage.slow_down();
    let mut slowest = 0.0;
    for (number, _) in RATES {
        let (_, took) = stage.timed_backup(&[&format!("--repo={number}")])?;
        note(format!("repository {number} alone: {took:.2} s"));
        slowest = f64::max(slowest, took);
    }
    let (label, together) = stage.timed_backup(&[])?;
    note(format!("all four: {together:.2} s, {:.2} x", together / slowest));
    ensure!(together <= TIME_MAX * slowest, "{together:.2} s, the slowest alone {slowest:.2} s");

    stage.speed_up();
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.switch_and_archive()?;
    site.pgconvoy.run(["verify"])?.ok()?;
    site.cluster.stop()?;
    for number in 1..=4 {
        let alone = site.only_repos(&[number])?;
        ensure!(labels(&alone, number)?.contains(&label), "repository {number}");
        let copy = site.copy(&format!("copy-{number}"))?;
        let (path, set) = (format!("--pg-path={}", copy.data().display()), format!("--set={label}"));
        alone.run(["restore", &path, &set])?.ok()?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        copy.stop()?;
    }
    Ok(())
}

#[test]
fn a_slow_store_beside_two_quick_ones_costs_no_more_memory_than_the_budget() -> Result<()> {
    let stage = Stage::start()?;
    let site = &stage.site;
    let filler = site.cluster.data().join("filler");
    user::private_dir(&filler)?;
    for number in 0..FILLER_FILES {
        let file = filler.join(number.to_string());
        std::fs::write(&file, vec![u8::try_from(number)?; FILLER_BYTES])?;
        user::give(&file)?;
    }
    // Only S3 is slow; Azure and the directory are not.
    stage.lines[0].set(Weather { rate: Some(RATES[0].1), latency: LATENCY, ..Weather::default() });
    let slots = format!("--process-max={SLOTS}");
    let repos = ["--repo=1", "--repo=2", "--repo=3"];
    let options = ["backup", "--type=full", "--output=json", "--compress-type=none", "--start-fast", &slots];
    let running = site.pgconvoy.start(options.iter().chain(&repos))?;
    let mut peak = 0;
    limits::wait_for("the backup", limits::LARGE_COMMAND, || {
        peak = peak.max(high_water_mark(running.id()).unwrap_or_default());
        Ok(running.has_ended()?.then_some(()))
    })?;
    let report = running.wait(limits::SOON)?.ok()?.json()?;
    ensure!(report["status"] == "ok", "{report}");
    note(format!("{} MiB at the most, {} allowed", peak / MIB, MEMORY_MAX / MIB));
    ensure!(peak > 0 && peak <= MEMORY_MAX, "{} MiB", peak / MIB);
    Ok(())
}

/// Bytes that were resident at a time, at most.
fn high_water_mark(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}
