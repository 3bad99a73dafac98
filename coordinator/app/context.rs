//! What every command that works is given: the configuration as it holds for this process.

use crate::Invocation;
use crate::args::{Common, Typed};
use crate::output::Failures;
use pgconvoy_core::config::{Config, ConfigProblem, Overrides};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::StanzaName;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

pub const CONFIG_FILE: &str = "/etc/pgconvoy/pgconvoy.toml";
const CONFIG_VARIABLE: &str = "PGCONVOY_CONFIG";
const STANZA_VARIABLE: &str = "PGCONVOY_STANZA";

#[derive(Clone)]
pub struct Context {
    pub config: Config,
    /// The file that was read; commands that write a restore_command name it there.
    pub config_file: Option<PathBuf>,
    pub overrides: Overrides,
    /// `--stanza`, or the environment's; not yet looked at.
    pub stanza: Option<String>,
    pub embedded: bool,
    /// The verb.
    pub command: &'static str,
    pub environment: BTreeMap<String, String>,
    pub is_root: bool,
    /// As typed, without the program's name. Secrets cannot be typed.
    pub arguments: Vec<String>,
}

impl Context {
    pub fn open(invocation: &Invocation, typed: &Typed) -> Result<Context, Failures> {
        let source = Source::read(invocation, &typed.common)?;
        let mut config = source.load(invocation)?;
        config.apply(&typed.overrides);
        let stanza =
            typed.common.stanza.clone().or_else(|| invocation.environment.get(STANZA_VARIABLE).cloned());
        let arguments =
            invocation.arguments.iter().skip(1).map(|argument| argument.to_string_lossy().into_owned());
        Ok(Context {
            config,
            config_file: source.path,
            overrides: typed.overrides.clone(),
            stanza,
            embedded: typed.common.embedded,
            command: typed.command.name(),
            environment: invocation.environment.clone(),
            is_root: invocation.is_root,
            arguments: arguments.collect(),
        })
    }

    /// The same command, by the configuration as it stands in the file now.
    pub fn again(&self) -> Result<Context, Failures> {
        let source = Source::at(self.config_file.as_deref())?;
        let mut config = source.load_with(&self.environment)?;
        config.apply(&self.overrides);
        Ok(Context { config, ..self.clone() })
    }

    /// The same process, as if a job's command had been typed.
    pub fn for_job(&self, stanza: &StanzaName, typed: &Typed) -> Context {
        Context {
            config: self.config.clone(),
            config_file: self.config_file.clone(),
            overrides: typed.overrides.clone(),
            stanza: Some(stanza.to_string()),
            embedded: true,
            command: typed.command.name(),
            environment: BTreeMap::new(),
            is_root: self.is_root,
            arguments: Vec::new(),
        }
    }
}

/// A daemon's context: what is asked for after a reload gets the new one.
pub struct Current(RwLock<Arc<Context>>);

impl Current {
    pub fn new(context: Context) -> Current {
        Current(RwLock::new(Arc::new(context)))
    }

    pub fn get(&self) -> Arc<Context> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, context: Context) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(context);
    }
}

/// The configuration file, if there is one.
pub struct Source {
    pub path: Option<PathBuf>,
    text: String,
}

impl Source {
    /// A file that was named must exist. Without the usual one, the environment alone may be enough.
    pub fn read(invocation: &Invocation, common: &Common) -> Result<Source, Failure> {
        let from_environment = || invocation.environment.get(CONFIG_VARIABLE).map(PathBuf::from);
        let named = common.config.clone().or_else(from_environment);
        let path = named.clone().unwrap_or_else(|| PathBuf::from(CONFIG_FILE));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Source { path: Some(path), text }),
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
                Ok(Source { path: None, text: String::new() })
            }
            Err(error) => Err(unreadable(&path, &error)),
        }
    }

    /// What was read once, once more.
    fn at(path: Option<&Path>) -> Result<Source, Failure> {
        let Some(path) = path else { return Ok(Source { path: None, text: String::new() }) };
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        Ok(Source { path: Some(path.to_owned()), text })
    }

    pub fn load(&self, invocation: &Invocation) -> Result<Config, Vec<ConfigProblem>> {
        self.load_with(&invocation.environment)
    }

    fn load_with(&self, environment: &BTreeMap<String, String>) -> Result<Config, Vec<ConfigProblem>> {
        let name = self.path.as_deref().map(Path::to_string_lossy);
        let source = name.as_deref().map(|name| (name, self.text.as_str()));
        Config::load(source, environment, |path| {
            std::fs::read_to_string(path).map_err(|error| error.to_string())
        })
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let (code, hint) = match error.kind() {
        ErrorKind::NotFound => (
            ErrorCode::FileMissing,
            "name an existing file with --config or PGCONVOY_CONFIG, or leave both out",
        ),
        ErrorKind::InvalidData => (ErrorCode::Config, "the file must be text in UTF-8"),
        _ => (ErrorCode::FileOpen, "the user who runs pgconvoy must be able to read the file"),
    };
    Failure::new(code, format!("cannot read the configuration file '{}': {error}", path.display())).hint(hint)
}
