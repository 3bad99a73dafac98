//! Lists what a backup takes from a data directory. Blocks; belongs on a blocking thread.
//!
//! It reads directories, never files. What is left out is decided by `core`'s rules; this is the walk, the links, and the
//! proof that nothing is missing for the wrong reason.
//!
//! Entries come in order of path, compared part by part, directories before what they hold, in pages of bounded size:
//! memory grows with the largest single directory, by its names.
//!
//! Links (see `links`): a link comes with its destination and the mode and owner of what it points to; what it points to
//! follows under the link's own path. Of a tablespace only the version directory of this server is walked.
//!
//! Invariants
//! 1. No path is followed twice, and none out of a linked directory back into the cluster.
//! 2. A name that is gone when it is looked at was removed by PostgreSQL only while its roots stand; otherwise the scan fails.
//!    A tablespace's root may be gone if PostgreSQL, asked after that, has no such tablespace any more.
//! 3. What a cluster cannot be without is in the list, or the scan fails.

mod links;
mod names;
mod owners;
mod walk;

use crate::PostgresError;
use crate::catalog::Tablespace;
use crate::roots::Roots;
use crate::tablespaces::AskTablespaces;
use pgconvoy_core::pg::{PgVersion, RelativePath, Rules};
use pgconvoy_core::plan::inventory::ScannedEntry;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

/// At some 150 bytes each a page stays well below a megabyte, in memory and on the wire.
pub const PAGE_ENTRIES_MAX: usize = 4096;

pub struct ScanRequest<'a> {
    pub directory: &'a Path,
    pub version: PgVersion,
    /// Says too whether the cluster is online; offline, the WAL is part of the scan.
    pub rules: &'a Rules,
    /// As `pg_tablespace` has them; offline, as [`tablespaces_offline`] finds them.
    pub tablespaces: &'a [Tablespace],
    /// Asked where the directory shows others than these.
    pub ask_tablespaces: &'a AskTablespaces,
    /// From `proof` when online.
    pub roots: Roots,
}

/// What a scan left out but somebody should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanWarning {
    /// A socket, pipe or device.
    SpecialFile(RelativePath),
    TablespaceCreated(Tablespace),
}

impl fmt::Display for ScanWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScanWarning::SpecialFile(path) => write!(f, "special file '{path}' is left out"),
            ScanWarning::TablespaceCreated(Tablespace { name, location, .. }) => write!(
                f,
                "tablespace '{name}' was created after the backup started: recovery will create it again at '{}'",
                location.display()
            ),
        }
    }
}

#[derive(Debug)]
pub struct ScanReport {
    /// The mode of the data directory itself.
    pub mode: u16,
    pub user: Option<String>,
    pub group: Option<String>,
    pub entries: u64,
    pub warnings: Vec<ScanWarning>,
    /// Those of the request and every linked directory.
    pub roots: Roots,
}

/// Hands the inventory to `on_page`, page by page. `None` when `on_page` broke it off.
pub fn scan(
    request: ScanRequest<'_>,
    on_page: impl FnMut(Vec<ScannedEntry>) -> ControlFlow<()>,
) -> Result<Option<ScanReport>, PostgresError> {
    scan_in_pages(request, PAGE_ENTRIES_MAX, on_page)
}

fn scan_in_pages(
    request: ScanRequest<'_>,
    page_entries_max: usize,
    mut on_page: impl FnMut(Vec<ScannedEntry>) -> ControlFlow<()>,
) -> Result<Option<ScanReport>, PostgresError> {
    match walk::Walk::new(request, page_entries_max, &mut on_page)?.run() {
        Ok(report) => Ok(Some(report)),
        Err(walk::Halt::Stopped) => Ok(None),
        Err(walk::Halt::Failed(error)) => Err(error),
    }
}

/// The tablespaces of a stopped cluster, which nobody can ask: what pg_tblspc says. Their names are not known. That the
/// cluster is stopped is for the caller to know.
pub fn tablespaces_offline(directory: &Path) -> Result<Vec<Tablespace>, PostgresError> {
    links::tablespaces_of_links(directory)
}

#[cfg(test)]
mod tests;
