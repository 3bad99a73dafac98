//! Which links a scan may follow.
//!
//! The rules are pgBackRest's: a link points to a real directory or file, outside of the data directory, and no two links
//! lead to the same or nested places. Otherwise a file would be stored twice, and a restore would write it through two paths.

use crate::PostgresError;
use crate::catalog::Tablespace;
use pgconvoy_core::ids::Oid;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

pub(super) const TABLESPACE_LINKS: &str = "pg_tblspc";

/// Where a link leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    /// As the link has it, for the manifest.
    pub(super) text: String,
    /// Absolute, without links in it.
    pub(super) real: PathBuf,
}

/// The links of a cluster, as far as they are known.
#[derive(Debug)]
pub(super) struct Links {
    /// The data directory, absolute and without links in it.
    cluster: PathBuf,
    followed: Vec<(String, PathBuf)>,
}

impl Links {
    pub(super) fn new(directory: &Path) -> Result<Self, PostgresError> {
        let cluster = std::fs::canonicalize(directory)
            .map_err(|error| PostgresError::file("look at", directory, error))?;
        Ok(Links { cluster, followed: Vec::new() })
    }

    /// Judges the link at `path`, which lies in the directory `parent`.
    pub(super) fn follow(
        &mut self,
        path: &str,
        parent: &Path,
        text: &OsStr,
    ) -> Result<Destination, PostgresError> {
        let named = parent.join(text);
        let text = text.to_str().ok_or_else(|| PostgresError::NameEncoding {
            directory: parent.to_owned(),
            name: text.to_string_lossy().into_owned(),
        })?;
        let path = path.to_owned();
        let metadata = match std::fs::symlink_metadata(without_trailing_parts(&named)) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(PostgresError::LinkDangling { path, destination: named });
            }
            Err(error) => return Err(PostgresError::file("look at", named, error)),
        };
        if metadata.is_symlink() {
            return Err(PostgresError::LinkToLink { path, destination: named });
        }
        let real =
            std::fs::canonicalize(&named).map_err(|error| PostgresError::file("look at", &named, error))?;
        if real.starts_with(&self.cluster) || self.cluster.starts_with(&real) {
            return Err(PostgresError::LinkInside { path, destination: real });
        }
        if let Some((first, place)) =
            self.followed.iter().find(|(_, place)| place.starts_with(&real) || real.starts_with(place))
        {
            return Err(PostgresError::LinkOverlap {
                first: first.clone(),
                first_destination: place.clone(),
                second: path,
                second_destination: real,
            });
        }
        self.followed.push((path, real.clone()));
        Ok(Destination { text: text.to_owned(), real })
    }
}

/// `lstat` of `link/` or `link/.` looks behind the link: cut that off to see the link.
fn without_trailing_parts(path: &Path) -> PathBuf {
    let mut parts = path.components().collect::<Vec<_>>();
    while parts.len() > 1 && parts.last() == Some(&Component::CurDir) {
        parts.pop();
    }
    parts.into_iter().collect()
}

/// The links in `pg_tblspc` that are named like tablespaces; the scan judges the rest.
pub(super) fn tablespaces_of_links(directory: &Path) -> Result<Vec<Tablespace>, PostgresError> {
    let links = directory.join(TABLESPACE_LINKS);
    let failed = |error| PostgresError::file("list", links.clone(), error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&links).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let oid = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Oid);
        if let (Some(oid), Ok(location)) = (oid, std::fs::read_link(entry.path())) {
            found.push(Tablespace { oid, name: String::new(), location });
        }
    }
    found.sort_unstable_by_key(|tablespace| tablespace.oid);
    Ok(found)
}

#[cfg(test)]
mod tests;
