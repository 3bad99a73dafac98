//! Bodies on their way to objects: alone, behind a description, or in a session of several requests.
//!
//! A session stands for the right to write its object: its requests bear no token. Its object is there once all its bytes are.

use super::bucket::{Bucket, Refusal};
use super::requests::{Answer, Pairs, damage, finished, header, json_of, multipart, plain};
use super::{Shared, lock, take};
use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What all bodies of a session are multiples of, but the last.
const CHUNK_BYTES: usize = 256 << 10;

/// What was begun and not cancelled.
#[derive(Debug, Default)]
pub struct Sessions {
    begun: BTreeMap<String, Session>,
    given: usize,
}

#[derive(Debug)]
struct Session {
    name: String,
    description: Value,
    if_generation_match: Option<i64>,
    body: Vec<u8>,
    /// Once it was told.
    total: Option<usize>,
    /// What became of it.
    object: Option<Value>,
}

/// What a request of a session brings.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// From this byte on, up to and with that one.
    Range(usize, usize),
    /// It only asks how far it got.
    Nothing,
}

/// The part of a request that belongs to a session, if it does.
pub fn session_of<'a>(head: &Parts, query: &'a Pairs) -> Option<&'a String> {
    let is_upload = head.uri.path().starts_with("/upload/") && head.method != Method::POST;
    query.get("upload_id").filter(|_| is_upload)
}

/// An upload, or the beginning of one.
pub fn begin(
    head: &Parts,
    body: &Bytes,
    query: &Pairs,
    if_generation_match: Option<i64>,
    (shared, objects): (&Shared, &mut Bucket),
) -> Result<Answer, Refusal> {
    let (description, media) = match query.get("uploadType").map(String::as_str) {
        Some("multipart") => multipart(head, body)?,
        Some("media") => (json!({}), body.clone()),
        Some("resumable") if body.is_empty() => (json!({}), Bytes::new()),
        Some("resumable") => (json_of(body)?, Bytes::new()),
        _ => return Err((400, "invalid", "Invalid value for uploadType".to_owned())),
    };
    let name = query.get("name").cloned();
    let name = name.or_else(|| description["name"].as_str().map(str::to_owned));
    let name = name.ok_or((400, "required", "Required".to_owned()))?;
    if query.get("uploadType").is_some_and(|kind| kind == "resumable") {
        objects.check(&name, if_generation_match)?;
        let (body, total, object) = (Vec::new(), None, None);
        let session = Session { name, description, if_generation_match, body, total, object };
        return Ok(lock(&shared.sessions).begin(head, session));
    }
    let media = if take(&mut lock(&shared.rules).damaged_uploads) { damage(&media) } else { media };
    Ok(plain(200, &objects.insert(&name, &description, media, if_generation_match)?))
}

/// A further request of a session.
pub fn go_on(
    head: &Parts,
    body: &Bytes,
    id: &String,
    (shared, objects): (&Shared, &mut Bucket),
) -> Result<Answer, Refusal> {
    let mut sessions = lock(&shared.sessions);
    let session = sessions.begun.get_mut(id).ok_or((404, "notFound", "Not Found".to_owned()))?;
    match head.method {
        Method::PUT => {}
        Method::DELETE => {
            sessions.begun.remove(id);
            return Ok(finished(Response::builder().status(499), Bytes::new()));
        }
        _ => return Err((400, "badRequest", format!("{} is not understood", head.method))),
    }
    if let Some(object) = &session.object {
        return Ok(plain(200, object));
    }
    let (content, total) = content(header(head, "content-range"), body.len())?;
    session.take(&content, total, body)?;
    if session.total != Some(session.body.len()) {
        let response = Response::builder().status(308);
        return Ok(finished(
            match session.body.len() {
                0 => response,
                length => response.header("range", format!("bytes=0-{}", length - 1)),
            },
            Bytes::new(),
        ));
    }
    let media = Bytes::from(std::mem::take(&mut session.body));
    let media = if take(&mut lock(&shared.rules).damaged_uploads) { damage(&media) } else { media };
    match objects.insert(&session.name, &session.description, media, session.if_generation_match) {
        Ok(object) => Ok(plain(200, session.object.insert(object))),
        Err(refusal) => {
            sessions.begun.remove(id);
            Err(refusal)
        }
    }
}

/// A range and the whole length, of which either may be unknown; without it the body is all there is.
fn content(range: Option<&str>, length: usize) -> Result<(Content, Option<usize>), Refusal> {
    let malformed = || (400, "badRequest", "Failed to parse Content-Range header.".to_owned());
    let Some(range) = range else {
        let content = if length == 0 { Content::Nothing } else { Content::Range(0, length - 1) };
        return Ok((content, Some(length)));
    };
    let (range, total) =
        range.strip_prefix("bytes ").and_then(|range| range.split_once('/')).ok_or_else(malformed)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| malformed());
    let total = if total == "*" { None } else { Some(number(total)?) };
    if range == "*" {
        return Ok((Content::Nothing, total));
    }
    let (first, last) = range.split_once('-').ok_or_else(malformed)?;
    let (first, last) = (number(first)?, number(last)?);
    if last < first || total.is_some_and(|total| last >= total) {
        return Err(malformed());
    }
    Ok((Content::Range(first, last), total))
}

impl Sessions {
    fn begin(&mut self, head: &Parts, session: Session) -> Answer {
        self.given += 1;
        let id = format!("session-{}", self.given);
        self.begun.insert(id.clone(), session);
        let host = header(head, "host").unwrap_or_default();
        let target = head.uri.path_and_query().map_or("", |target| target.as_str());
        let response = Response::builder()
            .status(200)
            .header("x-guploader-uploadid", &id)
            .header("location", format!("https://{host}{target}&upload_id={id}"));
        finished(response, Bytes::new())
    }
}

impl Session {
    fn take(&mut self, content: &Content, total: Option<usize>, body: &Bytes) -> Result<(), Refusal> {
        let invalid = |text: String| (400, "badRequest", format!("Invalid request. {text}"));
        if let (Some(before), Some(now)) = (self.total, total)
            && before != now
        {
            return Err(invalid(format!("The upload has {before} byte(s) in total, not {now}.")));
        }
        let Content::Range(first, last) = *content else {
            if !body.is_empty() {
                return Err(invalid("A request without a range has no body.".to_owned()));
            }
            self.total = self.total.or(total);
            return Ok(());
        };
        let (said, is) = (last - first + 1, body.len());
        if said != is {
            return Err(invalid(format!(
                "There were {is} byte(s) in the request body. There should have been {said} byte(s) (starting at offset {first} and ending at offset {last}) according to the Content-Range header."
            )));
        }
        let stored = self.body.len();
        if first > stored {
            let message = format!(
                "Invalid request. According to the Content-Range header, the upload offset is {first} byte(s), which exceeds already uploaded size of {stored} byte(s)."
            );
            return Err((503, "backendError", message));
        }
        let total = self.total.or(total);
        if total != Some(last + 1) && !is.is_multiple_of(CHUNK_BYTES) {
            return Err(invalid("The number of bytes uploaded is required to be equal or greater than 262144, except for the final request (it's recommended to be the exact multiple of 262144).".to_owned()));
        }
        self.total = total;
        // What is there already is not taken again.
        self.body.extend_from_slice(body.get(stored - first..).unwrap_or_default());
        Ok(())
    }
}
