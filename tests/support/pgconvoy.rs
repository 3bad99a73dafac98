//! The binary under test, as a user would call it.

use super::config::{Config, STANZA};
use super::process::{Finished, Program, Running};
use super::{Result, Scratch, limits};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Pgconvoy {
    binary: PathBuf,
    config_file: PathBuf,
    limit: Duration,
}

impl Pgconvoy {
    pub fn new(scratch: &Scratch) -> Pgconvoy {
        Pgconvoy { binary: scratch.binary(), config_file: scratch.config_file(), limit: limits::COMMAND }
    }

    /// The same binary with a configuration file of its own.
    pub fn with_config(&self, scratch: &Scratch, name: &str, config: &Config) -> Result<Pgconvoy> {
        let config_file = scratch.join(name);
        config.write(&config_file)?;
        Ok(Pgconvoy { config_file, ..self.clone() })
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// The same calls of another program.
    #[must_use]
    pub fn with_binary(mut self, binary: &Path) -> Self {
        self.binary = binary.to_owned();
        self
    }

    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// A call with `--config` and `--stanza`, to be changed further before it starts.
    pub fn call<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Program> {
        let config = format!("--config={}", self.config_file.display());
        Ok(Program::new(&self.binary)?.arg(config).arg(format!("--stanza={STANZA}")).args(args))
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.call(args)?.run(self.limit)
    }

    pub fn start<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Running> {
        self.call(args)?.start()
    }

    /// `archive-push` as PostgreSQL calls it: in the data directory.
    pub fn archive_push(&self, data: &Path, wal_file: &Path) -> Result<Finished> {
        self.call([OsStr::new("archive-push"), wal_file.as_os_str()])?.current_dir(data).run(self.limit)
    }

    /// `archive-get` as PostgreSQL calls it: in the data directory, with its path.
    pub fn archive_get(
        &self,
        data: &Path,
        name: &str,
        destination: &Path,
        more: &[&str],
    ) -> Result<Finished> {
        self.call(["archive-get", name])?
            .arg(destination)
            .arg(format!("--pg-path={}", data.display()))
            .args(more)
            .current_dir(data)
            .run(self.limit)
    }
}
