//! More than a gigabyte under load, once: two encrypted repositories from one read, each restored alone and looked at
//! with PostgreSQL's own checkers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use support::process::IoCounters;
use support::{
    Cluster, ClusterOptions, Context, Finished, Json, Program, Result, Site, SiteOptions, anyhow, data,
    ensure, limits, note, same_data, tools,
};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Transactions a second: every kind of write all the time, and yet little WAL beside a gigabyte of data.
const LOAD_RATE: u32 = 200;

#[test]
fn a_gigabyte_under_load_is_read_once_and_comes_back_from_each_repository_alone() -> Result<()> {
    let site = large_site()?;
    let load = site.cluster.load(2, LOAD_RATE)?;
    let ledger = Ledger::start(&site);
    let finished = site.try_backup(&[])?.ok()?;
    let entries = ledger.stop()?;
    drop(load);
    note(format!("backup took {:?}", finished.elapsed));
    let report = finished.json()?;
    assert_eq!(report["status"], "ok", "{report}");
    each_page_was_read_once(&report, &finished.io)?;
    large_files_were_shared(&site, &report)?;

    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    let stop = lsn(report.pointer("/lsn/stop"))?;
    site.cluster.stop()?;

    let wal = site.scratch.private_dir("wal-of-copy-1")?;
    let copy = restore_from(&site, 1, &[&format!("--link-map=pg_wal={}", wal.display())])?;
    same_data(&copy, &expected)?;
    postgres_finds_nothing(&copy)?;
    std::fs::remove_dir_all(copy.data())?;

    let copy = restore_from(&site, 2, &["--type=immediate", "--target-action=promote"])?;
    entries.are_complete_in(&copy, stop)?;
    postgres_finds_nothing(&copy)?;
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

fn large_site() -> Result<Site> {
    let cluster = ClusterOptions { linked_wal: true, ..ClusterOptions::default() };
    let mut site = Site::start_with(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
    site.pgconvoy = site.pgconvoy.with_limit(limits::LARGE_COMMAND);
    data::seed_large(&site.cluster)?;
    for name in ["east", "west"] {
        site.cluster.create_tablespace(name, &site.scratch.join(&format!("original-{name}")))?;
        site.cluster.psql(&format!(
            "create table in_{name} tablespace {name} as select n, md5(n::text) as text from generate_series(1, 200000) n;
             create index in_{name}_text on in_{name} (text) tablespace {name}"
        ))?;
    }
    site.cluster.psql("create table ledger (n bigserial primary key, text text not null); checkpoint")?;
    Ok(site)
}

/// By the backup's own account, and by the kernel's.
fn each_page_was_read_once(report: &Json, io: &IoCounters) -> Result<()> {
    let number = |pointer: &str| report.pointer(pointer).and_then(Json::as_u64).context(pointer.to_owned());
    let (database, read) = (number("/bytes/database")?, number("/bytes/read")?);
    note(format!("database {database}, read {read}, counters {io:?}"));
    ensure!(database >= GIB, "the cluster has only {database} bytes");
    ensure!(read * 100 <= database * 102, "bytes.read is {read}, bytes.database {database}");
    // Beside the data files: WAL that is looked for in both repositories, the repositories' small objects, libraries.
    let wal = lsn(report.pointer("/lsn/stop"))?.saturating_sub(lsn(report.pointer("/lsn/start"))?);
    let besides = 2 * (wal + 32 * MIB) + 64 * MIB;
    ensure!(besides * 2 < database, "{wal} bytes of WAL are too many to tell one read from two");
    ensure!(
        io.read_bytes * 100 <= database * 102 + besides * 100,
        "the process read {io:?}, {besides} besides data"
    );
    ensure!(io.read_bytes >= read, "bytes.read is {read}, but the process read only {io:?}");
    Ok(())
}

fn large_files_were_shared(site: &Site, report: &Json) -> Result<()> {
    let label = report["label"].as_str().context("label")?;
    let manifest = site.pgconvoy.run(["manifest", "--set", label, "--output=json"])?.ok()?.json()?;
    let files = manifest["file"].as_array().context("file")?;
    let largest = files.iter().max_by_key(|file| file["size"].as_u64()).context("no files")?;
    let ranges = largest["range"].as_array().context("range")?;
    let slots: std::collections::BTreeSet<String> =
        ranges.iter().map(|range| format!("{} {}", range["worker"], range["slot"])).collect();
    ensure!(slots.len() >= 2, "one slot read all of {}: {} ranges", largest["name"], ranges.len());
    Ok(())
}

/// Restores, has pg_verifybackup look at the files before the first start, and recovers.
fn restore_from(site: &Site, number: u16, more: &[&str]) -> Result<Cluster> {
    let tablespaces = site.scratch.private_dir(&format!("tablespaces-of-copy-{number}"))?;
    let own = [format!("--repo={number}"), format!("--tablespace-map-all={}", tablespaces.display())];
    let options: Vec<&str> =
        own.iter().map(String::as_str).chain(["--backup-manifest"]).chain(more.iter().copied()).collect();
    let copy = site.restore(&format!("copy-{number}"), &options)?;
    let verify = Program::new(tools::tool("pg_verifybackup")?)?.arg("--no-parse-wal").arg(copy.data());
    verify.run(limits::LARGE_COMMAND)?.ok()?;
    copy.start_and_recover()?;
    Ok(copy)
}

/// Heap and indexes by pg_amcheck, then every page's checksum after a clean stop.
fn postgres_finds_nothing(copy: &Cluster) -> Result<()> {
    copy.client("pg_amcheck")?
        .args(["--all", "--install-missing", "-j", "2"])
        .run(limits::LARGE_COMMAND)?
        .ok()?;
    assert_eq!(copy.psql("select count(*) from scribble")?, "0", "an unlogged table comes back empty");
    copy.stop()?;
    let check = Program::new(tools::tool("pg_checksums")?)?.args(["--check", "-D"]).arg(copy.data());
    let found: Finished = check.run(limits::LARGE_COMMAND)?.ok()?;
    ensure!(found.stdout.contains("Bad checksums:  0"), "{found}");
    Ok(())
}

/// `X/Y` as a number.
fn lsn(value: Option<&Json>) -> Result<u64> {
    let text = value.and_then(Json::as_str).ok_or_else(|| anyhow!("no LSN in {value:?}"))?;
    let (high, low) = text.split_once('/').with_context(|| text.to_owned())?;
    Ok((u64::from_str_radix(high, 16)? << 32) | u64::from_str_radix(low, 16)?)
}

/// Writes rows one commit at a time while the backup runs, and notes for each an LSN by which it was committed.
struct Ledger {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<Result<Entries>>,
}

/// (row number, an LSN at or after its commit), in the order of writing.
struct Entries(Vec<(u64, u64)>);

impl Ledger {
    fn start(site: &Site) -> Ledger {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let connection = site.cluster.socket_dir().to_owned();
        let port = site.cluster.port();
        let writer = std::thread::spawn(move || {
            let mut entries = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                entries.push(write_entry(&connection, port)?);
            }
            Ok(Entries(entries))
        });
        Ledger { stop, writer }
    }

    fn stop(self) -> Result<Entries> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().map_err(|_| anyhow!("the ledger's writer panicked"))?
    }
}

fn write_entry(socket_dir: &std::path::Path, port: u16) -> Result<(u64, u64)> {
    // Two statements, two transactions: the second one's LSN is past the first one's commit record.
    let script = "insert into ledger (text) values (md5(random()::text)) returning n;\nselect pg_current_wal_insert_lsn();";
    let answer = Program::new(tools::tool("psql")?)?
        .args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-f",
            "-",
        ])
        .env("PGHOST", socket_dir)
        .env("PGPORT", port.to_string())
        .stdin_text(script)?
        .run(limits::TOOL)?
        .ok()?;
    let (row, position) = answer.stdout.trim().split_once('\n').context("two lines")?;
    Ok((row.parse()?, lsn(Some(&Json::from(position)))?))
}

impl Entries {
    /// Every row committed before the backup's end is there, and no row between is missing.
    fn are_complete_in(&self, copy: &Cluster, stop: u64) -> Result<()> {
        let certain = self.0.iter().take_while(|(_, committed)| *committed <= stop).count();
        ensure!(certain > 0, "no row was written while the backup ran");
        let last = self.0[certain - 1].0;
        note(format!("{certain} of {} rows were written before the backup's end", self.0.len()));
        let found = copy.psql(&format!("select count(*) from ledger where n <= {last}"))?;
        ensure!(found.parse() == Ok(last), "{found} of {last} rows are there");
        Ok(())
    }
}
