//! Incremental backups with PostgreSQL's WAL summaries: what is left unread, what must not be, and summaries that are wrong.

mod support;

use std::path::PathBuf;
use support::{
    ClusterOptions, Context, Json, Program, Result, Site, SiteOptions, data, ensure, limits, note, same_data,
};

/// The first that writes summaries.
const VERSION: u32 = 17;
/// Pages of the large table, one row each.
const PAGES: u32 = 4_096;

fn start() -> Result<Site> {
    let settings = vec!["summarize_wal = on".to_owned()];
    let cluster = ClusterOptions { version: VERSION, settings, ..ClusterOptions::default() };
    let site = Site::start_with(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
    site.cluster.psql(&format!(
        "create table wide (id int primary key, filler text);
         alter table wide alter filler set storage plain;
         insert into wide select n, (select string_agg(md5(random()::text), '') from generate_series(1, 220) where n > 0)
           from generate_series(1, {PAGES}) n;
         create table short as select n, md5(n::text) text from generate_series(1, 50000) n;
         create index short_n on short (n)"
    ))?;
    site.cluster.psql("vacuum (freeze, analyze) wide")?;
    site.cluster.psql("vacuum (freeze, analyze) short")?;
    site.cluster.psql("checkpoint")?;
    Ok(site)
}

fn backup(site: &Site, kind: &str) -> Result<Json> {
    let finished = site.pgconvoy.run(["backup", &format!("--type={kind}"), "--output=json"])?.ok()?;
    note(&finished.stderr);
    let report = finished.json()?;
    ensure!(report["type"] == kind, "{report}");
    note(&report);
    Ok(report)
}

fn bytes(report: &Json, key: &str) -> Result<u64> {
    report["bytes"][key].as_u64().with_context(|| format!("{key} in {report}"))
}

/// From each repository; and indexes tell what tables hold.
fn restores_the_same(site: &Site, report: &Json) -> Result<()> {
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    let label = report["label"].as_str().context("label")?;
    for repo in [1, 2] {
        let options = [format!("--repo={repo}"), format!("--set={label}")];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let copy = site.restore(&format!("{label}-{repo}"), &options)?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        let count = |setting: &str| {
            copy.psql(&format!("set {setting} = off; select count(*) from short where n > 0"))
        };
        assert_eq!(count("enable_seqscan")?, count("enable_indexonlyscan")?, "index and table disagree");
        copy.stop()?;
    }
    Ok(())
}

fn settle(site: &Site) -> Result<()> {
    site.cluster.psql("checkpoint").map(drop)
}

#[test]
fn unchanged_blocks_of_a_changed_table_are_not_even_read() -> Result<()> {
    let site = start()?;
    let table: u64 = site.cluster.psql("select pg_relation_size('wide')")?.trim().parse()?;
    backup(&site, "full")?;
    // What is read in any case: pg_control, SLRUs, files that the server writes by itself.
    settle(&site)?;
    let quiet = bytes(&backup(&site, "incr")?, "read")?;
    site.cluster.psql("update wide set id = -id where id % 400 = 0")?;
    settle(&site)?;
    let report = backup(&site, "incr")?;
    ensure!(bytes(&report, "skipped")? > table / 2, "{report}");
    let read = bytes(&report, "read")?.saturating_sub(quiet);
    // One row in 400 has an old and a new page, each in a block of two; and what else an update writes.
    ensure!(read < table * 3 / 100 + (256 << 10), "{read} bytes of {table} were read: {report}");
    restores_the_same(&site, &report)?;
    site.pgconvoy.run(["verify"])?.ok().map(drop)
}

#[test]
fn visibility_maps_follow_their_tables() -> Result<()> {
    let site = start()?;
    backup(&site, "full")?;
    site.cluster.psql("delete from short where n % 2 = 0")?;
    settle(&site)?;
    let report = backup(&site, "incr")?;
    restores_the_same(&site, &report)?;
    site.cluster.psql("vacuum short")?;
    settle(&site)?;
    let report = backup(&site, "incr")?;
    restores_the_same(&site, &report)
}

#[test]
fn new_databases_truncated_and_rewritten_tables_come_back_exactly() -> Result<()> {
    let site = start()?;
    backup(&site, "full")?;
    for step in [
        "create database logged template template1 strategy wal_log",
        "create database copied template template1 strategy file_copy",
        "truncate short",
        "insert into short select n, md5(n::text) from generate_series(1, 777) n",
        "vacuum full wide",
        "create table later as select generate_series(1, 1000) n",
    ] {
        site.cluster.psql(step)?;
    }
    settle(&site)?;
    let report = backup(&site, "incr")?;
    restores_the_same(&site, &report)?;
    site.cluster.psql("update wide set id = -id where id % 100 = 1")?;
    settle(&site)?;
    let report = backup(&site, "diff")?;
    restores_the_same(&site, &report)
}

/// The server's summaries, once it has written one that ends after everything so far.
fn summaries(site: &Site) -> Result<Vec<PathBuf>> {
    let now = site.cluster.psql("select pg_current_wal_lsn()")?;
    settle(site)?;
    let is_there =
        format!("select count(*) > 0 from pg_available_wal_summaries() where end_lsn >= '{}'", now.trim());
    limits::wait_for("a summary", limits::SOON, || {
        Ok((site.cluster.psql(&is_there)?.trim() == "t").then_some(()))
    })?;
    let found = std::fs::read_dir(site.cluster.data().join("pg_wal/summaries"))?;
    found
        .map(|entry| Ok(entry?.path()))
        .filter(|path| path.as_ref().is_ok_and(|path| path.extension().is_some()))
        .collect()
}

#[test]
fn without_a_summary_everything_is_read() -> Result<()> {
    let site = start()?;
    backup(&site, "full")?;
    site.cluster.psql("update wide set id = -id where id % 400 = 0")?;
    let oldest = summaries(&site)?.into_iter().max().context("no summary")?;
    std::fs::remove_file(&oldest)?;
    let report = backup(&site, "incr")?;
    ensure!(bytes(&report, "skipped")? == 0, "{report}");
    restores_the_same(&site, &report)
}

#[test]
fn checksums_that_were_switched_on_offline_mean_reading_everything() -> Result<()> {
    let site = start()?;
    let checksums = |what: &str| -> Result<()> {
        site.cluster.stop()?;
        let program = Program::new(site.cluster.server_tool("pg_checksums")?)?;
        program.args([what, "-D"]).arg(site.cluster.data()).run(limits::TOOL)?.ok()?;
        site.cluster.start()
    };
    checksums("--disable")?;
    // What is written now has the checksums of before, which switching them on mends without a word in the WAL.
    site.cluster.psql("update wide set id = -id where id % 2 = 0")?;
    settle(&site)?;
    backup(&site, "full")?;
    checksums("--enable")?;
    let report = backup(&site, "incr")?;
    ensure!(bytes(&report, "skipped")? == 0, "{report}");
    ensure!(
        report["pages"]["checked"].as_u64() > Some(0) && report["pages"]["errors"] == serde_json::json!([]),
        "{report}"
    );
    restores_the_same(&site, &report)
}

/// A summary that says that nothing was changed.
fn empty_summary() -> Vec<u8> {
    const MAGIC: u32 = 0x652b_137b;
    const ENTRY_BYTES: usize = 24;
    let mut content = MAGIC.to_le_bytes().to_vec();
    content.extend([0; ENTRY_BYTES]);
    let crc = crc32c(&content);
    content.extend(crc.to_le_bytes());
    content
}

fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn a_summary_that_is_wrong_is_found_out_and_everything_is_read() -> Result<()> {
    let site = start()?;
    backup(&site, "full")?;
    site.cluster.psql("update wide set id = -id")?;
    site.cluster.psql("update short set text = 'changed' where n % 2 = 0")?;
    for path in summaries(&site)? {
        std::fs::write(path, empty_summary())?;
    }
    let report = backup(&site, "incr")?;
    let warnings = report["warnings"].to_string();
    ensure!(warnings.contains("WAL summaries of the server are wrong"), "{report}");
    ensure!(bytes(&report, "skipped")? == 0, "{report}");
    restores_the_same(&site, &report)
}
