//! Where PostgreSQL's programs are: Debian keeps most of them off the PATH, and other versions are `tests/run.sh`'s.

use super::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// Debian's place.
const DEBIAN_BIN: &str = "/usr/lib/postgresql/15/bin";

/// The directory of PostgreSQL 15's programs: Debian's, or what `pg_config` says.
pub fn bin_dir() -> Result<PathBuf> {
    let mut candidates = vec![PathBuf::from(DEBIAN_BIN)];
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        candidates.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for candidate in candidates {
        if candidate.join("initdb").exists() && is_version_15(&candidate) {
            return Ok(candidate);
        }
    }
    bail!("PostgreSQL 15 is not installed: ./tests/run.sh installs it")
}

/// Where `tests/run.sh` puts versions that Debian does not have.
const OTHER_VERSIONS: &str = "/opt/pgconvoy-tests";

/// The version that most tests use.
pub const USUAL_VERSION: u32 = 15;

/// A program of a server's own version.
pub fn server_tool(version: u32, name: &str) -> Result<PathBuf> {
    if version == USUAL_VERSION {
        return tool(name);
    }
    let link = PathBuf::from(OTHER_VERSIONS).join(format!("postgresql-{version}/programs"));
    let programs = link.canonicalize();
    Ok(programs.with_context(|| format!("{}: ./tests/run.sh installs it", link.display()))?.join(name))
}

pub fn tool(name: &str) -> Result<PathBuf> {
    Ok(bin_dir()?.join(name))
}

fn is_version_15(bin: &std::path::Path) -> bool {
    Command::new(bin.join("postgres"))
        .arg("--version")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" 15."))
}
