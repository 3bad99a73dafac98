//! A real PostgreSQL in the scratch folder: version 15, where a test asks for no other.
//!
//! It listens on a socket in a directory of its own and on no TCP port, so clusters of tests that run side by side
//! cannot meet, and a port number is only a name.

use super::process::{Finished, Program, Running};
use super::{Context, Result, Scratch, bail, config, ensure, limits, tools, user};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings that hold for the original and for every restored copy.
const PORT: u16 = 54_321;

#[derive(Debug, Clone)]
pub struct ClusterOptions {
    pub version: u32,
    /// Off by default: the tests kill processes, never the machine.
    pub fsync: bool,
    /// pg_wal as a link to a directory beside the data directory.
    pub linked_wal: bool,
    /// WAL segment size in MiB.
    pub wal_segment_mib: u32,
    pub archive_mode: bool,
    /// More lines for postgresql.conf.
    pub settings: Vec<String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            version: tools::USUAL_VERSION,
            fsync: false,
            linked_wal: false,
            wal_segment_mib: 16,
            archive_mode: true,
            settings: Vec::new(),
        }
    }
}

pub struct Cluster {
    data: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    /// Settings of the command line: stronger than what a restored postgresql.conf says.
    overrides: Vec<String>,
}

impl Cluster {
    /// A new cluster that archives through the scratch folder's binary. Not started.
    pub fn create(scratch: &Scratch, name: &str, options: &ClusterOptions) -> Result<Cluster> {
        let cluster = Cluster::attach(scratch, name, Vec::new())?;
        let mut initdb = Program::new(tools::server_tool(options.version, "initdb")?)?
            .args([
                "--data-checksums",
                "--no-sync",
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
            ])
            .arg(format!("--wal-segsize={}", options.wal_segment_mib))
            .arg("-D")
            .arg(&cluster.data);
        if options.linked_wal {
            initdb = initdb.arg("-X").arg(scratch.join(&format!("{name}.wal")));
        }
        initdb.run(limits::SERVER)?.ok()?;
        let mut text = std::fs::read_to_string(cluster.data.join("postgresql.conf"))?;
        for line in settings(scratch, options) {
            text.push_str(&line);
            text.push('\n');
        }
        std::fs::write(cluster.data.join("postgresql.conf"), text)?;
        Ok(cluster)
    }

    /// A data directory that something else makes: a restore, for one.
    pub fn attach(scratch: &Scratch, name: &str, overrides: Vec<String>) -> Result<Cluster> {
        let socket_dir = scratch.private_dir(&format!("{name}.socket"))?;
        let data = scratch.join(name);
        Ok(Cluster { data, socket_dir, log: scratch.join(&format!("{name}.log")), overrides })
    }

    /// The same, with the data directory at a place of its own, such as a small file system.
    pub fn attach_at(scratch: &Scratch, name: &str, data: &Path, overrides: Vec<String>) -> Result<Cluster> {
        let mut cluster = Cluster::attach(scratch, name, overrides)?;
        cluster.data = data.to_owned();
        Ok(cluster)
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub fn port(&self) -> u16 {
        PORT
    }

    /// What the server has logged, for error messages and for tests that look for a line.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Of the version that made the data directory.
    pub fn server_tool(&self, name: &str) -> Result<PathBuf> {
        let version = std::fs::read_to_string(self.data.join("PG_VERSION"))?;
        tools::server_tool(version.trim().parse()?, name)
    }

    pub fn start(&self) -> Result<()> {
        let mut options = format!("-p {PORT} -k {} -c listen_addresses=", self.socket_dir.display());
        for setting in &self.overrides {
            options.push_str(&format!(" -c {setting}"));
        }
        let finished = Program::new(self.server_tool("pg_ctl")?)?
            .args(["start", "-w", "-t"])
            .arg(limits::SERVER.as_secs().to_string())
            .arg("-D")
            .arg(&self.data)
            .arg("-l")
            .arg(&self.log)
            .args(["-o", &options])
            .run(limits::SERVER + limits::SOON)?;
        finished.ok().with_context(|| format!("server log:\n{}", tail(&self.log())))?;
        Ok(())
    }

    /// Starts, and waits for the end of recovery.
    pub fn start_and_recover(&self) -> Result<()> {
        self.start()?;
        limits::wait_for("end of recovery", limits::RECOVERY, || {
            let answer = self.try_psql("postgres", "select pg_is_in_recovery()", limits::TOOL)?;
            ensure!(self.is_running(), "the server ended during recovery:\n{}", tail(&self.log()));
            Ok((answer.stdout.trim() == "f").then_some(()))
        })
    }

    pub fn stop(&self) -> Result<()> {
        self.stop_by("fast")
    }

    /// As if its machine had lost power, but for the page cache.
    pub fn crash(&self) -> Result<()> {
        self.stop_by("immediate")
    }

    fn stop_by(&self, mode: &str) -> Result<()> {
        let limit = limits::SERVER.as_secs().to_string();
        Program::new(self.server_tool("pg_ctl")?)?
            .args(["stop", "-w", "-t", &limit, "-m", mode, "-D"])
            .arg(&self.data)
            .run(limits::SERVER + limits::SOON)?
            .ok()?;
        Ok(())
    }

    fn postmaster(&self) -> Option<rustix::process::Pid> {
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        rustix::process::Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }

    pub fn is_running(&self) -> bool {
        self.postmaster().is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }

    pub fn wait_until_gone(&self, limit: Duration) -> Result<()> {
        limits::wait_for("end of the server", limit, || Ok((!self.is_running()).then_some(())))
    }

    /// The answer without alignment or headings; several statements each commit on their own.
    pub fn psql(&self, script: &str) -> Result<String> {
        self.psql_in("postgres", script)
    }

    pub fn psql_in(&self, database: &str, script: &str) -> Result<String> {
        // Loading data goes through here too, so the limit is the large one.
        let finished = self.try_psql(database, script, limits::LARGE_COMMAND)?;
        Ok(finished.ok().with_context(|| script.to_owned())?.stdout.trim_end().to_owned())
    }

    fn try_psql(&self, database: &str, script: &str, limit: Duration) -> Result<Finished> {
        self.client("psql")?
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"])
            .stdin_text(script)?
            .run(limit)
    }

    /// A client program of PostgreSQL's with the connection to this server.
    pub fn client(&self, name: &str) -> Result<Program> {
        Ok(Program::new(tools::tool(name)?)?
            .env("PGHOST", &self.socket_dir)
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "postgres")
            .env("PGCONNECT_TIMEOUT", "10"))
    }

    /// pgbench's standard load in the background, until it is dropped: so many transactions a second.
    pub fn load(&self, clients: u32, rate: u32) -> Result<Running> {
        let (clients, rate) = (clients.to_string(), rate.to_string());
        let seconds = limits::LARGE_COMMAND.as_secs().to_string();
        self.client("pgbench")?.args(["-n", "-c", &clients, "-R", &rate, "-T", &seconds, "postgres"]).start()
    }

    /// Ends the current segment and waits until the archive has it.
    pub fn switch_and_archive(&self) -> Result<String> {
        let segment = self.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
        // A switch at the very start of a segment does nothing, so something is written first.
        self.psql("select txid_current(); select pg_switch_wal()")?;
        self.wait_until_archived(&segment)?;
        Ok(segment)
    }

    pub fn wait_until_archived(&self, segment: &str) -> Result<()> {
        let query = "select coalesce(max(last_archived_wal), '') from pg_stat_archiver";
        let archived = || Ok((self.psql(query)?.as_str() >= segment).then_some(()));
        // After failures the archiver waits for a minute before it tries again.
        limits::wait_for(&format!("archiving of {segment}"), limits::COMMAND, archived)
            .with_context(|| format!("server log:\n{}", tail(&self.log())))
    }

    /// Fails when a recovery of this data directory has ever ended and opened it for writing. The control file alone
    /// cannot tell: in a backup it says "in production", as the original was.
    pub fn was_not_promoted(&self) -> Result<()> {
        let log = self.log();
        let opened =
            ["selected new timeline ID", "archive recovery complete"].iter().any(|line| log.contains(line));
        let history = self.data.join("pg_wal/00000002.history").exists();
        ensure!(!opened && !history, "it was promoted\n{}", tail(&log));
        Ok(())
    }

    /// A field of pg_controldata's output.
    pub fn control(&self, field: &str) -> Result<String> {
        let finished =
            Program::new(self.server_tool("pg_controldata")?)?.arg(&self.data).run(limits::TOOL)?.ok()?;
        let value = finished.stdout.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("pg_controldata says nothing of '{field}'"))?.trim().to_owned())
    }

    /// A tablespace at a new directory beside the data directory.
    pub fn create_tablespace(&self, name: &str, location: &Path) -> Result<()> {
        user::private_dir(location)?;
        self.psql(&format!("create tablespace {name} location '{}'", location.display()))?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(pid) = self.postmaster() else { return };
        if self.is_running() && self.crash().is_err() {
            // Its children follow: they watch the postmaster.
            let killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            super::note(format!("postmaster {pid:?} did not stop and was killed: {killed:?}"));
        }
    }
}

fn settings(scratch: &Scratch, options: &ClusterOptions) -> Vec<String> {
    let archive_command = format!(
        "{} --config={} --stanza={} archive-push %p",
        scratch.binary().display(),
        scratch.config_file().display(),
        config::STANZA
    );
    let mut lines = vec![
        format!("fsync = {}", if options.fsync { "on" } else { "off" }),
        format!("archive_mode = {}", if options.archive_mode { "on" } else { "off" }),
        format!("archive_command = '{archive_command}'"),
        "wal_level = replica".to_owned(),
        "shared_buffers = 64MB".to_owned(),
        format!("max_wal_size = {}MB", options.wal_segment_mib.saturating_mul(24).max(384)),
        "log_checkpoints = off".to_owned(),
    ];
    lines.extend(options.settings.iter().cloned());
    lines
}

/// The end of a log says what went wrong; the rest only scrolls it away.
fn tail(log: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Refuses to go on with a data directory that a test expects to be unusable but that starts.
pub fn assert_does_not_start(cluster: &Cluster) -> Result<()> {
    if cluster.start().is_ok() {
        bail!("an incomplete data directory started: {}\n{}", cluster.data().display(), tail(&cluster.log()));
    }
    Ok(())
}
