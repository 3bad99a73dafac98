//! Directories and links. Files are created by whoever fills them.

use super::error::{Action, RestoreError};
use super::files;
use super::owners::Owners;
use super::places::Places;
use pgconvoy_core::format::manifest::Ownership;
use pgconvoy_core::plan::restore::{PlannedDirectory, PlannedLink, RestorePlan};
use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

enum Step<'a> {
    Directory(&'a PlannedDirectory),
    Link(&'a PlannedLink),
}

impl Step<'_> {
    fn path(&self) -> &str {
        match self {
            Step::Directory(directory) => directory.path.as_str(),
            Step::Link(link) => link.path.as_str(),
        }
    }
}

pub(super) fn make(plan: &RestorePlan, places: &Places, owners: &Owners) -> Result<(), RestoreError> {
    let root = Ownership { mode: owners.root_mode(), ..owners.own() };
    owners.give_directory(places.target(), root)?;
    let directories = plan.directories.iter().map(Step::Directory);
    let mut steps: Vec<Step<'_>> = directories.chain(plan.links.iter().map(Step::Link)).collect();
    // What is behind a link comes after it.
    steps.sort_by(|a, b| a.path().split('/').cmp(b.path().split('/')));
    let file_links = links_to_files(plan);
    for step in steps {
        match step {
            Step::Directory(directory) => {
                let path = places.target().join(directory.path.as_str());
                make_directory(&path)?;
                owners.give_directory(&path, directory.ownership)?;
            }
            Step::Link(link) => {
                make_link(link, file_links.contains(link.path.as_str()), places, owners, root)?
            }
        }
    }
    Ok(())
}

/// One that is there stayed.
fn make_directory(path: &Path) -> Result<(), RestoreError> {
    match DirBuilder::new().mode(files::PRIVATE_DIRECTORY).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(RestoreError::file(Action::CreateDirectory, path)),
    }
}

fn links_to_files(plan: &RestorePlan) -> BTreeSet<&str> {
    let links: BTreeSet<&str> = plan.links.iter().map(|link| link.path.as_str()).collect();
    plan.files.iter().map(|file| file.path.as_str()).filter(|path| links.contains(path)).collect()
}

/// On disk before anything is written behind it: only its own links tell the next restore what it may empty.
fn make_link(
    link: &PlannedLink,
    to_file: bool,
    places: &Places,
    owners: &Owners,
    root: Ownership,
) -> Result<(), RestoreError> {
    let path = places.target().join(link.path.as_str());
    let destination = Path::new(&link.destination);
    // One that stayed leads where it should.
    if files::look(&path)?.is_none() {
        symlink(destination, &path).map_err(RestoreError::file(Action::CreateLink, &path))?;
    }
    owners.give_link(&path, link.ownership)?;
    files::sync_directory(path.parent().unwrap_or(places.target()))?;
    if to_file {
        return destination.parent().map_or(Ok(()), files::make_directories);
    }
    files::make_directories(destination)?;
    // A link's own mode says nothing about the directory behind it.
    let (user, group) = (link.ownership.user, link.ownership.group);
    owners.give_directory(destination, Ownership { mode: root.mode, user, group })
}

/// All directories, from the deepest to the target's parent: what is in them has a name after this.
pub(super) fn sync(plan: &RestorePlan, places: &Places) -> Result<(), RestoreError> {
    for directory in plan.directories.iter().rev() {
        files::sync_directory(&places.target().join(directory.path.as_str()))?;
    }
    let file_links = links_to_files(plan);
    for (path, destination) in places.destinations() {
        let own = (!file_links.contains(path)).then(|| destination.to_owned());
        let above = destination.parent().map(PathBuf::from);
        own.into_iter().chain(above).try_for_each(|directory| files::sync_directory(&directory))?;
    }
    files::sync_directory(places.target())?;
    places.target().parent().map_or(Ok(()), files::sync_directory)
}
