//! pgBackRest, configured to do the same work: same codec, as many processes, bundles and block maps.

use crate::PROCESSES;
use crate::support::{Cluster, Context, Program, Result, Scratch, ensure, limits, user};
use std::path::PathBuf;

/// From this version on block maps are no trial any more.
const BLOCK_SETTLED: (u32, u32) = (2, 46);
const STANZA: &str = "kit";

pub(crate) struct Pgbackrest {
    program: PathBuf,
    config_file: PathBuf,
    repository: PathBuf,
    version: String,
    block_is_trial: bool,
}

impl Pgbackrest {
    /// The one that `PGBACKREST` names, or the one on the PATH.
    pub(crate) fn configure(scratch: &Scratch, cluster: &Cluster) -> Result<Pgbackrest> {
        let program =
            std::env::var_os("PGBACKREST").map_or_else(|| PathBuf::from("pgbackrest"), PathBuf::from);
        let answer = Program::new(&program)?.arg("version").run(limits::TOOL);
        let answer = answer.context("pgBackRest is not there: ./benches/run.sh installs it")?.ok()?;
        let version = answer.stdout.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let numbers: Vec<u32> =
            version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        ensure!(numbers.len() >= 2, "pgBackRest calls its version '{version}'");
        let folder = scratch.private_dir("pgbackrest")?;
        let (repository, config_file) = (folder.join("repo"), folder.join("pgbackrest.conf"));
        let text = format!(
            "[global]\nrepo1-path={repository}\nrepo1-retention-full=9\nrepo1-bundle=y\ncompress-type=zst\ncompress-level=3\n\
             process-max={PROCESSES}\nstart-fast=y\narchive-check=n\nlog-path={folder}/log\nlock-path={folder}/lock\n\
             spool-path={folder}/spool\nlog-level-console=warn\nlog-level-file=off\n\n\
             [{STANZA}]\npg1-path={data}\npg1-port={port}\npg1-socket-path={socket}\npg1-user=postgres\n",
            repository = repository.display(),
            folder = folder.display(),
            data = cluster.data().display(),
            port = cluster.port(),
            socket = cluster.socket_dir().display(),
        );
        std::fs::write(&config_file, text)?;
        user::give(&config_file)?;
        let block_is_trial = (numbers[0], numbers[1]) < BLOCK_SETTLED;
        Ok(Pgbackrest { program, config_file, repository, version, block_is_trial })
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn repository(&self) -> &PathBuf {
        &self.repository
    }

    pub(crate) fn block_is_trial(&self) -> bool {
        self.block_is_trial
    }

    /// Program and arguments of a call, for scripts.
    pub(crate) fn words(&self) -> Vec<String> {
        vec![
            self.program.display().to_string(),
            format!("--config={}", self.config_file.display()),
            format!("--stanza={STANZA}"),
        ]
    }

    pub(crate) fn call(&self, args: &[&str]) -> Result<Program> {
        Ok(Program::new(&self.program)?.args(&self.words()[1..]).args(args))
    }

    /// Options that switch block maps on. The repository is new each time, so nothing has to fit an earlier backup.
    pub(crate) fn block_options(&self, block: bool) -> Vec<&'static str> {
        match (block, self.block_is_trial) {
            (false, _) => Vec::new(),
            (true, true) => vec!["--beta", "--repo1-block"],
            (true, false) => vec!["--repo1-block"],
        }
    }
}
