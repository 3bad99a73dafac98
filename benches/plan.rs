//! A million files and 20 TB, from scan to catalogue, as a coordinator sees them: seconds to the plan, and bytes of memory;
//! in full, and resting on a backup that was made before.
//!
//! core's own machine is driven with pages of a scan and with receipts, so what it really keeps is what is counted; this
//! file plays the repositories, the lease store and a worker. It is not a test of what the plan says.

mod measure;

#[path = "plan/earlier.rs"]
mod earlier;
#[path = "plan/inventory.rs"]
mod inventory;
#[path = "plan/world.rs"]
mod world;

use anyhow::{Context, Result, ensure};
use earlier::Earlier;
use inventory::{Files, PAGE_ENTRIES};
use measure::{Budget, Form, Median, Table, Unit, mebibytes, memory, note};
use std::process::ExitCode;
use world::World;

const FILES: u32 = 1_000_000;
const PLAN_SECONDS_MAX: f64 = 3.0;
const BYTES_PER_FILE_MAX: u64 = 200;
const BYTES_BASE_MAX: u64 = 64 << 20;

/// What a backup rests on.
#[derive(Clone, Copy)]
enum Basis<'a> {
    Nothing,
    /// Files of the same size and time are taken over: all of them.
    Times(&'a Earlier),
    /// Everything is read again, and every part knows where the earlier backup has it.
    Content(&'a Earlier),
}

impl Basis<'_> {
    fn name(self) -> &'static str {
        match self {
            Basis::Nothing => "full",
            Basis::Times(_) => "incremental",
            Basis::Content(_) => "incremental by content",
        }
    }
}

fn main() -> Result<ExitCode> {
    let form = Form::from_arguments();
    let mut table = Table::default();
    let earlier = rounds(Basis::Nothing, form.pick(1, 5), &mut table)?;
    rounds(Basis::Times(&earlier), form.pick(1, 5), &mut table)?;
    rounds(Basis::Content(&earlier), form.pick(1, 5), &mut table)?;
    Ok(table.end())
}

fn rounds(basis: Basis<'_>, count: u32, table: &mut Table) -> Result<Earlier> {
    let mut seconds = Median::default();
    let mut made = None;
    for round in 0..count {
        // Only the first round begins with a heap that holds nothing from before.
        let report = if round == 0 { Some(&mut *table) } else { None };
        let (planned, earlier) = backup(basis, report)?;
        seconds.add(planned);
        made = Some(earlier);
    }
    let (least, most) = seconds.spread();
    table.judge(
        &format!("1,000,000 files scanned and planned, {}", basis.name()),
        seconds.value(),
        Unit::Seconds,
        Budget::AtMost(PLAN_SECONDS_MAX),
        format!("median of {}, {least:.2} to {most:.2} s", seconds.count()),
    );
    made.context("no round was run")
}

/// One whole backup; seconds until it was planned. With a table, memory is watched and told.
fn backup(basis: Basis<'_>, table: Option<&mut Table>) -> Result<(f64, Earlier)> {
    memory::forget_peak()?;
    let before = memory::resident()?;
    let mut stages = Vec::new();
    let mut stage = |name: &str, seconds: f64| -> Result<()> {
        let (peak, resident) = (memory::peak()?, memory::resident()?);
        note(format!("{name}: {seconds:.2} s, {} MiB, peak {} MiB", resident >> 20, peak >> 20));
        stages.push(peak);
        Ok(())
    };
    let mut world = match basis {
        Basis::Nothing => World::new(None, false),
        Basis::Times(earlier) => World::new(Some(earlier), false),
        Basis::Content(earlier) => World::new(Some(earlier), true),
    };
    let mut files = Files::new(FILES);
    while let Some(page) = files.next_page(PAGE_ENTRIES) {
        world.scanned(page);
    }
    stage("scanned", world.seconds())?;
    world.scan_ended();
    let planned = world.seconds();
    stage("planned", planned)?;
    world.copy();
    stage("copied", world.seconds())?;
    let earlier = world.keep()?;
    let records = world.publish();
    stage("published", world.seconds())?;
    ensure!(records > u64::from(FILES), "the manifest has {records} records");
    if let Some(table) = table {
        let peak = stages.into_iter().max().unwrap_or_default();
        let budget = BYTES_PER_FILE_MAX * u64::from(FILES) + BYTES_BASE_MAX;
        table.judge(
            &format!("memory of a coordinator, 1,000,000 files, {}", basis.name()),
            // What it rests on is this file's, and was there before.
            mebibytes(peak.saturating_sub(before)),
            Unit::Mebibytes,
            Budget::AtMost(mebibytes(budget)),
            format!("peak resident size above the {} MiB before; {}", before >> 20, world.summary()),
        );
    }
    Ok((planned, earlier))
}
