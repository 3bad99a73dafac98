//! What a scan of a real cluster finds and leaves out.

use crate::cluster::{Cluster, run};
use pgconvoy_core::pg::{FileClass, Rules};
use pgconvoy_core::plan::inventory::{EntryKind, Inventory, ScannedEntry};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::catalog::Tablespace;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::proof::prove_live;
use pgconvoy_postgres::roots::Roots;
use pgconvoy_postgres::scan::{ScanReport, ScanRequest, scan, tablespaces_offline};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

fn rules(client: &Client, online: bool) -> Rules {
    Rules::new(client.settings().version, client.settings().catalog_version, online, &[]).unwrap()
}

fn collect(request: ScanRequest<'_>) -> (Vec<ScannedEntry>, ScanReport) {
    let mut entries = Vec::new();
    let report = scan(request, |page| {
        entries.extend(page);
        ControlFlow::Continue(())
    });
    (entries, report.unwrap().expect("nothing breaks it off"))
}

fn nothing_changed() -> Result<Vec<Tablespace>, PostgresError> {
    panic!("the directory shows the tablespaces that were listed")
}

async fn scan_online(cluster: &Cluster) -> Vec<ScannedEntry> {
    let session = BackupSession::start(cluster.connect().await, "scan", true).await.unwrap();
    let client = session.client();
    let tablespaces = client.tablespaces().await.unwrap();
    let (directory, settings) = (cluster.data(), client.settings());
    let roots = prove_live(&directory, settings, session.started().start_lsn, &tablespaces).unwrap();
    let rules = rules(client, true);
    let request = ScanRequest {
        directory: &directory,
        version: settings.version,
        rules: &rules,
        tablespaces: &tablespaces,
        ask_tablespaces: &nothing_changed,
        roots,
    };
    let (entries, report) = collect(request);
    assert_eq!(report.mode, 0o700);
    assert_eq!(report.warnings, []);
    assert_eq!(report.entries, u64::try_from(entries.len()).unwrap());
    session.stop().await.unwrap();
    entries
}

fn kinds(entries: &[ScannedEntry]) -> BTreeMap<&str, &EntryKind> {
    entries.iter().map(|entry| (entry.path.as_str(), &entry.kind)).collect()
}

/// Every regular file, through links, as `find` sees it.
fn find_files(directory: &Path) -> Vec<String> {
    let output = run(Command::new("find").arg("-L").arg(directory).args(["-type", "f", "-printf", "%P\\n"]));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A cluster with some of everything: WAL elsewhere, a tablespace, unlogged and temporary tables, leftovers of sorts.
fn rich_cluster() -> (Cluster, crate::cluster::Background) {
    let cluster = Cluster::start_with(&["--waldir={home}/wal"], "");
    let location = cluster.make_directory("fast");
    cluster.sql(&format!("create tablespace fast location '{}'", location.display()));
    cluster.sql(
        "create table kept (n int); insert into kept select generate_series(1, 1000);
         create unlogged table fleeting (n int primary key); insert into fleeting select generate_series(1, 1000);
         create table spread (n int) tablespace fast; create unlogged table fleeting_fast (n int) tablespace fast",
    );
    cluster.sql("vacuum kept");
    cluster.make_directory("data/base/pgsql_tmp");
    std::fs::write(cluster.data().join("base/pgsql_tmp/pgsql_tmp1.0"), "sorted").unwrap();
    std::fs::write(cluster.data().join("pg_stat_tmp/global.tmp"), "x").unwrap();
    std::fs::rename(cluster.data().join("pg_hba.conf"), cluster.home.path().join("pg_hba.conf")).unwrap();
    std::os::unix::fs::symlink("../pg_hba.conf", cluster.data().join("pg_hba.conf")).unwrap();
    let temporary = cluster.sql_and_stay(
        "create temporary table passing as select generate_series(1, 1000) as n",
        "select count(*) = 1 from pg_class where relname = 'passing'",
    );
    (cluster, temporary)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_finds_all_that_a_restore_needs_and_nothing_else() {
    let (cluster, _temporary) = rich_cluster();
    let wal = std::fs::read_link(cluster.data().join("pg_wal")).unwrap();
    let entries = scan_online(&cluster).await;
    let kinds = kinds(&entries);

    let path_of = |table: &str| cluster.sql(&format!("select pg_relation_filepath('{table}')"));
    for table in ["kept", "spread"] {
        let path = path_of(table);
        assert!(
            matches!(kinds[path.as_str()], EntryKind::File { class: FileClass::Relation { .. }, .. }),
            "{path}"
        );
    }
    let kept = path_of("kept");
    assert_eq!(
        *kinds[kept.as_str()],
        EntryKind::File {
            size: std::fs::metadata(cluster.data().join(&kept)).unwrap().len(),
            class: FileClass::Relation { fork: pgconvoy_core::pg::Fork::Main, segment: 0 },
        }
    );
    assert!(kinds.contains_key(format!("{kept}_vm").as_str()));
    for table in ["fleeting", "fleeting_pkey", "fleeting_fast"] {
        let path = path_of(table);
        assert!(!kinds.contains_key(path.as_str()), "{path}");
        assert!(kinds.contains_key(format!("{path}_init").as_str()), "{path}");
    }
    let link = |path: &str| match kinds[path] {
        EntryKind::Link { destination } => destination.clone(),
        other => panic!("{path} is {other:?}"),
    };
    assert_eq!(link("pg_wal"), wal.to_str().unwrap());
    let oid = cluster.sql("select oid from pg_tablespace where spcname = 'fast'");
    assert_eq!(link(&format!("pg_tblspc/{oid}")), cluster.home.path().join("fast").to_str().unwrap());
    let hba: Vec<&EntryKind> = entries
        .iter()
        .filter(|entry| entry.path.as_str() == "pg_hba.conf")
        .map(|entry| &entry.kind)
        .collect();
    assert!(matches!(hba[..], [EntryKind::Link { .. }, EntryKind::File { .. }]), "{hba:?}");

    let unlogged: Vec<String> = ["fleeting", "fleeting_pkey", "fleeting_fast"].map(path_of).to_vec();
    everything_else_has_a_reason(&cluster, &kinds, &unlogged);
}

/// Whatever `find` sees and the scan does not must have a reason from this list, written without looking at the rules.
fn everything_else_has_a_reason(cluster: &Cluster, kinds: &BTreeMap<&str, &EntryKind>, unlogged: &[String]) {
    for path in find_files(&cluster.data()) {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let left_out = path.contains("pgsql_tmp")
            || [
                "pg_wal",
                "pg_stat_tmp",
                "pg_notify",
                "pg_subtrans",
                "pg_dynshmem",
                "pg_replslot",
                "pg_serial",
                "pg_snapshots",
            ]
            .iter()
            .any(|skipped| path.starts_with(&format!("{skipped}/")))
            || name == "pg_internal.init"
            || (directory.is_empty() && ["postmaster.pid", "postmaster.opts"].contains(&name))
            || (directory.starts_with("base/") && name.starts_with('t') && name.contains('_'))
            || unlogged.iter().any(|main| {
                path == *main || (path.starts_with(&format!("{main}_")) && !path.ends_with("_init"))
            });
        assert_eq!(kinds.contains_key(path.as_str()), !left_out, "{path}");
    }
    for (path, kind) in kinds {
        assert!(!path.contains("pgsql_tmp"), "{path}");
        let behind = path.strip_prefix("pg_wal/").or_else(|| path.strip_prefix("pg_stat_tmp/"));
        assert!(behind.is_none() || **kind == EntryKind::Directory, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_planner_takes_the_entries_of_a_scan_in_the_order_they_come() {
    let (cluster, _temporary) = rich_cluster();
    let mut inventory = Inventory::default();
    let entries = scan_online(&cluster).await;
    // Whoever runs the server owns all of it: `postgres` where the tests are root, else whoever runs them.
    let owner = entries.first().and_then(|entry| entry.user.clone()).expect("the user has a name");
    for entry in entries {
        assert_eq!(entry.user.as_deref(), Some(owner.as_str()), "{}", entry.path);
        assert!(entry.group.is_some(), "{}", entry.path);
        inventory.push(entry).unwrap();
    }
    assert!(inventory.file_count() > 900, "{}", inventory.file_count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_a_stopped_cluster_has_its_wal_and_finds_tablespaces_by_itself() {
    let (cluster, temporary) = rich_cluster();
    let wal = std::fs::read_link(cluster.data().join("pg_wal")).unwrap();
    let client = cluster.connect().await;
    let known = client.tablespaces().await.unwrap();
    let version = client.settings().version;
    let rules = rules(&client, false);
    drop((client, temporary));
    cluster.pg_ctl(&["stop", "-m", "fast"]);

    let tablespaces = tablespaces_offline(&cluster.data()).unwrap();
    assert_eq!(tablespaces.len(), 1);
    assert_eq!((tablespaces[0].oid, &tablespaces[0].location), (known[0].oid, &known[0].location));
    let directory = cluster.data();
    let roots = Roots::record(&directory, version, &tablespaces).unwrap();
    let request = ScanRequest {
        directory: &directory,
        version,
        rules: &rules,
        tablespaces: &tablespaces,
        ask_tablespaces: &nothing_changed,
        roots,
    };
    let (entries, report) = collect(request);
    let kinds = kinds(&entries);
    let segments: Vec<_> = find_files(&wal).into_iter().filter(|name| name.len() == 24).collect();
    assert!(!segments.is_empty());
    for segment in segments {
        let path = format!("pg_wal/{segment}");
        assert!(matches!(kinds[path.as_str()], EntryKind::File { class: FileClass::Wal, .. }), "{path}");
    }
    report.roots.still_there("pg_wal/x").unwrap();
    std::fs::rename(&wal, cluster.home.path().join("moved")).unwrap();
    report.roots.still_there("pg_wal/x").unwrap_err();
}
