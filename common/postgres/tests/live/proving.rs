//! A directory is proved to be the server's, or not.

use crate::cluster::{Cluster, run};
use pgconvoy_core::failure::Classify;
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::control::{existing_postmaster, read_control, read_version};
use pgconvoy_postgres::proof::prove_live;
use std::path::Path;
use std::process::Command;

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_live_directory_of_the_server_is_proved() {
    let cluster = Cluster::start();
    let stale = cluster.home.path().join("stale");
    copy(&cluster.data(), &stale);
    let session = BackupSession::start(cluster.connect().await, "proof", true).await.unwrap();
    let server = session.client().settings();
    let start_lsn = session.started().start_lsn;

    let roots = prove_live(&cluster.data(), server, start_lsn, &[]).unwrap();
    roots.all_still_there().unwrap();
    assert_eq!(read_version(&cluster.data()).unwrap(), server.version);
    assert_eq!(read_control(&cluster.data()).unwrap().control.system_id, server.system_id);

    // A link to it is the same directory by another name.
    let alias = cluster.home.path().join("alias");
    std::os::unix::fs::symlink(cluster.data(), &alias).unwrap();
    prove_live(&alias, server, start_lsn, &[]).unwrap();

    let refuse = |directory: &Path, reason: &str| {
        let error = prove_live(directory, server, start_lsn, &[]).unwrap_err();
        assert_eq!(error.code().number(), 58, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    };
    refuse(&stale, "which is another one");
    let pid_file = stale.join("postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    let other_port = text.replace(&cluster.port.to_string(), "1");
    std::fs::write(&pid_file, other_port).unwrap();
    refuse(&stale, "has port 1");
    std::fs::remove_file(&pid_file).unwrap();
    refuse(&stale, "there is no postmaster.pid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_under_the_servers_own_path_is_refused_for_its_old_checkpoint() {
    let cluster = Cluster::start();
    let control = cluster.data().join("global/pg_control");
    let before = std::fs::read(&control).unwrap();
    let session = BackupSession::start(cluster.connect().await, "proof", true).await.unwrap();
    let (server, start_lsn) = (session.client().settings(), session.started().start_lsn);
    prove_live(&cluster.data(), server, start_lsn, &[]).unwrap();

    std::fs::write(&control, before).unwrap();
    let error = prove_live(&cluster.data(), server, start_lsn, &[]).unwrap_err();
    assert!(error.to_string().contains("is before the start of the backup"), "{error}");

    let mut broken = std::fs::read(&control).unwrap();
    broken[40] ^= 1;
    std::fs::write(&control, broken).unwrap();
    let error = prove_live(&cluster.data(), server, start_lsn, &[]).unwrap_err();
    assert!(matches!(error, PostgresError::FileInvalid { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_a_postmaster_is_taken_for_running() {
    let cluster = Cluster::start();
    let error = existing_postmaster(&cluster.data()).unwrap_err();
    assert_eq!(error.code().number(), 38, "{error}");
    assert!(error.hints()[0].contains("postmaster.pid"));
    cluster.pg_ctl(&["stop", "-m", "fast"]);
    existing_postmaster(&cluster.data()).unwrap();
}
