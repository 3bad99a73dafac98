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
    Context, Random, Repo, Result, Site, SiteOptions, data, ensure, labels, note, same_data, user,
};

const CONTAINER: &str = "kit";
const MIB: u64 = 1 << 20;
/// Of the lines to repositories 2, 3 and 4, in bytes a second.
const RATES: [(u16, u64); 3] = [(2, 12 * MIB), (3, 6 * MIB), (4, 9 * MIB)];
const LATENCY: Duration = Duration::from_millis(20);
/// Of the slowest one's time.
const TIME_MAX: f64 = 1.3;

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
