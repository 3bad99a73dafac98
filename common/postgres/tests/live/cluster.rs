//! A PostgreSQL cluster of a test's own: in a directory that user `postgres` owns, on its own socket and a free port.

use pgconvoy_postgres::connect::{Client, ConnectOptions, Place};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than any condition here needs on a busy machine of two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// The version that the tests are written for; another one serves where it is not installed.
const PREFERRED_VERSION: &str = "15";
/// Where `tests/run.sh` puts versions that Debian does not have.
const OTHER_VERSIONS: &str = "/opt/pgconvoy-tests";

pub(crate) struct Cluster {
    pub(crate) home: tempfile::TempDir,
    pub(crate) port: u16,
    /// Where the programs of its version are.
    programs: PathBuf,
}

impl Cluster {
    pub(crate) fn start() -> Cluster {
        Cluster::start_with(&[], "")
    }

    /// With more arguments for initdb, in which `{home}` is the directory that goes away with the cluster, and more lines
    /// for postgresql.conf.
    pub(crate) fn start_with(initdb_arguments: &[&str], settings: &str) -> Cluster {
        Cluster::start_programs(debian_programs(), initdb_arguments, settings)
    }

    /// Of a version that Debian does not have.
    pub(crate) fn start_version(major: u32, initdb_arguments: &[&str], settings: &str) -> Cluster {
        Cluster::start_programs(other_programs(major), initdb_arguments, settings)
    }

    fn start_programs(programs: PathBuf, initdb_arguments: &[&str], settings: &str) -> Cluster {
        let cluster = Cluster::without_data(programs);
        cluster.make_directory("archive");
        let home = cluster.home.path().display();
        let mut initdb = as_postgres(&cluster.tool("initdb"));
        initdb.args(["--auth=trust", "--username=postgres", "--no-sync", "-D"]).arg(cluster.data());
        let fill_in = |argument: &&str| argument.replace("{home}", &home.to_string());
        run(initdb.args(initdb_arguments.iter().map(fill_in)));
        let port = cluster.port;
        let defaults = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{home}'\nfsync = off\n\
             autovacuum = off\nshared_buffers = 16MB\narchive_mode = on\n\
             archive_command = 'cp %p {home}/archive/%f # pgconvoy'\n{settings}\n"
        );
        cluster.append("postgresql.conf", &defaults);
        cluster.pg_ctl(&["start"]);
        cluster
    }

    /// A place and a port, and nothing in it.
    fn without_data(programs: PathBuf) -> Cluster {
        let home = tempfile::Builder::new().prefix("pgconvoy-postgres-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Cluster { home, port: free_port(), programs };
        cluster.give_to_postgres(cluster.home.path());
        cluster
    }

    /// A standby that streams from this one.
    pub(crate) fn start_standby(&self) -> Cluster {
        let standby = Cluster::without_data(self.programs.clone());
        standby.make_directory("archive");
        let mut copy = as_postgres(&self.tool("pg_basebackup"));
        copy.arg("-h").arg(self.home.path()).args(["-p", &self.port.to_string(), "-U", "postgres"]);
        run(copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(standby.data()));
        let home = standby.home.path().display();
        let own = format!(
            "port = {}\nunix_socket_directories = '{home}'\narchive_command = 'cp %p {home}/archive/%f # pgconvoy'\n",
            standby.port
        );
        standby.append("postgresql.conf", &own);
        standby.pg_ctl(&["start"]);
        standby
    }

    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.data().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// A directory beside the data directory that PostgreSQL may write to.
    pub(crate) fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::create_dir_all(&path).unwrap();
        self.give_to_postgres(&path);
        path
    }

    pub(crate) fn give_to_postgres(&self, path: &Path) {
        if is_root() {
            chown(path, Some(id_of_postgres("-u")), Some(id_of_postgres("-g"))).unwrap();
        }
    }

    pub(crate) fn pg_ctl(&self, arguments: &[&str]) {
        let mut command = as_postgres(&self.tool("pg_ctl"));
        command.arg("-D").arg(self.data()).arg("-l").arg(self.log()).args(["-w", "-t", "30"]).args(arguments);
        run(&mut command);
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    pub(crate) fn server_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = Command::new(self.tool("psql"));
        command.arg("-h").arg(self.home.path()).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-d",
            "postgres",
        ]);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        command
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = run(&mut self.psql(sql));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A session that does something and then stays, until it is dropped.
    pub(crate) fn sql_and_stay(&self, sql: &str, evidence: &str) -> Background {
        let stay = ["-c", "select pg_sleep(3600)"];
        let child = self.psql(sql).args(stay).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let background = Background(child);
        wait_until("the background session has done its work", || self.sql(evidence) == "t");
        background
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions {
            place: Place::Socket(self.home.path().to_owned()),
            port: self.port,
            user: "postgres".into(),
            database: "postgres".into(),
            password: None,
            application_name: "pgconvoy [test]".into(),
            statement_timeout: PATIENCE,
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(&self.options()).await.unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut command = as_postgres(&self.tool("pg_ctl"));
        command.arg("-D").arg(self.data()).args(["-m", "immediate", "-w", "-t", "30", "stop"]);
        // A test may have stopped it itself.
        drop(command.output());
    }
}

/// A process that ends with the test.
pub(crate) struct Background(pub(crate) Child);

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come true within {} s", PATIENCE.as_secs());
        // The timeout is PATIENCE.
        std::thread::sleep(POLL);
    }
}

pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// PostgreSQL refuses to run as root.
pub(crate) fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
        .arg(program)
        .current_dir("/tmp");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn id_of_postgres(which: &str) -> u32 {
    let output = run(Command::new("id").args([which, "postgres"]));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn debian_programs() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("no PostgreSQL under /usr/lib/postgresql: install postgresql-15")
        .map(|entry| entry.unwrap().path())
        .filter(|version| version.join("bin/initdb").exists())
        .collect();
    found.sort();
    found.sort_by_key(|version| version.file_name().is_some_and(|name| name == PREFERRED_VERSION));
    found.pop().expect("no initdb under /usr/lib/postgresql: install postgresql-15").join("bin")
}

fn other_programs(major: u32) -> PathBuf {
    let link = Path::new(OTHER_VERSIONS).join(format!("postgresql-{major}")).join("programs");
    fs::canonicalize(&link)
        .unwrap_or_else(|error| panic!("{}: {error}: ./tests/run.sh installs it", link.display()))
}
