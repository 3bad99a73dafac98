//! A cluster of a million files, backed up in full and again, and restored, for real: seconds, memory, and that all of it is back.
//!
//! The files lie beside those of a running server, named like relations of databases that it does not know; most are empty, and
//! those that are not have one page of zeros, so that what is measured is what a file costs.

mod measure;

#[path = "../tests/support/mod.rs"]
mod support;

use anyhow::{Result, ensure};
use measure::{Budget, Cost, Form, Table, Unit, mebibytes, memory::Watcher, note};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use support::{Cluster, ClusterOptions, Config, Pgconvoy, Program, Repo, Scratch, files, limits, user};

const SHORT_FILES: u32 = 20_000;
const FULL_FILES: u32 = 1_000_000;
const FILES_PER_DATABASE: u32 = 20_000;
const FIRST_DATABASE: u32 = 900_000;
const FIRST_RELATION: u32 = 100_000;
/// One of so many has a page.
const WITH_A_PAGE: u32 = 4;
const PAGE_BYTES: u64 = 8192;
const SLOTS: u64 = 2;

fn main() -> Result<ExitCode> {
    let wanted = Form::from_arguments().pick(SHORT_FILES, FULL_FILES);
    let mut table = Table::default();
    let scratch = Scratch::new()?;
    let cluster = Cluster::create(
        &scratch,
        "primary",
        &ClusterOptions {
            settings: vec!["archive_command = 'true'".to_owned()],
            ..ClusterOptions::default()
        },
    )?;
    let repositories = [Repo::plain(&scratch, 1)];
    Config::new(&scratch, &repositories, &cluster)
        .backup("process-max", &SLOTS.to_string())
        .backup("archive-check", "false")
        .write(&scratch.config_file())?;
    let pgconvoy = Pgconvoy::new(&scratch).with_limit(limits::LARGE_COMMAND);
    populate(&cluster.data().join("base"), wanted)?;
    cluster.start()?;
    pgconvoy.run(["stanza-create"])?.ok()?;
    for kind in ["full", "incr"] {
        let what = format!("{kind} backup of {wanted} files");
        judge(&mut table, &what, wanted, pgconvoy.call(["backup", &format!("--type={kind}")])?)?;
    }
    let target = scratch.join("target");
    user::private_dir(&target)?;
    let path = format!("--pg-path={}", target.display());
    judge(&mut table, &format!("restore of {wanted} files"), wanted, pgconvoy.call(["restore", &path])?)?;
    is_all_back(&cluster.data().join("base"), &target.join("base"))?;
    Ok(table.end())
}

/// Files of relations, in as many databases as it takes.
fn populate(base: &Path, wanted: u32) -> Result<()> {
    for database in 0..wanted.div_ceil(FILES_PER_DATABASE) {
        let directory = base.join((FIRST_DATABASE + database).to_string());
        user::private_dir(&directory)?;
        for number in 0..FILES_PER_DATABASE.min(wanted - database * FILES_PER_DATABASE) {
            let path = directory.join((FIRST_RELATION + number).to_string());
            let file = File::create(&path)?;
            if number % WITH_A_PAGE == 0 {
                file.set_len(PAGE_BYTES)?;
            }
            user::give(&path)?;
        }
    }
    Ok(())
}

/// Time is told; memory must be what a worker and a coordinator may have together.
fn judge(table: &mut Table, what: &str, count: u32, program: Program) -> Result<()> {
    let (cost, peak) = Cost::of_children(|| {
        let running = program.start()?;
        let watcher = Watcher::start(running.id());
        let finished = running.wait(limits::LARGE_COMMAND);
        let peak = watcher.stop();
        finished?.ok()?;
        Ok(peak)
    })?;
    note(format!("{what}: {:.1} s, {:.1} s of CPU, {} MiB", cost.wall, cost.cpu, peak >> 20));
    table.tell(what, cost.wall, Unit::Seconds, format!("{:.1} s of CPU", cost.cpu));
    let worker = 64 + SLOTS * 24;
    let coordinator = 64 + ((200 * u64::from(count)) >> 20);
    let budget = Budget::AtMost(mebibytes((worker + coordinator) << 20));
    table.judge(&format!("{what}, peak memory"), mebibytes(peak), Unit::Mebibytes, budget, "");
    Ok(())
}

fn is_all_back(original: &Path, copy: &Path) -> Result<()> {
    let listed = |root: &Path| -> Result<Vec<(String, u64)>> {
        let mut listed = Vec::new();
        for path in files::walk(root)? {
            let place = path.strip_prefix(root)?.display().to_string();
            // What the server itself writes meanwhile is not compared.
            if place.starts_with(&FIRST_DATABASE.to_string()[..1]) && place.len() > 6 {
                listed.push((place, path.metadata()?.len()));
            }
        }
        listed.sort();
        Ok(listed)
    };
    let (before, after) = (listed(original)?, listed(copy)?);
    ensure!(before == after, "{} files were backed up, {} are back", before.len(), after.len());
    note(format!("{} files are back as they were", after.len()));
    Ok(())
}
