//! A cluster with mixed data, a configuration for each tool, and a way to start every turn alike.
//!
//! Before a turn: a fresh repository or an empty target, and nothing left to be written by the kernel from the turn before.
//!
//! Backups do not wait for WAL here, neither tool's: how long that takes is up to the server's archiver and to the pauses
//! between looks, not to the data. Pushing WAL is compared by itself.

use crate::contender::Contender;
use crate::measure::{Cost, memory::Watcher, note};
use crate::pgbackrest::Pgbackrest;
use crate::rounds::Turn;
use crate::support::{
    Cluster, ClusterOptions, Config, Pgconvoy, Program, Repo, Result, Scratch, config, ensure, files, limits,
    user,
};
use crate::{PROCESSES, mixed, plain, wal};
use std::path::{Path, PathBuf};

const ONE_REPOSITORY: &str = "one.toml";
const TARGET: &str = "target";
/// WAL that stays in pg_wal, for the comparison of archive-push: what a load fills, and what backups switch away.
const WAL_KEPT: &str = "16GB";

/// The cluster stops before its folder goes: fields drop in this order.
pub(crate) struct Stage {
    to_both: Pgconvoy,
    to_one: Pgconvoy,
    repositories: Vec<Repo>,
    pgbackrest: Pgbackrest,
    cluster: Cluster,
    /// Full of what the load wrote, oldest first.
    segments: Vec<PathBuf>,
    sizes: Vec<(PathBuf, u64)>,
    scratch: Scratch,
}

impl Stage {
    pub(crate) fn build(bytes: u64) -> Result<Stage> {
        let scratch = Scratch::new()?;
        let options = ClusterOptions {
            settings: vec![
                "archive_command = 'true'".to_owned(),
                format!("wal_keep_size = {WAL_KEPT}"),
                "max_wal_size = 4GB".to_owned(),
                "checkpoint_timeout = 1h".to_owned(),
            ],
            ..ClusterOptions::default()
        };
        let cluster = Cluster::create(&scratch, "primary", &options)?;
        let repositories = vec![Repo::plain(&scratch, 1), Repo::plain(&scratch, 2)];
        let config = Config::new(&scratch, &repositories, &cluster)
            .backup("process-max", &PROCESSES.to_string())
            .backup("compress-type", "\"zst\"")
            .backup("compress-level", "3")
            .backup("archive-check", "false");
        config.write(&scratch.config_file())?;
        let to_both = Pgconvoy::new(&scratch).with_limit(limits::LARGE_COMMAND);
        let to_one = to_both.with_config(&scratch, ONE_REPOSITORY, &config.repos(&repositories[..1]))?;
        let pgbackrest = Pgbackrest::configure(&scratch, &cluster)?;
        note(format!("pgBackRest {}", pgbackrest.version()));
        cluster.start()?;
        mixed::load(&cluster, bytes)?;
        let partial = cluster.switch_and_archive()?;
        let segments = wal::segments(&cluster.data().join("pg_wal"), |name| name < partial.as_str())?;
        let sizes = plain::sizes(cluster.data())?;
        Ok(Stage { to_both, to_one, repositories, pgbackrest, cluster, segments, sizes, scratch })
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Every form of pgBackRest that is measured.
    pub(crate) fn rivals(&self) -> Vec<Contender> {
        let with = Contender::Pgbackrest { block: true };
        let without = Contender::Pgbackrest { block: false };
        // The last one's backup stays, and is what restores read.
        if self.pgbackrest.block_is_trial() { vec![without, with] } else { vec![with] }
    }

    /// The one that does what pgconvoy does.
    pub(crate) fn rival(&self) -> Contender {
        Contender::Pgbackrest { block: true }
    }

    /// How much there is to be backed up.
    pub(crate) fn size(&self) -> String {
        let bytes: u64 = self.sizes.iter().map(|(_, size)| size).sum();
        format!("{} MiB in {} files", bytes >> 20, self.sizes.len())
    }

    /// So many WAL segments that the load filled.
    pub(crate) fn segments(&self, count: usize) -> Result<&[PathBuf]> {
        ensure!(self.segments.len() >= count, "the load filled only {} segments", self.segments.len());
        Ok(&self.segments[self.segments.len() - count..])
    }

    /// Program and arguments before the command.
    pub(crate) fn words(&self, contender: Contender) -> Vec<String> {
        match contender {
            Contender::Pgbackrest { .. } => self.pgbackrest.words(),
            _ => vec![
                self.scratch.binary().display().to_string(),
                format!("--config={}", self.config_file(contender).display()),
                format!("--stanza={}", config::STANZA),
            ],
        }
    }

    fn config_file(&self, contender: Contender) -> PathBuf {
        match contender {
            Contender::Pgconvoy { repositories: 1 } => self.scratch.join(ONE_REPOSITORY),
            _ => self.scratch.config_file(),
        }
    }

    fn pgconvoy(&self, contender: Contender) -> &Pgconvoy {
        match contender {
            Contender::Pgconvoy { repositories: 1 } => &self.to_one,
            _ => &self.to_both,
        }
    }

    /// Forgets all earlier backups and WAL of the tool.
    pub(crate) fn fresh(&self, contender: Contender) -> Result<()> {
        match contender {
            Contender::Pgbackrest { .. } => {
                remove(self.pgbackrest.repository())?;
                user::private_dir(self.pgbackrest.repository())?;
                self.pgbackrest.call(&["--no-online", "stanza-create"])?.run(limits::COMMAND)?.ok()?;
            }
            _ => {
                self.repositories.iter().try_for_each(|repo| remove(&repo.path))?;
                self.pgconvoy(contender).run(["stanza-create"])?.ok()?;
            }
        }
        Ok(())
    }

    pub(crate) fn backup(&self, contender: Contender, kind: &str) -> Result<Program> {
        let kind = format!("--type={kind}");
        match contender {
            Contender::Pgbackrest { block } => {
                let mut args = self.pgbackrest.block_options(block);
                args.extend([kind.as_str(), "--no-expire-auto", "backup"]);
                self.pgbackrest.call(&args)
            }
            _ => self.pgconvoy(contender).call(["backup", &kind]),
        }
    }

    /// Where restores go.
    pub(crate) fn target(&self) -> PathBuf {
        self.scratch.join(TARGET)
    }

    pub(crate) fn prepare_restore(&self) -> Result<()> {
        let target = self.target();
        remove(&target)?;
        user::private_dir(&target)?;
        settle();
        Ok(())
    }

    pub(crate) fn restore(&self, contender: Contender) -> Result<Program> {
        let target = self.target();
        match contender {
            Contender::Pgbackrest { .. } => {
                self.pgbackrest.call(&[&format!("--pg1-path={}", target.display()), "restore"])
            }
            _ => self.pgconvoy(contender).call(["restore", &format!("--pg-path={}", target.display())]),
        }
    }

    pub(crate) fn write_plainly(&self) -> Result<Turn> {
        let target = self.target();
        let (cost, ()) = Cost::of(|| plain::write(&target, &self.sizes, PROCESSES))?;
        Ok(Turn { cost, memory: 0 })
    }

    /// A shell that starts pgconvoy so many times, for nothing.
    pub(crate) fn starts(&self, count: u32) -> Result<Program> {
        let script = format!(
            "set -e; i=0; while [ $i -lt {count} ]; do {} version >/dev/null; i=$((i + 1)); done",
            self.scratch.binary().display()
        );
        Ok(Program::new("sh")?.args(["-c", &script]))
    }

    /// Runs it to its end; if it is watched, its time is worth less and its memory is known.
    pub(crate) fn measure(&self, program: Program, watched: bool) -> Result<Turn> {
        let (cost, memory) = Cost::of_children(|| {
            let running = program.start()?;
            let watcher = watched.then(|| Watcher::start(running.id()));
            let finished = running.wait(limits::LARGE_COMMAND);
            let memory = watcher.map_or(0, Watcher::stop);
            finished?.ok()?;
            Ok(memory)
        })?;
        Ok(Turn { cost, memory })
    }

    /// Bytes of the tool's last backup, in its first repository.
    pub(crate) fn stored(&self, contender: Contender) -> Result<u64> {
        let place = match contender {
            Contender::Pgbackrest { .. } => self.pgbackrest.repository(),
            _ => &self.repositories[0].path,
        };
        let mut bytes = 0;
        for file in files::walk(place)? {
            bytes += std::fs::symlink_metadata(&file)?.len();
        }
        ensure!(bytes > 0, "{} is empty", place.display());
        Ok(bytes)
    }
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    Ok(())
}

/// What earlier turns wrote goes to disk now, not in the middle of the next.
pub(crate) fn settle() {
    rustix::fs::sync();
}
