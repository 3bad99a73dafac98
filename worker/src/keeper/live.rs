//! The session with a running primary, shared by all who ask it: the keeper, its watch, and slots that miss a tablespace.
//!
//! Invariants
//! 1. Whoever takes the session out ends it; all others then find nothing.
//! 2. Only the keeper keeps it alive: units that outlive their job do not hold a backup open.

use super::Reached;
use crate::outbox::Reporter;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::ReportBody;
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::catalog::Tablespace;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::tablespaces::AskTablespaces;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How often the server is asked whether it is still the same primary.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// A server that is slower is lost: it answers this question from memory.
const PING_TIMEOUT: Duration = Duration::from_secs(60);

/// One segment takes seconds; an archiver that brought none in this time brings none.
const ARCHIVED_LATELY: Duration = Duration::from_secs(120);

pub(super) struct LiveSession {
    place: String,
    session: Mutex<Option<BackupSession>>,
}

/// Whom a lost session is told to.
pub(super) struct Watcher {
    pub(super) reporter: Reporter,
    pub(super) reached: Arc<Reached>,
}

/// An open session, and the task that watches it for as long as this lives.
pub(super) struct Online {
    pub(super) live: Arc<LiveSession>,
    _watch: AbortOnDropHandle<()>,
}

impl Online {
    pub(super) fn new(session: BackupSession, watcher: Watcher, runtime: &Handle) -> Self {
        let place = session.client().settings().place.clone();
        let live = Arc::new(LiveSession { place: place.clone(), session: Mutex::new(Some(session)) });
        let watched = live.clone();
        let watching = runtime.spawn(async move {
            if let Some(failure) = watch(&place, || watched.ping()).await {
                watcher.reached.session.store(false, Ordering::Release);
                // Nobody there: the next hello tells that there is no session.
                let _ = watcher.reporter.send(ReportBody::SessionLost(failure)).await;
            }
        });
        Online { live, _watch: AbortOnDropHandle::new(watching) }
    }
}

impl LiveSession {
    /// `false` when the session was ended.
    async fn ping(&self) -> Result<bool, PostgresError> {
        match self.session.lock().await.as_ref() {
            Some(session) => session.ping().await.map(|()| true),
            None => Ok(false),
        }
    }

    pub(super) async fn tablespaces(&self) -> Result<Vec<Tablespace>, PostgresError> {
        match self.session.lock().await.as_ref() {
            Some(session) => session.client().tablespaces().await,
            None => Err(ended(self.place.clone())),
        }
    }

    pub(super) async fn next_second(&self) -> Result<Timestamp, PostgresError> {
        match self.session.lock().await.as_ref() {
            Some(session) => Ok(Timestamp(session.client().wait_next_second().await?.milliseconds())),
            None => Err(ended(self.place.clone())),
        }
    }

    /// Whether the server archived anything not long ago; `false` where it cannot be asked.
    pub(super) async fn archiver_works(&self) -> bool {
        let asking = async {
            match self.session.lock().await.as_ref() {
                Some(session) => session.client().has_archived_within(ARCHIVED_LATELY).await.unwrap_or(false),
                None => false,
            }
        };
        timeout(PING_TIMEOUT, asking).await.unwrap_or(false)
    }

    /// Waits for whoever is asking it something: a ping for [`PING_TIMEOUT`] at most.
    pub(super) async fn take(&self) -> Option<BackupSession> {
        self.session.lock().await.take()
    }
}

/// For blocking threads.
pub(super) fn ask_tablespaces(live: &Arc<LiveSession>, runtime: Handle) -> Arc<AskTablespaces> {
    let (live, place) = (Arc::downgrade(live), live.place.clone());
    Arc::new(move || match live.upgrade() {
        Some(live) => runtime.block_on(live.tablespaces()),
        None => Err(ended(place.clone())),
    })
}

/// As [`ask_tablespaces`], without a session.
pub(super) fn ask_client(client: Arc<Client>, runtime: Handle) -> Arc<AskTablespaces> {
    Arc::new(move || runtime.block_on(client.tablespaces()))
}

fn ended(place: String) -> PostgresError {
    PostgresError::Lost { place, what: "list its tablespaces", reason: "the backup was ended".into() }
}

/// Asks again and again, one question at a time, until the session is ended (`None`) or lost.
pub(super) async fn watch<P>(place: &str, ping: impl Fn() -> P) -> Option<Failure>
where
    P: Future<Output = Result<bool, PostgresError>>,
{
    let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(PING_TIMEOUT, ping()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return None,
            Ok(Err(error)) => return Some(error.into()),
            Err(_) => {
                let place = place.to_owned();
                let silent = PostgresError::Timeout { place, what: "tell its state", timeout: PING_TIMEOUT };
                return Some(silent.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use std::cell::Cell;
    use std::future::pending;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_a_ping_is_lost_after_a_minute() {
        let began = Instant::now();
        let failure = watch("db1", pending).await.unwrap();
        assert_eq!(failure.code.number(), 57, "{failure}");
        assert_eq!(failure.message, "PostgreSQL at db1 did not tell its state within 60 s");
        assert_eq!(began.elapsed(), PING_INTERVAL + PING_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_is_never_asked_twice_at_once() {
        let (asked, asking) = (Cell::new(0), Cell::new(false));
        let failure = watch("db1", || async {
            assert!(!asking.replace(true));
            tokio::time::sleep(2 * PING_INTERVAL).await;
            asking.set(false);
            asked.set(asked.get() + 1);
            let lost = PostgresError::InRecovery { place: "db1".into() };
            if asked.get() < 3 { Ok(true) } else { Err(lost) }
        });
        assert_eq!(failure.await.unwrap().code.number(), 58);
        assert_eq!(asked.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_was_ended_is_not_lost() {
        assert_eq!(watch("db1", || async { Ok(false) }).await, None);
    }
}
