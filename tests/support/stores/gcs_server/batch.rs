//! The batch endpoint: one request is taken apart, and each of its parts is answered as if it had come alone.

use super::bucket::Refusal;
use super::requests::{Answer, finished, header, refused, storage};
use super::{Shared, lock};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, Request, Response};
use std::fmt::Write as _;

const CALLS_MAX: usize = 100;
const BYTES_MAX: usize = 10_000_000;

pub fn answer(head: &Parts, body: &Bytes, shared: &Shared) -> Result<Answer, Refusal> {
    if lock(&shared.rules).knows_no_batches || head.method != Method::POST {
        return Err((404, "notFound", "Not Found".to_owned()));
    }
    let malformed = |what: &str| (400, "badRequest", format!("Failed to parse batch request: {what}"));
    let kind = header(head, "content-type").unwrap_or_default();
    let boundary = kind.strip_prefix("multipart/mixed; boundary=").ok_or_else(|| malformed("boundary"))?;
    let body = std::str::from_utf8(body).map_err(|_| malformed("text"))?;
    let opens = format!("--{}", boundary.trim_matches('"'));
    let inner =
        body.trim_end().strip_prefix(&opens).and_then(|body| body.strip_suffix(&format!("\r\n{opens}--")));
    let parts: Vec<&str> = inner.ok_or_else(|| malformed("ends"))?.split(&format!("\r\n{opens}")).collect();
    if parts.len() > CALLS_MAX || body.len() > BYTES_MAX {
        return Err(malformed("it is too large"));
    }
    let mut answers = String::new();
    for part in parts {
        let (envelope, request) =
            part.trim_start().split_once("\r\n\r\n").ok_or_else(|| malformed("a part"))?;
        if field(envelope, "content-type") != Some("application/http") {
            return Err(malformed("the type of a part"));
        }
        let (inner, content) = call(head, request).ok_or_else(|| malformed(request))?;
        let answer = storage(&inner, &content, shared).unwrap_or_else(|refusal| refused(&refusal));
        answers.push_str("--batch_answer=\r\nContent-Type: application/http\r\n");
        if let Some(id) = field(envelope, "content-id") {
            let id = id.strip_prefix('<').ok_or_else(|| malformed("Content-ID"))?;
            answers.push_str(&format!("Content-ID: <response-{id}\r\n"));
        }
        answers.push_str(&format!("\r\n{}\r\n", text(answer)));
    }
    answers.push_str("--batch_answer=--\r\n");
    let response = Response::builder().status(200);
    Ok(finished(response.header("content-type", "multipart/mixed; boundary=batch_answer="), answers.into()))
}

fn field<'a>(envelope: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = envelope.split("\r\n").filter_map(|line| line.split_once(": "));
    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The request of a part. What the batch's own head says holds for it too, but for what tells of the body.
fn call(batch: &Parts, request: &str) -> Option<(Parts, Bytes)> {
    let (head, content) = request.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let line: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, path, "HTTP/1.1"] = line[..] else { return None };
    // Paths only, of this API, and neither uploads nor downloads.
    if !path.starts_with("/storage/v1/") || path.contains("alt=media") {
        return None;
    }
    let (mut inner, ()) = Request::builder().method(method).uri(path).body(()).ok()?.into_parts();
    let of_all = batch.headers.iter().filter(|(name, _)| !name.as_str().starts_with("content-"));
    inner.headers = of_all.map(|(name, value)| (name.clone(), value.clone())).collect();
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let name: hyper::header::HeaderName = name.parse().ok()?;
        inner.headers.insert(name, value.parse().ok()?);
    }
    Some((inner, Bytes::copy_from_slice(content.trim_end().as_bytes())))
}

fn text(answer: Answer) -> String {
    let (head, body) = answer.into_parts();
    let body = body.collect().now_or_never().and_then(Result::ok).map(|body| body.to_bytes());
    let mut text = format!("HTTP/1.1 {}\r\n", head.status);
    for (name, value) in &head.headers {
        let value = value.to_str().unwrap_or_default();
        write!(text, "{name}: {value}\r\n").expect("a string takes what is written");
    }
    text.push_str("\r\n");
    text.push_str(&String::from_utf8_lossy(&body.unwrap_or_default()));
    text
}
