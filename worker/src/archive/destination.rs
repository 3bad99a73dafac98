//! The file that archive-get writes: under another name beside its destination until it is whole.
//!
//! It is synced only where it is kept for later: what PostgreSQL gets at once, it asks for again after a crash.

use pgconvoy_core::failure::{ErrorCode, Failure};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MODE_OWNER_ONLY: u32 = 0o600;
/// Between the final name and the number of the process that writes.
pub(super) const TEMPORARY: &str = ".pgconvoy-";

/// Removed when dropped before it is published.
#[derive(Debug)]
pub(super) struct Destination {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    is_published: bool,
}

impl Destination {
    pub(super) fn create(path: &Path) -> Result<Destination, Failure> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        // Two that fetch to the same place at once do not write into each other's file.
        name.push(format!("{TEMPORARY}{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(MODE_OWNER_ONLY).open(&temporary);
        let file = opened.map_err(|error| failure(ErrorCode::FileOpen, "create", &temporary, &error))?;
        Ok(Destination { path: path.to_owned(), temporary, file, is_published: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file
            .write_all(bytes)
            .map_err(|error| failure(ErrorCode::FileWrite, "write", &self.temporary, &error))
    }

    /// A name that survives a loss of power must not do so without its content.
    pub(super) fn publish_synced(self) -> Result<(), Failure> {
        self.file
            .sync_data()
            .map_err(|error| failure(ErrorCode::FileSync, "sync", &self.temporary, &error))?;
        self.publish()
    }

    pub(super) fn publish(mut self) -> Result<(), Failure> {
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|error| failure(ErrorCode::FileMove, "rename to", &self.path, &error))?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.is_published {
            // Nobody reads a file of this name; one that cannot be removed is no harm.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn failure(code: ErrorCode, what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(code, format!("unable to {what} '{}': {error}", path.display()))
        .hint("the user who runs PostgreSQL needs space and the right to write there")
}
