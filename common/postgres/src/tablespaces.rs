//! Asks a server again which tablespaces it has, where its directory shows others than it listed before. Blocks.
//!
//! `CREATE TABLESPACE` and `DROP TABLESPACE` change the directory before they commit, so for a moment it is ahead of
//! `pg_tablespace`: the question is repeated before the difference is believed to be damage.

use crate::PostgresError;
use crate::catalog::Tablespace;
use pgconvoy_core::ids::Oid;
use std::time::Duration;

/// `pg_tablespace` as it is now.
pub type AskTablespaces = dyn Fn() -> Result<Vec<Tablespace>, PostgresError> + Send + Sync;

/// A command that is not committed after the last of these waits for more than its own commit.
const ASKS_MAX: u32 = 3;
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// Whether a tablespace whose directory is gone was dropped. If not, its file system is gone, and its data with it.
pub fn is_dropped(ask: &AskTablespaces, oid: Oid) -> Result<bool, PostgresError> {
    let unlisted = |listed: Vec<Tablespace>| listed.iter().all(|one| one.oid != oid).then_some(());
    Ok(until(ask, unlisted)?.is_some())
}

/// The tablespace that a name in `pg_tblspc` is for; `None` if the server knows of none.
pub(crate) fn created(ask: &AskTablespaces, name: &str) -> Result<Option<Tablespace>, PostgresError> {
    until(ask, |listed| listed.into_iter().find(|one| one.oid.to_string() == name))
}

fn until<T>(
    ask: &AskTablespaces,
    wanted: impl Fn(Vec<Tablespace>) -> Option<T>,
) -> Result<Option<T>, PostgresError> {
    for asked in 0..ASKS_MAX {
        if asked > 0 {
            std::thread::sleep(ASK_PAUSE);
        }
        if let Some(found) = wanted(ask()?) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn fast() -> Tablespace {
        Tablespace { oid: Oid(16400), name: "fast".into(), location: "/fast".into() }
    }

    /// A server that lists one thing to the first questions and another to the last.
    fn changing(first: Vec<Tablespace>, last: Vec<Tablespace>) -> Box<AskTablespaces> {
        let asked = AtomicU32::new(0);
        Box::new(move || {
            let is_last = asked.fetch_add(1, Ordering::Relaxed) + 1 == ASKS_MAX;
            Ok(if is_last { last.clone() } else { first.clone() })
        })
    }

    #[test]
    fn a_drop_or_a_creation_that_commits_a_moment_later_is_believed() {
        assert!(is_dropped(&changing(vec![fast()], Vec::new()), fast().oid).unwrap());
        assert_eq!(created(&changing(Vec::new(), vec![fast()]), "16400").unwrap(), Some(fast()));
    }

    #[test]
    fn what_the_server_keeps_saying_is_taken_for_true() {
        assert!(!is_dropped(&changing(vec![fast()], vec![fast()]), fast().oid).unwrap());
        assert_eq!(created(&changing(Vec::new(), Vec::new()), "16400").unwrap(), None);
    }

    #[test]
    fn a_server_that_cannot_be_asked_has_dropped_nothing() {
        let gone = || Err(PostgresError::InRecovery { place: "db1".into() });
        is_dropped(&gone, fast().oid).unwrap_err();
    }
}
