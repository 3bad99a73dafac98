//! Who bears a token. Asked at every request, so that the store is asked now and then only.
//!
//! Invariants
//! 1. A token that was revoked opens nothing [`FRESH_FOR`] later, or [`STALE_FOR`] later while the store does not answer.
//! 2. However many requests come, the store is asked by one of them at a time, and at most once in [`LIST_INTERVAL`].
//! 3. A store that does not answer holds up one request in [`RETRY_INTERVAL`], for [`LIST_TIMEOUT`], and those that come meanwhile.

use super::{TokenRecord, TokenRole, list, parts};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_lease::{FleetKeys, LeaseStore};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a list of tokens is believed: a revocation takes effect within it.
const FRESH_FOR: Duration = Duration::from_secs(3);
/// How long an old list is believed while the store does not answer: about as long as etcd takes to elect a leader, so that
/// nobody is locked out by that.
const STALE_FOR: Duration = Duration::from_secs(15);
/// A token that is not in the list may be newer than the list. Whoever comes with one waits for the next
/// list; whoever invents tokens makes the store list no more often.
const LIST_INTERVAL: Duration = Duration::from_millis(250);
/// Everybody waits for whoever asks the store. A healthy one answers within milliseconds.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Before a store that did not answer is asked again, so that not every request waits for it.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub name: String,
    pub role: TokenRole,
}

/// Why nobody is known to ask.
#[derive(Debug)]
pub enum Refused {
    /// The text is no token.
    NotAToken,
    /// No such token, or its secret is another; with its id, which is no secret.
    Unknown(String),
    /// The store does not answer, and what is known of it is too old.
    CannotTell(Failure),
}

#[derive(Default)]
struct Known {
    tokens: BTreeMap<String, TokenRecord>,
    /// When the list that is known was asked for.
    as_of: Option<Instant>,
    /// The store is not asked before.
    not_before: Option<Instant>,
}

impl Known {
    fn age(&self) -> Duration {
        self.as_of.map_or(Duration::MAX, |as_of| as_of.elapsed())
    }
}

/// The tokens of a fleet.
pub struct Tokens {
    leases: Arc<dyn LeaseStore>,
    keys: FleetKeys,
    known: Mutex<Known>,
}

impl Tokens {
    pub fn new(leases: Arc<dyn LeaseStore>, keys: FleetKeys) -> Arc<Tokens> {
        Arc::new(Tokens { leases, keys, known: Mutex::default() })
    }

    pub async fn bearer(&self, text: &str) -> Result<Bearer, Refused> {
        let (id, secret) = parts(text).ok_or(Refused::NotAToken)?;
        let mut known = self.known.lock().await;
        if let Some(moment) = known.not_before.filter(|_| !known.tokens.contains_key(id)) {
            drop(known);
            tokio::time::sleep_until(moment).await;
            known = self.known.lock().await;
        }
        if known.age() >= FRESH_FOR || !known.tokens.contains_key(id) {
            self.refresh(&mut known).await;
        }
        if known.age() >= STALE_FOR {
            let failure = Failure::new(
                ErrorCode::HostConnect,
                "the lease store, which knows the tokens, does not answer",
            );
            return Err(Refused::CannotTell(failure.retryable()));
        }
        match known.tokens.get(id) {
            Some(token) if token.opens_with(secret) => {
                Ok(Bearer { name: token.name.clone(), role: token.role })
            }
            _ => Err(Refused::Unknown(id.to_owned())),
        }
    }

    async fn refresh(&self, known: &mut Known) {
        let asked = Instant::now();
        if known.not_before.is_some_and(|not_before| asked < not_before) {
            return;
        }
        let listing = list(self.leases.as_ref(), &self.keys);
        match tokio::time::timeout(LIST_TIMEOUT, listing).await {
            Ok(Ok(tokens)) => {
                let not_before = Some(asked + LIST_INTERVAL);
                *known = Known { tokens: tokens.into_iter().collect(), as_of: Some(asked), not_before };
            }
            failed => {
                known.not_before = Some(Instant::now() + RETRY_INTERVAL);
                let why = failed.map_or_else(
                    |_| "it is too slow".to_owned(),
                    |answer| answer.err().map(|error| error.to_string()).unwrap_or_default(),
                );
                tracing::warn!("the tokens known so far are used: {why}");
            }
        }
    }
}
