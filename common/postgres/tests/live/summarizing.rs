//! WAL summaries of real servers: what they leave unread is as it was, and what they name is what `pg_walsummary` prints.

use crate::cluster::{Cluster, run, wait_until};
use pgconvoy_core::pg::relation::RelationFile;
use pgconvoy_core::pg::wal_summary::SUMMARY_DIRECTORY;
use pgconvoy_core::pg::{Fork, Lsn, WalSummaryName};
use pgconvoy_core::plan::summaries::{
    ChangedBlocks, Geometry, Judgement, NoSummaries, PageRanges, ToRead, Unknown, Window, judge,
};
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::control::read_control;
use pgconvoy_postgres::summaries::{Summarized, SummaryRequest, load_summaries};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PAGE: usize = 8192;
/// The summarizer may sleep for half a minute when nothing happens.
const LONG: Duration = Duration::from_secs(60);
const SETTINGS: &str = "summarize_wal = on\ncheckpoint_timeout = 1h\nwal_keep_size = 0";

/// Relation files by their path.
type Files = BTreeMap<String, Vec<u8>>;

fn start(major: u32, arguments: &[&str]) -> Cluster {
    // From 18 on checksums are on unasked. With them hint bits are in the WAL, so that bytes can be compared.
    Cluster::start_version(major, &[&["--data-checksums"], arguments].concat(), SETTINGS)
}

/// The main forks of all relations, through the links of tablespaces.
fn main_forks(data: &Path) -> Files {
    let mut files = Files::new();
    let mut directories = vec!["global".to_owned(), "base".to_owned(), "pg_tblspc".to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(data.join(&directory)).unwrap() {
            let path = format!("{directory}/{}", entry.unwrap().file_name().to_str().unwrap());
            if fs::metadata(data.join(&path)).unwrap().is_dir() {
                directories.push(path);
            } else if RelationFile::from_path(&path).is_some_and(|file| file.name.fork == Fork::Main) {
                files.insert(path.clone(), fs::read(data.join(&path)).unwrap());
            }
        }
    }
    files
}

/// A backup from start to stop, with what the data directory held in between.
async fn back_up(cluster: &Cluster) -> (Window, Files) {
    let session = BackupSession::start(cluster.connect().await, "prior", true).await.unwrap();
    let files = main_forks(&cluster.data());
    let started = session.started().clone();
    let stopped = session.stop().await.unwrap();
    let window = Window {
        prior_timeline: started.timeline,
        prior_start: started.start_lsn,
        prior_stop: stopped.stop_lsn,
        timeline: started.timeline,
        start: stopped.stop_lsn,
    };
    (window, files)
}

/// Begins the next backup.
async fn begin(cluster: &Cluster, prior: Window) -> (BackupSession, Window) {
    let session = BackupSession::start(cluster.connect().await, "next", true).await.unwrap();
    let (timeline, start) = (session.started().timeline, session.started().start_lsn);
    (session, Window { timeline, start, ..prior })
}

fn load(cluster: &Cluster, window: Window, wait_at_most: Duration) -> Result<Summarized, NoSummaries> {
    let directory = cluster.data();
    load_summaries(&SummaryRequest { directory: &directory, window, wait_at_most, given_up: &|| false })
}

/// A prior backup, changes of all kinds, and the next backup's start.
struct Scenario {
    cluster: Cluster,
    prior: Files,
    now: Files,
    window: Window,
    geometry: Geometry,
    loaded: Summarized,
    /// Paths of tables, as they are now.
    paths: BTreeMap<&'static str, String>,
}

const TABLES: [&str; 8] =
    ["updated", "truncated", "cut", "grown", "untouched", "spread", "updated_index", "created"];

fn before(cluster: &Cluster) {
    let location = cluster.make_directory("fast");
    cluster.sql(&format!("create tablespace fast location '{}'", location.display()));
    cluster.sql(
        "create table updated as select g as n, repeat('x', 100) as t from generate_series(1, 20000) g;
         create index updated_index on updated (n);
         create table truncated as select generate_series(1, 5000) as n;
         create table cut as select generate_series(1, 20000) as n;
         create table grown as select generate_series(1, 5000) as n;
         create table untouched as select g as n, repeat('x', 300) as t from generate_series(1, 50000) g;
         create table dropped as select generate_series(1, 5000) as n;
         create table spread tablespace fast as select generate_series(1, 20000) as n",
    );
    cluster.sql("create database gone");
    cluster.sql("create database moved");
    cluster.sql("vacuum");
}

fn change(cluster: &Cluster) {
    cluster.sql("update updated set t = repeat('y', 100) where n in (5, 9000, 19000)");
    cluster.sql("truncate truncated; insert into truncated values (1)");
    cluster.sql("delete from cut where n > 5000");
    cluster.sql("vacuum (truncate on) cut");
    cluster.sql("insert into grown select generate_series(1, 20000)");
    cluster.sql("checkpoint");
    cluster.sql("select count(*) from untouched");
    cluster.sql("drop table dropped");
    cluster.sql("update spread set n = -1 where n = 15000");
    cluster.sql("create table created as select generate_series(1, 100) as n");
    cluster.sql("create database by_wal strategy wal_log");
    cluster.sql("create database by_copy strategy file_copy");
    cluster.sql("drop database gone");
    cluster.sql("alter database moved set tablespace fast");
    cluster.sql("alter database moved set tablespace pg_default");
}

async fn scenario(major: u32) -> Scenario {
    let cluster = start(major, &[]);
    before(&cluster);
    let (window, prior) = back_up(&cluster).await;
    change(&cluster);
    let (session, window) = begin(&cluster, window).await;
    let loaded = load(&cluster, window, LONG).unwrap();
    let now = main_forks(&cluster.data());
    session.stop().await.unwrap();
    let geometry = Geometry::of(&read_control(&cluster.data()).unwrap().control);
    let path = |table| cluster.sql(&format!("select pg_relation_filepath('{table}')"));
    let paths = TABLES.map(|table| (table, path(table))).into();
    Scenario { cluster, prior, now, window, geometry, loaded, paths }
}

fn pages_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len() / PAGE).unwrap()
}

fn page(bytes: &[u8], number: u32) -> &[u8] {
    &bytes[number as usize * PAGE..][..PAGE]
}

impl Scenario {
    fn to_read(&self, changed: &ChangedBlocks, path: &str) -> ToRead {
        let prior_size = self.prior.get(path).map(|bytes| bytes.len() as u64);
        changed.to_read(self.geometry, path, prior_size, 0..pages_of(&self.now[path]))
    }

    fn of_table(&self, table: &str) -> ToRead {
        self.to_read(&self.loaded.changed, &self.paths[table])
    }

    fn pages_of_table(&self, table: &str) -> PageRanges {
        match self.of_table(table) {
            ToRead::Pages(pages) => pages,
            ToRead::Unknown(unknown) => panic!("{table}: {unknown:?}"),
        }
    }

    /// Byte for byte, and the audit agrees.
    fn what_is_left_unread_is_as_the_prior_has_it(&self) {
        let (mut left, mut all) = (0, 0);
        for (path, bytes) in &self.now {
            all += u64::from(pages_of(bytes));
            let ToRead::Pages(pages) = self.to_read(&self.loaded.changed, path) else { continue };
            let skipped = pages.without(&(0..pages_of(bytes)));
            left += skipped.count();
            for number in skipped.iter().flatten() {
                let page_now = page(bytes, number);
                assert!(page_now == page(&self.prior[path], number), "page {number} of {path} differs");
                assert_eq!(judge(page_now, &self.window), Judgement::Fine, "page {number} of {path}");
            }
        }
        // The rest is two new databases, one that was moved, and what had grown.
        assert!(left > 3000 && left * 3 > all, "{left} of {all} pages are left unread");
    }

    fn each_kind_of_change_is_found(&self) {
        let updated = self.pages_of_table("updated");
        assert!((3..=6).contains(&updated.count()), "{updated:?}");
        for number in updated.iter().flatten() {
            let judgement = judge(page(&self.now[&self.paths["updated"]], number), &self.window);
            assert!(matches!(judgement, Judgement::Wrong(_)), "the audit would not miss page {number}");
        }
        assert!((1..=8).contains(&self.pages_of_table("updated_index").count()));
        assert!((1..=3).contains(&self.pages_of_table("spread").count()));
        assert!(self.pages_of_table("untouched").is_empty());
        let grown = &self.paths["grown"];
        let new = pages_of(&self.prior[grown])..pages_of(&self.now[grown]);
        assert!(!new.is_empty());
        assert!(self.pages_of_table("grown").without(&new).is_empty(), "all that it grew by is read");
        let cut = &self.paths["cut"];
        assert!(pages_of(&self.now[cut]) < pages_of(&self.prior[cut]));
        for table in ["truncated", "created"] {
            assert_eq!(self.of_table(table), ToRead::Unknown(Unknown::NotInPrior), "{table}");
        }
        self.databases_that_were_made_or_moved_are_read();
    }

    fn databases_that_were_made_or_moved_are_read(&self) {
        let expect = |name: &str, unknown| {
            let oid = self.cluster.sql(&format!("select oid from pg_database where datname = '{name}'"));
            let files: Vec<_> =
                self.now.keys().filter(|path| path.starts_with(&format!("base/{oid}/"))).collect();
            assert!(files.len() > 200, "{name}");
            for path in files {
                let to_read = self.to_read(&self.loaded.changed, path);
                assert_eq!(to_read, ToRead::Unknown(unknown), "{path} of {name}");
            }
        };
        expect("by_wal", Unknown::NotInPrior);
        expect("by_copy", Unknown::NotInPrior);
        expect("moved", Unknown::Database);
    }

    fn what_is_read_is_what_pg_walsummary_lists(&self) {
        let printed = Printed::of(&self.cluster, &self.loaded.summaries);
        let mut compared = 0;
        for (path, bytes) in &self.now {
            let Some(prior) = self.prior.get(path) else { continue };
            let file = RelationFile::from_path(path).unwrap();
            let expected = printed.to_read(file, pages_of(prior), pages_of(bytes));
            let found = match self.to_read(&self.loaded.changed, path) {
                ToRead::Unknown(_) => (0..pages_of(bytes)).collect(),
                ToRead::Pages(pages) => pages.iter().flatten().collect::<Vec<u32>>(),
            };
            assert_eq!(found, expected, "{path}");
            compared += expected.len();
        }
        assert!(compared > 0);
    }
}

/// What `pg_walsummary -i` says of main forks.
#[derive(Default)]
struct Printed {
    databases: BTreeSet<(u32, u32)>,
    limits: BTreeMap<(u32, u32, u32), u32>,
    blocks: BTreeSet<(u32, u32, u32, u32)>,
}

impl Printed {
    fn of(cluster: &Cluster, summaries: &[WalSummaryName]) -> Printed {
        let mut command = Command::new(cluster.tool("pg_walsummary"));
        let directory = cluster.data().join(SUMMARY_DIRECTORY);
        command.arg("-i").args(summaries.iter().map(|name| directory.join(name.to_string())));
        let output = String::from_utf8(run(&mut command).stdout).unwrap();
        let mut printed = Printed::default();
        output.lines().filter(|line| line.contains("FORK main")).for_each(|line| printed.line(line));
        printed
    }

    /// `TS 1663, DB 5, REL 1259, FORK main: block 5`
    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split([' ', ',', ':']).filter(|word| !word.is_empty()).collect();
        let number = |index: usize| words[index].parse::<u32>().unwrap();
        let (tablespace, database, relation) = (number(1), number(3), number(5));
        match (words[8], relation) {
            ("limit", 0) => drop(self.databases.insert((tablespace, database))),
            ("limit", _) => {
                let limit = self.limits.entry((tablespace, database, relation)).or_insert(u32::MAX);
                *limit = number(9).min(*limit);
            }
            ("block", _) => drop(self.blocks.insert((tablespace, database, relation, number(9)))),
            _ => panic!("{line}"),
        }
    }

    fn to_read(&self, file: RelationFile, prior_pages: u32, pages: u32) -> Vec<u32> {
        assert_eq!(file.name.segment, 0, "the tables are small");
        let (tablespace, database, relation) = (file.tablespace.0, file.database.0, file.name.relation);
        let limit = self.limits.get(&(tablespace, database, relation)).copied().unwrap_or(u32::MAX);
        let is_read = |page: &u32| {
            self.databases.contains(&(tablespace, database))
                || *page >= prior_pages
                || *page >= limit
                || self.blocks.contains(&(tablespace, database, relation, *page))
        };
        (0..pages).filter(is_read).collect()
    }
}

async fn summaries_tell_the_whole_truth(major: u32) {
    let scenario = scenario(major).await;
    scenario.what_is_left_unread_is_as_the_prior_has_it();
    scenario.each_kind_of_change_is_found();
    scenario.what_is_read_is_what_pg_walsummary_lists();
}

#[tokio::test]
async fn what_changed_is_told_in_full_by_version_17() {
    summaries_tell_the_whole_truth(17).await;
}

#[tokio::test]
async fn what_changed_is_told_in_full_by_version_18() {
    summaries_tell_the_whole_truth(18).await;
}

#[tokio::test]
async fn hint_bits_without_checksums_change_pages_that_are_rightly_left_unread() {
    // 17 has no checksums unless it is asked for them.
    let cluster = Cluster::start_version(17, &[], SETTINGS);
    cluster.sql("create table t as select generate_series(1, 50000) as n");
    let (window, prior) = back_up(&cluster).await;
    cluster.sql("select count(*) from t");
    let (session, window) = begin(&cluster, window).await;
    let loaded = load(&cluster, window, LONG).unwrap();
    let path = cluster.sql("select pg_relation_filepath('t')");
    let now = fs::read(cluster.data().join(&path)).unwrap();
    session.stop().await.unwrap();

    let geometry = Geometry::of(&read_control(&cluster.data()).unwrap().control);
    let to_read = loaded.changed.to_read(geometry, &path, Some(now.len() as u64), 0..pages_of(&now));
    assert_eq!(to_read, ToRead::Pages(PageRanges::default()));
    let differs = |number: &u32| page(&now, *number) != page(&prior[&path], *number);
    assert!((0..pages_of(&now)).filter(differs).count() > 100);
    for number in 0..pages_of(&now) {
        assert_eq!(judge(page(&now, number), &window), Judgement::Fine, "page {number}");
    }
}

fn turn(cluster: &Cluster, setting: &str) {
    cluster.sql(&format!("alter system set summarize_wal = {setting}"));
    cluster.sql("select pg_reload_conf()");
    let running = if setting == "on" { "t" } else { "f" };
    let sql = "select count(*) > 0 from pg_stat_activity where backend_type = 'walsummarizer'";
    wait_until("the summarizer does as it is told", || cluster.sql(sql) == running);
}

#[tokio::test]
async fn a_summary_that_was_removed_is_a_gap_also_where_pg_wal_is_a_link() {
    let cluster = start(17, &["--waldir={home}/wal"]);
    let (window, _) = back_up(&cluster).await;
    for _ in 0..2 {
        cluster.sql("create table if not exists t (n int); insert into t values (1)");
        cluster.sql("checkpoint");
    }
    let (session, window) = begin(&cluster, window).await;
    let loaded = load(&cluster, window, LONG).unwrap();
    assert!(loaded.summaries.len() >= 3, "{:?}", loaded.summaries);
    let removed = loaded.summaries[1];
    fs::remove_file(cluster.home.path().join("wal/summaries").join(removed.to_string())).unwrap();
    let gap = NoSummaries::Gap { timeline: window.timeline, from: removed.start(), to: removed.end() };
    assert_eq!(load(&cluster, window, LONG).unwrap_err(), gap);
    session.stop().await.unwrap();
}

#[tokio::test]
async fn what_was_not_summarized_is_made_up_for_while_its_wal_is_there() {
    let cluster = start(18, &[]);
    cluster.sql("alter system set wal_keep_size = '256MB'");
    cluster.sql("select pg_reload_conf()");
    // Vacuumed, so that no hint bits are set later.
    cluster.sql("create table t as select generate_series(1, 5000) as n");
    cluster.sql("vacuum t");
    let (window, prior) = back_up(&cluster).await;
    assert!(cluster.connect().await.summarizes_wal().await.unwrap());
    turn(&cluster, "off");
    assert!(!cluster.connect().await.summarizes_wal().await.unwrap());
    cluster.sql("update t set n = -1 where n = 4000");
    cluster.sql("checkpoint");
    let (session, window) = begin(&cluster, window).await;
    let reason = load(&cluster, window, Duration::ZERO).unwrap_err();
    assert!(matches!(reason, NoSummaries::Behind { .. }), "{reason}");

    turn(&cluster, "on");
    let loaded = load(&cluster, window, LONG).unwrap();
    let path = cluster.sql("select pg_relation_filepath('t')");
    let size = prior[&path].len();
    let geometry = Geometry::of(&read_control(&cluster.data()).unwrap().control);
    let pages = 0..u32::try_from(size / PAGE).unwrap();
    let ToRead::Pages(found) = loaded.changed.to_read(geometry, &path, Some(size as u64), pages) else {
        panic!("the table is known")
    };
    assert!((1..=2).contains(&found.count()), "{found:?}");
    session.stop().await.unwrap();
}

#[tokio::test]
async fn wal_that_went_before_it_was_summarized_leaves_a_gap() {
    let cluster = start(17, &[]);
    let (window, _) = back_up(&cluster).await;
    turn(&cluster, "off");
    let oldest = || {
        let sql =
            "select pg_walfile_name(lsn) <= (select min(name) from pg_ls_waldir() where length(name) = 24)
                   from (select checkpoint_lsn as lsn from pg_control_checkpoint()) c";
        cluster.sql(sql) == "t"
    };
    wait_until("WAL from before the last checkpoint is gone", || {
        cluster.sql("select pg_switch_wal()");
        cluster.sql("create table if not exists t (n int); insert into t values (1)");
        cluster.sql("checkpoint");
        oldest()
    });
    turn(&cluster, "on");
    let (session, window) = begin(&cluster, window).await;
    // It goes on where WAL is left, so nothing is to be hoped for.
    let mut reason = None;
    wait_until("the summarizer has come to the new start", || {
        reason = Some(load(&cluster, window, Duration::ZERO).unwrap_err());
        !matches!(reason, Some(NoSummaries::Behind { .. }))
    });
    assert!(matches!(reason, Some(NoSummaries::Gap { .. })), "{reason:?}");
    session.stop().await.unwrap();
}

#[tokio::test]
async fn a_standby_that_took_over_has_summaries_of_both_timelines() {
    let primary = start(17, &[]);
    primary.sql("create table t as select generate_series(1, 5000) as n");
    primary.sql("vacuum t");
    let standby = primary.start_standby();
    let (window, prior) = back_up(&primary).await;
    primary.sql("update t set n = -1 where n = 1");
    let reached: Lsn = primary.sql("select pg_current_wal_flush_lsn()").parse().unwrap();
    wait_until("the standby has it all", || {
        standby.sql("select pg_last_wal_replay_lsn()").parse::<Lsn>().unwrap() >= reached
    });
    standby.pg_ctl(&["promote"]);
    standby.sql("update t set n = -2 where n = 4000");
    // What the old primary goes on to write is another branch.
    primary.sql("create table lost (n int)");
    let (lost, _) = back_up(&primary).await;

    let (session, window) = begin(&standby, window).await;
    assert_eq!((window.prior_timeline.0, window.timeline.0), (1, 2));
    let loaded = load(&standby, window, LONG).unwrap();
    let timelines: BTreeSet<u32> = loaded.summaries.iter().map(|name| name.timeline().0).collect();
    assert_eq!(timelines, BTreeSet::from([1, 2]));
    let path = standby.sql("select pg_relation_filepath('t')");
    let pages = 0..pages_of(&prior[&path]);
    let geometry = Geometry::of(&read_control(&standby.data()).unwrap().control);
    let size = prior[&path].len() as u64;
    let ToRead::Pages(found) = loaded.changed.to_read(geometry, &path, Some(size), pages.clone()) else {
        panic!("the table is known")
    };
    // The first page by the old primary, one in the middle by the new one, and the last, where the new rows are.
    let last = pages.end - 1;
    assert!(found.meets(&(0..1)) && found.meets(&(last..last + 1)) && found.count() >= 3, "{found:?}");
    assert!(found.count() < u64::from(pages.end), "{found:?}");

    let other = Window { timeline: window.timeline, start: window.start, ..lost };
    let reason = load(&standby, other, LONG).unwrap_err();
    let refused = matches!(reason, NoSummaries::OtherBranch { .. } | NoSummaries::Overlap { .. });
    assert!(refused, "{reason}");
    session.stop().await.unwrap();
}
