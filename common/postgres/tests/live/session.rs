//! Starting, watching and stopping a backup.

use crate::cluster::{Cluster, wait_until};
use pgconvoy_core::failure::Classify;
use pgconvoy_core::pg::{BackupLabelFile, WalSegmentName};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::preflight::{ArchiveExpectation, check_settings};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_gives_its_label_and_finishes_the_segment_before_its_start() {
    let cluster = Cluster::start();
    // The second start finds WAL at the very beginning of a segment, because the first stop has just switched.
    for round in ["one", "two"] {
        let session = BackupSession::start(cluster.connect().await, round, true).await.unwrap();
        let started = session.started().clone();
        assert!(started.checkpoint_lsn >= started.start_lsn);
        assert!(started.archive_check_segment <= started.start_segment);
        wait_until("the segment of the start is archived", || {
            archived(&cluster, started.archive_check_segment)
        });

        session.ping().await.unwrap();
        let stopped = session.stop().await.unwrap();
        assert!(stopped.stop_lsn > started.start_lsn);
        assert!(stopped.stop_time >= started.start_time);
        assert_eq!(stopped.timeline, started.timeline);
        assert_eq!(stopped.tablespace_map, "");
        let label = BackupLabelFile::parse(&stopped.backup_label).unwrap();
        assert_eq!((label.label.as_str(), label.start), (round, started.start_lsn));
        assert_eq!(label.start_segment, started.start_segment);
        wait_until("the segment of the stop is archived", || archived(&cluster, stopped.stop_segment));
    }
}

fn archived(cluster: &Cluster, segment: WalSegmentName) -> bool {
    cluster.home.path().join("archive").join(segment.to_string()).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_session_ends_its_backup_in_postgresql() {
    let cluster = Cluster::start();
    let session = BackupSession::start(cluster.connect().await, "dropped", true).await.unwrap();
    drop(session);
    wait_until("PostgreSQL has noticed", || cluster.server_log().contains("aborting backup"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_ends_the_session() {
    let cluster = Cluster::start();
    let session = BackupSession::start(cluster.connect().await, "restarted", true).await.unwrap();
    session.ping().await.unwrap();
    cluster.pg_ctl(&["restart", "-m", "immediate"]);

    let error = session.ping().await.unwrap_err();
    assert_eq!(error.code().number(), 56, "{error}");
    let error = session.stop().await.unwrap_err();
    assert_eq!(error.code().number(), 56, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_too_long_ends_its_session() {
    let cluster = Cluster::start();
    let mut options = cluster.options();
    options.statement_timeout = Duration::from_millis(500);
    let client = Client::connect(&options).await.unwrap();
    let held = "select count(*) = 1 from pg_locks where mode = 'AccessExclusiveLock' and granted and relation = 'pg_tablespace'::regclass";
    let _holder = cluster.sql_and_stay("begin; lock table pg_tablespace in access exclusive mode", held);

    let began = Instant::now();
    let error = client.tablespaces().await.unwrap_err();
    assert!(matches!(error, PostgresError::Timeout { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let error = client.databases().await.unwrap_err();
    assert!(matches!(error, PostgresError::Lost { .. }), "{error}");
    let waiting = "select count(*) = 0 from pg_stat_activity where application_name = 'pgconvoy [test]'";
    wait_until("the statement is cancelled on the server", || cluster.sql(waiting) == "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_recovery_is_no_place_for_a_session() {
    let cluster = Cluster::start();
    cluster.pg_ctl(&["stop", "-m", "fast"]);
    std::fs::write(cluster.data().join("standby.signal"), "").unwrap();
    cluster.pg_ctl(&["start"]);

    let client = cluster.connect().await;
    assert!(client.settings().in_recovery);
    let error = check_settings(client.settings(), ArchiveExpectation::default()).unwrap_err();
    assert_eq!(error.code().number(), 58, "{error}");
    let error = BackupSession::start(client, "standby", true).await.unwrap_err();
    assert!(matches!(error, PostgresError::InRecovery { .. }), "{error}");
    assert!(error.hints()[0].contains("primary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_tells_its_settings_clock_databases_and_tablespaces() {
    let cluster = Cluster::start_with(&["--data-checksums", "--wal-segsize=1"], "");
    let location = cluster.make_directory("fast");
    cluster.sql(&format!("create tablespace fast location '{}'", location.display()));
    cluster.sql("create database shop");
    let client = cluster.connect().await;

    let settings = client.settings();
    assert_eq!(check_settings(settings, ArchiveExpectation::default()).unwrap(), []);
    assert_eq!(settings.data_directory, cluster.data());
    assert_eq!(settings.port, cluster.port);
    assert_eq!(settings.wal_segment_size.bytes(), 1 << 20);
    assert_eq!((settings.page_size, settings.relation_segment_blocks), (8192, 131_072));
    assert!(settings.data_checksums && settings.full_page_writes && !settings.in_recovery);

    let databases = client.databases().await.unwrap();
    let names: Vec<&str> = databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["template1", "template0", "postgres", "shop"]);
    let tablespaces = client.tablespaces().await.unwrap();
    assert_eq!(tablespaces.len(), 1);
    assert_eq!((tablespaces[0].name.as_str(), &tablespaces[0].location), ("fast", &location));

    let asked = client.wait_next_second().await.unwrap();
    assert!(client.database_clock().await.unwrap().seconds() > asked.seconds());
    assert!(settings.postmaster_start < asked);

    let before = client.current_insert_lsn().await.unwrap();
    let switched = client.force_switch().await.unwrap();
    assert_eq!(switched, before.segment);
    assert!(client.current_insert_lsn().await.unwrap().segment > switched);
}
