//! Tells PostgreSQL from a connection pooler in front of it.
//!
//! A backup session lives in one backend. Behind a pooler two statements may reach two backends, and the backend lives on
//! when we are gone. No pooler passes on a startup packet as it is, because its backends are started before, or for
//! anybody. So ours carries a setting with a token of this session, and a session is ours only if
//! 1. the startup packet is accepted (PgBouncer refuses parameters that it does not know);
//! 2. the backend was started with the token (a pooler in session mode that was told to ignore parameters drops it);
//! 3. statements in transactions of their own meet one backend, and what one sets the next one sees (transaction mode).
//!
//! Every later ping compares the backend's process again.

use crate::PostgresError;
use crate::session::Session;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Statements that must meet one and the same backend. A pooler with idle servers hands out another one soon.
const PROBES: usize = 3;

static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// Unique among the sessions of a server, not secret. Letters, digits and `-`, so that it needs no quoting.
pub(crate) fn session_token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{number}", std::process::id(), now.as_nanos())
}

pub(crate) fn startup_option(token: &str) -> String {
    format!("-c pgconvoy.session={token}")
}

/// PgBouncer's words for a startup parameter that it does not pass on.
pub(crate) fn refused_startup(message: &str) -> bool {
    message.contains("unsupported startup parameter")
}

pub(crate) async fn refuse(session: &Session, token: &str) -> Result<(), PostgresError> {
    const WHAT: &str = "tell whether a pooler is between";
    let sql = "select pg_backend_pid(), current_setting('pgconvoy.session', true), current_setting('pgconvoy.probe', true)";
    let mut first_backend = None;
    for probe in 0..PROBES {
        let answer = session.simple_row(WHAT, sql).await?;
        let backend = judge(&answer, token, probe, first_backend.as_deref()).map_err(|evidence| {
            PostgresError::Pooler { place: session.place().to_owned(), evidence: evidence.to_owned() }
        })?;
        first_backend.get_or_insert(backend);
        let set = format!("select set_config('pgconvoy.probe', '{}', false)", probe_text(token, probe));
        session.simple_row(WHAT, &set).await?;
    }
    Ok(())
}

/// What a probe leaves in the session for the next one.
fn probe_text(token: &str, probe: usize) -> String {
    format!("{token}-{probe}")
}

/// The backend that answered a probe, or what gives the pooler away.
fn judge(
    answer: &[Option<String>],
    token: &str,
    probe: usize,
    first_backend: Option<&str>,
) -> Result<String, &'static str> {
    let [Some(backend), started_with, probed] = answer else {
        return Err("an answer has not the columns that were asked for");
    };
    if started_with.as_deref() != Some(token) {
        return Err("the backend was not started by our startup packet");
    }
    if first_backend.is_some_and(|first| first != backend) {
        return Err("two statements met two backends");
    }
    let left = probe.checked_sub(1).map(|earlier| probe_text(token, earlier));
    if probed.as_deref().filter(|text| !text.is_empty()) != left.as_deref() {
        return Err("a setting of the session was lost");
    }
    Ok(backend.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(backend: &str, started_with: Option<&str>, probed: Option<&str>) -> Vec<Option<String>> {
        [Some(backend), started_with, probed].map(|text| text.map(str::to_owned)).to_vec()
    }

    #[test]
    fn one_backend_that_keeps_its_settings_is_a_session_of_our_own() {
        assert_eq!(judge(&answer("7", Some("t"), None), "t", 0, None), Ok("7".into()));
        assert_eq!(judge(&answer("7", Some("t"), Some("t-0")), "t", 1, Some("7")), Ok("7".into()));
    }

    #[test]
    fn each_trait_of_a_pooler_gives_it_away() {
        let foreign = Err("the backend was not started by our startup packet");
        assert_eq!(judge(&answer("7", None, None), "t", 0, None), foreign);
        assert_eq!(judge(&answer("7", Some("other"), None), "t", 0, None), foreign);
        let two = Err("two statements met two backends");
        assert_eq!(judge(&answer("8", Some("t"), Some("t-0")), "t", 1, Some("7")), two);
        let lost = Err("a setting of the session was lost");
        assert_eq!(judge(&answer("7", Some("t"), None), "t", 1, Some("7")), lost);
        assert_eq!(judge(&answer("7", Some("t"), Some("t-0")), "t", 0, None), lost);
    }

    #[test]
    fn no_two_sessions_have_the_same_token() {
        assert_ne!(session_token(), session_token());
    }
}
