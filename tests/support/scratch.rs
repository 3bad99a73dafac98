//! A folder of its own for each test, which the test user can enter, with the binary in it.
//!
//! It lies under the system's temporary folder: a home directory (root's above all) is closed to other users.

use super::{Context, Result, user};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub fn new() -> Result<Scratch> {
        let folder = tempfile::Builder::new().prefix("pgconvoy-").tempdir().context("scratch folder")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        user::give(folder.path())?;
        let scratch = Scratch { folder };
        let built = Path::new(env!("CARGO_BIN_EXE_pgconvoy"));
        // A link costs nothing; it cannot cross file systems.
        if std::fs::hard_link(built, scratch.binary()).is_err() {
            std::fs::copy(built, scratch.binary()).with_context(|| format!("copy {}", built.display()))?;
        }
        Ok(scratch)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn binary(&self) -> PathBuf {
        self.join("pgconvoy")
    }

    /// Known before the configuration is written, so that `archive_command` can name it.
    pub fn config_file(&self) -> PathBuf {
        self.join("pgconvoy.toml")
    }

    /// A new directory in it, which belongs to the test user.
    pub fn private_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        user::private_dir(&path)?;
        Ok(path)
    }
}
