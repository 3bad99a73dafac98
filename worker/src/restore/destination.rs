//! Where links lead: no place that anything else may be using.
//!
//! A tablespace without a map goes to where the original's lies, or lay. If that is on this host, it is not empty, and the
//! restore ends here.

use super::clean::leads_to;
use super::error::{Action, RestoreError};
use super::files;
use super::marker::{MarkedPlace, Marker};
use super::target::Found;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::manifest::ManifestHead;
use pgconvoy_core::plan::restore::{PlannedLink, RestorePlan};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) fn check(
    plan: &RestorePlan,
    head: &ManifestHead,
    target: &str,
    found: &Found,
) -> Result<(), Failure> {
    let files: BTreeSet<&str> = match plan.links.is_empty() {
        true => BTreeSet::new(),
        false => plan.files.iter().map(|file| file.path.as_str()).collect(),
    };
    let target = Path::new(target);
    let mut taken = vec![("the data directory".to_owned(), real(target)?, ErrorCode::TablespaceMap)];
    for link in &plan.links {
        let one = Destination::new(link, head);
        let is_file = files.contains(link.path.as_str());
        let is_own =
            found.may_go_through_links() && leads_to(&target.join(link.path.as_str()), &link.destination);
        let is_left_over = found.marker().is_some_and(|marker| is_left_over(marker, target, link));
        if !is_own && !is_left_over {
            one.must_be_free(is_file)?;
        }
        let place = real(Path::new(&link.destination))?;
        if let Some((first, path, _)) =
            taken.iter().find(|(_, other, _)| other.starts_with(&place) || place.starts_with(other))
        {
            let (first, path) = (first.clone(), path.clone());
            return Err(RestoreError::Shared { first, second: one.what, path, code: one.code }.into());
        }
        taken.push((one.what, place, one.code));
    }
    Ok(())
}

/// What an earlier restore put there is emptied before this one begins.
fn is_left_over(marker: &Marker, target: &Path, link: &PlannedLink) -> bool {
    let listed = |place: &MarkedPlace| {
        place.destination == link.destination && leads_to(&target.join(&place.path), &place.destination)
    };
    marker.places.iter().any(listed)
}

struct Destination<'a> {
    path: &'a Path,
    what: String,
    option: &'static str,
    code: ErrorCode,
}

impl<'a> Destination<'a> {
    fn new(link: &'a PlannedLink, head: &ManifestHead) -> Self {
        let path = Path::new(&link.destination);
        let Some(oid) = link.tablespace else {
            return Destination {
                path,
                what: format!("link {}", link.path),
                option: "--link-map",
                code: ErrorCode::LinkMap,
            };
        };
        let name = head
            .tablespaces
            .iter()
            .find(|known| known.oid == oid)
            .map_or("without a name", |known| &known.name);
        let what = format!("tablespace {name} ({oid})");
        Destination { path, what, option: "--tablespace-map", code: ErrorCode::TablespaceMap }
    }

    fn must_be_free(&self, is_file: bool) -> Result<(), RestoreError> {
        let occupied = |obstacle| {
            let (what, path, option) = (self.what.clone(), self.path.to_owned(), self.option);
            Err(RestoreError::Occupied { what, path, obstacle, option })
        };
        match files::look(self.path)? {
            None => Ok(()),
            Some(_) if is_file => occupied("exists already"),
            Some(metadata) if !metadata.is_dir() => occupied("is no directory"),
            Some(_) if !files::is_empty(self.path)? => occupied("is not empty"),
            Some(_) => Ok(()),
        }
    }
}

/// The path without links in it, as far as it exists.
fn real(path: &Path) -> Result<PathBuf, RestoreError> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match std::fs::canonicalize(existing) {
            Ok(found) => return Ok(missing.iter().rev().fold(found, |path, part| path.join(part))),
            Err(error) => match (existing.parent(), existing.file_name()) {
                (Some(above), Some(name)) if error.kind() == std::io::ErrorKind::NotFound => {
                    missing.push(name);
                    existing = above;
                }
                _ => return Err(RestoreError::file(Action::LookAt, existing)(error)),
            },
        }
    }
}
