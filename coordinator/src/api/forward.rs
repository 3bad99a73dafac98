//! Passes a question on to the leader, and its answer back as it comes.
//!
//! Invariants
//! 1. A question is passed on once: whoever is asked in this way and does not lead says so instead.
//! 2. Only what a question consists of goes along: method, path, query, body, who asks, and the headers named here.

use super::Shared;
use super::refusal::Refusal;
use crate::fleet::LeaderAddress;
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use futures::StreamExt;
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::time::Duration;

/// Tells that a question was passed on already, and by whom.
pub(crate) const GUARD_HEADER: &str = "x-pgconvoy-forwarded-by";
/// A leader on the same network answers within milliseconds; one that is gone is found out in this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two pieces of an answer: streams send something every ten seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const LAST_EVENT_ID: &str = "last-event-id";
const OF_THE_QUESTION: [&str; 3] = ["content-type", "accept", LAST_EVENT_ID];

pub(crate) struct Forward(reqwest::Client);

impl Forward {
    pub(crate) fn new(tls: rustls::ClientConfig) -> Result<Forward, Failure> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        client.map(Forward).map_err(|error| {
            Failure::new(ErrorCode::Crypto, format!("other coordinators cannot be asked: {error}"))
        })
    }
}

/// `bearer`: the token by which the leader is to know who asks.
pub(crate) async fn to_leader(
    shared: &Shared,
    question: &HttpRequest,
    bearer: &str,
    body: web::Bytes,
    leader: Option<LeaderAddress>,
) -> Result<HttpResponse, Refusal> {
    let Some(leader) = leader else { return Err(Refusal::unavailable("no coordinator leads at the moment")) };
    if question.headers().contains_key(GUARD_HEADER) {
        return Err(Refusal::unavailable(format!(
            "this coordinator does not lead any more, {} does",
            leader.name
        )));
    }
    let permit = question.path().ends_with("/events").then(|| shared.follower()).transpose()?;
    let asked = request(&shared.forward, question, bearer, body, &leader)?.send().await;
    let answer = asked.map_err(|error| lost(&leader, &error))?;
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = HttpResponse::build(status);
    for name in [CONTENT_TYPE, CACHE_CONTROL, RETRY_AFTER, LOCATION] {
        if let Some(value) = answer.headers().get(name.as_str()) {
            response.insert_header((name, value.as_bytes()));
        }
    }
    let stop = shared.stop.clone();
    let pieces = answer.bytes_stream().take_until(async move { stop.cancelled().await });
    Ok(response.streaming(pieces.inspect(move |_| {
        // The stream holds its place until its end.
        let _ = &permit;
    })))
}

fn request(
    Forward(client): &Forward,
    question: &HttpRequest,
    bearer: &str,
    body: web::Bytes,
    leader: &LeaderAddress,
) -> Result<reqwest::RequestBuilder, Refusal> {
    let path = question.uri().path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", leader.api.trim_end_matches('/'));
    let method = reqwest::Method::from_bytes(question.method().as_str().as_bytes())
        .map_err(|error| Refusal::malformed(error.to_string()))?;
    let value = |bytes: &[u8]| {
        reqwest::header::HeaderValue::from_bytes(bytes).map_err(|error| Refusal::malformed(error.to_string()))
    };
    let mut authorization = value(format!("Bearer {bearer}").as_bytes())?;
    authorization.set_sensitive(true);
    let request = client.request(method, url).header(GUARD_HEADER, "1");
    let mut request = request.header(AUTHORIZATION.as_str(), authorization).body(body);
    for name in OF_THE_QUESTION {
        if let Some(known) = question.headers().get(name) {
            request = request.header(name, value(known.as_bytes())?);
        }
    }
    Ok(request)
}

/// Nothing was done if the leader was not even reached; else nobody knows.
fn lost(leader: &LeaderAddress, error: &reqwest::Error) -> Refusal {
    tracing::debug!("the leader {} was not reached at {}: {error:?}", leader.name, leader.api);
    let message = format!("the leader, {}, does not answer", leader.name);
    if error.is_connect() {
        return Refusal::unavailable(message);
    }
    Refusal::new(StatusCode::BAD_GATEWAY, ErrorCode::HostConnect, message)
}
