//! The effective configuration as a table of settings, and as TOML that could be loaded again. Secrets are masked.

use super::problem::Origin;
use super::registry::{self, Section};
use super::sheet::{Place, Sheet, default};
use super::value::{Secret, Value};
use std::collections::BTreeSet;
use std::fmt::Write;

/// One setting that holds, and who made it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownSetting {
    /// The table, as in the file.
    pub table: String,
    pub key: &'static str,
    /// In TOML.
    pub value: String,
    pub origin: Origin,
}

/// `sheets`: the strongest first.
pub(super) fn settings(sheets: &[&Sheet]) -> Vec<ShownSetting> {
    let mut places: BTreeSet<Place> = sheets.iter().flat_map(|sheet| sheet.places().cloned()).collect();
    places.extend([Place::Backup, Place::Paths, Place::Log]);
    places.iter().flat_map(|place| of_place(place, sheets)).collect()
}

fn of_place(place: &Place, sheets: &[&Sheet]) -> Vec<ShownSetting> {
    let rows = registry::all().iter().filter(|spec| place.sections().contains(&spec.section));
    rows.filter_map(|spec| {
        let set = sheets.iter().find_map(|sheet| sheet.entry(place, spec.name));
        let (value, origin) = match set {
            Some(entry) => (entry.value.clone(), entry.origin.clone()),
            // What a stanza does not override is shown once, under [backup].
            None if spec.section == Section::Backup && *place != Place::Backup => return None,
            None => (default(spec)?, Origin::Default),
        };
        Some(ShownSetting { table: place.to_string(), key: spec.name, value: toml_value(&value), origin })
    })
    .collect()
}

/// One table after the other, with a comment on each setting that says where it comes from.
pub(super) fn toml(settings: &[ShownSetting]) -> String {
    let mut text = String::new();
    let mut table = None;
    let servers = |setting: &ShownSetting| setting.table.starts_with("[[") && setting.key == "path";
    for setting in settings {
        if table != Some(&setting.table) || servers(setting) {
            let gap = if text.is_empty() { "" } else { "\n" };
            writeln!(text, "{gap}{}", setting.table).expect("a string takes all that is written to it");
            table = Some(&setting.table);
        }
        writeln!(text, "{} = {}  # {}", setting.key, setting.value, setting.origin)
            .expect("a string takes all that is written to it");
    }
    text
}

fn toml_value(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Secret(_) => quoted(Secret::MASK),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(number) => number.to_string(),
        // A rounded size would be another one when read again.
        Value::Size(bytes) => match bytes.to_string() {
            shown if !shown.contains('.') => quoted(&shown),
            _ => bytes.0.to_string(),
        },
        Value::Duration(span) => quoted(&span.to_string()),
        Value::List(elements) if elements.iter().all(|element| element.parse::<u16>().is_ok()) => {
            format!("[{}]", elements.join(", "))
        }
        Value::List(elements) => {
            format!("[{}]", elements.iter().map(|element| quoted(element)).collect::<Vec<_>>().join(", "))
        }
        Value::Map(entries) => {
            let pairs = entries.iter().map(|(key, value)| format!("{} = {}", quoted(key), quoted(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
