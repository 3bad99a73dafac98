//! The configuration file: TOML into a [`Sheet`], each setting with its line and column.

use super::problem::{ConfigProblem, Origin, Position, nearest};
use super::sheet::{Driver, Place, REPO_KEY_MAX, Sheet};
use super::value::{Raw, Spelling};
use crate::ids::{RepoKey, StanzaName};
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The tables at the top of a file.
const TABLES: [&str; 8] = ["repo", "backup", "stanza", "paths", "log", "fleet", "coordinator", "worker"];

/// Reads what can be read, and reports everything that cannot.
pub(super) fn read(file: &str, text: &str, problems: &mut Vec<ConfigProblem>) -> Sheet {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut document = Document { places: Places::new(file, text), sheet: Sheet::default(), problems };
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        document.complain(span, error.message().lines().collect::<Vec<_>>().join(", "), None);
    }
    document.root(root.get_ref());
    document.sheet
}

/// A value of the environment that is written as TOML.
pub(super) fn inline_value(text: &str) -> Result<Raw, String> {
    let value = DeValue::parse(text).map_err(|error| format!("not a TOML value: {}", error.message()))?;
    Ok(raw(value.get_ref()))
}

/// Turns byte offsets into lines and columns.
struct Places<'a> {
    file: Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(file: &str, text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Places { file: file.into(), text, line_starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        let line = self.line_starts.partition_point(|start| *start <= span.start);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..span.start).map_or(1, |before| before.chars().count() + 1);
        Origin::File(Position { file: Arc::clone(&self.file), line, column })
    }
}

struct Document<'a> {
    places: Places<'a>,
    sheet: Sheet,
    problems: &'a mut Vec<ConfigProblem>,
}

impl Document<'_> {
    fn complain(&mut self, span: Range<usize>, reason: String, hint: Option<String>) {
        self.problems.push(ConfigProblem { origin: self.places.origin(&span), reason, hint });
    }

    fn root(&mut self, root: &DeTable<'_>) {
        for (key, value) in root {
            let name: &str = key.get_ref();
            let Some(table) = self.table_of(key.span(), name, value) else { continue };
            match name {
                "repo" => self.repos(table),
                "stanza" => self.stanzas(table),
                "backup" => self.settings(Place::Backup, key.span(), table),
                "paths" => self.settings(Place::Paths, key.span(), table),
                "log" => self.settings(Place::Log, key.span(), table),
                "fleet" => self.settings(Place::Fleet, key.span(), table),
                "coordinator" => self.settings(Place::Coordinator, key.span(), table),
                "worker" => self.settings(Place::Worker, key.span(), table),
                _ => {
                    let hint = match nearest(name, TABLES) {
                        Some(near) => format!("did you mean [{near}]?"),
                        None => format!("the tables are {}", TABLES.join(", ")),
                    };
                    self.complain(key.span(), format!("unknown table [{name}]"), Some(hint));
                }
            }
        }
    }

    /// The table behind a key; a key that should be one and is not is a mistake, also when nobody knows its name.
    fn table_of<'v, 'i>(
        &mut self,
        span: Range<usize>,
        name: &str,
        value: &'v Spanned<DeValue<'i>>,
    ) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let (reason, hint) =
                if TABLES.contains(&name) || Driver::ALL.iter().any(|driver| driver.name() == name) {
                    (format!("'{name}' must be a table"), None)
                } else {
                    let hint = "each key stands in a table, such as [backup] or [repo.1]";
                    (format!("the key '{name}' stands in no table"), Some(hint.to_owned()))
                };
            self.complain(span, reason, hint);
        }
        table
    }

    fn repos(&mut self, repos: &DeTable<'_>) {
        for (number, value) in repos {
            let name: &str = number.get_ref();
            let key = match name.parse::<u16>() {
                Ok(key) if (1..=REPO_KEY_MAX).contains(&i64::from(key)) => RepoKey(key),
                _ => {
                    let hint = format!("repositories are numbered: [repo.1] to [repo.{REPO_KEY_MAX}]");
                    self.complain(
                        number.span(),
                        format!("'{name}' is not a repository's number"),
                        Some(hint),
                    );
                    continue;
                }
            };
            match value.get_ref().as_table() {
                Some(table) => self.repo(key, number.span(), table),
                None => self.complain(number.span(), format!("'repo.{name}' must be a table"), None),
            }
        }
    }

    fn repo(&mut self, key: RepoKey, span: Range<usize>, repo: &DeTable<'_>) {
        let place = Place::Repo(key);
        self.sheet.open(place.clone(), self.places.origin(&span));
        for (name, value) in repo {
            match Driver::ALL.into_iter().find(|driver| driver.name() == &**name.get_ref()) {
                Some(driver) => {
                    if let Some(table) = self.table_of(name.span(), driver.name(), value) {
                        self.settings(Place::Driver(key, driver), name.span(), table);
                    }
                }
                None => self.setting(&place, name, value),
            }
        }
    }

    fn stanzas(&mut self, stanzas: &DeTable<'_>) {
        for (key, value) in stanzas {
            let stanza = match key.get_ref().parse::<StanzaName>() {
                Ok(stanza) => stanza,
                Err(error) => {
                    self.complain(key.span(), error.to_string(), None);
                    continue;
                }
            };
            match value.get_ref().as_table() {
                Some(table) => self.stanza(&stanza, key.span(), table),
                None => self.complain(key.span(), format!("'stanza.{stanza}' must be a table"), None),
            }
        }
    }

    fn stanza(&mut self, stanza: &StanzaName, span: Range<usize>, table: &DeTable<'_>) {
        let place = Place::Stanza(stanza.clone());
        self.sheet.open(place.clone(), self.places.origin(&span));
        for (name, value) in table {
            if &**name.get_ref() == "pg" {
                self.servers(stanza, name.span(), value.get_ref());
            } else {
                self.setting(&place, name, value);
            }
        }
    }

    fn servers(&mut self, stanza: &StanzaName, span: Range<usize>, value: &DeValue<'_>) {
        let tables =
            value.as_array().map(|array| array.iter().map(|item| (item.span(), item.get_ref().as_table())));
        let Some(tables) = tables else {
            let hint = format!("write [[stanza.{stanza}.pg]], with two brackets, once for each server");
            return self.complain(span, "'pg' must be a list of tables".into(), Some(hint));
        };
        for (index, (at, table)) in tables.enumerate() {
            match table {
                Some(table) => self.settings(Place::Pg(stanza.clone(), index + 1), at, table),
                None => self.complain(at, "'pg' must be a list of tables".into(), None),
            }
        }
    }

    fn settings(&mut self, place: Place, span: Range<usize>, table: &DeTable<'_>) {
        self.sheet.open(place.clone(), self.places.origin(&span));
        for (name, value) in table {
            self.setting(&place, name, value);
        }
    }

    fn setting(
        &mut self,
        place: &Place,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let outcome = match place.find(name.get_ref()) {
            Some(spec) => {
                let origin = self.places.origin(&value.span());
                self.sheet.set(place, spec, raw(value.get_ref()), Spelling::Typed, origin)
            }
            None => Err(place.unknown_key(name.get_ref(), self.places.origin(&name.span()))),
        };
        self.problems.extend(outcome.err());
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other("a number that is too large"),
        },
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Float(_) => Raw::Other("a number with a decimal point"),
        DeValue::Datetime(_) => Raw::Other("a date or time"),
        DeValue::Array(elements) => {
            Raw::List(elements.iter().map(|element| raw(element.get_ref())).collect())
        }
        DeValue::Table(entries) => Raw::Map(
            entries.iter().map(|(key, value)| (key.get_ref().to_string(), raw(value.get_ref()))).collect(),
        ),
    }
}
