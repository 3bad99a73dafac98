//! What it costs the database's host that others compute for it, and how the backup of a lone primary scales with them.
//!
//! A whole fleet of processes with etcd on this machine. CPU time is that of the source's process over a whole backup: session,
//! scan, serving and WAL included. What is limited for the scaling is what each compute worker takes in, never the source.

#[path = "measure/mod.rs"]
mod measure;
#[path = "measure/mixed.rs"]
mod mixed;
#[path = "../tests/support/mod.rs"]
mod support;

use anyhow::Result;
use measure::{Budget, Form, Median, Table, Unit, float, note};
use std::process::ExitCode;
use std::time::Instant;
use support::offload::{ALWAYS, Offload, OffloadFleet};
use support::{Site, SiteOptions, ensure, limits};

const SHORT_BYTES: u64 = 300 << 20;
const FULL_BYTES: u64 = 1 << 30;
const SHORT_ROUNDS: usize = 3;
const ROUNDS: usize = 5;
/// Of the CPU that computing there takes.
const COST_MAX: f64 = 0.4;
/// How long one compute worker takes the data in, in seconds. What a job takes besides must be small beside an eighth.
const SECONDS_ALONE: u64 = 160;
/// Compute workers.
const COUNTS: [usize; 4] = [1, 2, 4, 8];
const EFFICIENCY_MIN: f64 = 0.9;
/// Many for each of eight workers' slots.
const UNITS: u64 = 400;

fn main() -> Result<ExitCode> {
    let form = Form::from_arguments();
    let mut table = Table::default();
    let mut site = site(form.pick(SHORT_BYTES, FULL_BYTES))?;
    cost(&mut site, form.pick(SHORT_ROUNDS, ROUNDS), &mut table)?;
    // Of fleets, the short form measures what benches/scaling.rs does.
    if form.pick(false, true) {
        scaling(&mut site, &mut table)?;
    }
    Ok(table.end())
}

/// One repository: each further one would only make computing there cost more.
fn site(bytes: u64) -> Result<Site> {
    let site = Site::prepare(&SiteOptions::default())?;
    let first = site.repos[0].clone();
    let site = site.with_repos(vec![first])?;
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    mixed::load(&site.cluster, bytes)?;
    Ok(site)
}

fn cost(site: &mut Site, rounds: usize, table: &mut Table) -> Result<()> {
    let offload =
        Offload { computers: 2, with_outsider: false, computer_limit: None, slots: 1, can_be_cut: false };
    let fleet = OffloadFleet::start(site, &offload)?;
    let client = fleet.fleet.client.clone().with_limit(limits::LARGE_COMMAND);
    let cpu_of = |more: &[&str]| -> Result<f64> {
        let before = fleet.source_cpu()?;
        client.run(["backup", "--type=full"].iter().chain(more))?.ok()?;
        Ok(fleet.source_cpu()? - before)
    };
    let (mut ratios, mut there, mut here) = (Median::default(), Median::default(), Median::default());
    for round in 0..rounds {
        let (computing, serving) = (cpu_of(&[])?, cpu_of(&[ALWAYS])?);
        note(format!("round {round}: {serving:.2} s of CPU against {computing:.2} s of computing there"));
        ratios.add(serving / computing);
        here.add(computing);
        there.add(serving);
    }
    table.judge(
        "CPU of the source when others compute",
        ratios.value(),
        Unit::Times,
        Budget::AtMost(COST_MAX),
        format!(
            "zst 3, one repository; {:.2} s against {:.2} s of computing there, {rounds} rounds",
            there.value(),
            here.value()
        ),
    );
    drop(fleet);
    std::fs::remove_dir_all(site.scratch.join("pki"))?;
    Ok(())
}

fn scaling(site: &mut Site, table: &mut Table) -> Result<()> {
    let bytes = site.backup(&[])?["bytes"]["database"].as_u64().unwrap_or(0);
    ensure!(bytes > 0, "the cluster has no bytes");
    let rate = bytes / SECONDS_ALONE;
    let mut alone = None;
    for count in COUNTS {
        let seconds = backup_with(site, count, rate, bytes / UNITS)?;
        let one = *alone.get_or_insert(seconds);
        let efficiency = one / seconds / float(u64::try_from(count)?);
        note(format!("{count} compute workers: {seconds:.2} s"));
        table.judge(
            &format!("efficiency of {count} rate-limited compute workers"),
            efficiency,
            Unit::Times,
            Budget::AtLeast(EFFICIENCY_MIN),
            format!("{seconds:.2} s against {one:.2} s of one; each takes in {} KiB/s", rate >> 10),
        );
    }
    Ok(())
}

/// Seconds from submission to the end of the job.
fn backup_with(site: &mut Site, computers: usize, rate: u64, unit_size: u64) -> Result<f64> {
    let offload =
        Offload { computers, with_outsider: false, computer_limit: Some(rate), slots: 1, can_be_cut: false };
    let fleet = OffloadFleet::start(site, &offload)?;
    let client = fleet.fleet.client.clone().with_limit(limits::LARGE_COMMAND);
    let unit_size = format!("--unit-size={}KiB", (unit_size >> 10).next_power_of_two().max(1024));
    let begin = Instant::now();
    client.run(["backup", "--type=full", ALWAYS, &unit_size])?.ok()?;
    let seconds = begin.elapsed().as_secs_f64();
    drop(fleet);
    std::fs::remove_dir_all(site.scratch.join("pki"))?;
    Ok(seconds)
}
