//! What stores behind HTTP share: one way to a client, one reading of what goes wrong, and many deletes in one request ([`batch`]).
//!
//! Invariants
//! 1. Whom to trust is said once, in [`client_config`].
//! 2. No proxy and no redirect is followed: requests are signed for one host.
//! 3. An error tells of address and cause, never of a request's head or query, where signatures are.

pub mod batch;
mod trust;

pub use trust::client_config;
use trust::{HINT_TRUST, unusable};

use crate::{IoAction, Place, Shortage, StorageError};
use pgconvoy_core::config::StoreTls;
use std::error::Error;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the head of an answer, which comes after a body was sent over a line that may be slow, and between two pieces of it. Only a
/// backstop: the time-outs of a try and of a call are the retry policy's, which `io-timeout` makes.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Longer than the pauses between a worker's requests, shorter than servers keep quiet connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// What a server may ask for is bounded by the deadline anyway; this keeps arithmetic safe.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Where the store's own words are all that is known.
const HINT: &str = "the store does not take this request: check endpoint, uri-style and the names in the repository's section of the configuration, \
     and what stands between here and the store";

/// A client for one store. `store` is what errors call it.
pub fn client(tls: &StoreTls, store: &str) -> Result<reqwest::Client, StorageError> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config(tls, store)?)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build();
    client.map_err(|error| unusable(store, format!("no HTTP client: {error}")))
}

/// An answer that is no success, as far as HTTP alone tells. A store's own code says more: sort by that first.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    pub status: u16,
    /// The store's own word for it, `SlowDown`; empty where it has none.
    pub code: &'a str,
    pub message: &'a str,
    pub retry_after: Option<Duration>,
}

/// Sorts an answer by its status. What exists already and what is absent is the caller's to tell: 409 and 412 mean other things
/// too, and 404 is said by whatever else answers at an address.
pub fn refused(at: Place, action: IoAction, refusal: Refusal<'_>) -> StorageError {
    let Refusal { status, code, message, retry_after } = refusal;
    let said = match (code, message) {
        ("", "") => String::new(),
        ("", said) | (said, "") => format!(" ({said})"),
        (code, message) => format!(" ({code}: {message})"),
    };
    let reason = format!("it answered {status}{said}");
    match status {
        401 | 403 => StorageError::Access { at, action, reason },
        408 => StorageError::Timeout { at, reason },
        429 | 503 => StorageError::Throttled { at, reason, retry_after },
        507 => StorageError::Full { at, action, shortage: Shortage::Space },
        // Whatever it does not implement now it will not at the next try.
        501 => StorageError::NotSupported { at, reason },
        500.. => StorageError::Unavailable { at, reason },
        _ => StorageError::Refused { at, action, code: action.code(), reason, hint: HINT.to_owned() },
    }
}

/// `Retry-After` in seconds; dates are rare, and clocks differ.
pub fn retry_after(value: Option<&str>) -> Option<Duration> {
    let seconds = value?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// A request that got no answer, or none to its end: a server that is away, a name that is unknown, a certificate that
/// nobody vouches for.
pub fn unanswered(at: Place, action: IoAction, error: &(dyn Error + 'static)) -> StorageError {
    let reason = causes(error);
    if let Some(tls) = find::<rustls::Error>(error)
        && matches!(tls, rustls::Error::InvalidCertificate(_))
    {
        return StorageError::refused(at, action, reason, HINT_TRUST);
    }
    if find::<reqwest::Error>(error).is_some_and(reqwest::Error::is_timeout) {
        return StorageError::Timeout { at, reason };
    }
    StorageError::Unavailable { at, reason }
}

/// An error of this type among the causes, also where an I/O error carries it.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match carried {
            Some(carried) => Some(carried as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The chain of causes, each once. An error of reqwest would name the whole address, with its query: only its causes count.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let is_news = !words.iter().any(|known| known.contains(&text));
        if is_news && error.downcast_ref::<reqwest::Error>().is_none() {
            words.push(text);
        }
        next = error.source();
    }
    if words.is_empty() { "the request was not answered".to_owned() } else { words.join(": ") }
}

#[cfg(test)]
mod tests;
