#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
use super::*;
use pgconvoy_core::ids::Oid;
use pgconvoy_core::plan::inventory::EntryKind;
use std::fs;
use std::os::unix::fs::symlink;

const VERSION: PgVersion = PgVersion::V15;
const TABLESPACE_DIRECTORY: &str = "PG_15_202209061";
/// So small that the first page ends in `base/1`, before the scan comes to `base/5` and all that follows.
const SMALL_PAGE: usize = 5;

/// The least that passes for a cluster, in a directory `pg` with room beside it.
struct Fake {
    home: tempfile::TempDir,
    /// As listed before the scan.
    tablespaces: Vec<Tablespace>,
    /// As the server lists them to whoever asks again.
    listed_again: Vec<Tablespace>,
}

impl Fake {
    fn new() -> Fake {
        let fake =
            Fake { home: tempfile::tempdir().unwrap(), tablespaces: Vec::new(), listed_again: Vec::new() };
        for directory in ["base/1", "base/5", "global", "pg_tblspc", "pg_wal/archive_status"] {
            fs::create_dir_all(fake.pg().join(directory)).unwrap();
        }
        for file in ["PG_VERSION", "global/pg_control", "base/5/16384", "pg_wal/000000010000000000000001"] {
            fake.write(file);
        }
        fake
    }

    fn pg(&self) -> std::path::PathBuf {
        self.home.path().join("pg")
    }

    fn write(&self, path: &str) {
        fs::write(self.pg().join(path), "some bytes").unwrap();
    }

    fn with_tablespace(mut self, oid: u32) -> Fake {
        let location = self.home.path().join(format!("ts{oid}"));
        fs::create_dir_all(location.join(TABLESPACE_DIRECTORY).join("5")).unwrap();
        symlink(&location, self.pg().join(format!("pg_tblspc/{oid}"))).unwrap();
        self.tablespaces.push(Tablespace { oid: Oid(oid), name: format!("ts{oid}"), location });
        self.listed_again = self.tablespaces.clone();
        self
    }

    /// As DROP TABLESPACE leaves it: the location stays, empty.
    fn drop_tablespace_directory(&self, oid: u32) {
        // A test drops it with every page that it is handed.
        drop(fs::remove_file(self.pg().join(format!("pg_tblspc/{oid}"))));
        drop(fs::remove_dir_all(self.home.path().join(format!("ts{oid}/{TABLESPACE_DIRECTORY}"))));
    }

    fn scan_with(
        &self,
        online: bool,
        on_page: impl FnMut(Vec<ScannedEntry>) -> ControlFlow<()>,
    ) -> Result<Option<ScanReport>, PostgresError> {
        let directory = self.pg();
        let rules = Rules::new(VERSION, 202_209_061, online, &[]).unwrap();
        let roots = Roots::record(&directory, VERSION, &self.tablespaces)?;
        let listed_again = self.listed_again.clone();
        let request = ScanRequest {
            directory: &directory,
            version: VERSION,
            rules: &rules,
            tablespaces: &self.tablespaces,
            ask_tablespaces: &move || Ok(listed_again.clone()),
            roots,
        };
        scan_in_pages(request, SMALL_PAGE, on_page)
    }

    fn scan(&self) -> Result<(Vec<ScannedEntry>, ScanReport), PostgresError> {
        let mut entries = Vec::new();
        let report = self.scan_with(true, |page| {
            entries.extend(page);
            ControlFlow::Continue(())
        })?;
        Ok((entries, report.unwrap()))
    }

    fn refusal(&self) -> PostgresError {
        self.scan().unwrap_err()
    }
}

fn listing(entries: &[ScannedEntry]) -> Vec<String> {
    let kind = |entry: &ScannedEntry| match &entry.kind {
        EntryKind::File { size, .. } => format!("file {size}"),
        EntryKind::Directory => "directory".to_owned(),
        EntryKind::Link { .. } => "link".to_owned(),
    };
    entries.iter().map(|entry| format!("{} {}", entry.path, kind(entry))).collect()
}

#[test]
fn entries_come_in_order_with_directories_before_what_they_hold() {
    let fake = Fake::new().with_tablespace(16400);
    fs::write(fake.home.path().join(format!("ts16400/{TABLESPACE_DIRECTORY}/5/16500")), "row").unwrap();
    fs::create_dir(fake.home.path().join("ts16400/PG_14_202107181")).unwrap();
    fs::create_dir(fake.home.path().join("ts16400/lost+found")).unwrap();
    let (entries, report) = fake.scan().unwrap();
    let expected = "PG_VERSION file 10\nbase directory\nbase/1 directory\nbase/5 directory\nbase/5/16384 file 10\n\
         global directory\nglobal/pg_control file 10\npg_tblspc directory\npg_tblspc/16400 link\n\
         pg_tblspc/16400/PG_15_202209061 directory\npg_tblspc/16400/PG_15_202209061/5 directory\n\
         pg_tblspc/16400/PG_15_202209061/5/16500 file 3\npg_wal directory\npg_wal/archive_status directory";
    assert_eq!(listing(&entries).join("\n"), expected);
    assert_eq!(report.entries, 14);
}

#[test]
fn a_page_is_never_larger_than_its_limit_and_nothing_is_lost_between_pages() {
    let fake = Fake::new();
    with_a_full_page(&fake);
    let mut pages = Vec::new();
    let report = fake.scan_with(true, |page| {
        pages.push(page.len());
        ControlFlow::Continue(())
    });
    assert_eq!(report.unwrap().unwrap().entries, 15);
    assert_eq!(pages, [5, 5, 5]);
}

#[test]
fn a_scan_stops_when_its_reader_does() {
    let fake = Fake::new();
    with_a_full_page(&fake);
    let mut pages = 0;
    let report = fake.scan_with(true, |_| {
        pages += 1;
        ControlFlow::Break(())
    });
    assert!(report.unwrap().is_none());
    assert_eq!(pages, 1);
}

fn with_a_full_page(fake: &Fake) {
    for number in 0..SMALL_PAGE {
        fake.write(&format!("base/1/{}", 20_000 + number));
    }
}

#[test]
fn a_database_dropped_during_the_scan_is_skipped() {
    let fake = Fake::new();
    with_a_full_page(&fake);
    let mut entries = Vec::new();
    let report = fake.scan_with(true, |page| {
        entries.extend(page);
        drop(fs::remove_dir_all(fake.pg().join("base/5")));
        ControlFlow::Continue(())
    });
    assert!(report.unwrap().is_some());
    assert!(listing(&entries).iter().all(|entry| !entry.starts_with("base/5")));
}

#[test]
fn a_file_system_that_goes_away_during_the_scan_is_not_taken_for_dropped_databases() {
    let fake = Fake::new();
    with_a_full_page(&fake);
    let report = fake.scan_with(true, |_| {
        if fs::rename(fake.pg().join("base"), fake.home.path().join("unmounted")).is_ok() {
            fs::create_dir(fake.pg().join("base")).unwrap();
        }
        ControlFlow::Continue(())
    });
    let error = report.unwrap_err();
    assert!(matches!(error, PostgresError::RootGone { .. }), "{error}");
}

#[test]
fn a_tablespace_that_goes_away_before_it_is_listed_is_named() {
    let fake = Fake::new().with_tablespace(16400);
    with_a_full_page(&fake);
    let report = fake.scan_with(true, |_| {
        drop(fs::remove_file(fake.pg().join("pg_tblspc/16400")));
        ControlFlow::Continue(())
    });
    let error = report.unwrap_err();
    assert!(matches!(error, PostgresError::RootGone { tablespace: Some(Oid(16400)), .. }), "{error}");
}

#[test]
fn a_tablespace_dropped_during_the_scan_is_no_error_wherever_the_scan_is() {
    // The page that is full ends in base/1, or in the tablespace itself.
    for inside in [false, true] {
        let mut fake = Fake::new().with_tablespace(16400);
        fake.listed_again.clear();
        if inside {
            let database = fake.home.path().join(format!("ts16400/{TABLESPACE_DIRECTORY}/5"));
            (0..2 * SMALL_PAGE).for_each(|name| fs::write(database.join(name.to_string()), "row").unwrap());
        } else {
            with_a_full_page(&fake);
        }
        let report = fake.scan_with(true, |page| {
            let reached = page.iter().any(|entry| entry.path.as_str().starts_with("pg_tblspc/16400/"));
            if reached == inside {
                fake.drop_tablespace_directory(16400);
            }
            ControlFlow::Continue(())
        });
        let roots = report.unwrap().unwrap().roots;
        let path = format!("pg_tblspc/16400/{TABLESPACE_DIRECTORY}/5/1").parse().unwrap();
        roots.vanished(&path, pgconvoy_core::pg::FileClass::DatabaseVersion).unwrap();
    }
}

#[test]
fn a_tablespace_created_after_the_listing_is_scanned_too_with_a_warning() {
    let mut fake = Fake::new().with_tablespace(16400);
    let created = fake.tablespaces.pop().unwrap();
    fs::write(fake.home.path().join(format!("ts16400/{TABLESPACE_DIRECTORY}/5/16500")), "row").unwrap();
    let (entries, report) = fake.scan().unwrap();
    assert!(listing(&entries).contains(&format!("pg_tblspc/16400/{TABLESPACE_DIRECTORY}/5/16500 file 3")));
    assert_eq!(report.warnings, [ScanWarning::TablespaceCreated(created)]);
    fake.drop_tablespace_directory(16400);
    let error = report.roots.all_still_there().unwrap_err();
    assert!(matches!(error, PostgresError::RootGone { tablespace: Some(Oid(16400)), .. }), "{error}");
}

#[test]
fn a_directory_without_what_every_cluster_has_is_refused() {
    for missing in ["PG_VERSION", "global/pg_control"] {
        let fake = Fake::new();
        fs::remove_file(fake.pg().join(missing)).unwrap();
        let error = fake.refusal();
        assert!(matches!(&error, PostgresError::Missing { path } if path.ends_with(missing)), "{error}");
    }
}

#[test]
fn only_links_to_known_tablespaces_belong_into_pg_tblspc() {
    let fake = Fake::new();
    fs::create_dir(fake.pg().join("pg_tblspc/16400")).unwrap();
    assert!(matches!(fake.refusal(), PostgresError::LinkExpected { path } if path == "pg_tblspc/16400"));

    let fake = Fake::new();
    fake.write("pg_tblspc/note");
    assert!(matches!(fake.refusal(), PostgresError::LinkExpected { path } if path == "pg_tblspc/note"));

    let mut fake = Fake::new().with_tablespace(16400);
    fake.tablespaces.clear();
    fake.listed_again.clear();
    assert!(matches!(fake.refusal(), PostgresError::TablespaceUnknown { oid } if oid == "16400"));
}

#[test]
fn the_content_of_a_linked_directory_comes_under_the_path_of_the_link() {
    let fake = Fake::new();
    fs::create_dir(fake.pg().join("pg_xact")).unwrap();
    fake.write("pg_xact/0000");
    fs::rename(fake.pg().join("pg_xact"), fake.home.path().join("xact")).unwrap();
    symlink("../xact", fake.pg().join("pg_xact")).unwrap();
    let (entries, report) = fake.scan().unwrap();
    assert_eq!(listing(&entries)[listing(&entries).len() - 2..], ["pg_xact link", "pg_xact/0000 file 10"]);
    let link = entries.iter().find(|entry| entry.path.as_str() == "pg_xact").unwrap();
    assert_eq!(link.kind, EntryKind::Link { destination: "../xact".into() });

    report.roots.still_there("pg_xact/0000").unwrap();
    fs::rename(fake.home.path().join("xact"), fake.home.path().join("away")).unwrap();
    report.roots.still_there("pg_xact/0000").unwrap_err();
}

#[test]
fn a_linked_directory_of_rebuilt_content_keeps_its_link_only() {
    let fake = Fake::new();
    fs::create_dir(fake.home.path().join("run")).unwrap();
    fs::write(fake.home.path().join("run/global.tmp"), "x").unwrap();
    symlink(fake.home.path().join("run"), fake.pg().join("pg_stat_tmp")).unwrap();
    let (entries, _) = fake.scan().unwrap();
    let behind: Vec<String> =
        listing(&entries).into_iter().filter(|entry| entry.starts_with("pg_stat_tmp")).collect();
    assert_eq!(behind, ["pg_stat_tmp link"]);
}

#[test]
fn a_special_file_is_left_out_with_a_warning() {
    let fake = Fake::new();
    let _socket = std::os::unix::net::UnixListener::bind(fake.pg().join("base/s")).unwrap();
    let (entries, report) = fake.scan().unwrap();
    assert_eq!(report.warnings, [ScanWarning::SpecialFile("base/s".parse().unwrap())]);
    assert!(listing(&entries).iter().all(|entry| !entry.starts_with("base/s ")));
}

#[test]
fn a_stopped_cluster_is_scanned_with_its_wal() {
    let fake = Fake::new();
    let mut entries = Vec::new();
    fake.scan_with(false, |page| {
        entries.extend(page);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(listing(&entries).last().unwrap(), "pg_wal/archive_status directory");
    assert!(listing(&entries).contains(&"pg_wal/000000010000000000000001 file 10".to_owned()));
}

#[test]
fn the_tablespaces_of_a_stopped_cluster_are_its_links_even_where_a_crash_left_postmaster_pid() {
    let fake = Fake::new().with_tablespace(16400);
    fake.write("postmaster.pid");
    assert_eq!(tablespaces_offline(&fake.pg()).unwrap()[0].oid, Oid(16400));
}
