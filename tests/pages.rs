//! Page checksums on real clusters: damage on disk is told page by page, nothing else is, and a server that writes all the
//! time is no damage.
//!
//! `PGCONVOY_PAGES_SECONDS` asks for the long form of the loop under load.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{
    Cluster, ClusterOptions, Context, Json, Program, Random, Result, Running, Site, SiteOptions,
    assert_refused, ensure, labels, limits, note, tools,
};

const PAGE: usize = 8192;
/// An object or a page does not match its checksum.
const CHECKSUM: i32 = 26;
/// pd_upper: 0 on a page that was never used.
const UPPER_AT: usize = 14;

/// A page as reports name it.
type Page = (String, u32);

#[test]
fn every_page_that_is_damaged_on_disk_is_told_and_no_other() -> Result<()> {
    let cluster =
        ClusterOptions { settings: vec!["autovacuum = off".to_owned()], ..ClusterOptions::default() };
    let site = Site::start_with(&SiteOptions { cluster, ..SiteOptions::default() })?;
    site.cluster.create_tablespace("east", &site.scratch.join("original-east"))?;
    site.cluster.psql(
        "create table in_east tablespace east as select n, md5(n::text) as text from generate_series(1, 20000) n;
         create index in_east_text on in_east (text) tablespace east;
         vacuum in_east; checkpoint",
    )?;
    let whole = site.backup(&[])?;
    ensure!(pages_in(&whole)?.is_empty(), "there is no damage yet: {}", whole["pages"]);

    let damaged = damage(&site.cluster)?;
    let finished = site.try_backup(&["--unit-size=1MiB"])?.ok()?;
    let report = finished.json()?;
    same_pages("online backup", &pages_in(&report)?, &damaged)?;
    for (file, _) in &damaged {
        ensure!(finished.stderr.contains(file.as_str()), "{file} is not warned of\n{finished}");
    }
    the_repositories_tell_them(&site, report["label"].as_str().context("label")?, &damaged)?;
    where_it_is_forbidden_nothing_is_published(&site, &damaged)?;

    site.cluster.stop()?;
    same_pages("pg_checksums", &pages_by_postgres(&site.cluster)?, &damaged)?;
    same_pages("offline backup", &pages_in(&site.backup(&["--no-online"])?)?, &damaged)?;
    let unchecked = site.backup(&["--no-online", "--no-checksum-page"])?;
    ensure!(unchecked["pages"]["checked"] == 0 && pages_in(&unchecked)?.is_empty(), "{unchecked}");
    Ok(())
}

fn pages_in(report: &Json) -> Result<BTreeSet<Page>> {
    let errors = report["pages"]["errors"].as_array().context("pages.errors")?;
    let page = |error: &Json| {
        let file = error["file"].as_str().context("file")?.to_owned();
        Ok((file, u32::try_from(error["block"].as_u64().context("block")?)?))
    };
    let pages: BTreeSet<Page> = errors.iter().map(page).collect::<Result<_>>()?;
    ensure!(pages.len() == errors.len(), "a page is told twice: {errors:?}");
    Ok(pages)
}

fn same_pages(who: &str, told: &BTreeSet<Page>, damaged: &BTreeSet<Page>) -> Result<()> {
    let missed: Vec<_> = damaged.difference(told).collect();
    let invented: Vec<_> = told.difference(damaged).collect();
    ensure!(missed.is_empty() && invented.is_empty(), "{who}: missed {missed:?}, invented {invented:?}");
    Ok(())
}

/// All forks of all permanent relations, relative to the data directory, with their pages.
fn files_of(cluster: &Cluster) -> Result<Vec<(String, u32)>> {
    let paths = cluster.psql(
        "select pg_relation_filepath(oid) || fork from pg_class, unnest(array['', '_fsm', '_vm']) fork
          where relkind in ('r', 'i', 't') and relpersistence = 'p' and oid >= 16384",
    )?;
    let mut files = Vec::new();
    for path in paths.lines() {
        let Ok(found) = std::fs::metadata(cluster.data().join(path)) else { continue };
        let pages = u32::try_from(found.len() / PAGE as u64)?;
        if pages > 0 {
            files.push((path.to_owned(), pages));
        }
    }
    Ok(files)
}

/// Under a server that has written all it had to write, and that will not look at these pages.
fn damage(cluster: &Cluster) -> Result<BTreeSet<Page>> {
    const PAGES: usize = 60;
    let mut random = Random::from_environment()?;
    let files = files_of(cluster)?;
    ensure!(files.iter().any(|(path, _)| path.starts_with("pg_tblspc/")), "{files:?}");
    ensure!(files.iter().any(|(path, _)| path.ends_with("_vm")), "{files:?}");
    let mut touched: BTreeSet<Page> = BTreeSet::new();
    let mut damaged: BTreeSet<Page> = BTreeSet::new();
    while damaged.len() < PAGES {
        let (path, pages) = &files[usize::try_from(random.below(files.len() as u64))?];
        let number = u32::try_from(random.below(u64::from(*pages)))?;
        if !touched.insert((path.clone(), number)) {
            continue;
        }
        let file = File::options().read(true).write(true).open(cluster.data().join(path))?;
        let at = u64::from(number) * PAGE as u64;
        let mut page = vec![0; PAGE];
        file.read_exact_at(&mut page, at)?;
        let before = page.clone();
        let is_in_use = page[UPPER_AT] != 0 || page[UPPER_AT + 1] != 0;
        let is_error = match random.below(5) {
            // A page that was extended and never written looks like that.
            0 => {
                page.fill(0);
                false
            }
            // From the future, which says nothing of whether it is whole.
            1 if is_in_use => {
                page[..8].copy_from_slice(&[0xff, 0xff, 0, 0, 0, 0, 0, 1]);
                true
            }
            // Only the first half reached the disk.
            2 if is_in_use => {
                page[PAGE / 2..].fill(0xa5);
                true
            }
            _ => {
                page[usize::try_from(random.below(PAGE as u64))?] ^= 1 << random.below(8);
                true
            }
        };
        if page == before {
            continue;
        }
        file.write_all_at(&page, at)?;
        if is_error {
            damaged.insert((path.clone(), number));
        }
    }
    note(format!("damaged {damaged:?}"));
    Ok(damaged)
}

/// What PostgreSQL's own checker says of the stopped cluster.
fn pages_by_postgres(cluster: &Cluster) -> Result<BTreeSet<Page>> {
    let finished = Program::new(tools::tool("pg_checksums")?)?
        .args(["--check", "-D"])
        .arg(cluster.data())
        .run(limits::LARGE_COMMAND)?;
    let prefix = format!("{}/", cluster.data().display());
    let mut pages = BTreeSet::new();
    for line in finished.stderr.lines().filter(|line| line.contains("checksum verification failed in file")) {
        let (_, rest) = line.split_once("in file \"").context("a quoted file")?;
        let (file, rest) = rest.split_once("\", block ").with_context(|| line.to_owned())?;
        let block = rest.split(':').next().context("a block")?;
        pages.insert((relative(file, &prefix), block.parse()?));
    }
    Ok(pages)
}

fn relative(file: &str, prefix: &str) -> String {
    let rest = file.strip_prefix(prefix).or_else(|| file.strip_prefix("./")).unwrap_or(file);
    rest.trim_start_matches('/').to_owned()
}

/// `info`, for people and for programs, and the manifest.
fn the_repositories_tell_them(site: &Site, label: &str, damaged: &BTreeSet<Page>) -> Result<()> {
    for repo in ["--repo=1", "--repo=2"] {
        let info = site.pgconvoy.run(["info", "--output=json", "--set", label, repo])?.ok()?.json()?;
        let backup = &info[0]["backup"][0];
        ensure!(backup["error"] == true && backup["pages"]["errors"] == damaged.len(), "{backup}");
        let files: BTreeSet<&str> = damaged.iter().map(|(file, _)| file.as_str()).collect();
        let listed = backup["error-list"].as_array().context("error-list")?;
        ensure!(listed.iter().filter_map(Json::as_str).collect::<BTreeSet<_>>() == files, "{backup}");
        let mut told = BTreeSet::new();
        for file in backup["error-pages"].as_array().context("error-pages")? {
            let name = file["file"].as_str().context("file")?;
            for block in file["block"].as_array().context("block")? {
                told.insert((name.to_owned(), u32::try_from(block.as_u64().context("a number")?)?));
            }
        }
        same_pages("info", &told, damaged)?;

        let text = site.pgconvoy.run(["info", "--set", label, repo])?.ok()?.stdout;
        let line = text.lines().find(|line| line.contains("page checksum error: ")).context(text.clone())?;
        ensure!(files.iter().all(|file| line.contains(&format!("{file} ("))), "{line}");
        let short = site.pgconvoy.run(["info", repo])?.ok()?.stdout;
        ensure!(short.contains("error(s) detected during backup"), "{short}");
    }
    let manifest = site.pgconvoy.run(["manifest", "--set", label, "--output=json"])?.ok()?.json()?;
    let mut told = BTreeSet::new();
    for file in manifest["file"].as_array().context("file")? {
        for block in file["bad-pages"].as_array().into_iter().flatten() {
            let name = file["name"].as_str().context("name")?.to_owned();
            told.insert((name, u32::try_from(block.as_u64().context("a number")?)?));
        }
    }
    same_pages("manifest", &told, damaged)
}

fn where_it_is_forbidden_nothing_is_published(site: &Site, damaged: &BTreeSet<Page>) -> Result<()> {
    let before = labels(&site.pgconvoy, 1)?;
    let refused = site.try_backup(&["--page-errors=fail"])?;
    assert_refused(&refused, CHECKSUM)?;
    let error = refused.stderr.lines().find(|line| line.contains("ERROR: [026]")).context("an error")?;
    ensure!(damaged.iter().all(|(file, _)| error.contains(&format!("{file} ("))), "{error}");
    same_pages("refused backup", &pages_in(&refused.json()?)?, damaged)?;
    ensure!(labels(&site.pgconvoy, 1)? == before && labels(&site.pgconvoy, 2)? == before, "it was published");
    Ok(())
}

/// How long the loop under load goes in the short form.
const SPAN: Duration = Duration::from_secs(120);
const SPAN_VARIABLE: &str = "PGCONVOY_PAGES_SECONDS";

fn span() -> Result<Duration> {
    match std::env::var(SPAN_VARIABLE) {
        Ok(text) => Ok(Duration::from_secs(text.parse().with_context(|| format!("{SPAN_VARIABLE}={text}"))?)),
        Err(_) => Ok(SPAN),
    }
}

/// Few buffers, so that pages are written all the time; no archive, because the WAL of it would be the whole load.
const BUSY: [&str; 6] = [
    "shared_buffers = 1MB",
    "autovacuum_naptime = 1s",
    "bgwriter_delay = 10ms",
    "backend_flush_after = 0",
    "synchronous_commit = off",
    "max_wal_size = 256MB",
];

/// Nothing expires them here, each is as large as the cluster, and one follows the other for as long as it is asked for.
const BACKUPS_KEPT: u32 = 10;

#[test]
fn a_server_that_writes_pages_while_they_are_read_raises_no_alarm() -> Result<()> {
    let cluster = ClusterOptions {
        archive_mode: false,
        settings: BUSY.map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    };
    let site = Site::start_with(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
    site.cluster
        .client("pgbench")?
        .args(["-i", "-q", "-s", "2", "-F", "50", "postgres"])
        .run(limits::LARGE_COMMAND)?
        .ok()?;
    let began = Instant::now();
    let loads = [standard_load(&site)?, sweeping_load(&site)?];
    let tearing = Tearing::start(&site.cluster)?;
    let (mut backups, mut pages, mut reread) = (0u32, 0u64, 0usize);
    while began.elapsed() < span()? {
        if backups % BACKUPS_KEPT == BACKUPS_KEPT - 1 {
            std::fs::remove_dir_all(&site.repos[0].path)?;
            site.pgconvoy.run(["stanza-create"])?.ok()?;
        }
        let options = [
            "--repo=1",
            "--no-archive-check",
            "--start-fast",
            "--compress-type=none",
            "--log-level-console=debug",
        ];
        let finished = site.try_backup(&options)?.ok()?;
        let report = finished.json()?;
        let errors = pages_in(&report)?;
        ensure!(errors.is_empty(), "backup {backups}: nobody damaged {errors:?}\n{finished}");
        backups += 1;
        pages += report["pages"]["checked"].as_u64().context("pages.checked")?;
        reread += finished.stderr.lines().filter(|line| line.contains("was being written")).count();
        for load in &loads {
            ensure!(!load.has_ended()?, "the load has ended: {}", load.stderr_so_far()?);
        }
    }
    drop(loads);
    let torn = tearing.stop()?;
    note(format!("{backups} backups, {pages} pages, {torn} torn, {reread} read again"));
    ensure!(reread > 0, "no page was read while it was written: {backups} backups show nothing");
    Ok(())
}

/// A write that the kernel interrupts between two halves of a page is rare (one read in a million), and this test is about
/// nothing else: so it is made often, in a table of which the server has no page in use.
struct Tearing {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

impl Tearing {
    /// Pages that are torn at a time.
    const PAGES: usize = 16;
    /// Far less than a backup waits for a page to change, so that a busy machine does not make it an error.
    const LENGTH_MAX: Duration = Duration::from_millis(60);

    fn start(cluster: &Cluster) -> Result<Tearing> {
        cluster.psql(
            "create table torn with (autovacuum_enabled = off) as
               select n, repeat(md5(n::text), 60) as text from generate_series(1, 8000) n;
             vacuum (freeze) torn; checkpoint",
        )?;
        let path = cluster.data().join(cluster.psql("select pg_relation_filepath('torn')")?);
        let file = File::options().read(true).write(true).open(&path)?;
        let pages = file.metadata()?.len() / PAGE as u64;
        ensure!(pages > 500, "{pages} pages are too few to meet a torn one");
        let stopping = Arc::new(AtomicBool::new(false));
        let asked = stopping.clone();
        let mut random = Random::from_environment()?;
        let thread = std::thread::spawn(move || {
            let mut torn = 0;
            while !asked.load(Ordering::Relaxed) {
                let halves: BTreeSet<u64> = (0..Self::PAGES).map(|_| random.below(pages)).collect();
                let at = |page: &u64| page * PAGE as u64 + PAGE as u64 / 2;
                let mut whole = vec![[0; PAGE / 2]; halves.len()];
                for (page, half) in halves.iter().zip(&mut whole) {
                    file.read_exact_at(half, at(page))?;
                    file.write_all_at(&[0xa5; PAGE / 2], at(page))?;
                }
                // Torn for that long, which is what is tested: LENGTH_MAX is the timeout, and nothing is waited for.
                std::thread::sleep(random.moment_within(Self::LENGTH_MAX));
                for (page, half) in halves.iter().zip(&whole) {
                    file.write_all_at(half, at(page))?;
                }
                torn += halves.len() as u64;
            }
            Ok(torn)
        });
        Ok(Tearing { stopping, thread })
    }

    fn stop(self) -> Result<u64> {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| support::anyhow!("the thread that tears pages panicked"))?
    }
}

fn standard_load(site: &Site) -> Result<Running> {
    pgbench(site, &["-c", "2", "-M", "prepared"])
}

/// Stretches of the large table one after another: as many pages a second as the server can write.
fn sweeping_load(site: &Site) -> Result<Running> {
    let script = site.scratch.join("sweep.sql");
    std::fs::write(
        &script,
        "\\set begin random(1, 180000)
         update pgbench_accounts set abalance = abalance + 1 where aid between :begin and :begin + 5000;",
    )?;
    support::user::give(&script)?;
    let script = script.display().to_string();
    pgbench(site, &["-c", "2", "-f", &script])
}

fn pgbench(site: &Site, options: &[&str]) -> Result<Running> {
    let seconds = (span()? + limits::LARGE_COMMAND).as_secs().to_string();
    site.cluster.client("pgbench")?.args(["-n", "-T", &seconds]).args(options).arg("postgres").start()
}
