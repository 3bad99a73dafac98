//! Who is let in, and over what.

use crate::cluster::{Cluster, free_port, run};
use pgconvoy_core::failure::Classify;
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::connect::{Client, ConnectOptions, Password, Place, TlsMode};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn tcp(cluster: &Cluster, host: &str, tls: TlsMode, ca_file: Option<PathBuf>) -> ConnectOptions {
    let place = Place::Tcp { host: host.into(), tls, ca_file };
    ConnectOptions {
        place,
        user: "keeper".into(),
        password: Some(Password::new("correct horse")),
        ..cluster.options()
    }
}

/// A certificate authority, and a certificate for `localhost` that it signed.
fn make_certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        run(Command::new("openssl").current_dir(directory).args(arguments.split(' ')));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=ca -days 2"));
    openssl(&format!("req -x509 {key} -keyout other.key -out other.crt -subj /CN=other -days 2"));
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    );
}

/// Over TCP only with TLS and a password.
pub(crate) fn guarded_cluster() -> Cluster {
    let cluster = Cluster::start();
    let home = cluster.make_directory("tls");
    make_certificates(&home);
    cluster.give_to_postgres(&home.join("server.key"));
    let home = home.display();
    cluster.append(
        "postgresql.conf",
        &format!("ssl = on\nssl_cert_file = '{home}/server.crt'\nssl_key_file = '{home}/server.key'\n"),
    );
    let lines = "local all all trust\nhostssl all,replication all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(cluster.data().join("pg_hba.conf"), lines).unwrap();
    cluster.sql("create role keeper superuser login password 'correct horse'");
    cluster.sql("select pg_reload_conf()");
    cluster.pg_ctl(&["restart", "-m", "fast"]);
    cluster
}

async fn refusal(options: &ConnectOptions) -> PostgresError {
    let error = Client::connect(options).await.unwrap_err();
    assert_eq!(error.code().number(), 56, "{error}");
    assert!(!error.hints().is_empty(), "{error}");
    assert!(!error.to_string().contains("correct horse"));
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_believed_as_far_as_the_mode_says() {
    let cluster = guarded_cluster();
    let ca = Some(cluster.home.path().join("tls/ca.crt"));
    let other = Some(cluster.home.path().join("tls/other.crt"));

    for (host, mode, ca_file) in [
        ("127.0.0.1", TlsMode::Prefer, None),
        ("127.0.0.1", TlsMode::Require, None),
        // The certificate is for another name, which `require` does not look at.
        ("127.0.0.1", TlsMode::Require, ca.clone()),
        ("localhost", TlsMode::VerifyFull, ca.clone()),
    ] {
        let client = Client::connect(&tcp(&cluster, host, mode, ca_file)).await.unwrap();
        let encrypted =
            "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where usename = 'keeper'";
        assert_eq!(cluster.sql(encrypted), "t", "{mode:?}");
        assert_eq!(client.settings().data_directory, cluster.data());
        drop(client);
        let gone = "select count(*) = 0 from pg_stat_activity where usename = 'keeper'";
        crate::cluster::wait_until("the session is gone", || cluster.sql(gone) == "t");
    }
    for (host, mode, ca_file) in [
        ("localhost", TlsMode::VerifyFull, other.clone()),
        ("localhost", TlsMode::Require, other),
        ("127.0.0.1", TlsMode::VerifyFull, ca),
    ] {
        let error = refusal(&tcp(&cluster, host, mode, ca_file)).await;
        assert!(matches!(error, PostgresError::Tls { .. }), "{mode:?} {host}: {error}");
    }

    let unencrypted = refusal(&tcp(&cluster, "127.0.0.1", TlsMode::Disable, None)).await;
    assert!(matches!(unencrypted, PostgresError::Authentication { .. }), "{unencrypted}");
    let blind = Client::connect(&tcp(&cluster, "localhost", TlsMode::VerifyFull, None)).await.unwrap_err();
    assert_eq!(blind.code().number(), 37, "{blind}");

    let wrong = ConnectOptions {
        password: Some(Password::new("incorrect horse")),
        ..tcp(&cluster, "127.0.0.1", TlsMode::Require, None)
    };
    for password in [wrong.clone(), ConnectOptions { password: None, ..wrong }] {
        let error = refusal(&password).await;
        assert!(matches!(&error, PostgresError::Authentication { user, .. } if user == "keeper"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_see_the_settings_is_told_what_to_grant() {
    let cluster = Cluster::start();
    cluster.sql("create role nobody login");
    let options = ConnectOptions { user: "nobody".into(), ..cluster.options() };
    let error = Client::connect(&options).await.unwrap_err();
    assert_eq!(error.code().number(), 57, "{error}");
    assert!(error.hints()[0].contains("pg_read_all_settings"));

    cluster.sql("grant pg_read_all_settings to nobody");
    let client = Client::connect(&options).await.unwrap();
    let error = pgconvoy_postgres::backup::BackupSession::start(client, "x", true).await.unwrap_err();
    assert!(matches!(error, PostgresError::Query { permission: true, .. }), "{error}");
    assert!(error.hints()[0].contains("EXECUTE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_time_limits_of_its_own_keeps_a_session_without_any() {
    let cluster = Cluster::start();
    cluster.sql(
        "alter role postgres set statement_timeout = '1ms'; alter role postgres set search_path = public",
    );
    let client = cluster.connect().await;
    client.wait_next_second().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_listens_the_place_is_named() {
    let port = free_port();
    let options = ConnectOptions {
        place: Place::Tcp { host: "127.0.0.1".into(), tls: TlsMode::Prefer, ca_file: None },
        port,
        user: "postgres".into(),
        database: "postgres".into(),
        password: None,
        application_name: "pgconvoy [test]".into(),
        statement_timeout: crate::cluster::PATIENCE,
    };
    let error = refusal(&options).await;
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}
