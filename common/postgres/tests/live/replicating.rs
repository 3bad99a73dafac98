//! WAL over the replication protocol.

use crate::cluster::{Cluster, PATIENCE};
use crate::connecting::{guarded_cluster, tcp};
use pgconvoy_core::failure::Classify;
use pgconvoy_core::pg::{Lsn, WalSegmentName};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::connect::{Client, ConnectOptions, Password, Place, TlsMode};
use pgconvoy_postgres::replication::{Replication, StreamEvent};
use tokio::time::timeout;

/// Bytes from `from` on, until there are so many.
async fn receive(replication: &mut Replication, from: Lsn, wanted: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < wanted {
        match timeout(PATIENCE, replication.next()).await.unwrap().unwrap() {
            StreamEvent::Wal { start, bytes: piece, .. } => {
                assert_eq!(start.0, from.0 + bytes.len() as u64);
                bytes.extend_from_slice(&piece);
            }
            StreamEvent::KeepAlive { .. } => {}
            StreamEvent::Ended => panic!("the stream ended"),
        }
    }
    bytes
}

async fn restart_of(client: &Client, slot: &str) -> Option<Lsn> {
    client.slot(slot).await.unwrap().unwrap().restart
}

#[tokio::test]
async fn what_is_streamed_is_what_the_servers_file_holds_and_a_status_moves_the_slot() {
    let cluster = Cluster::start();
    let client = cluster.connect().await;
    let size = client.settings().wal_segment_size;
    assert_eq!(client.slot("stream").await.unwrap(), None);
    client.create_slot("stream").await.unwrap();
    cluster.sql("create table t as select generate_series(1, 1000)");

    let mut replication = Replication::connect(&cluster.options()).await.unwrap();
    let server = replication.identify().await.unwrap();
    assert_eq!(server.system_id, client.settings().system_id);
    let segment = WalSegmentName::containing(server.timeline, server.flushed, size);
    let begin = segment.start_lsn(size);
    replication.start("stream", begin, server.timeline).await.unwrap();
    let wanted = usize::try_from(server.flushed.0 - begin.0).unwrap();
    let bytes = receive(&mut replication, begin, wanted).await;
    let file = std::fs::read(cluster.data().join("pg_wal").join(segment.to_string())).unwrap();
    assert!(file.starts_with(&bytes));

    replication.tell(server.flushed, server.flushed).await.unwrap();
    let answer = async {
        // The status asks for it.
        while !matches!(replication.next().await.unwrap(), StreamEvent::KeepAlive { .. }) {}
    };
    timeout(PATIENCE, answer).await.unwrap();
    assert_eq!(restart_of(&client, "stream").await, Some(server.flushed));
    let busy = client.drop_slot("stream").await.unwrap_err();
    assert!(busy.to_string().contains("active"), "{busy}");
}

#[tokio::test]
async fn who_may_not_replicate_is_told_so() {
    let cluster = Cluster::start();
    cluster.sql("create role reader login");
    let options = ConnectOptions { user: "reader".into(), ..cluster.options() };
    let error = Replication::connect(&options).await.unwrap_err();
    assert_eq!(error.code().number(), 56, "{error}");
    assert!(
        error.to_string().contains("REPLICATION") || error.to_string().contains("replication"),
        "{error}"
    );
    let mut replication = Replication::connect(&cluster.options()).await.unwrap();
    let server = replication.identify().await.unwrap();
    let error = replication.start("nobody", server.flushed, server.timeline).await.unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}

#[tokio::test]
async fn a_password_is_shown_by_scram_or_md5_and_tls_is_not_given_up() {
    let cluster = Cluster::start();
    cluster.sql("create role guarded superuser login replication password 'correct horse'");
    cluster.sql("set password_encryption = md5; create role older superuser login replication password 'correct horse'");
    let lines = "local all postgres trust\nhost replication guarded 127.0.0.1/32 scram-sha-256\n\
                 host replication older 127.0.0.1/32 md5\n";
    std::fs::write(cluster.data().join("pg_hba.conf"), lines).unwrap();
    cluster.sql("select pg_reload_conf()");
    let with = |user: &str, password: Option<&str>| ConnectOptions {
        place: Place::Tcp { host: "127.0.0.1".into(), tls: TlsMode::Prefer, ca_file: None },
        user: user.into(),
        password: password.map(Password::new),
        ..cluster.options()
    };
    for user in ["guarded", "older"] {
        let mut replication = Replication::connect(&with(user, Some("correct horse"))).await.unwrap();
        replication.identify().await.unwrap();
        for password in [None, Some("wrong")] {
            let error = Replication::connect(&with(user, password)).await.unwrap_err();
            assert_eq!(error.code().number(), 56, "{error}");
            assert!(!error.hints().is_empty(), "{error}");
        }
    }
    let options = ConnectOptions {
        place: Place::Tcp { host: "127.0.0.1".into(), tls: TlsMode::Require, ca_file: None },
        ..with("guarded", Some("correct horse"))
    };
    let error = Replication::connect(&options).await.unwrap_err();
    assert!(error.to_string().contains("does not support TLS"), "{error}");
}

#[tokio::test]
async fn tls_is_used_and_certificates_are_looked_at() {
    let cluster = guarded_cluster();
    let ca = Some(cluster.home.path().join("tls/ca.crt"));
    for (host, mode) in [("127.0.0.1", TlsMode::Prefer), ("localhost", TlsMode::VerifyFull)] {
        let mut replication = Replication::connect(&tcp(&cluster, host, mode, ca.clone())).await.unwrap();
        replication.identify().await.unwrap();
    }
    let other = Some(cluster.home.path().join("tls/other.crt"));
    for (host, ca_file) in [("127.0.0.1", ca), ("localhost", other)] {
        let refused = Replication::connect(&tcp(&cluster, host, TlsMode::VerifyFull, ca_file)).await;
        assert!(matches!(refused, Err(PostgresError::Tls { .. })), "{refused:?}");
    }
}
