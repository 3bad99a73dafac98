//! Which start of which server a session talks to: what must not change while a backup runs.

use crate::PostgresError;
use crate::clock::DatabaseTime;
use crate::connect::Client;
use crate::session::Session;
use crate::settings::system_id;
use crate::wal;
use pgconvoy_core::ids::SystemId;
use pgconvoy_core::pg::{PgVersion, TimelineId, WalSegmentName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Incarnation {
    pub(crate) system_id: SystemId,
    pub(crate) postmaster_start: DatabaseTime,
    pub(crate) timeline: TimelineId,
    /// Another process means a pooler or a reconnect, and the backup is gone with the first.
    pub(crate) backend_pid: i32,
}

impl Incarnation {
    /// Asks a primary. A server in recovery is an error: it was never a primary, or is none any more.
    pub(crate) async fn read(client: &Client) -> Result<Self, PostgresError> {
        read(client.session(), client.settings().version).await
    }

    /// The first thing that is no longer as it was.
    pub(crate) fn check_unchanged(&self, now: &Incarnation, place: &str) -> Result<(), PostgresError> {
        let changed = |what, before: String, now: String| {
            Err(PostgresError::Changed { place: place.to_owned(), what, before, now })
        };
        if self.system_id != now.system_id {
            return changed("system identifier", self.system_id.to_string(), now.system_id.to_string());
        }
        if self.postmaster_start != now.postmaster_start {
            let (before, now) = (self.postmaster_start.to_string(), now.postmaster_start.to_string());
            return changed("start time", before, now);
        }
        if self.timeline != now.timeline {
            return changed("timeline", self.timeline.to_string(), now.timeline.to_string());
        }
        if self.backend_pid != now.backend_pid {
            return changed("backend process", self.backend_pid.to_string(), now.backend_pid.to_string());
        }
        Ok(())
    }
}

async fn read(session: &Session, version: PgVersion) -> Result<Incarnation, PostgresError> {
    let names = wal::names(version);
    // A CASE, because the functions for WAL file names refuse to work in recovery. pg_control_system() reads the file.
    let sql = format!(
        "select (select system_identifier from pg_control_system()) as system_identifier, \
         (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8 as postmaster_start, \
         pg_backend_pid() as backend_pid, \
         case when pg_is_in_recovery() then null else {file}({insert}()) end as segment",
        file = names.file_name,
        insert = names.current_insert_lsn,
    );
    let row = session.row("tell its state", &sql, &[]).await?;
    if row.get::<Option<&str>>("segment")?.is_none() {
        return Err(PostgresError::InRecovery { place: session.place().to_owned() });
    }
    Ok(Incarnation {
        system_id: system_id(&row, "system_identifier")?,
        postmaster_start: DatabaseTime::from_microseconds(row.get("postmaster_start")?),
        timeline: row.parse::<WalSegmentName>("segment")?.timeline(),
        backend_pid: row.get("backend_pid")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;

    #[test]
    fn whatever_changes_is_named_with_both_values() {
        let before = Incarnation {
            system_id: SystemId(7),
            postmaster_start: DatabaseTime::from_microseconds(1_000_000),
            timeline: TimelineId(3),
            backend_pid: 100,
        };
        before.check_unchanged(&before.clone(), "db1").unwrap();
        for (now, message) in [
            (Incarnation { system_id: SystemId(8), ..before.clone() }, "system identifier was 7, is 8"),
            (
                Incarnation {
                    postmaster_start: DatabaseTime::from_microseconds(2_500_000),
                    ..before.clone()
                },
                "start time was 1.000000, is 2.500000",
            ),
            (Incarnation { timeline: TimelineId(4), ..before.clone() }, "timeline was 3, is 4"),
            (Incarnation { backend_pid: 101, ..before.clone() }, "backend process was 100, is 101"),
        ] {
            let error = before.check_unchanged(&now, "db1").unwrap_err().to_string();
            assert_eq!(error, format!("PostgreSQL at db1 has changed since the backup started: {message}"));
        }
    }
}
