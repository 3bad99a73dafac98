//! What a batch is answered with: `multipart/mixed`, each part the head, and perhaps the body, of an answer to one request.
//!
//! Invariants
//! 1. Each request has one answer, by what it was called in `Content-ID`. One that has none or two, a part that is no answer to
//!    any, and a body without its end are errors.
//! 2. A server that could not read the batch answers with a single part that has no such name and is no success: that is an answer to
//!    all of it.

use crate::{Place, StorageError};
use std::ops::ControlFlow;

/// By the standard of multipart bodies, in characters.
const BOUNDARY_MAX: usize = 70;
/// What is shown of what a server sent, in characters.
const SHOWN_MAX: usize = 60;

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub status: u16,
    /// Their names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Part {
    /// `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// In the order of the requests.
    OfParts(Vec<Part>),
    OfAll(Part),
}

/// Why what came is no answer; for an operator.
#[derive(Debug, PartialEq, Eq)]
pub struct Misread {
    pub flaw: Flaw,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It ends before its end, as the answer of a connection that was lost may: another try may bring all of it.
    Cut,
    /// It is well-formed, and none of its parts says which request it answers.
    Nameless,
    Garbled,
}

impl Misread {
    pub fn at(self, at: Place) -> StorageError {
        let reason = format!("the answer is none to a batch of deletes: {}", self.reason);
        match self.flaw {
            Flaw::Cut => StorageError::Unavailable { at, reason },
            Flaw::Nameless | Flaw::Garbled => StorageError::NotSupported { at, reason },
        }
    }
}

impl From<String> for Misread {
    fn from(reason: String) -> Misread {
        Misread { flaw: Flaw::Garbled, reason }
    }
}

impl From<&str> for Misread {
    fn from(reason: &str) -> Misread {
        reason.to_owned().into()
    }
}

/// `asked` is how many requests were in the batch, `number` tells which of them is called so in `Content-ID`.
pub fn parse(
    kind: Option<&str>,
    body: &[u8],
    asked: usize,
    number: impl Fn(&str) -> Option<usize>,
) -> Result<Answer, Misread> {
    const NAMELESS: &str = "a part of it does not say what it answers";
    let boundary = boundary(kind.unwrap_or_default())?;
    // Only words of errors could be anything but ASCII.
    let text = String::from_utf8_lossy(body);
    let parts = split(&text, boundary)?.into_iter().map(|text| part(text, &number));
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    if let [(None, part)] = parts.as_slice()
        && !(200..300).contains(&part.status)
    {
        return Ok(Answer::OfAll(part.clone()));
    }
    if parts.iter().all(|(number, _)| number.is_none()) {
        return Err(Misread { flaw: Flaw::Nameless, reason: NAMELESS.to_owned() });
    }
    let mut answers: Vec<Option<Part>> = Vec::new();
    answers.resize_with(asked, || None);
    for (number, part) in parts {
        let number = number.ok_or(NAMELESS)?;
        let answer = answers.get_mut(number).ok_or_else(|| format!("{number} is no request of it"))?;
        if answer.replace(part).is_some() {
            return Err(format!("request {number} is answered twice").into());
        }
    }
    let answered = answers.iter().flatten().count();
    let whole: Option<Vec<Part>> = answers.into_iter().collect();
    whole.map(Answer::OfParts).ok_or_else(|| format!("{answered} of {asked} requests are answered").into())
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}

fn boundary(kind: &str) -> Result<&str, String> {
    let mut fields = kind.split(';').map(str::trim);
    if !fields.next().is_some_and(|kind| kind.eq_ignore_ascii_case("multipart/mixed")) {
        return Err(format!("it is '{}', not multipart/mixed", shown(kind)));
    }
    let boundary = fields.find_map(|field| {
        let (name, value) = field.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    });
    boundary
        .filter(|text| {
            (1..=BOUNDARY_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        })
        .ok_or_else(|| format!("'{}' names no boundary", shown(kind)))
}

/// What stands between the lines of the boundary; nothing else stands outside.
fn split<'a>(text: &'a str, boundary: &str) -> Result<Vec<&'a str>, Misread> {
    let opens = format!("--{boundary}");
    let closes = format!("{opens}--");
    let mut parts = Vec::new();
    // Where the part that is being read begins.
    let mut begin = None;
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        let next = position + line.len();
        let word = line.trim_end();
        if word == opens || word == closes {
            parts.extend(begin.replace(next).map(|begin: usize| &text[begin..position]));
        } else if begin.is_none() && !word.is_empty() {
            return Err("it does not begin with its boundary".into());
        }
        if word == closes {
            return match text[next..].trim().is_empty() {
                true if parts.is_empty() => Err("it has no parts".into()),
                true => Ok(parts),
                false => Err("it goes on behind its end".into()),
            };
        }
        position = next;
    }
    Err(Misread { flaw: Flaw::Cut, reason: "it has no end".to_owned() })
}

fn part(text: &str, number: impl Fn(&str) -> Option<usize>) -> Result<(Option<usize>, Part), String> {
    let (envelope, message) = envelope(text)?;
    let find = |wanted: &str| {
        let mut found = envelope.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        match (found.next(), found.next()) {
            (first, None) => Ok(first.map(|(_, value)| *value)),
            (_, Some(_)) => Err(format!("a part of it has two of {wanted}")),
        }
    };
    if !find("content-type")?.is_some_and(|kind| kind.eq_ignore_ascii_case("application/http")) {
        return Err("a part of it is not application/http".to_owned());
    }
    let number = match find("content-id")? {
        Some(text) => Some(number(text).ok_or_else(|| format!("'{}' is no request of it", shown(text)))?),
        None => None,
    };
    let (line, rest) = message.split_once('\n').unwrap_or((message, ""));
    let status =
        status(line).ok_or_else(|| format!("'{}' is no status of a part", shown(line.trim_end())))?;
    let (fields, body) = fields(rest)?;
    let headers = fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Ok((number, Part { status, headers: headers.collect(), body: body.to_owned() }))
}

/// The lines before an answer. An emulator of Google's store ends its only one without an empty line: then nothing names a request.
fn envelope(text: &str) -> Result<(Fields<'_>, &str), String> {
    match text.split_once('\n') {
        Some((line, message)) if message.starts_with("HTTP/1.") => Ok((fields(line)?.0, message)),
        _ => fields(text),
    }
}

/// `HTTP/1.1 202 Accepted`.
fn status(line: &str) -> Option<u16> {
    let mut words = line.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/1.")?;
    let code = words.next().filter(|code| code.len() == 3)?;
    code.parse().ok().filter(|code| (100..600).contains(code))
}

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// Lines `name: value` up to an empty one or the end, and what follows that.
fn fields(text: &str) -> Result<(Fields<'_>, &str), String> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let (line, behind) = rest.split_once('\n').unwrap_or((rest, ""));
        match field(line.trim_end())? {
            ControlFlow::Continue(field) => found.push(field),
            ControlFlow::Break(()) => return Ok((found, behind)),
        }
        rest = behind;
    }
}

fn field(line: &str) -> Result<ControlFlow<(), (&str, &str)>, String> {
    if line.is_empty() {
        return Ok(ControlFlow::Break(()));
    }
    let (name, value) =
        line.split_once(':').ok_or_else(|| format!("'{}' is no header of a part", shown(line)))?;
    Ok(ControlFlow::Continue((name.trim(), value.trim())))
}

#[cfg(test)]
mod tests;
