//! From requests to answers, as the JSON API documents them.

use super::bucket::{Object, Refusal, crc32c_text};
use super::tokens::Granted;
use super::{BUCKET, PROJECT, Shared, batch, lock, take, uploads};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub type Pairs = BTreeMap<String, String>;
pub type Answer = Response<Full<Bytes>>;

pub fn answer(head: &Parts, body: &Bytes, shared: &Shared) -> Answer {
    match head.uri.path() {
        "/token" => token(body, shared),
        "/computeMetadata/v1/instance/service-accounts/default/token" => metadata_token(head, shared),
        "/batch/storage/v1" => batch::answer(head, body, shared).unwrap_or_else(|refusal| refused(&refusal)),
        _ => storage(head, body, shared).unwrap_or_else(|refusal| refused(&refusal)),
    }
}

fn token(body: &Bytes, shared: &Shared) -> Answer {
    let rules = lock(&shared.rules).clone();
    if let Some((status, text)) = rules.token_refusal {
        let body = json!({ "error": "invalid_grant", "error_description": text });
        return plain(status, &body);
    }
    let audience = format!("http://localhost:{}/token", shared.address.port());
    let form = pairs(&String::from_utf8_lossy(body));
    let (status, body): Granted = lock(&shared.tokens).exchange(&form, &audience, rules.token_life);
    plain(status, &body)
}

fn metadata_token(head: &Parts, shared: &Shared) -> Answer {
    if header(head, "metadata-flavor") != Some("Google") {
        return plain(403, &json!({ "error": "Missing Metadata-Flavor:Google header." }));
    }
    let life = lock(&shared.rules).token_life;
    let (status, body) = lock(&shared.tokens).give(life);
    plain(status, &body)
}

pub fn storage(head: &Parts, body: &Bytes, shared: &Shared) -> Result<Answer, Refusal> {
    let query = pairs(head.uri.query().unwrap_or_default());
    let session = uploads::session_of(head, &query);
    if session.is_none() {
        admit(head, shared)?;
    }
    let mut path: Vec<String> = head.uri.path().split('/').skip(1).map(decode).collect();
    let is_upload = path.first().is_some_and(|first| first == "upload");
    if is_upload {
        path.remove(0);
    }
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["storage", "v1", "b", BUCKET] = path[..] {
        let mode = if lock(&shared.bucket).object_retention { "Enabled" } else { "Disabled" };
        let described =
            json!({ "kind": "storage#bucket", "name": BUCKET, "objectRetention": { "mode": mode } });
        return Ok(plain(200, &described));
    }
    let ["storage", "v1", "b", bucket, "o", rest @ ..] = &path[..] else {
        return Err((404, "notFound", "Not Found".to_owned()));
    };
    if *bucket != BUCKET {
        return Err((404, "notFound", "The specified bucket does not exist.".to_owned()));
    }
    let condition = number(&query, "ifGenerationMatch")?;
    let mut objects = lock(&shared.bucket);
    match (&head.method, is_upload, rest) {
        (&Method::POST, true, []) => uploads::begin(head, body, &query, condition, (shared, &mut objects)),
        (_, true, []) if let Some(id) = session => uploads::go_on(head, body, id, (shared, &mut objects)),
        (&Method::GET, false, []) => Ok(plain(200, &objects.list(&query)?)),
        (&Method::GET, false, [name]) if query.get("alt").is_some_and(|alt| alt == "media") => {
            let is_damaged = take(&mut lock(&shared.rules).damaged_reads);
            let object = objects.find_generation(name, number(&query, "generation")?)?;
            Ok(media(head, object, is_damaged))
        }
        (&Method::GET, false, [name]) => Ok(plain(200, &objects.describe(name)?)),
        (&Method::POST, false, [name, "compose"]) => {
            Ok(plain(200, &objects.compose(name, &json_of(body)?, condition)?))
        }
        (&Method::POST, false, [name, "rewriteTo", "b", BUCKET, "o", to]) => {
            let (generation, token) = (number(&query, "sourceGeneration")?, query.get("rewriteToken"));
            let rewritten = objects.rewrite((name, generation), to, &json_of(body)?, condition, token)?;
            Ok(plain(200, &rewritten))
        }
        (&Method::PATCH, false, [name]) => {
            let generation = number(&query, "generation")?;
            Ok(plain(200, &objects.patch(name, generation, &json_of(body)?)?))
        }
        (&Method::DELETE, false, [name]) => {
            if lock(&shared.rules).retention {
                objects.find(name)?;
                let message = format!(
                    "Object '{BUCKET}/{name}' is subject to bucket's retention policy or object retention and cannot be deleted or overwritten until 2030-01-01T00:00:00Z"
                );
                return Err((403, "retentionPolicyNotMet", message));
            }
            objects.delete(name, number(&query, "generation")?)?;
            Ok(finished(Response::builder().status(204), Bytes::new()))
        }
        _ => Err((400, "badRequest", format!("{} is not understood", head.method))),
    }
}

pub fn json_of(body: &Bytes) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|_| (400, "parseError", "Parse Error".to_owned()))
}

/// Token, rights and the project that pays, in Google's order.
fn admit(head: &Parts, shared: &Shared) -> Result<(), Refusal> {
    if !lock(&shared.tokens).is_good(header(head, "authorization").unwrap_or_default()) {
        return Err((401, "authError", "Invalid Credentials".to_owned()));
    }
    let mut rules = lock(&shared.rules);
    if take(&mut rules.throttled) {
        return Err((
            429,
            "rateLimitExceeded",
            "The object exceeded the rate limit for object mutation operations".to_owned(),
        ));
    }
    if rules.forbidden {
        let message = "backup@project.iam.gserviceaccount.com does not have storage.objects.list access to the Google Cloud Storage bucket. Permission 'storage.objects.list' denied on resource (or it may not exist).";
        return Err((403, "forbidden", message.to_owned()));
    }
    if rules.requester_pays && header(head, "x-goog-user-project") != Some(PROJECT) {
        let message = "Bucket is a requester pays bucket but no user project provided.";
        return Err((400, "required", message.to_owned()));
    }
    Ok(())
}

/// The two parts of `multipart/related`: a description and the body.
pub fn multipart(head: &Parts, body: &Bytes) -> Result<(Value, Bytes), Refusal> {
    let malformed = || (400, "badContent", "Malformed multipart body.".to_owned());
    let content_type = header(head, "content-type").unwrap_or_default();
    let boundary = content_type.strip_prefix("multipart/related; boundary=").ok_or_else(malformed)?;
    let delimiter = format!("\r\n--{}", boundary.trim_matches('"'));
    let begin = delimiter.trim_start().len();
    let mut parts = Vec::new();
    let mut at = begin;
    // What follows the last delimiter is two dashes.
    while let Some(length) = find(&body[at..], delimiter.as_bytes()) {
        let part = body.slice(at..at + length);
        let split = find(&part, b"\r\n\r\n").ok_or_else(malformed)?;
        parts.push(part.slice(split + 4..));
        at += length + delimiter.len();
    }
    let is_whole = body.starts_with(delimiter.trim_start().as_bytes()) && body[at..].starts_with(b"--");
    match &parts[..] {
        [description, media] if is_whole => {
            Ok((serde_json::from_slice(description).map_err(|_| malformed())?, media.clone()))
        }
        _ => Err(malformed()),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// All of an object, or a range of it.
fn media(head: &Parts, object: &Object, is_damaged: bool) -> Answer {
    let size = object.body.size();
    let response = Response::builder()
        .header("content-type", "application/octet-stream")
        .header("x-goog-generation", object.generation)
        .header("x-goog-metageneration", 1)
        .header("x-goog-stored-content-encoding", "identity")
        .header("x-goog-stored-content-length", size)
        .header("x-goog-storage-class", "STANDARD")
        .header("x-goog-hash", format!("crc32c={}", crc32c_text(object.crc32c)));
    let read = |range| {
        let body = object.body.range(range);
        if is_damaged { damage(&body) } else { body }
    };
    let Some(range) = header(head, "range") else { return finished(response.status(200), read(0..size)) };
    let asked = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let asked = asked
        .and_then(|(first, last)| Some((first.parse::<usize>().ok()?, last.parse().unwrap_or(usize::MAX))));
    match asked {
        Some((first, last)) if first < size && first <= last => {
            let last = usize::min(last, size - 1);
            let response =
                response.status(206).header("content-range", format!("bytes {first}-{last}/{size}"));
            finished(response, read(first..last + 1))
        }
        _ => {
            let response = response.status(416).header("content-range", format!("bytes */{size}"));
            finished(response, Bytes::from_static(b"The requested range cannot be satisfied."))
        }
    }
}

pub fn damage(body: &Bytes) -> Bytes {
    let mut damaged = body.to_vec();
    let middle = damaged.len() / 2;
    if let Some(byte) = damaged.get_mut(middle) {
        *byte ^= 1;
    }
    damaged.into()
}

pub fn refused((status, reason, message): &Refusal) -> Answer {
    let body = json!({
        "error": {
            "code": status,
            "message": message,
            "errors": [{ "message": message, "domain": "global", "reason": reason }],
        }
    });
    let response = Response::builder().status(*status).header("content-type", "application/json");
    let response = if *status == 429 { response.header("retry-after", "1") } else { response };
    finished(response, body.to_string().into())
}

pub fn plain(status: u16, body: &Value) -> Answer {
    let response = Response::builder().status(status).header("content-type", "application/json");
    finished(response, body.to_string().into())
}

pub fn finished(response: hyper::http::response::Builder, body: Bytes) -> Answer {
    response.body(Full::new(body)).unwrap_or_else(|_| Response::new(Full::new(Bytes::new())))
}

pub fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name)?.to_str().ok()
}

fn number(query: &Pairs, name: &str) -> Result<Option<i64>, Refusal> {
    let parsed = query.get(name).map(|text| text.parse()).transpose();
    parsed.map_err(|_| (400, "invalid", format!("Invalid value for {name}")))
}

fn pairs(text: &str) -> Pairs {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(&value.replace('+', " ")))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
