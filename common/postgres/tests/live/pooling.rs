//! PgBouncer, in every way that it could pass for PostgreSQL.

use crate::cluster::{Background, Cluster, as_postgres, free_port, wait_until};
use pgconvoy_core::failure::Classify;
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::connect::{Client, ConnectOptions, Place, TlsMode};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

/// Starts PgBouncer in front of a cluster; it ends with the value.
fn start_pgbouncer(cluster: &Cluster, name: &str, settings: &str) -> (Background, u16) {
    let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists())
        .expect("no pgbouncer: install the package of this name");
    let port = free_port();
    let home = cluster.home.path().display();
    let users = cluster.home.path().join("users.txt");
    std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
    let file = cluster.home.path().join(format!("{name}.ini"));
    let text = format!(
        "[databases]\n* = host={home} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = {}\n{settings}\n",
        cluster.port,
        users.display()
    );
    std::fs::write(&file, text).unwrap();
    let child = as_postgres(program).arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let background = Background(child);
    wait_until("pgbouncer listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (background, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_refused_in_every_mode() {
    let cluster = Cluster::start();
    for (name, settings) in [
        ("strict", "pool_mode = session"),
        ("session", "pool_mode = session\nignore_startup_parameters = options"),
        ("transaction", "pool_mode = transaction\nignore_startup_parameters = options"),
        ("statement", "pool_mode = statement\nignore_startup_parameters = options"),
    ] {
        let (_pgbouncer, port) = start_pgbouncer(&cluster, name, settings);
        let place = Place::Tcp { host: "127.0.0.1".into(), tls: TlsMode::Disable, ca_file: None };
        let options = ConnectOptions { place, port, ..cluster.options() };
        let error = Client::connect(&options).await.unwrap_err();
        assert!(matches!(error, PostgresError::Pooler { .. }), "{name}: {error}");
        assert_eq!(error.code().number(), 56);
        assert!(error.hints()[0].contains("PostgreSQL itself"));
    }
}

/// A token that the pooler's own backends bring along is not ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_whose_backends_carry_another_token_is_refused_too() {
    let cluster = Cluster::start();
    cluster.sql("alter role postgres set pgconvoy.session = 'somebody-else'");
    let settings = "pool_mode = transaction\nignore_startup_parameters = options";
    let (_pgbouncer, port) = start_pgbouncer(&cluster, "worst", settings);
    let place = Place::Tcp { host: "127.0.0.1".into(), tls: TlsMode::Disable, ca_file: None };
    let error = Client::connect(&ConnectOptions { place, port, ..cluster.options() }).await.unwrap_err();
    assert!(matches!(error, PostgresError::Pooler { .. }), "{error}");
    // The setting itself does no harm to a session of our own.
    cluster.connect().await;
}
