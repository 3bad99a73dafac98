//! What a setting may hold, and how text or TOML becomes it.
//!
//! Invariants
//! 1. A [`Value`] has the form that its [`ValueType`] demands: whoever holds one need not check again.
//! 2. A secret never appears in `Debug`, in a message or in what `show` prints.

use crate::ids::StanzaName;
use crate::units::{ByteCount, Span};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Text that must not be seen. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What stands for any secret in what people see.
    pub const MASK: &'static str = "<secret>";

    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// For the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Secret::MASK)
    }
}

/// What each element of a list must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    Text,
    /// `host:port`
    HostPort,
    /// `http://...` or `https://...`
    Url,
    /// The number of a repository.
    Repo,
}

/// The form of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    Text,
    /// An absolute path, without a slash at its end.
    Path,
    /// A name as stanzas and workers have it.
    Name,
    Secret,
    Boolean,
    /// From and to, both included.
    Integer(i64, i64),
    /// Bytes, from and to.
    Size(u64, u64),
    /// Milliseconds, from and to.
    Duration(u64, u64),
    Choice(&'static [&'static str]),
    /// `address:port` to listen at.
    Listen,
    List(Element),
    Map,
    /// A map from the kinds of work to five cron fields.
    Schedule,
}

/// What `schedule` may name.
pub const SCHEDULED: [&str; 6] = ["full", "diff", "incr", "verify", "drill", "expire"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Secret(Secret),
    Boolean(bool),
    Integer(i64),
    Size(ByteCount),
    Duration(Span),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
}

impl Value {
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A value as a source has it, before its type is looked at.
#[derive(Clone)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Raw>),
    Map(Vec<(String, Raw)>),
    /// TOML has it and no setting is of it; holds what to call it.
    Other(&'static str),
}

impl Raw {
    fn describe(&self) -> &'static str {
        match self {
            Raw::Text(_) => "a string",
            Raw::Integer(_) => "a number",
            Raw::Boolean(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Map(_) => "a table",
            Raw::Other(name) => name,
        }
    }
}

/// How freely a source writes values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// TOML has types: a number is not written as a string.
    Typed,
    /// The environment and the command line have text only.
    Text,
}

impl ValueType {
    /// Takes a value for what it must be, or says in lower case why it is not that.
    pub(super) fn read(self, raw: Raw, spelling: Spelling) -> Result<Value, String> {
        match (self, raw) {
            (ValueType::Text, Raw::Text(text)) => not_empty(text).map(Value::Text),
            (ValueType::Secret, Raw::Text(text)) => not_empty(text).map(|text| Value::Secret(Secret(text))),
            (ValueType::Path, Raw::Text(text)) => absolute_path(&text).map(Value::Text),
            (ValueType::Name, Raw::Text(text)) => match text.parse::<StanzaName>() {
                Ok(_) => Ok(Value::Text(text)),
                Err(error) => Err(format!("'{text}' is no valid name: {}", error.reason)),
            },
            (ValueType::Listen, Raw::Text(text)) => match text.parse::<SocketAddr>() {
                Ok(_) => Ok(Value::Text(text)),
                Err(_) => Err(format!("'{text}' is not an address and port, such as 0.0.0.0:7432")),
            },
            (ValueType::Boolean, Raw::Boolean(value)) => Ok(Value::Boolean(value)),
            (ValueType::Boolean, Raw::Text(text)) if spelling == Spelling::Text => {
                boolean(&text).map(Value::Boolean)
            }
            (ValueType::Integer(low, high), Raw::Integer(number)) => integer(number, low, high),
            (ValueType::Integer(low, high), Raw::Text(text)) if spelling == Spelling::Text => {
                let number = text.trim().parse().map_err(|_| format!("'{text}' is not a whole number"))?;
                integer(number, low, high)
            }
            (ValueType::Size(low, high), Raw::Text(text)) => {
                size(text.parse().map_err(|error| format!("{error}"))?, low, high)
            }
            (ValueType::Size(low, high), Raw::Integer(bytes)) => {
                size(ByteCount(u64::try_from(bytes).map_err(|_| "a size is not negative")?), low, high)
            }
            (ValueType::Duration(low, high), Raw::Text(text)) => {
                duration(text.parse().map_err(|error| format!("{error}"))?, low, high)
            }
            (ValueType::Duration(low, high), Raw::Integer(seconds)) => {
                let seconds = u64::try_from(seconds).map_err(|_| "a duration is not negative")?;
                duration(Span(Duration::from_secs(seconds)), low, high)
            }
            (ValueType::Choice(names), Raw::Text(text)) => choice(&text, names),
            // `backup-standby = true` is what everybody writes first.
            (ValueType::Choice(names), Raw::Boolean(value)) if names.contains(&"y") => {
                choice(if value { "y" } else { "n" }, names)
            }
            (ValueType::List(element), raw) => list(element, raw, spelling).map(Value::List),
            (ValueType::Map, raw) => map(raw, spelling).map(Value::Map),
            (ValueType::Schedule, raw) => schedule(map(raw, spelling)?).map(Value::Map),
            (expected, raw) => Err(expected.mismatch(raw.describe())),
        }
    }

    fn mismatch(self, found: &str) -> String {
        format!("expected {}, found {found}", self.describe())
    }

    /// What to write, for messages and help.
    pub fn describe(self) -> String {
        match self {
            ValueType::Text | ValueType::Secret => "a string".into(),
            ValueType::Path => "an absolute path".into(),
            ValueType::Name => "a name".into(),
            ValueType::Boolean => "true or false".into(),
            ValueType::Integer(low, high) => format!("a whole number from {low} to {high}"),
            ValueType::Size(low, high) => {
                format!("a size from {} to {}, such as \"16MiB\"", ByteCount(low), ByteCount(high))
            }
            ValueType::Duration(low, high) => {
                format!("a duration from {} to {}, such as \"10s\"", milliseconds(low), milliseconds(high))
            }
            ValueType::Choice(names) => format!("one of {}", names.join(", ")),
            ValueType::Listen => "an address and port, such as \"0.0.0.0:7432\"".into(),
            ValueType::List(Element::Repo) => "a list of repository numbers".into(),
            ValueType::List(_) => "a list of strings".into(),
            ValueType::Map => "a table of strings".into(),
            ValueType::Schedule => format!("a table of cron lines for {}", SCHEDULED.join(", ")),
        }
    }
}

fn milliseconds(count: u64) -> Span {
    Span(Duration::from_millis(count))
}

fn not_empty(text: String) -> Result<String, String> {
    if text.is_empty() { Err("the value is empty".into()) } else { Ok(text) }
}

fn absolute_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("'{text}' is not an absolute path"));
    }
    if text.contains("//") || text.split('/').any(|part| part == "..") {
        return Err(format!("'{text}' contains '//' or '..'"));
    }
    let trimmed = text.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" | "1" => Ok(true),
        "n" | "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(format!("'{text}' is neither y nor n")),
    }
}

fn integer(number: i64, low: i64, high: i64) -> Result<Value, String> {
    if (low..=high).contains(&number) {
        Ok(Value::Integer(number))
    } else {
        Err(format!("{number} is out of range: {low} to {high}"))
    }
}

fn size(bytes: ByteCount, low: u64, high: u64) -> Result<Value, String> {
    if (low..=high).contains(&bytes.0) {
        Ok(Value::Size(bytes))
    } else {
        Err(format!("{bytes} is out of range: {} to {}", ByteCount(low), ByteCount(high)))
    }
}

fn duration(span: Span, low: u64, high: u64) -> Result<Value, String> {
    if (milliseconds(low)..=milliseconds(high)).contains(&span) {
        Ok(Value::Duration(span))
    } else {
        Err(format!("{span} is out of range: {} to {}", milliseconds(low), milliseconds(high)))
    }
}

fn choice(text: &str, names: &[&str]) -> Result<Value, String> {
    if names.contains(&text) {
        Ok(Value::Text(text.to_owned()))
    } else {
        Err(format!("'{text}' is none of {}", names.join(", ")))
    }
}

fn list(element: Element, raw: Raw, spelling: Spelling) -> Result<Vec<String>, String> {
    let elements = match raw {
        Raw::List(elements) => elements,
        Raw::Text(text) if spelling == Spelling::Text => {
            text.split(',').map(|part| Raw::Text(part.trim().to_owned())).collect()
        }
        single @ (Raw::Text(_) | Raw::Integer(_)) => vec![single],
        other => return Err(ValueType::List(element).mismatch(other.describe())),
    };
    elements.into_iter().map(|raw| list_element(element, raw, spelling)).collect()
}

fn list_element(element: Element, raw: Raw, spelling: Spelling) -> Result<String, String> {
    match (element, raw) {
        (Element::Repo, Raw::Integer(number)) => repo_number(number),
        (Element::Repo, Raw::Text(text)) if spelling == Spelling::Text => {
            repo_number(text.parse().map_err(|_| format!("'{text}' is not a repository's number"))?)
        }
        (Element::Text, Raw::Text(text)) => not_empty(text),
        (Element::HostPort, Raw::Text(text)) => match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(text)
            }
            _ => Err(format!("'{text}' is not a host and port, such as coord1:7432")),
        },
        (Element::Url, Raw::Text(text)) => match text.split_once("://") {
            Some(("http" | "https", rest)) if !rest.is_empty() => Ok(text),
            _ => Err(format!("'{text}' does not start with http:// or https://")),
        },
        (Element::Repo, other) => Err(format!("expected a repository's number, found {}", other.describe())),
        (_, other) => Err(format!("expected a list of strings, found {} in it", other.describe())),
    }
}

fn repo_number(number: i64) -> Result<String, String> {
    match number {
        1..=super::sheet::REPO_KEY_MAX => Ok(number.to_string()),
        _ => Err(format!("{number} is out of range: 1 to {}", super::sheet::REPO_KEY_MAX)),
    }
}

fn map(raw: Raw, spelling: Spelling) -> Result<BTreeMap<String, String>, String> {
    match raw {
        Raw::Map(entries) => entries
            .into_iter()
            .map(|(key, raw)| match raw {
                Raw::Text(text) => Ok((key, text)),
                other => Err(format!("expected a string for '{key}', found {}", other.describe())),
            })
            .collect(),
        Raw::Text(text) if spelling == Spelling::Text => text
            .split(',')
            .map(|part| match part.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    Ok((key.trim().to_owned(), value.trim().to_owned()))
                }
                _ => Err(format!("'{part}' is not of the form key=value")),
            })
            .collect(),
        other => Err(ValueType::Map.mismatch(other.describe())),
    }
}

fn schedule(lines: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    /// Minute, hour, day of the month, month, day of the week.
    const CRON_FIELDS: usize = 5;
    for (kind, line) in &lines {
        if !SCHEDULED.contains(&kind.as_str()) {
            return Err(format!("'{kind}' cannot be scheduled: only {}", SCHEDULED.join(", ")));
        }
        if line.split_whitespace().count() != CRON_FIELDS {
            return Err(format!("the cron line '{line}' of '{kind}' has not five fields"));
        }
    }
    Ok(lines)
}

/// How a typed field takes its value. `None` would mean that the registry gives the setting another type than the
/// field has; a test reads every setting once.
pub(super) trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($( $type:ty: $pattern:pat => $result:expr; )+) => { $(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value { $pattern => $result, _ => None }
            }
        }
    )+ };
}

from_value! {
    String: Value::Text(text) => Some(text.clone());
    Secret: Value::Secret(secret) => Some(secret.clone());
    bool: Value::Boolean(value) => Some(*value);
    u16: Value::Integer(number) => u16::try_from(*number).ok();
    u32: Value::Integer(number) => u32::try_from(*number).ok();
    i32: Value::Integer(number) => i32::try_from(*number).ok();
    ByteCount: Value::Size(bytes) => Some(*bytes);
    Duration: Value::Duration(span) => Some(span.0);
    Vec<String>: Value::List(elements) => Some(elements.clone());
    BTreeMap<String, String>: Value::Map(entries) => Some(entries.clone());
    SocketAddr: Value::Text(text) => text.parse().ok();
}
