//! Asks the coordinators of a fleet over HTTPS: any of them, the next one if one is away.
//!
//! Invariants
//! 1. What may have been done is never asked for a second time: after a connection was there, only reading is repeated, or what
//!    was refused with the word that nothing was done (`Retry-After`).
//!
//! Failure story: a fleet that changes its leader answers "not now" for some seconds; that is waited for.

use crate::fleet::follow::Events;
use pgconvoy_core::config::FleetConfig;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_transport::pki::{Revoked, TrustedAuthority};
use pgconvoy_transport::tls::https_client_config;
use pgconvoy_transport::{Admission, Role};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// A coordinator that is there answers sooner, however far away it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two pieces of an answer. Streams of events say something every ten seconds.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a fleet may be without a leader before that is an error: a change takes at most fifteen seconds.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);
const PAUSE_BETWEEN_TRIES: Duration = Duration::from_millis(500);

pub struct Client {
    http: reqwest::Client,
    endpoints: Vec<String>,
    authorization: HeaderValue,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
}

/// Why one coordinator gave no answer.
enum Unanswered {
    /// Nothing was done: another one may be asked.
    Undone(Failure),
    /// It may have been done.
    Unknown(Failure),
    /// This is the answer.
    Refused(Failure),
}

impl Client {
    /// For the fleet of the configuration.
    pub fn new(fleet: Option<&FleetConfig>) -> Result<Client, Failure> {
        let missing = |what: &str| {
            Failure::new(ErrorCode::OptionRequired, format!("[fleet] {what} is needed to ask a coordinator"))
        };
        let fleet = fleet.filter(|fleet| !fleet.api.is_empty()).ok_or_else(|| {
            missing("api").hint("set it to the addresses of the coordinators, such as https://coord1:7433")
        })?;
        if let Some(plain) = fleet.api.iter().find(|url| !url.starts_with("https://")) {
            let message = format!("[fleet] api: '{plain}' is not an https URL");
            return Err(Failure::new(ErrorCode::OptionInvalidValue, message));
        }
        let ca_file = fleet.ca_file.as_ref().ok_or_else(|| missing("ca-file"))?;
        let authority = TrustedAuthority::from_pem(&read("ca-file", ca_file)?)?;
        let token_file = fleet
            .token_file
            .as_ref()
            .ok_or_else(|| missing("token-file").hint("pgconvoy token create makes a token"))?;
        let token = Zeroizing::new(read("token-file", token_file)?);
        let bearer = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut authorization = HeaderValue::from_str(&bearer).map_err(|_| {
            Failure::new(ErrorCode::FileInvalid, format!("token-file {token_file} does not hold a token"))
        })?;
        authorization.set_sensitive(true);
        let tls = https_client_config(&authority, Admission::of([Role::Coordinator]), &Revoked::default());
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            // The environment is read in one place only, and not for this.
            .no_proxy()
            .build()
            .map_err(|error| Failure::new(ErrorCode::Crypto, causes("no client can be made", &error)))?;
        let endpoints = fleet.api.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Client { http, endpoints, authorization, preferred: AtomicUsize::new(0) })
    }

    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        body(self.ask(Method::GET, path, None, None).await?).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self::body(self.ask(Method::POST, path, Some(body), None).await?).await
    }

    /// The events of a job, from the one after `last_event`.
    pub async fn events(&self, id: &str, last_event: Option<&str>) -> Result<Events, Failure> {
        let path = format!("jobs/{}/events", segment(id));
        Ok(Events::new(self.ask(Method::GET, &path, None, last_event).await?))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        last_event: Option<&str>,
    ) -> Result<Response, Failure> {
        let begin = Instant::now();
        loop {
            let mut last = None;
            let mut is_leaderless = false;
            let first = self.preferred.load(Ordering::Relaxed);
            for turn in 0..self.endpoints.len() {
                let number = (first + turn) % self.endpoints.len();
                match self.ask_one(&self.endpoints[number], &method, path, body, last_event).await {
                    Ok(response) => {
                        self.preferred.store(number, Ordering::Relaxed);
                        return Ok(response);
                    }
                    Err(Unanswered::Refused(failure)) => return Err(failure),
                    Err(Unanswered::Unknown(failure)) if method != Method::GET => return Err(failure),
                    Err(Unanswered::Unknown(failure)) => last = Some(failure),
                    Err(Unanswered::Undone(failure)) => {
                        is_leaderless |= failure.retry == pgconvoy_core::failure::Retry::MayHelp;
                        last = Some(failure);
                    }
                }
            }
            if !is_leaderless || begin.elapsed() > LEADER_PATIENCE {
                let unreachable = || Failure::new(ErrorCode::HostConnect, "no coordinator can be reached");
                return Err(last.unwrap_or_else(unreachable));
            }
            tokio::time::sleep(PAUSE_BETWEEN_TRIES).await;
        }
    }

    async fn ask_one(
        &self,
        endpoint: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        last_event: Option<&str>,
    ) -> Result<Response, Unanswered> {
        let url = format!("{endpoint}/api/v1/{path}");
        let mut request = self.http.request(method.clone(), url);
        request = request.header(AUTHORIZATION, self.authorization.clone());
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.to_string());
        }
        if let Some(last_event) = last_event {
            request = request.header("last-event-id", last_event);
        }
        let response = request.send().await.map_err(|error| {
            let message = causes(&format!("coordinator {endpoint} does not answer"), &error);
            let failure = Failure::new(ErrorCode::HostConnect, message);
            match error.is_connect() {
                true => Unanswered::Undone(failure),
                false => Unanswered::Unknown(
                    failure.hint("nobody knows whether it was done: pgconvoy job list shows the jobs"),
                ),
            }
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let may_be_repeated = response.headers().contains_key(RETRY_AFTER);
        let failure = refusal(response).await;
        Err(if may_be_repeated {
            Unanswered::Undone(failure.retryable())
        } else {
            Unanswered::Refused(failure)
        })
    }
}

/// A name as a part of a path.
pub fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn read(setting: &str, path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::new(ErrorCode::FileOpen, format!("cannot read [fleet] {setting} {path}: {error}"))
    })
}

async fn body(response: Response) -> Result<Value, Failure> {
    let bytes = response.bytes().await;
    let bytes = bytes.map_err(|error| {
        Failure::new(ErrorCode::HostConnect, causes("the coordinator's answer broke off", &error))
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Failure::new(ErrorCode::Protocol, format!("the coordinator's answer is not understood: {error}"))
    })
}

async fn refusal(response: Response) -> Failure {
    let status = response.status();
    let told = body(response).await.unwrap_or_default();
    failure_of(&told["error"]).unwrap_or_else(|| {
        let code = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorCode::Access,
            _ => ErrorCode::Protocol,
        };
        Failure::new(code, format!("the coordinator answered {status}"))
    })
}

/// An error as the API and jobs tell it; `None` where there is none.
pub fn failure_of(error: &Value) -> Option<Failure> {
    let number = error["code"].as_u64()?;
    let code = ErrorCode::ALL.iter().find(|code| u64::from(code.number()) == number);
    let message = error["message"].as_str().unwrap_or("no reason was given");
    let failure = Failure::new(code.copied().unwrap_or(ErrorCode::Unknown), message);
    let hints = error["hints"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Some(hints.fold(failure, Failure::hint))
}

/// An error with all that caused it: what `reqwest` says by itself hides why.
pub fn causes(what: &str, error: &reqwest::Error) -> String {
    let mut text = what.to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.source().is_none() {
            text = format!("{text}: {inner}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_error_of_the_api_is_the_failure_that_it_was() {
        let error = json!({"code": 31, "message": "invalid option", "hints": ["did you mean 'x'?"]});
        let expected = Failure::new(ErrorCode::OptionInvalid, "invalid option").hint("did you mean 'x'?");
        assert_eq!(failure_of(&error), Some(expected));
        assert_eq!(failure_of(&Value::Null), None);
        assert_eq!(failure_of(&json!({"code": 999})).map(|failure| failure.code), Some(ErrorCode::Unknown));
    }

    #[test]
    fn a_name_stays_a_part_of_the_path() {
        assert_eq!(segment("../../audit?x"), "..%2F..%2Faudit%3Fx");
        assert_eq!(segment("db-1.a"), "db-1.a");
    }
}
