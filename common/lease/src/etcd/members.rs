//! The members of the cluster, one connection to each, and how a call finds one that answers.
//!
//! All calls go to one member while it answers, since a cluster that works answers from any; after a failure the next
//! is tried. What may be sent again is for the caller to say, and what a failure proves for [`verdict`].
//!
//! Invariants
//! 1. A call that is not repeatable is sent again only if it is certain that nothing took place.
//! 2. No call lasts longer than [`CALL_TIMEOUT`], whatever the members do.
//! 3. A token that a member does not know any more costs one new login and is never seen by a caller.
//!
//! Failure story: one dead member of three costs a call nothing if its connection is known to be closed, else the
//! answer's time-out once. Without a quorum every call ends as `Unavailable` at its time-out; nothing is kept that would
//! have to be repaired when the quorum is back.

use super::backoff::Backoff;
use super::options::{EtcdLogin, EtcdOptions, unfit};
use super::verdict::{Verdict, verdict};
use crate::error::LeaseError;
use etcd_client::{Client, KvClient, LeaseClient, WatchClient};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// From the first try of a call to its end: two members that are silent, and one that answers.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// One member's answer to a read or a write. An election of etcd's takes one or two seconds, and a call that waits
/// through it is worth more than one whose outcome is not known.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// One member's answer about a lease: there must be time to ask another before a short TTL is over.
const LEASE_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A listing, or the changes of one moment. tonic's own 4 MiB are less than a large fleet's leases.
const RESPONSE_BYTES_MAX: usize = 256 << 20;

/// How a call is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Whether doing it twice is the same as doing it once.
    repeatable: bool,
    answer: Duration,
    /// Every member is asked once, and no more.
    one_round: bool,
}

pub(super) const READ: Manner = Manner { repeatable: true, answer: ANSWER_TIMEOUT, one_round: false };
pub(super) const WRITE: Manner = Manner { repeatable: false, answer: ANSWER_TIMEOUT, one_round: false };
/// Grants (a lost one holds nothing and runs out), keep-alives and revocations.
pub(super) const LEASE: Manner = Manner { repeatable: true, answer: LEASE_ANSWER_TIMEOUT, one_round: false };
/// Whoever starts a process with a wrong endpoint wants to know soon.
pub(super) const FIRST: Manner = Manner { repeatable: true, answer: ANSWER_TIMEOUT, one_round: true };

/// The services of one member. Cheap to clone.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) watch: WatchClient,
}

struct Member {
    url: String,
    services: Services,
    client: Client,
    login: Option<EtcdLogin>,
    /// Counts the logins, so that of many calls that find the token refused one asks for the next.
    logins: Mutex<u64>,
}

impl Member {
    async fn new(url: String, options: &EtcdOptions) -> Result<Member, LeaseError> {
        // Without the login here the client is made at once; with it, it would have to reach a member that may be down.
        let client = Client::connect([&url], Some(options.connect_options()?)).await;
        let client = client.map_err(|error| unfit(&error))?;
        let services = Services {
            kv: client.kv_client().max_decoding_message_size(RESPONSE_BYTES_MAX),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(RESPONSE_BYTES_MAX),
        };
        Ok(Member { url, services, client, login: options.login.clone(), logins: Mutex::new(0) })
    }

    /// Sends the call, after a login where none holds.
    async fn ask<T, F, A>(&self, call: &F) -> Result<T, Verdict>
    where
        F: Fn(Services) -> A,
        A: Future<Output = Result<T, etcd_client::Error>>,
    {
        let login = self.log_in(0).await?;
        match call(self.services.clone()).await.map_err(|error| verdict(&error)) {
            Err(Verdict::TokenRefused(reason)) if self.login.is_none() => Err(Verdict::Denied(reason)),
            Err(Verdict::TokenRefused(_)) => {
                self.log_in(login).await?;
                call(self.services.clone()).await.map_err(|error| match verdict(&error) {
                    Verdict::TokenRefused(reason) => Verdict::NotDone(reason),
                    other => other,
                })
            }
            answer => answer,
        }
    }

    /// Makes sure that there was a login after that with number `stale`.
    async fn log_in(&self, stale: u64) -> Result<u64, Verdict> {
        let Some(EtcdLogin { user, password }) = &self.login else { return Ok(0) };
        let mut logins = self.logins.lock().await;
        if *logins <= stale {
            let login = Some((user.clone(), password.clone()));
            self.client.clone().update_user(login).await.map_err(|error| match verdict(&error) {
                // The call itself was not sent.
                Verdict::Unknown(reason) | Verdict::TokenRefused(reason) => Verdict::NotDone(reason),
                other => other,
            })?;
            *logins += 1;
        }
        Ok(*logins)
    }
}

pub(super) struct Members {
    members: Vec<Member>,
    /// The member that answered last.
    preferred: AtomicUsize,
}

impl Members {
    pub(super) async fn new(options: &EtcdOptions) -> Result<Members, LeaseError> {
        let mut members = Vec::new();
        for url in options.urls()? {
            members.push(Member::new(url, options).await?);
        }
        Ok(Members { members, preferred: AtomicUsize::new(0) })
    }

    /// Makes a call, at as many members as it takes and as its manner allows.
    pub(super) async fn call<T, F, A>(&self, manner: Manner, call: F) -> Result<T, Verdict>
    where
        F: Fn(Services) -> A,
        A: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut backoff = Backoff::default();
        let mut failures = Failures::default();
        loop {
            for _ in 0..self.members.len() {
                let left = deadline.saturating_duration_since(Instant::now());
                let index = self.preferred.load(Ordering::Relaxed);
                let member = &self.members[index];
                let verdict = match timeout(left.min(manner.answer), member.ask(&call)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(verdict)) => verdict,
                    Err(_) => Verdict::Unknown(format!("no answer within {} s", manner.answer.as_secs())),
                };
                let may_repeat = match &verdict {
                    Verdict::NotDone(_) => true,
                    Verdict::Unknown(_) => manner.repeatable,
                    _ => return Err(verdict),
                };
                self.pass_over(index);
                failures.note(member, verdict);
                if !may_repeat || Instant::now() >= deadline {
                    return Err(failures.verdict());
                }
            }
            let wait = backoff.next();
            if manner.one_round || Instant::now() + wait >= deadline {
                return Err(failures.verdict());
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Prefers the next member, unless somebody else has moved on already.
    fn pass_over(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        // Lost the race: another call has chosen.
        let _ = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The last failure of each member, for the one line that an operator reads.
#[derive(Default)]
struct Failures {
    reasons: BTreeMap<String, String>,
    unknown: bool,
}

impl Failures {
    fn note(&mut self, member: &Member, verdict: Verdict) {
        let reason = match verdict {
            Verdict::NotDone(reason) => reason,
            Verdict::Unknown(reason) => {
                self.unknown = true;
                reason
            }
            other => other.error().to_string(),
        };
        tracing::debug!(member = %member.url, %reason, "etcd did not carry out a call");
        self.reasons.insert(member.url.clone(), reason);
    }

    fn verdict(self) -> Verdict {
        let lines: Vec<String> =
            self.reasons.into_iter().map(|(url, reason)| format!("{url}: {reason}")).collect();
        let reason = lines.join("; ");
        if self.unknown { Verdict::Unknown(reason) } else { Verdict::NotDone(reason) }
    }
}
