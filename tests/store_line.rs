//! A backup and its restore with one slot over a long line, beside pgBackRest with one process over the same line where it knows the kind
//! of store. What speaks HTTP is behind TLS.
//!
//! What counts is how much of the line's throughput is left when every question takes 50 ms more. That takes three minutes for each kind
//! of store, and is told with `PGCONVOY_LONG`. Otherwise little data goes over the line, and what counts is how much longer it takes: most
//! of what is lost are questions before the first byte and after the last one, which no amount of data makes more.

mod support;

#[path = "support/stores/gcs_server.rs"]
mod gcs_server;

use gcs_server::GcsServer;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::stores::azurite::{self, Azurite};
use support::stores::seaweed::{self, ACCESS_KEY, REGION, SECRET_KEY, Seaweed};
use support::stores::slow_link::{Line, SlowLink};
use support::stores::sshd::Sshd;
use support::{
    ClusterOptions, Finished, Pgconvoy, Program, Result, Scratch, Site, SiteOptions, ensure, files, limits,
    note, user,
};

/// Each way, so a question and its answer take twice that.
const DELAY: Duration = Duration::from_millis(25);
/// Bytes a second.
const BANDWIDTH: u64 = 16 << 20;
/// Of the throughput without the delay.
const KEPT_MIN: f64 = 0.8;
/// Of pgBackRest's time over the far line.
const RESTORE_MAX: f64 = 1.25;
const BRANCHES_SHORT: &str = "1";

const CONTAINER: &str = "kit";
const TOKEN: &str = "ya29.a-secret-token";

/// What one way took.
#[derive(Debug, Clone, Copy)]
struct Took {
    backup: f64,
    restore: f64,
}

/// Of a near line's throughput.
#[derive(Debug, Clone, Copy)]
struct Kept {
    backup: f64,
    restore: f64,
}

/// A server that holds repositories, and how both programs are told of a line to it.
trait Store {
    const KIND: &'static str;
    /// pgbench's, of the long form; a branch is 15 MB.
    const BRANCHES: &'static str = "5";
    /// Seconds that a far line may cost in the short form.
    const LOST_MAX: f64 = 3.0;

    /// Where its lines lead.
    fn address(&self) -> Result<SocketAddr>;

    /// Where a repository of this name lies in it, and its table.
    fn repository(&self, name: &str, line: SocketAddr) -> Result<(String, String)>;

    /// Lines for pgBackRest; `None`: it does not know this kind of store.
    fn for_pgbackrest(&self, line: SocketAddr) -> Option<String>;
}

/// A certificate that the test user may read.
fn readable(from: &Path, scratch: &Scratch) -> Result<PathBuf> {
    let ca_file = scratch.join("ca.pem");
    std::fs::copy(from, &ca_file)?;
    user::give(&ca_file)?;
    Ok(ca_file)
}

struct S3 {
    server: Seaweed,
    ca_file: PathBuf,
}

impl S3 {
    fn start(scratch: &Scratch) -> Result<S3> {
        let server = Seaweed::start()?;
        let ca_file = readable(&server.ca_file(), scratch)?;
        Ok(S3 { server, ca_file })
    }
}

impl Store for S3 {
    const KIND: &'static str = "s3";

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.tls_address())
    }

    fn repository(&self, name: &str, line: SocketAddr) -> Result<(String, String)> {
        let table = seaweed::table(&format!("https://{line}"), SECRET_KEY);
        Ok((format!("/{name}"), format!("{table}\nca-file = \"{}\"", self.ca_file.display())))
    }

    fn for_pgbackrest(&self, line: SocketAddr) -> Option<String> {
        Some(format!(
            "repo1-s3-bucket={}\nrepo1-s3-endpoint={}\nrepo1-storage-port={}\nrepo1-s3-uri-style=path\n\
             repo1-s3-region={REGION}\nrepo1-s3-key={ACCESS_KEY}\nrepo1-s3-key-secret={SECRET_KEY}\n",
            seaweed::BUCKET,
            line.ip(),
            line.port(),
        ))
    }
}

impl Store for Azurite {
    const KIND: &'static str = "azure";

    fn address(&self) -> Result<SocketAddr> {
        self.socket_address()
    }

    fn repository(&self, name: &str, line: SocketAddr) -> Result<(String, String)> {
        Ok((format!("/{name}"), self.table_at(&format!("https://{line}"), CONTAINER, "")))
    }

    fn for_pgbackrest(&self, line: SocketAddr) -> Option<String> {
        Some(format!(
            "repo1-azure-account={}\nrepo1-azure-container={CONTAINER}\nrepo1-azure-key={}\nrepo1-azure-uri-style=path\n\
             repo1-storage-host={}\nrepo1-storage-port={}\n",
            azurite::ACCOUNT,
            azurite::KEY,
            line.ip(),
            line.port(),
        ))
    }
}

fn azure(_: &Scratch) -> Result<Azurite> {
    let server = Azurite::start_with_tokens()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server.create_container(CONTAINER))?;
    Ok(server)
}

struct Gcs {
    server: GcsServer,
    token_file: PathBuf,
    ca_file: PathBuf,
}

impl Gcs {
    fn start(scratch: &Scratch) -> Result<Gcs> {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let server = GcsServer::start_tls(&certified)?;
        server.allow(TOKEN);
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = scratch.join(name);
            std::fs::write(&file, text)?;
            user::give(&file)?;
            Ok(file)
        };
        Ok(Gcs {
            server,
            token_file: write("token", TOKEN)?,
            ca_file: write("ca.pem", &certified.cert.pem())?,
        })
    }
}

impl Store for Gcs {
    const KIND: &'static str = "gcs";

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.address())
    }

    fn repository(&self, name: &str, line: SocketAddr) -> Result<(String, String)> {
        let login = format!(
            "key-type = \"token\"\nkey-file = \"{}\"\nca-file = \"{}\"",
            self.token_file.display(),
            self.ca_file.display()
        );
        Ok((format!("/{name}"), gcs_server::table(&format!("https://{line}"), &login)))
    }

    fn for_pgbackrest(&self, line: SocketAddr) -> Option<String> {
        Some(format!(
            "repo1-gcs-bucket={}\nrepo1-gcs-endpoint={line}\nrepo1-gcs-key-type=token\nrepo1-gcs-key=Bearer {TOKEN}\n",
            gcs_server::BUCKET
        ))
    }
}

struct Sftp {
    server: Sshd,
    folder: PathBuf,
}

impl Sftp {
    fn start(scratch: &Scratch) -> Result<Sftp> {
        Ok(Sftp { server: Sshd::start(scratch)?, folder: scratch.private_dir("on-the-server")? })
    }
}

impl Store for Sftp {
    const KIND: &'static str = "sftp";
    /// More than elsewhere: the questions before the first byte and after the last one, which no amount of data makes more, are several
    /// to an object here.
    const BRANCHES: &'static str = "10";
    const LOST_MAX: f64 = 6.0;

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.address())
    }

    fn repository(&self, name: &str, line: SocketAddr) -> Result<(String, String)> {
        Ok((self.folder.join(name).display().to_string(), self.server.table_at(line)?))
    }

    fn for_pgbackrest(&self, _: SocketAddr) -> Option<String> {
        // It came with version 2.46.
        None
    }
}

struct Stage<S> {
    /// Goes before the folder it lies in.
    store: S,
    site: Site,
}

impl<S: Store> Stage<S> {
    /// The server is stopped: nothing but data goes over the line.
    fn start(store: impl FnOnce(&Scratch) -> Result<S>, branches: &str) -> Result<Stage<S>> {
        // WAL that was recycled is part of an offline backup.
        let settings = vec!["max_wal_size = 64MB".to_owned()];
        let cluster = ClusterOptions { settings, ..ClusterOptions::default() };
        let site = Site::prepare(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
        let store = store(&site.scratch)?;
        site.cluster.start()?;
        let load = ["-i", "-I", "dtGvp", "-q", "-s", branches, "postgres"];
        site.cluster.client("pgbench")?.args(load).run(limits::LARGE_COMMAND)?.ok()?;
        site.cluster.stop()?;
        let bytes: u64 = files::walk(site.cluster.data())?
            .iter()
            .map(|file| file.symlink_metadata().map_or(0, |found| found.len()))
            .sum();
        note(format!("{} MiB", bytes >> 20));
        Ok(Stage { store, site })
    }

    fn line(&self, delay: Duration) -> Result<SlowLink> {
        SlowLink::before(self.store.address()?, Line { delay, bandwidth: Some(BANDWIDTH) })
    }

    fn pgconvoy(&self, name: &str, line: &SlowLink) -> Result<Took> {
        let Site { scratch, config, repos, pgconvoy, .. } = &self.site;
        let (path, table) = self.store.repository(name, line.address())?;
        let repo = repos[0].clone().in_store(S::KIND, &path, &table);
        let config =
            config.clone().repos(&[repo]).backup("process-max", "1").backup("compress-type", "\"none\"");
        let program: Pgconvoy = pgconvoy.with_config(scratch, &format!("{name}.toml"), &config)?;
        program.run(["stanza-create", "--no-online"])?.ok()?;
        let target = self.site.copy(&format!("pgconvoy-{name}"))?;
        let path = format!("--pg-path={}", target.data().display());
        Ok(Took {
            backup: timed(|| program.run(["backup", "--type=full", "--no-online"]))?,
            restore: timed(|| program.run(["restore", &path]))?,
        })
    }

    /// `None`: it does not know this kind of store.
    fn pgbackrest(&self, name: &str, line: &SlowLink) -> Result<Option<Took>> {
        let Some(lines) = self.store.for_pgbackrest(line.address()) else { return Ok(None) };
        let config_file = self.pgbackrest_config(name, &lines)?;
        let target = self.site.copy(&format!("pgbackrest-{name}"))?;
        user::private_dir(target.data())?;
        let call = |args: &[&str]| {
            let config = format!("--config={}", config_file.display());
            Program::new("pgbackrest")?.arg(config).arg("--stanza=main").args(args).run(limits::LARGE_COMMAND)
        };
        call(&["--no-online", "stanza-create"])?.ok()?;
        let path = format!("--pg1-path={}", target.data().display());
        Ok(Some(Took {
            backup: timed(|| call(&["--no-online", "--type=full", "backup"]))?,
            restore: timed(|| call(&[&path, "restore"]))?,
        }))
    }

    fn pgbackrest_config(&self, name: &str, lines: &str) -> Result<PathBuf> {
        let Site { scratch, cluster, .. } = &self.site;
        let folder = scratch.private_dir(&format!("pgbackrest-{name}.files"))?;
        let text = format!(
            "[global]\nrepo1-type={kind}\nrepo1-path=/pgbackrest-{name}\nrepo1-storage-verify-tls=n\n{lines}\
             repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=of-the-tests\nrepo1-retention-full=9\nrepo1-bundle=y\n\
             compress-type=none\nprocess-max=1\narchive-check=n\nlog-path={folder}\nlock-path={folder}\nspool-path={folder}\n\
             log-level-console=warn\nlog-level-file=off\n\n[main]\npg1-path={data}\n",
            kind = S::KIND,
            folder = folder.display(),
            data = cluster.data().display(),
        );
        let file = folder.join("pgbackrest.conf");
        std::fs::write(&file, text)?;
        user::give(&file)?;
        Ok(file)
    }
}

fn timed(work: impl FnOnce() -> Result<Finished>) -> Result<f64> {
    let begin = Instant::now();
    work()?.ok()?;
    Ok(begin.elapsed().as_secs_f64())
}

fn kept(near: Took, far: Took) -> Kept {
    Kept { backup: near.backup / far.backup, restore: near.restore / far.restore }
}

fn delay_costs_little<S: Store>(store: impl FnOnce(&Scratch) -> Result<S>) -> Result<()> {
    match std::env::var_os("PGCONVOY_LONG") {
        Some(_) => four_fifths_are_left(store),
        None => little_is_lost(store),
    }
}

fn little_is_lost<S: Store>(store: impl FnOnce(&Scratch) -> Result<S>) -> Result<()> {
    let stage = Stage::start(store, BRANCHES_SHORT)?;
    let near = stage.pgconvoy("near", &stage.line(Duration::ZERO)?)?;
    let far = stage.pgconvoy("far", &stage.line(DELAY)?)?;
    note(format!("{}: {near:.1?}, far {far:.1?}", S::KIND));
    ensure!(
        far.backup - near.backup <= S::LOST_MAX && far.restore - near.restore <= S::LOST_MAX,
        "of {near:.1?} it makes {far:.1?}"
    );
    Ok(())
}

fn four_fifths_are_left<S: Store>(store: impl FnOnce(&Scratch) -> Result<S>) -> Result<()> {
    let stage = Stage::start(store, S::BRANCHES)?;
    let (near, far) = (stage.line(Duration::ZERO)?, stage.line(DELAY)?);
    let (ours_near, theirs_near) = (stage.pgconvoy("near", &near)?, stage.pgbackrest("near", &near)?);
    let (ours_far, theirs_far) = (stage.pgconvoy("far", &far)?, stage.pgbackrest("far", &far)?);
    let ours = kept(ours_near, ours_far);
    note(format!("{}: pgconvoy {ours_near:.1?}, far {ours_far:.1?}: keeps {ours:.2?}", S::KIND));
    let theirs = theirs_near.zip(theirs_far);
    if let Some((near, far)) = theirs {
        note(format!("{}: pgBackRest {near:.1?}, far {far:.1?}: keeps {:.2?}", S::KIND, kept(near, far)));
    }
    ensure!(
        ours.backup >= KEPT_MIN && ours.restore >= KEPT_MIN,
        "of a near line's throughput a far one keeps {ours:.2?}"
    );
    let Some((_, theirs_far)) = theirs else { return Ok(()) };
    ensure!(
        ours_far.backup < theirs_far.backup,
        "pgBackRest is quicker: {theirs_far:?} against {ours_far:?}"
    );
    let restore = ours_far.restore / theirs_far.restore;
    ensure!(restore <= RESTORE_MAX, "a restore takes {restore:.2} x of pgBackRest's");
    Ok(())
}

#[test]
fn fifty_milliseconds_a_question_cost_one_slot_little_of_a_line_to_s3() -> Result<()> {
    delay_costs_little(S3::start)
}

#[test]
fn fifty_milliseconds_a_question_cost_one_slot_little_of_a_line_to_azure() -> Result<()> {
    delay_costs_little(azure)
}

#[test]
fn fifty_milliseconds_a_question_cost_one_slot_little_of_a_line_to_gcs() -> Result<()> {
    delay_costs_little(Gcs::start)
}

#[test]
fn fifty_milliseconds_a_question_cost_one_slot_little_of_a_line_to_sftp() -> Result<()> {
    delay_costs_little(Sftp::start)
}
