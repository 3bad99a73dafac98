//! A backup to S3 and its restore with one slot over a long line, behind TLS, beside pgBackRest with one process over the same line.
//!
//! What counts is how much of the line's throughput is left when every question takes 50 ms more.

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::stores::seaweed::{self, ACCESS_KEY, BUCKET, REGION, SECRET_KEY, Seaweed};
use support::stores::slow_link::{Line, SlowLink};
use support::{
    ClusterOptions, Finished, Pgconvoy, Program, Result, Site, SiteOptions, ensure, files, limits, note, user,
};

/// Each way, so a question and its answer take twice that.
const DELAY: Duration = Duration::from_millis(25);
/// Bytes a second.
const BANDWIDTH: u64 = 16 << 20;
/// pgbench's; a branch is 15 MB.
const BRANCHES: &str = "5";
/// Of the throughput without the delay.
const KEPT_MIN: f64 = 0.8;

/// Of pgBackRest's time over the far line.
const RESTORE_MAX: f64 = 1.25;

/// What one way took.
#[derive(Debug, Clone, Copy)]
struct Took {
    backup: f64,
    restore: f64,
}

struct Stage {
    site: Site,
    s3: Seaweed,
}

impl Stage {
    /// The server is stopped: nothing but data goes over the line.
    fn start() -> Result<Stage> {
        // WAL that was recycled is part of an offline backup.
        let settings = vec!["max_wal_size = 64MB".to_owned()];
        let cluster = ClusterOptions { settings, ..ClusterOptions::default() };
        let site = Site::prepare(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
        let s3 = Seaweed::start()?;
        site.cluster.start()?;
        let load = ["-i", "-I", "dtGvp", "-q", "-s", BRANCHES, "postgres"];
        site.cluster.client("pgbench")?.args(load).run(limits::LARGE_COMMAND)?.ok()?;
        site.cluster.stop()?;
        let bytes: u64 = files::walk(site.cluster.data())?
            .iter()
            .map(|file| file.symlink_metadata().map_or(0, |found| found.len()))
            .sum();
        note(format!("{} MiB", bytes >> 20));
        Ok(Stage { site, s3 })
    }

    fn line(&self, delay: Duration) -> Result<SlowLink> {
        SlowLink::before(self.s3.tls_address(), Line { delay, bandwidth: Some(BANDWIDTH) })
    }

    fn pgconvoy(&self, name: &str, line: &SlowLink) -> Result<Took> {
        let Site { scratch, config, repos, pgconvoy, .. } = &self.site;
        let endpoint = format!("https://{}", line.address());
        let table = seaweed::table(&endpoint, SECRET_KEY) + &self.ca_file_line()?;
        let repo = repos[0].clone().in_store("s3", &format!("/{name}"), &table);
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

    fn ca_file_line(&self) -> Result<String> {
        let ca_file = self.site.scratch.join("ca.pem");
        std::fs::copy(self.s3.ca_file(), &ca_file)?;
        user::give(&ca_file)?;
        Ok(format!("\nca-file = \"{}\"", ca_file.display()))
    }

    fn pgbackrest(&self, name: &str, line: &SlowLink) -> Result<Took> {
        let config_file = self.pgbackrest_config(name, line)?;
        let target = self.site.copy(&format!("pgbackrest-{name}"))?;
        user::private_dir(target.data())?;
        let call = |args: &[&str]| {
            let config = format!("--config={}", config_file.display());
            Program::new("pgbackrest")?.arg(config).arg("--stanza=main").args(args).run(limits::LARGE_COMMAND)
        };
        call(&["--no-online", "stanza-create"])?.ok()?;
        let path = format!("--pg1-path={}", target.data().display());
        Ok(Took {
            backup: timed(|| call(&["--no-online", "--type=full", "backup"]))?,
            restore: timed(|| call(&[&path, "restore"]))?,
        })
    }

    fn pgbackrest_config(&self, name: &str, line: &SlowLink) -> Result<PathBuf> {
        let Site { scratch, cluster, .. } = &self.site;
        let folder = scratch.private_dir(&format!("pgbackrest-{name}.files"))?;
        let text = format!(
            "[global]\nrepo1-type=s3\nrepo1-path=/pgbackrest-{name}\nrepo1-s3-bucket={BUCKET}\nrepo1-s3-endpoint=127.0.0.1\n\
             repo1-storage-port={port}\nrepo1-storage-verify-tls=n\nrepo1-s3-uri-style=path\nrepo1-s3-region={REGION}\n\
             repo1-s3-key={ACCESS_KEY}\nrepo1-s3-key-secret={SECRET_KEY}\nrepo1-cipher-type=aes-256-cbc\n\
             repo1-cipher-pass=of-the-tests\nrepo1-retention-full=9\nrepo1-bundle=y\ncompress-type=none\nprocess-max=1\n\
             archive-check=n\nlog-path={folder}\nlock-path={folder}\nspool-path={folder}\n\
             log-level-console=warn\nlog-level-file=off\n\n[main]\npg1-path={data}\n",
            port = line.address().port(),
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

#[test]
fn fifty_milliseconds_a_question_leave_four_fifths_of_the_line_to_one_slot() -> Result<()> {
    let stage = Stage::start()?;
    let (near, far) = (stage.line(Duration::ZERO)?, stage.line(DELAY)?);
    let (ours_near, theirs_near) = (stage.pgconvoy("near", &near)?, stage.pgbackrest("near", &near)?);
    let (ours_far, theirs_far) = (stage.pgconvoy("far", &far)?, stage.pgbackrest("far", &far)?);
    let kept = |near: Took, far: Took| [near.backup / far.backup, near.restore / far.restore];
    let (ours, theirs) = (kept(ours_near, ours_far), kept(theirs_near, theirs_far));
    note(format!("pgconvoy {ours_near:.1?}, far {ours_far:.1?}: keeps {ours:.2?}"));
    note(format!("pgBackRest {theirs_near:.1?}, far {theirs_far:.1?}: keeps {theirs:.2?}"));
    ensure!(
        ours.iter().all(|kept| *kept >= KEPT_MIN),
        "of a near line's throughput a far one keeps {ours:.2?}"
    );
    ensure!(
        ours_far.backup < theirs_far.backup,
        "pgBackRest is quicker: {theirs_far:?} against {ours_far:?}"
    );
    let restore = ours_far.restore / theirs_far.restore;
    ensure!(restore <= RESTORE_MAX, "a restore takes {restore:.2} x of pgBackRest's");
    Ok(())
}
