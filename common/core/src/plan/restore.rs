//! Plans a restore: manifest and target in, everything that will be made out, before anything is written.
//!
//! Invariants
//! 1. Every path is inside the target, or behind a link whose destination was checked: absolute, outside the target,
//!    and neither equal to nor nested in another's.
//! 2. The stored tablespace map is not consulted: links are made from the manifest and the user's maps only, so nothing
//!    can lead back to the original cluster's directories by accident.
//! 3. pg_control is named apart: it goes in place last.

mod databases;

pub use databases::DatabaseSelection;

use crate::failure::{Classify, ErrorCode};
use crate::format::layout::PackName;
use crate::format::manifest::{FileRecord, ManifestHead, Ownership, Record};
use crate::format::{BlockHash, FormatError};
use crate::ids::Oid;
use crate::pg::RelativePath;
use std::collections::{BTreeMap, BTreeSet};

pub const CONTROL_PATH: &str = "global/pg_control";

/// What the user asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreTarget {
    /// Absolute.
    pub directory: String,
    /// By name or by number.
    pub tablespace_map: BTreeMap<String, String>,
    pub tablespace_map_all: Option<String>,
    /// By the link's path in the data directory.
    pub link_map: BTreeMap<String, String>,
    pub link_all: bool,
    pub databases: DatabaseSelection,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestorePlanError {
    #[error("the backup has no tablespace '{0}'")]
    UnknownTablespace(String),
    #[error("tablespace {name} ({oid}) cannot go to '{destination}': {reason}")]
    TablespaceDestination { name: String, oid: Oid, destination: String, reason: String },
    #[error("the backup has nothing at '{0}' that could become a link")]
    UnknownLink(String),
    #[error("link '{path}' cannot point to '{destination}': {reason}")]
    LinkDestination { path: String, destination: String, reason: String },
    #[error("the backup has no database '{0}'")]
    UnknownDatabase(String),
    #[error("database '{0}' is PostgreSQL's own and always restored")]
    SystemDatabase(String),
    #[error("database '{0}' is both included and excluded")]
    DatabaseBothWays(String),
    #[error("the manifest names '{0}' twice")]
    Repeated(RelativePath),
    #[error("the manifest has no {CONTROL_PATH}")]
    NoControl,
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl Classify for RestorePlanError {
    fn code(&self) -> ErrorCode {
        match self {
            RestorePlanError::UnknownTablespace(_) | RestorePlanError::TablespaceDestination { .. } => {
                ErrorCode::TablespaceMap
            }
            RestorePlanError::UnknownLink(_) | RestorePlanError::LinkDestination { .. } => ErrorCode::LinkMap,
            RestorePlanError::UnknownDatabase(_) => ErrorCode::DbMissing,
            RestorePlanError::SystemDatabase(_) => ErrorCode::DbInvalid,
            RestorePlanError::DatabaseBothWays(_) => ErrorCode::OptionInvalidValue,
            RestorePlanError::Repeated(_) | RestorePlanError::NoControl => ErrorCode::Checksum,
            RestorePlanError::Format(error) => error.code(),
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            RestorePlanError::UnknownTablespace(_) => {
                vec!["manifest --set lists the tablespaces of a backup".into()]
            }
            RestorePlanError::UnknownDatabase(_) => {
                vec!["info --set lists the databases of a backup".into()]
            }
            RestorePlanError::SystemDatabase(_) => vec!["leave it out of --db-include".into()],
            RestorePlanError::DatabaseBothWays(_) => {
                vec!["name it with --db-include or with --db-exclude".into()]
            }
            RestorePlanError::TablespaceDestination { .. } => {
                vec!["choose another place with --tablespace-map or --tablespace-map-all".into()]
            }
            RestorePlanError::UnknownLink(_) | RestorePlanError::LinkDestination { .. } => {
                vec![
                    "choose another place with --link-map, or leave --link-all out to restore without links"
                        .into(),
                ]
            }
            _ => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDirectory {
    pub path: RelativePath,
    pub ownership: Ownership,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLink {
    pub path: RelativePath,
    /// Absolute.
    pub destination: String,
    pub tablespace: Option<Oid>,
    pub ownership: Ownership,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    pub path: RelativePath,
    /// The end of its last range: what no range covers is zeros.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
    pub ownership: Ownership,
    /// How many parts of packs it is made of; 0 for an empty file, and for one that is left out and comes back as a hole.
    pub parts: u32,
    /// What the checksums of its parts give (see [`file_checksum`](crate::format::manifest::file_checksum)).
    pub checksum: BlockHash,
}

/// A range of a planned file in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackPart {
    /// Index of the range in the pack's footer.
    pub place: u32,
    /// Index into [`RestorePlan::files`].
    pub file: u32,
    pub offset: u64,
    pub length: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackWork {
    pub pack: PackName,
    pub bytes: u64,
    pub parts: Vec<PackPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// Each after its parent.
    pub directories: Vec<PlannedDirectory>,
    pub links: Vec<PlannedLink>,
    pub files: Vec<PlannedFile>,
    /// Largest first.
    pub packs: Vec<PackWork>,
    /// Index into `files` of pg_control.
    pub control: usize,
    pub bytes: u64,
}

/// Takes the records of a manifest one by one.
pub struct RestorePlanner<'a> {
    head: &'a ManifestHead,
    target: &'a RestoreTarget,
    directories: Vec<PlannedDirectory>,
    links: Vec<PlannedLink>,
    files: Vec<PlannedFile>,
    packs: BTreeMap<PackName, Vec<PackPart>>,
    control: Option<usize>,
    unused_links: Vec<&'a str>,
    /// Databases whose data are left out.
    left_out: BTreeSet<Oid>,
    /// The record before, and whether it was a link.
    last: Option<(RelativePath, bool)>,
    /// A link that is not kept becomes a directory, or nothing if a file of the same path follows.
    flattened: Option<PlannedDirectory>,
}

impl<'a> RestorePlanner<'a> {
    pub fn new(head: &'a ManifestHead, target: &'a RestoreTarget) -> Result<Self, RestorePlanError> {
        for wanted in target.tablespace_map.keys() {
            if !head.tablespaces.iter().any(|known| known.name == *wanted || known.oid.to_string() == *wanted)
            {
                return Err(RestorePlanError::UnknownTablespace(wanted.clone()));
            }
        }
        Ok(RestorePlanner {
            head,
            target,
            directories: Vec::new(),
            links: Vec::new(),
            files: Vec::new(),
            packs: BTreeMap::new(),
            control: None,
            unused_links: target.link_map.keys().map(String::as_str).collect(),
            left_out: target.databases.left_out(head)?,
            last: None,
            flattened: None,
        })
    }

    pub fn push(&mut self, record: Record) -> Result<(), RestorePlanError> {
        record.validate(self.head)?;
        let flattened = self.flattened.take();
        let behind_link = matches!(record, Record::File(_))
            && self.last.as_ref().is_some_and(|(last, is_link)| *is_link && last == record.path());
        if let Some(directory) = flattened.filter(|_| !behind_link) {
            self.directories.push(directory);
        }
        self.check_order(record.path(), behind_link)?;
        self.last = Some((record.path().clone(), matches!(record, Record::Link(_))));
        match record {
            Record::Directory(directory) => {
                let planned = PlannedDirectory { path: directory.path, ownership: directory.ownership };
                match self.take_link_map(&planned.path) {
                    Some(destination) => self.link(planned.path, destination, planned.ownership)?,
                    None => self.directories.push(planned),
                }
            }
            Record::Link(link) => match self.destination_of(&link.path, &link.destination)? {
                Some((destination, Some(oid))) => {
                    self.links.push(PlannedLink {
                        path: link.path,
                        destination,
                        tablespace: Some(oid),
                        ownership: link.ownership,
                    });
                }
                Some((destination, None)) => self.link(link.path, destination, link.ownership)?,
                None => {
                    self.flattened = Some(PlannedDirectory { path: link.path, ownership: link.ownership });
                }
            },
            Record::File(file) => {
                // The link record before it took the map.
                let mapped = if behind_link { None } else { self.take_link_map(&file.path) };
                if let Some(destination) = mapped {
                    self.link(file.path.clone(), destination, file.ownership)?;
                }
                self.file(file)?;
            }
        }
        Ok(())
    }

    /// Records come in order of path, compared part by part; only what is behind a link repeats its path.
    fn check_order(&self, path: &RelativePath, behind_link: bool) -> Result<(), RestorePlanError> {
        match &self.last {
            Some((last, _)) if last == path && !behind_link => Err(RestorePlanError::Repeated(path.clone())),
            Some((last, _)) if last.as_str().split('/').gt(path.as_str().split('/')) => {
                let reason = format!("it names '{path}' after '{last}'");
                Err(FormatError::Inconsistent { what: "manifest", reason }.into())
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, mut file: FileRecord) -> Result<(), RestorePlanError> {
        if databases::data_of(&file.path).is_some_and(|database| self.left_out.contains(&database)) {
            file.ranges.clear();
        }
        if file.path.as_str() == CONTROL_PATH {
            self.control = Some(self.files.len());
        }
        let index = count(self.files.len())?;
        let parts = count(file.ranges.len())?;
        for range in &file.ranges {
            let pack = self.head.pack_of(range).expect("validate checked every label");
            self.packs.entry(pack).or_default().push(PackPart {
                place: range.place,
                file: index,
                offset: range.offset,
                length: range.length,
            });
        }
        self.files.push(PlannedFile {
            path: file.path,
            size: file.size,
            modified: file.modified,
            ownership: file.ownership,
            parts,
            checksum: file.checksum,
        });
        Ok(())
    }

    fn take_link_map(&mut self, path: &RelativePath) -> Option<String> {
        let destination = self.target.link_map.get(path.as_str())?;
        self.unused_links.retain(|unused| *unused != path.as_str());
        Some(destination.clone())
    }

    /// Where a link of the backup points to after this restore; `None` if it is restored as what it pointed to.
    fn destination_of(
        &mut self,
        path: &RelativePath,
        original: &str,
    ) -> Result<Option<(String, Option<Oid>)>, RestorePlanError> {
        let oid = path.as_str().strip_prefix("pg_tblspc/").and_then(|name| name.parse().ok()).map(Oid);
        let Some(oid) = oid else {
            let mapped = self.take_link_map(path);
            return Ok(mapped
                .or_else(|| self.target.link_all.then(|| original.to_owned()))
                .map(|to| (to, None)));
        };
        let known = self.head.tablespaces.iter().find(|known| known.oid == oid);
        let name = known.map_or_else(|| oid.to_string(), |known| known.name.clone());
        let map = &self.target.tablespace_map;
        let destination = map
            .get(&name)
            .or_else(|| map.get(&oid.to_string()))
            .cloned()
            .or_else(|| {
                self.target
                    .tablespace_map_all
                    .as_ref()
                    .map(|all| format!("{}/{name}", all.trim_end_matches('/')))
            })
            .unwrap_or_else(|| original.to_owned());
        self.check_destination(&destination).map_err(|reason| RestorePlanError::TablespaceDestination {
            name,
            oid,
            destination: destination.clone(),
            reason,
        })?;
        Ok(Some((destination, Some(oid))))
    }

    fn link(
        &mut self,
        path: RelativePath,
        destination: String,
        ownership: Ownership,
    ) -> Result<(), RestorePlanError> {
        self.check_destination(&destination).map_err(|reason| RestorePlanError::LinkDestination {
            path: path.to_string(),
            destination: destination.clone(),
            reason,
        })?;
        self.links.push(PlannedLink { path, destination, tablespace: None, ownership });
        Ok(())
    }

    fn check_destination(&self, destination: &str) -> Result<(), String> {
        if !is_normal_absolute(destination) {
            return Err("it is not an absolute path without '.', '..' and double slashes".into());
        }
        if nested(destination, &self.target.directory) {
            return Err(format!("it and the data directory {} lie in one another", self.target.directory));
        }
        match self.links.iter().find(|other| nested(destination, &other.destination)) {
            Some(other) => Err(format!("it and the destination of {} lie in one another", other.path)),
            None => Ok(()),
        }
    }

    pub fn finish(mut self) -> Result<RestorePlan, RestorePlanError> {
        self.directories.extend(self.flattened.take());
        if let Some(unused) = self.unused_links.first() {
            return Err(RestorePlanError::UnknownLink((*unused).to_owned()));
        }
        let control = self.control.ok_or(RestorePlanError::NoControl)?;
        let mut packs: Vec<PackWork> = self
            .packs
            .into_iter()
            .map(|(pack, mut parts)| {
                parts.sort_unstable();
                PackWork { pack, bytes: parts.iter().map(|part| part.length).sum(), parts }
            })
            .collect();
        packs.sort_by_key(|work| std::cmp::Reverse(work.bytes));
        let bytes = packs.iter().map(|work| work.bytes).sum();
        Ok(RestorePlan {
            directories: self.directories,
            links: self.links,
            files: self.files,
            packs,
            control,
            bytes,
        })
    }
}

fn count(number: usize) -> Result<u32, RestorePlanError> {
    let reason = "it lists more than a cluster can have";
    u32::try_from(number)
        .map_err(|_| FormatError::Inconsistent { what: "manifest", reason: reason.into() }.into())
}

fn is_normal_absolute(path: &str) -> bool {
    path.len() > 1
        && path.strip_prefix('/').is_some_and(|rest| {
            rest.strip_suffix('/').unwrap_or(rest).split('/').all(|part| !matches!(part, "" | "." | ".."))
        })
        && !path.contains('\0')
}

/// Whether one of two normal absolute paths is the other or lies in it.
fn nested(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_end_matches('/'), b.trim_end_matches('/'));
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
pub(super) mod tests;
