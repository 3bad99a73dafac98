//! As many workers as there are, each with a limit of its own: does a backup take half the time with twice as many?
//!
//! A whole fleet of processes with etcd on this machine. What is limited is the reading, so that cores do not decide; a job
//! is timed from its submission to its end, session, scan, WAL and publication included.

#[path = "measure/mod.rs"]
mod measure;
#[path = "../tests/support/mod.rs"]
mod support;

use anyhow::Result;
use measure::{Budget, Form, Table, Unit, float, note};
use std::process::ExitCode;
use std::time::Instant;
use support::fleet::{Fleet, FleetOptions};
use support::{Site, ensure, limits};

/// How long one worker reads, in seconds. What a job takes besides is the same for any number of workers, and must be small
/// beside an eighth of this.
const SHORT_SECONDS: u64 = 30;
const FULL_SECONDS: u64 = 160;
const EFFICIENCY_MIN: f64 = 0.9;
/// Many for each of eight workers' slots.
const UNITS: u64 = 400;

fn main() -> Result<ExitCode> {
    let form = Form::from_arguments();
    let mut table = Table::default();
    let site = Site::start()?;
    let bytes = site.backup(&[])?["bytes"]["database"].as_u64().unwrap_or(0);
    ensure!(bytes > 0, "the cluster has no bytes");
    let rate = bytes / form.pick(SHORT_SECONDS, FULL_SECONDS);
    let counts: &[usize] = form.pick(&[1, 2, 4], &[1, 2, 4, 8]);
    let mut alone = None;
    for count in counts {
        let seconds = backup_with(&site, *count, rate, bytes / UNITS)?;
        let one = *alone.get_or_insert(seconds);
        let efficiency = one / seconds / float(u64::try_from(*count)?);
        note(format!("{count} workers: {seconds:.2} s"));
        table.judge(
            &format!("efficiency of {count} rate-limited workers"),
            efficiency,
            Unit::Times,
            Budget::AtLeast(EFFICIENCY_MIN),
            format!("{seconds:.2} s against {one:.2} s of one; each reads {} KiB/s", rate >> 10),
        );
    }
    Ok(table.end())
}

/// Seconds from submission to the end of the job.
fn backup_with(site: &Site, workers: usize, rate: u64, unit_size: u64) -> Result<f64> {
    let options = FleetOptions {
        coordinators: 1,
        workers,
        slots: 1,
        bandwidth_max: Some(format!("{}KiB", rate >> 10)),
        ..FleetOptions::default()
    };
    let fleet = Fleet::start(site, &options)?;
    let client = fleet.client.clone().with_limit(limits::LARGE_COMMAND);
    let unit_size = format!("--unit-size={}KiB", (unit_size >> 10).next_power_of_two().max(1024));
    let begin = Instant::now();
    client.run(["backup", "--type=full", &unit_size])?.ok()?;
    let seconds = begin.elapsed().as_secs_f64();
    drop(fleet);
    std::fs::remove_dir_all(site.scratch.join("pki"))?;
    Ok(seconds)
}
