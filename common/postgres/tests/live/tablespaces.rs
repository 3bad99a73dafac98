//! A tablespace that is dropped, created or lost while a backup runs.

use crate::cluster::Cluster;
use pgconvoy_core::pg::{FileClass, Fork, RelativePath, Rules};
use pgconvoy_core::plan::inventory::ScannedEntry;
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::proof::prove_live;
use pgconvoy_postgres::roots::Roots;
use pgconvoy_postgres::scan::{ScanReport, ScanRequest, ScanWarning, scan};
use pgconvoy_postgres::tablespaces::is_dropped;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::runtime::Handle;

const RELATION: FileClass = FileClass::Relation { fork: Fork::Main, segment: 0 };

/// A running backup of a cluster with tablespaces `kept` and `fast`, with one table in each.
struct Backup {
    cluster: Cluster,
    session: Arc<BackupSession>,
    listed: Vec<pgconvoy_postgres::catalog::Tablespace>,
    roots: Roots,
}

impl Backup {
    async fn start() -> Backup {
        let cluster = Cluster::start();
        for name in ["kept", "fast"] {
            let location = cluster.make_directory(name);
            cluster.sql(&format!("create tablespace {name} location '{}'", location.display()));
            cluster.sql(&format!("create table in_{name} tablespace {name} as select 1 as n"));
        }
        let session = BackupSession::start(cluster.connect().await, "tablespaces", true).await.unwrap();
        let listed = session.client().tablespaces().await.unwrap();
        let start_lsn = session.started().start_lsn;
        let roots = prove_live(&cluster.data(), session.client().settings(), start_lsn, &listed).unwrap();
        Backup { cluster, session: Arc::new(session), listed, roots }
    }

    fn path_of(&self, table: &str) -> RelativePath {
        self.cluster.sql(&format!("select pg_relation_filepath('{table}')")).parse().unwrap()
    }

    /// On a blocking thread, from which the session is asked, as a keeper does it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&pgconvoy_postgres::tablespaces::AskTablespaces) -> T + Send + 'static,
    ) -> T {
        let (session, runtime) = (self.session.clone(), Handle::current());
        let ask = move || runtime.block_on(session.client().tablespaces());
        tokio::task::spawn_blocking(move || work(&ask)).await.unwrap()
    }

    async fn scan(&self) -> Result<(Vec<ScannedEntry>, ScanReport), PostgresError> {
        let settings = self.session.client().settings().clone();
        let (directory, listed, roots) = (self.cluster.data(), self.listed.clone(), self.roots.clone());
        self.blocking(move |ask| {
            let rules = Rules::new(settings.version, settings.catalog_version, true, &[]).unwrap();
            let request = ScanRequest {
                directory: &directory,
                version: settings.version,
                rules: &rules,
                tablespaces: &listed,
                ask_tablespaces: ask,
                roots,
            };
            let mut entries = Vec::new();
            let report = scan(request, |page| {
                entries.extend(page);
                ControlFlow::Continue(())
            })?;
            Ok((entries, report.expect("nothing breaks it off")))
        })
        .await
    }

    fn drop_fast(&self) {
        self.cluster.sql("drop table in_fast");
        // What a dropped table leaves until the next checkpoint would keep the tablespace from being dropped.
        self.cluster.sql("checkpoint");
        self.cluster.sql("drop tablespace fast");
    }
}

fn lost_tablespace(error: PostgresError) -> pgconvoy_core::ids::Oid {
    match error {
        PostgresError::RootGone { tablespace: Some(oid), .. } => oid,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_tablespace_that_was_dropped_have_vanished() {
    let backup = Backup::start().await;
    let (fast, kept) = (backup.path_of("in_fast"), backup.path_of("in_kept"));
    let (entries, report) = backup.scan().await.unwrap();
    assert!(entries.iter().any(|entry| entry.path == fast));
    backup.drop_fast();

    // Between scan and reading the roots alone cannot tell; PostgreSQL can.
    let oid = lost_tablespace(report.roots.vanished(&fast, RELATION).unwrap_err());
    assert!(backup.blocking(move |ask| is_dropped(ask, oid)).await.unwrap());

    // A scan that begins with the old list asks by itself.
    let (entries, report) = backup.scan().await.unwrap();
    assert!(entries.iter().all(|entry| entry.path != fast));
    assert!(entries.iter().any(|entry| entry.path == kept));
    report.roots.vanished(&fast, RELATION).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_tablespace_that_was_lost_have_not_vanished() {
    let backup = Backup::start().await;
    let (fast, home) = (backup.path_of("in_fast"), backup.cluster.home.path().to_owned());
    // As an unmount does: the location is there, and empty.
    std::fs::rename(home.join("fast"), home.join("away")).unwrap();
    backup.cluster.make_directory("fast");

    let oid = lost_tablespace(backup.roots.vanished(&fast, RELATION).unwrap_err());
    assert!(!backup.blocking(move |ask| is_dropped(ask, oid)).await.unwrap());
    assert_eq!(lost_tablespace(backup.scan().await.unwrap_err()), oid);

    std::fs::remove_dir(home.join("fast")).unwrap();
    std::fs::rename(home.join("away"), home.join("fast")).unwrap();
    backup.scan().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_created_after_the_start_is_scanned_and_warned_of() {
    let backup = Backup::start().await;
    let location = backup.cluster.make_directory("late");
    backup.cluster.sql(&format!("create tablespace late location '{}'", location.display()));
    backup.cluster.sql("create table in_late tablespace late as select 1 as n");
    let (entries, report) = backup.scan().await.unwrap();
    assert!(entries.iter().any(|entry| entry.path == backup.path_of("in_late")));
    assert!(
        matches!(&report.warnings[..], [ScanWarning::TablespaceCreated(late)] if late.location == location),
        "{:?}",
        report.warnings
    );
}
