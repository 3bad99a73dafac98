//! What the engine adds to its codecs: CPU time of real units against compressor, hash and cipher run back to back.
//!
//! Both read the same pages, made by PostgreSQL, in frames of the same size. Stores are null, so that neither a disk nor
//! the kernel's copying is measured; the pages come from the page cache, and reading them is the engine's to pay. Page
//! checksums are checked as in any backup. It says nothing of wall time: `compare` does.

#[path = "../measure/mod.rs"]
mod measure;
#[path = "../measure/mixed.rs"]
mod mixed;
#[path = "../../tests/support/mod.rs"]
mod support;

mod bare;
mod engine;
mod null_store;
mod pages;

use anyhow::Result;
use engine::Engine;
use measure::{Budget, Cost, Form, Median, Table, Unit, mebibytes, note};
use pages::Pages;
use std::process::ExitCode;

const CPU_RATIO_MAX: f64 = 1.15;

fn main() -> Result<ExitCode> {
    let form = Form::from_arguments();
    let pages = Pages::ready()?;
    let gibibytes = mebibytes(pages.bytes()) / 1024.0;
    let (one, two) = (Engine::new(&pages, 1)?, Engine::new(&pages, 2)?);
    let (mut for_one, mut for_two, mut per_gib) = (Median::default(), Median::default(), Median::default());
    let mut bare_per_gib = Median::default();
    // The first round fills the page cache and the codecs' tables, and is not counted.
    for round in 0..=form.pick(5, 11) {
        let (bare, stored) = bare::run(&pages)?;
        let (single, _) = Cost::of(|| one.run())?;
        let (double, _) = Cost::of(|| two.run())?;
        note(format!(
            "round {round}: codecs {:.2} s, one repository {:.2} s, two {:.2} s of CPU; {stored} bytes stored",
            bare, single.cpu, double.cpu
        ));
        if round > 0 {
            for_one.add(single.cpu / bare);
            for_two.add(double.cpu / bare);
            per_gib.add(single.cpu / gibibytes);
            bare_per_gib.add(bare / gibibytes);
        }
    }
    let (least, most) = for_one.spread();
    let mut table = Table::default();
    table.judge(
        "pipeline, CPU against its bare codecs",
        for_one.value(),
        Unit::Times,
        Budget::AtMost(CPU_RATIO_MAX),
        format!(
            "{:.2} s a GiB against {:.2} s; median of {} pairs, {least:.2} to {most:.2} x",
            per_gib.value(),
            bare_per_gib.value(),
            for_one.count()
        ),
    );
    table.tell(
        "the same for two repositories at once",
        for_two.value(),
        Unit::Times,
        "reads, checks, hashes and compresses once, encrypts twice",
    );
    Ok(table.end())
}
