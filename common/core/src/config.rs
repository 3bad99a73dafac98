//! Configuration: text and an environment map in, typed settings out.
//!
//! Not here: reading the file, the environment or the command line; those are inputs. What a command makes of the
//! settings is the shell's business.
//!
//! Sources, the strongest first: command line, environment, file, the registry's defaults. A stanza's own policy
//! is stronger than `[backup]` of the same source.
//!
//! Invariants
//! 1. A [`Config`] that exists is free of contradictions; a command need not check again.
//! 2. Everything that is wrong is reported at once, each with its place.
//! 3. A setting exists because [`registry`] has a row for it: file, environment, command line, help and `show` all follow.
//! 4. Secrets appear in no message, no `Debug` and not in `show`.

mod backup;
mod choices;
mod document;
mod environment;
mod fleet;
mod problem;
pub mod registry;
mod repo;
pub mod restart;
mod sheet;
mod show;
mod stanza;
mod store;
mod value;

#[cfg(test)]
mod tests;

pub use backup::{BackupOptions, Compression};
pub use choices::{
    AzureKeyType, BackupStandby, CipherType, CompressType, CreateOnlyBy, GcsKeyType, Layout, LockMode,
    LogFormat, LogLevel, Offload, PageErrors, RepoType, RetentionArchiveType, RetentionFullType, S3KeyType,
    TlsMode, UriStyle,
};
pub use fleet::{Compute, CoordinatorConfig, EtcdConfig, FleetConfig, LogConfig, Paths, WorkerConfig};
pub use problem::{ConfigProblem, Origin, Position, nearest};
pub use repo::{KeySource, LockConfig, RepoConfig, Retention};
pub use sheet::REPO_KEY_MAX;
pub use show::ShownSetting;
pub use stanza::{PgConfig, StanzaConfig};
pub use store::{AzureConfig, GcsConfig, RepoKind, S3Config, SftpConfig, StoreTls};
pub use value::{Element, SCHEDULED, Secret, ValueType};

use crate::ids::{RepoKey, StanzaName};
use registry::Section;
use sheet::{Driver, Entry, Place, Reader, Sheet};
use std::collections::{BTreeMap, BTreeSet};
use value::{Raw, Spelling};

/// Settings as a whole host sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub repos: BTreeMap<RepoKey, RepoConfig>,
    pub stanzas: BTreeMap<StanzaName, StanzaConfig>,
    pub paths: Paths,
    pub log: LogConfig,
    pub fleet: Option<FleetConfig>,
    pub coordinator: CoordinatorConfig,
    pub worker: WorkerConfig,
    file: Sheet,
    environment: Sheet,
}

/// Settings made for one command, on its command line or in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides(Sheet);

impl Overrides {
    /// Takes an option by its name on the command line. Lists and tables grow with each call.
    pub fn set(&mut self, option: &str, text: &str) -> Result<(), ConfigProblem> {
        let origin = Origin::CommandLine(option.to_owned());
        let Some(spec) = registry::by_long(option) else {
            return Err(ConfigProblem::new(origin, "no setting has this name"));
        };
        let place = match spec.section {
            Section::Paths => Place::Paths,
            Section::Log => Place::Log,
            _ => Place::Backup,
        };
        let raw = match (spec.value_type, text.split_once('=')) {
            (ValueType::List(_), _) => Raw::List(vec![Raw::Text(text.to_owned())]),
            (ValueType::Map, Some((key, value))) => {
                Raw::Map(vec![(key.to_owned(), Raw::Text(value.to_owned()))])
            }
            _ => Raw::Text(text.to_owned()),
        };
        let read = spec.value_type.read(raw, Spelling::Text);
        let value = read.map_err(|reason| ConfigProblem::new(origin.clone(), reason))?;
        self.0.merge(&place, spec.name, Entry { value, origin });
        Ok(())
    }
}

impl Config {
    /// `source` is the file's name, for messages, and its text. `secrets` reads the file that a `..._FILE` variable names.
    pub fn load(
        source: Option<(&str, &str)>,
        environment: &BTreeMap<String, String>,
        secrets: impl FnMut(&str) -> Result<String, String>,
    ) -> Result<Config, Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        let file = source.map(|(name, text)| document::read(name, text, &mut problems)).unwrap_or_default();
        let stanzas = stanza_names(&[&file]);
        let environment = environment::read(environment, &stanzas, secrets, &mut problems);
        let config = Builder { file: &file, environment: &environment, problems: &mut problems }.config();
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The policy that holds for a stanza, or for all that have none of their own.
    pub fn effective(
        &self,
        stanza: Option<&StanzaName>,
        overrides: &Overrides,
    ) -> Result<BackupOptions, Vec<ConfigProblem>> {
        let mut problems = Vec::new();
        let layers = policy_layers(stanza, Some(&overrides.0), &self.environment, &self.file);
        let options = backup::read(&mut Reader::new(layers, &mut problems));
        if problems.is_empty() { Ok(options) } else { Err(problems) }
    }

    /// Lets the command line have its way with what concerns the whole process: paths and logs.
    pub fn apply(&mut self, overrides: &Overrides) {
        let mut problems = Vec::new();
        let read = |place: Place| {
            let layers = [&overrides.0, &self.environment, &self.file];
            layers.map(|sheet| (sheet, place.clone())).to_vec()
        };
        let paths = fleet::read_paths(&Reader::new(read(Place::Paths), &mut problems));
        let log = fleet::read_log(&Reader::new(read(Place::Log), &mut problems));
        self.paths = paths;
        self.log = log;
        self.tell_lock_path();
    }

    fn tell_lock_path(&mut self) {
        self.repos.values_mut().for_each(|repo| repo.lock_path.clone_from(&self.paths.lock));
    }

    /// Every setting that holds, in the order of the tables. Secrets are masked.
    pub fn settings(&self) -> Vec<ShownSetting> {
        show::settings(&[&self.environment, &self.file])
    }

    /// The same as TOML.
    pub fn show(&self) -> String {
        show::toml(&self.settings())
    }
}

fn stanza_names(sheets: &[&Sheet]) -> Vec<StanzaName> {
    let names: BTreeSet<StanzaName> = sheets
        .iter()
        .flat_map(|sheet| sheet.places())
        .filter_map(|place| match place {
            Place::Stanza(name) | Place::Pg(name, _) => Some(name.clone()),
            _ => None,
        })
        .collect();
    names.into_iter().collect()
}

fn policy_layers<'a>(
    stanza: Option<&StanzaName>,
    overrides: Option<&'a Sheet>,
    environment: &'a Sheet,
    file: &'a Sheet,
) -> Vec<(&'a Sheet, Place)> {
    let mut layers: Vec<(&Sheet, Place)> =
        overrides.map(|sheet| (sheet, Place::Backup)).into_iter().collect();
    for sheet in [environment, file] {
        layers.extend(stanza.map(|name| (sheet, Place::Stanza(name.clone()))));
        layers.push((sheet, Place::Backup));
    }
    layers
}

/// Turns two sheets into typed settings, and collects what contradicts itself.
struct Builder<'a> {
    file: &'a Sheet,
    environment: &'a Sheet,
    problems: &'a mut Vec<ConfigProblem>,
}

impl Builder<'_> {
    fn config(mut self) -> Config {
        let repos = self.repos();
        let keys: Vec<RepoKey> = repos.keys().copied().collect();
        let stanzas = self.stanzas(&keys);
        self.policies(stanzas.keys());
        let mut config = Config {
            repos,
            stanzas,
            paths: fleet::read_paths(&self.reader(Place::Paths)),
            log: fleet::read_log(&self.reader(Place::Log)),
            fleet: self.has(&Place::Fleet).then(|| fleet::read_fleet(&mut self.reader(Place::Fleet))),
            coordinator: fleet::read_coordinator(&self.reader(Place::Coordinator)),
            worker: fleet::read_worker(&mut self.reader(Place::Worker)),
            file: self.file.clone(),
            environment: self.environment.clone(),
        };
        config.tell_lock_path();
        config
    }

    fn reader(&mut self, place: Place) -> Reader<'_> {
        Reader::new(vec![(self.environment, place.clone()), (self.file, place)], self.problems)
    }

    fn has(&self, place: &Place) -> bool {
        self.environment.origin(place).or_else(|| self.file.origin(place)).is_some()
    }

    fn places(&self) -> BTreeSet<Place> {
        self.environment.places().chain(self.file.places()).cloned().collect()
    }

    fn repos(&mut self) -> BTreeMap<RepoKey, RepoConfig> {
        let keys: BTreeSet<RepoKey> = self
            .places()
            .into_iter()
            .filter_map(|place| match place {
                Place::Repo(key) | Place::Driver(key, _) => Some(key),
                _ => None,
            })
            .collect();
        let mut repos: BTreeMap<RepoKey, RepoConfig> = BTreeMap::new();
        for key in keys {
            let repo = self.repo(key);
            if let Some(other) = repos.values().find(|other| other.is_same_place(&repo)) {
                let reason = format!("repositories {} and {key} are the same place", other.key);
                self.reader(Place::Repo(key)).complain(
                    "path",
                    reason,
                    "give each repository a place of its own",
                );
            }
            repos.insert(key, repo);
        }
        repos
    }

    fn repo(&mut self, key: RepoKey) -> RepoConfig {
        let reader = self.reader(Place::Repo(key));
        let repo_type: RepoType = reader.get_default("type");
        if reader.is_unreadable("type") {
            // Which of the other settings make sense is unknown, and what is wrong has been said.
            let layers = vec![(self.environment, Place::Repo(key)), (self.file, Place::Repo(key))];
            return repo::read(key, &mut Reader::new(layers, &mut Vec::new()), RepoKind::Posix);
        }
        let own = Driver::of(repo_type);
        for driver in Driver::ALL.into_iter().filter(|driver| Some(*driver) != own) {
            let place = Place::Driver(key, driver);
            if self.has(&place) {
                let reason = format!("{place} contradicts type = \"{repo_type}\"");
                let hint = format!("remove the table, or set type = \"{}\" in [repo.{key}]", driver.name());
                self.reader(place).complain_here(reason, hint);
            }
        }
        let kind = match own {
            Some(driver) => store::read(driver, &mut self.reader(Place::Driver(key, driver))),
            None => RepoKind::Posix,
        };
        repo::read(key, &mut self.reader(Place::Repo(key)), kind)
    }

    fn stanzas(&mut self, repos: &[RepoKey]) -> BTreeMap<StanzaName, StanzaConfig> {
        let mut stanzas = BTreeMap::new();
        for name in stanza_names(&[self.environment, self.file]) {
            let servers = self.servers(&name);
            let stanza =
                stanza::read(name.clone(), servers, repos, &mut self.reader(Place::Stanza(name.clone())));
            stanzas.insert(name, stanza);
        }
        stanzas
    }

    fn servers(&mut self, stanza: &StanzaName) -> Vec<PgConfig> {
        let numbers: Vec<usize> = self
            .places()
            .into_iter()
            .filter_map(|place| match place {
                Place::Pg(name, number) if name == *stanza => Some(number),
                _ => None,
            })
            .collect();
        let mut servers = Vec::new();
        for (number, expected) in numbers.into_iter().zip(1..) {
            let mut reader = self.reader(Place::Pg(stanza.clone(), number));
            if number != expected {
                let hint = "servers are numbered from 1, in the order of the file";
                reader.complain_here(
                    format!("stanza '{stanza}' has server {number} but no server {expected}"),
                    hint,
                );
            }
            servers.push(stanza::read_pg(&mut reader));
        }
        servers
    }

    /// What a command would stumble over later is said now.
    fn policies<'b>(&mut self, stanzas: impl Iterator<Item = &'b StanzaName>) {
        for stanza in std::iter::once(None).chain(stanzas.map(Some)) {
            let layers = policy_layers(stanza, None, self.environment, self.file);
            backup::read(&mut Reader::new(layers, self.problems));
        }
    }
}
