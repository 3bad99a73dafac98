//! Where the paths of a plan lie on this host.

use pgconvoy_core::pg::RelativePath;
use pgconvoy_core::plan::restore::{CONTROL_PATH, RestorePlan};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// pg_control until everything else is in place; PostgreSQL knows no file of this name.
const CONTROL_NEW: &str = "global/pg_control.pgconvoy";

/// Directories behind links are reached through the links; a file that is a link's whole content, directly.
#[derive(Debug)]
pub(super) struct Places {
    target: PathBuf,
    links: BTreeMap<String, PathBuf>,
}

impl Places {
    pub(super) fn new(target: &Path, plan: &RestorePlan) -> Self {
        let links =
            plan.links.iter().map(|link| (link.path.to_string(), PathBuf::from(&link.destination))).collect();
        Places { target: target.to_owned(), links }
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn of(&self, path: &RelativePath) -> PathBuf {
        match path.as_str() {
            CONTROL_PATH => self.control_new(),
            text => self.links.get(text).cloned().unwrap_or_else(|| self.target.join(text)),
        }
    }

    pub(super) fn control_new(&self) -> PathBuf {
        self.target.join(CONTROL_NEW)
    }

    pub(super) fn control(&self) -> PathBuf {
        self.target.join(CONTROL_PATH)
    }

    /// Where links lead, by path.
    pub(super) fn destinations(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.links.iter().map(|(path, destination)| (path.as_str(), destination.as_path()))
    }

    /// The place whose filesystem a file is on: the target, or where the nearest link above it leads.
    pub(super) fn root_of(&self, path: &RelativePath) -> &Path {
        if self.links.is_empty() {
            return &self.target;
        }
        let mut above = Some(path.as_str());
        while let Some(name) = above {
            if let Some(destination) = self.links.get(name) {
                return destination;
            }
            above = name.rsplit_once('/').map(|(parent, _)| parent);
        }
        &self.target
    }
}
