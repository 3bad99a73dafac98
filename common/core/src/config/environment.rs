//! Settings from the environment: `PGCONVOY_REPO_1_S3_KEY_SECRET`, or the same with `_FILE` for a file that holds the value.
//!
//! Not here: `PGCONVOY_CONFIG` and `PGCONVOY_STANZA`, which mean options of the command line and no key of the file.
//! Lists are separated by commas, tables are `key=value` pairs separated by commas; a value that starts with a bracket
//! or a brace is TOML.

use super::document;
use super::problem::{ConfigProblem, Origin, nearest};
use super::registry::{self, OptionSpec, Section};
use super::sheet::{Driver, Place, REPO_KEY_MAX, Sheet};
use super::value::{Raw, Spelling, ValueType};
use crate::ids::{RepoKey, StanzaName};
use std::collections::BTreeMap;

const PREFIX: &str = "PGCONVOY_";

/// Variables of the command line's own.
const NOT_KEYS: [&str; 2] = ["CONFIG", "STANZA"];

/// Reads the variables that are meant for us. `stanzas` are those of the file: a variable's name cannot spell them
/// exactly. `secrets` reads the file that a `..._FILE` variable names.
pub(super) fn read(
    variables: &BTreeMap<String, String>,
    stanzas: &[StanzaName],
    mut secrets: impl FnMut(&str) -> Result<String, String>,
    problems: &mut Vec<ConfigProblem>,
) -> Sheet {
    let mut sheet = Sheet::default();
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        if NOT_KEYS.contains(&name) {
            continue;
        }
        let outcome = match resolve(name, stanzas) {
            Some((place, spec)) => unambiguous(&place, stanzas, variable)
                .and_then(|()| set(&mut sheet, &place, spec, variable, value)),
            None => match name
                .strip_suffix("_FILE")
                .and_then(|key| resolve(key, stanzas).map(|found| (key, found)))
            {
                Some((key, (place, spec))) if !variables.contains_key(&format!("{PREFIX}{key}")) => {
                    let origin = Origin::Environment(variable.clone());
                    secrets(value)
                        .map_err(|reason| {
                            ConfigProblem::new(origin, format!("cannot read '{value}': {reason}"))
                        })
                        .and_then(|text| {
                            set(&mut sheet, &place, spec, variable, text.trim_end_matches(['\n', '\r']))
                        })
                }
                Some((key, _)) => {
                    let origin = Origin::Environment(variable.clone());
                    Err(ConfigProblem::new(origin, format!("{PREFIX}{key} is set too"))
                        .hint("unset one of the two"))
                }
                None if is_service_link(name, value) => Ok(()),
                None => Err(unknown(variable, name, stanzas)),
            },
        };
        problems.extend(outcome.err());
    }
    sheet
}

fn set(
    sheet: &mut Sheet,
    place: &Place,
    spec: &'static OptionSpec,
    variable: &str,
    text: &str,
) -> Result<(), ConfigProblem> {
    let origin = Origin::Environment(variable.to_owned());
    if text.is_empty() {
        return Err(
            ConfigProblem::new(origin, "the value is empty").hint("unset the variable or give it a value")
        );
    }
    let composed = matches!(spec.value_type, ValueType::List(_) | ValueType::Map | ValueType::Schedule);
    let raw = if composed && text.starts_with(['[', '{']) {
        document::inline_value(text).map_err(|reason| ConfigProblem::new(origin.clone(), reason))?
    } else {
        Raw::Text(text.to_owned())
    };
    sheet.set(place, spec, raw, Spelling::Text, origin)
}

/// Upper case and underscores cannot tell `a-b` from `a_b`.
fn unambiguous(place: &Place, stanzas: &[StanzaName], variable: &str) -> Result<(), ConfigProblem> {
    let (Place::Stanza(meant) | Place::Pg(meant, _)) = place else { return Ok(()) };
    let alike = |other: &&StanzaName| *other != meant && spelled(other.as_str()) == spelled(meant.as_str());
    let Some(other) = stanzas.iter().find(alike) else { return Ok(()) };
    let (first, second) = (meant.min(other), meant.max(other));
    let reason = format!("it could mean stanza '{first}' or '{second}'");
    Err(ConfigProblem::new(Origin::Environment(variable.to_owned()), reason).hint("set it in the file"))
}

/// `s3` and `key-secret` become `S3_KEY_SECRET`.
fn spelled(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn find(place: Place, key: &str) -> Option<(Place, &'static OptionSpec)> {
    let mut rows = registry::all().iter().filter(|spec| place.sections().contains(&spec.section));
    rows.find(|spec| spelled(spec.name) == key).map(|spec| (place, spec))
}

fn resolve(name: &str, stanzas: &[StanzaName]) -> Option<(Place, &'static OptionSpec)> {
    let (table, rest) = name.split_once('_')?;
    match table {
        "REPO" => {
            let (number, key) = rest.split_once('_')?;
            let number: u16 =
                number.parse().ok().filter(|number| (1..=REPO_KEY_MAX).contains(&i64::from(*number)))?;
            let repo = RepoKey(number);
            let of_driver = Driver::ALL.into_iter().find_map(|driver| {
                let key = key.strip_prefix(&spelled(driver.name()))?.strip_prefix('_')?;
                find(Place::Driver(repo, driver), key)
            });
            of_driver.or_else(|| find(Place::Repo(repo), key))
        }
        "STANZA" => stanza_key(rest, stanzas),
        "BACKUP" => find(Place::Backup, rest),
        "PATHS" => find(Place::Paths, rest),
        "LOG" => find(Place::Log, rest),
        "FLEET" => find(Place::Fleet, rest),
        "COORDINATOR" => find(Place::Coordinator, rest),
        "WORKER" => find(Place::Worker, rest),
        _ => None,
    }
}

/// Stanzas of the file first; else the variable names a stanza that exists in the environment only.
fn stanza_key(rest: &str, stanzas: &[StanzaName]) -> Option<(Place, &'static OptionSpec)> {
    let known = stanzas.iter().filter_map(|stanza| {
        let key = rest.strip_prefix(&spelled(stanza.as_str()))?.strip_prefix('_')?;
        key_of_stanza(stanza, key)
    });
    if let Some(found) = known.max_by_key(|(place, _)| place.to_string().len()) {
        return Some(found);
    }
    rest.match_indices('_').find_map(|(at, _)| {
        let stanza: StanzaName = rest[..at].to_ascii_lowercase().parse().ok()?;
        key_of_stanza(&stanza, &rest[at + 1..])
    })
}

fn key_of_stanza(stanza: &StanzaName, key: &str) -> Option<(Place, &'static OptionSpec)> {
    let of_server = key.strip_prefix("PG_").and_then(|rest| {
        let (number, key) = rest.split_once('_')?;
        let number: usize = number.parse().ok().filter(|number| *number > 0)?;
        find(Place::Pg(stanza.clone(), number), key)
    });
    of_server.or_else(|| find(Place::Stanza(stanza.clone()), key))
}

/// Kubernetes puts the addresses of a service named `pgconvoy` or `pgconvoy-...` into every container beside it.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_address = value.starts_with("tcp://") || value.starts_with("udp://");
    name.ends_with("SERVICE_HOST")
        || name.contains("SERVICE_PORT")
        || (name.ends_with("PORT") && is_address)
        || (name.contains("PORT_") && (name.contains("_TCP") || name.contains("_UDP")))
}

fn unknown(variable: &str, name: &str, stanzas: &[StanzaName]) -> ConfigProblem {
    let problem = ConfigProblem::new(Origin::Environment(variable.to_owned()), "no key has this name");
    let numbered = |prefix: &str| {
        let number = name.strip_prefix(prefix).and_then(|rest| rest.split('_').next());
        number.filter(|number| number.parse::<u16>().is_ok()).unwrap_or("1").to_owned()
    };
    let repo = numbered("REPO_");
    let first = stanzas.first().map_or_else(|| "MAIN".to_owned(), |stanza| spelled(stanza.as_str()));
    let candidates: Vec<String> = registry::all()
        .iter()
        .map(|spec| {
            let table = match spec.section {
                Section::Repo => format!("REPO_{repo}"),
                Section::S3 => format!("REPO_{repo}_S3"),
                Section::Azure => format!("REPO_{repo}_AZURE"),
                Section::Gcs => format!("REPO_{repo}_GCS"),
                Section::Sftp => format!("REPO_{repo}_SFTP"),
                Section::Stanza => format!("STANZA_{first}"),
                Section::Pg => format!("STANZA_{first}_PG_1"),
                Section::Backup => "BACKUP".into(),
                Section::Paths => "PATHS".into(),
                Section::Log => "LOG".into(),
                Section::Fleet => "FLEET".into(),
                Section::Coordinator => "COORDINATOR".into(),
                Section::Worker => "WORKER".into(),
            };
            format!("{table}_{}", spelled(spec.name)).replace('_', "-")
        })
        .collect();
    match nearest(name, candidates.iter().map(String::as_str)) {
        Some(near) => problem.hint(format!("did you mean {PREFIX}{}?", near.replace('-', "_"))),
        None => problem.hint("a variable is named after its table and key, such as PGCONVOY_REPO_1_PATH"),
    }
}
