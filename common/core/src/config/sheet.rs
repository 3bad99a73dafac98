//! Settings by place, before they become typed structures, and how several sources of them are laid over each other.

use super::choices::RepoType;
use super::problem::{ConfigProblem, Origin, nearest};
use super::registry::{self, OptionSpec, Section};
use super::value::{FromValue, Raw, Spelling, Value};
use crate::ids::{RepoKey, StanzaName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// pgBackRest's largest index; it bounds what one backup fans out to.
pub const REPO_KEY_MAX: i64 = 256;

/// The kinds of repositories that have a table of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Driver {
    S3,
    Azure,
    Gcs,
    Sftp,
}

impl Driver {
    pub(super) const fn of(kind: RepoType) -> Option<Driver> {
        match kind {
            RepoType::Posix => None,
            RepoType::S3 => Some(Driver::S3),
            RepoType::Azure => Some(Driver::Azure),
            RepoType::Gcs => Some(Driver::Gcs),
            RepoType::Sftp => Some(Driver::Sftp),
        }
    }

    pub(super) const ALL: [Driver; 4] = [Driver::S3, Driver::Azure, Driver::Gcs, Driver::Sftp];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Driver::S3 => "s3",
            Driver::Azure => "azure",
            Driver::Gcs => "gcs",
            Driver::Sftp => "sftp",
        }
    }
}

/// One table of the file. The order is that of `show`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Repo(RepoKey),
    Driver(RepoKey, Driver),
    Backup,
    Stanza(StanzaName),
    /// Counts from 1.
    Pg(StanzaName, usize),
    Paths,
    Log,
    Fleet,
    Coordinator,
    Worker,
}

impl Place {
    /// Which rows of the registry may stand here.
    pub(super) const fn sections(&self) -> &'static [Section] {
        match self {
            Place::Repo(_) => &[Section::Repo],
            Place::Driver(_, Driver::S3) => &[Section::S3],
            Place::Driver(_, Driver::Azure) => &[Section::Azure],
            Place::Driver(_, Driver::Gcs) => &[Section::Gcs],
            Place::Driver(_, Driver::Sftp) => &[Section::Sftp],
            Place::Backup => &[Section::Backup],
            Place::Stanza(_) => &[Section::Stanza, Section::Backup],
            Place::Pg(..) => &[Section::Pg],
            Place::Paths => &[Section::Paths],
            Place::Log => &[Section::Log],
            Place::Fleet => &[Section::Fleet],
            Place::Coordinator => &[Section::Coordinator],
            Place::Worker => &[Section::Worker],
        }
    }

    /// The table around this one.
    fn parent(&self) -> Option<Place> {
        match self {
            Place::Driver(key, _) => Some(Place::Repo(*key)),
            Place::Pg(stanza, _) => Some(Place::Stanza(stanza.clone())),
            _ => None,
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&'static OptionSpec> {
        registry::find(self.sections(), name)
    }

    /// Explains a key that does not exist here.
    pub(super) fn unknown_key(&self, key: &str, origin: Origin) -> ConfigProblem {
        let problem = ConfigProblem::new(origin, format!("unknown key '{key}' in {self}"));
        let here = registry::all().iter().filter(|spec| self.sections().contains(&spec.section));
        if let Some(name) = nearest(key, here.map(|spec| spec.name)) {
            return problem.hint(format!("did you mean '{name}'?"));
        }
        match registry::all().iter().find(|spec| spec.name == key) {
            Some(spec) => problem.hint(format!("'{key}' is a key of {}", spec.section.title())),
            None => problem.hint("pgconvoy help config lists all keys"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Repo(key) => write!(f, "[repo.{key}]"),
            Place::Driver(key, driver) => write!(f, "[repo.{key}.{}]", driver.name()),
            Place::Backup => f.write_str("[backup]"),
            Place::Stanza(name) => write!(f, "[stanza.{}]", toml_key(name)),
            Place::Pg(name, _) => write!(f, "[[stanza.{}.pg]]", toml_key(name)),
            Place::Paths => f.write_str("[paths]"),
            Place::Log => f.write_str("[log]"),
            Place::Fleet => f.write_str("[fleet]"),
            Place::Coordinator => f.write_str("[coordinator]"),
            Place::Worker => f.write_str("[worker]"),
        }
    }
}

/// A dot is part of a stanza's name and would end a bare key.
fn toml_key(name: &StanzaName) -> String {
    if name.as_str().contains('.') { format!("\"{name}\"") } else { name.to_string() }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

type Entries = BTreeMap<&'static str, Entry>;

/// What one source says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sheet {
    places: BTreeMap<Place, (Origin, Entries)>,
    /// Settings that were made and could not be read. Nobody should say that they are missing, too.
    unreadable: BTreeSet<(Place, &'static str)>,
}

impl Sheet {
    /// A table that may stay empty; its origin is where complaints about what is missing point.
    pub(super) fn open(&mut self, place: Place, origin: Origin) {
        self.places.entry(place).or_insert_with(|| (origin, Entries::new()));
    }

    pub(super) fn set(
        &mut self,
        place: &Place,
        spec: &'static OptionSpec,
        raw: Raw,
        spelling: Spelling,
        origin: Origin,
    ) -> Result<(), ConfigProblem> {
        self.open(place.clone(), origin.clone());
        let value = spec.value_type.read(raw, spelling).map_err(|reason| {
            self.unreadable.insert((place.clone(), spec.name));
            let reason = match &origin {
                Origin::File(_) => format!("{}: {reason}", spec.name),
                _ => reason,
            };
            ConfigProblem::new(origin.clone(), reason)
        })?;
        if let Some((_, entries)) = self.places.get_mut(place) {
            entries.insert(spec.name, Entry { value, origin });
        }
        Ok(())
    }

    /// Adds to what an earlier, equal option set: `--exclude` and `--annotation` may repeat.
    pub(super) fn merge(&mut self, place: &Place, name: &'static str, added: Entry) {
        let (_, entries) =
            self.places.entry(place.clone()).or_insert_with(|| (added.origin.clone(), Entries::new()));
        match (entries.get_mut(name).map(|entry| &mut entry.value), added.value) {
            (Some(Value::List(old)), Value::List(new)) => old.extend(new),
            (Some(Value::Map(old)), Value::Map(new)) => old.extend(new),
            (_, value) => {
                entries.insert(name, Entry { value, origin: added.origin });
            }
        }
    }

    pub(super) fn entry(&self, place: &Place, name: &str) -> Option<&Entry> {
        self.places.get(place).and_then(|(_, entries)| entries.get(name))
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.keys()
    }

    pub(super) fn origin(&self, place: &Place) -> Option<&Origin> {
        self.places.get(place).map(|(origin, _)| origin)
    }
}

/// The entry that wins, and how far down it was found.
pub(super) struct Found<'a> {
    pub(super) entry: &'a Entry,
    pub(super) layer: usize,
}

/// Several places of several sheets, the strongest first, read as one. Mistakes are collected, so that all are reported.
pub(super) struct Reader<'a> {
    layers: Vec<(&'a Sheet, Place)>,
    problems: &'a mut Vec<ConfigProblem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(layers: Vec<(&'a Sheet, Place)>, problems: &'a mut Vec<ConfigProblem>) -> Self {
        Reader { layers, problems }
    }

    pub(super) fn find(&self, name: &str) -> Option<Found<'a>> {
        self.layers
            .iter()
            .enumerate()
            .find_map(|(layer, (sheet, place))| sheet.entry(place, name).map(|entry| Found { entry, layer }))
    }

    /// Also true of what could not be read.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.find(name).is_some() || self.is_unreadable(name)
    }

    pub(super) fn is_unreadable(&self, name: &str) -> bool {
        let name = self.spec(name).name;
        self.layers.iter().any(|(sheet, place)| sheet.unreadable.contains(&(place.clone(), name)))
    }

    /// What was set, or the registry's default.
    pub(super) fn get<T: FromValue>(&self, name: &str) -> Option<T> {
        let spec = self.spec(name);
        let value = match self.find(name) {
            Some(found) => found.entry.value.clone(),
            None => default(spec)?,
        };
        Some(T::from_value(&value).expect("the registry gives a setting the type of the field that takes it"))
    }

    /// For settings to which the registry gives a default.
    pub(super) fn get_default<T: FromValue>(&self, name: &str) -> T {
        self.get(name).expect("the registry gives this setting a default")
    }

    /// For settings that nobody but the user can know. What is returned where it is missing is never seen: the problem
    /// fails the whole configuration.
    pub(super) fn get_required(&mut self, name: &str) -> String {
        if !self.is_set(name) {
            let place = self.place().clone();
            self.complain_here(format!("{place} has no '{name}'"), self.spec(name).help);
        }
        self.get(name).unwrap_or_default()
    }

    fn spec(&self, name: &str) -> &'static OptionSpec {
        self.place().find(name).expect("only settings that the registry knows are read")
    }

    fn place(&self) -> &Place {
        &self.layers.last().expect("a reader has at least one layer").1
    }

    /// Blames the table as a whole.
    pub(super) fn complain_here(&mut self, reason: String, hint: impl Into<String>) {
        let of_place = |(sheet, place): &(&'a Sheet, Place)| sheet.origin(place);
        let of_parent =
            |(sheet, place): &(&'a Sheet, Place)| place.parent().and_then(|parent| sheet.origin(&parent));
        let weakest_first = || self.layers.iter().rev();
        let origin =
            weakest_first().find_map(of_place).or_else(|| weakest_first().find_map(of_parent)).cloned();
        self.problems.push(ConfigProblem::new(origin.unwrap_or(Origin::Default), reason).hint(hint));
    }

    /// Blames one setting.
    pub(super) fn complain(&mut self, name: &str, reason: String, hint: impl Into<String>) {
        match self.find(name).map(|found| found.entry.origin.clone()) {
            Some(origin) => self.problems.push(ConfigProblem::new(origin, reason).hint(hint)),
            None => self.complain_here(reason, hint),
        }
    }
}

pub(super) fn default(spec: &OptionSpec) -> Option<Value> {
    let text = spec.default?;
    let value = spec.value_type.read(Raw::Text(text.to_owned()), Spelling::Text);
    Some(value.expect("a test reads every default of the registry"))
}
