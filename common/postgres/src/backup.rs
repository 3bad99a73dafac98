//! Keeps a backup session: from `pg_backup_start` to `pg_backup_stop` on one connection.
//!
//! It does not wait for WAL to be archived, copies nothing, and has no timer of its own: its keeper calls
//! [`BackupSession::ping`] now and then, and an order or the keeper's own deadline ends it.
//!
//! Invariants
//! 1. Between start and stop it is one backend of one start of one primary on one timeline, or `ping` and `stop` fail.
//! 2. Backups are non-exclusive: dropping the session, or dying, ends the backup in PostgreSQL and leaves no file behind.
//! 3. After a start there is a finished WAL segment (`archive_check_segment`) whose arrival shows that archiving works.
//!
//! Failure story: whatever fails here ends the attempt. A start that is dropped half-way is ended by PostgreSQL as soon as
//! its checkpoint is done and the closed socket is seen.

use crate::PostgresError;
use crate::clock::DatabaseTime;
use crate::connect::Client;
use crate::incarnation::Incarnation;
use crate::session::Answer;
use crate::wal;
use pgconvoy_core::pg::{Lsn, PgVersion, TimelineId, WalSegmentName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The redo position of the starting checkpoint: WAL is needed from here on.
    pub start_lsn: Lsn,
    /// The starting checkpoint's own record, or a later one's. A standby that replayed it can take part.
    pub checkpoint_lsn: Lsn,
    pub timeline: TimelineId,
    pub start_segment: WalSegmentName,
    /// Finished by the start; each repository must get it.
    pub archive_check_segment: WalSegmentName,
    pub start_time: DatabaseTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub stop_lsn: Lsn,
    pub timeline: TimelineId,
    /// The last segment that a restore needs.
    pub stop_segment: WalSegmentName,
    pub stop_time: DatabaseTime,
    /// To be stored as it is.
    pub backup_label: String,
    /// Empty without tablespaces. Never to be restored as it is: it names the original directories.
    pub tablespace_map: String,
}

#[derive(Debug)]
pub struct BackupSession {
    client: Client,
    incarnation: Incarnation,
    started: Started,
}

impl BackupSession {
    /// Starts a backup. Without `fast` PostgreSQL spreads the starting checkpoint over minutes.
    pub async fn start(client: Client, label: &str, fast: bool) -> Result<Self, PostgresError> {
        let incarnation = Incarnation::read(&client).await?;
        let before = client.current_insert_lsn().await?;
        let start_lsn = start_backup(&client, label, fast).await?;
        let start_time = client.database_clock().await?;

        let timeline = incarnation.timeline;
        let start_segment =
            WalSegmentName::containing(timeline, start_lsn, client.settings().wal_segment_size);
        if start_segment == before.segment {
            // The start found itself at the very beginning of a segment and had none to finish.
            client.force_switch().await?;
        }
        let started = Started {
            start_lsn,
            checkpoint_lsn: checkpoint_lsn(&client).await?,
            timeline,
            start_segment,
            archive_check_segment: before.segment,
            start_time,
        };
        let session = BackupSession { client, incarnation, started };
        session.ping().await?;
        Ok(session)
    }

    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The connection, for statements beside the backup: clock, databases, tablespaces.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Still the same primary? An error ends the attempt.
    pub async fn ping(&self) -> Result<(), PostgresError> {
        let now = Incarnation::read(&self.client).await?;
        self.incarnation.check_unchanged(&now, self.client.session().place())
    }

    /// Ends the backup without waiting for its WAL to be archived (9.6 always waits: see [`PostgresError::StopTimeout`]).
    pub async fn stop(self) -> Result<Stopped, PostgresError> {
        self.ping().await?;
        let row = stop_backup(&self.client).await?;
        let stop_lsn: Lsn = row.parse("lsn")?;
        let timeline = self.started.timeline;
        let stop_segment =
            WalSegmentName::last_before(timeline, stop_lsn, self.client.settings().wal_segment_size);
        Ok(Stopped {
            stop_lsn,
            timeline,
            stop_segment,
            stop_time: DatabaseTime::from_microseconds(row.get("stop_time")?),
            backup_label: row.get("labelfile")?,
            tablespace_map: row.get("spcmapfile")?,
        })
    }
}

async fn start_backup(client: &Client, label: &str, fast: bool) -> Result<Lsn, PostgresError> {
    let sql = if client.settings().version >= PgVersion::V15 {
        "select pg_backup_start($1, $2)::text as lsn"
    } else {
        "select pg_start_backup($1, $2, false)::text as lsn"
    };
    client.session().row("start a backup", sql, &[&label, &fast]).await?.parse("lsn")
}

async fn checkpoint_lsn(client: &Client) -> Result<Lsn, PostgresError> {
    let column = wal::names(client.settings().version).checkpoint_column;
    let sql = format!("select {column}::text as lsn from pg_control_checkpoint()");
    client.session().row("tell its last checkpoint", &sql, &[]).await?.parse("lsn")
}

async fn stop_backup(client: &Client) -> Result<Answer, PostgresError> {
    let version = client.settings().version;
    let call = if version >= PgVersion::V15 {
        "pg_backup_stop(false)"
    } else if version >= PgVersion::V10 {
        "pg_stop_backup(false, false)"
    } else {
        "pg_stop_backup(false)"
    };
    let sql = format!(
        "select lsn::text as lsn, labelfile, coalesce(spcmapfile, '') as spcmapfile, \
         (extract(epoch from clock_timestamp()) * 1000000)::int8 as stop_time from {call}"
    );
    client.session().row("stop the backup", &sql, &[]).await.map_err(|error| match error {
        PostgresError::Timeout { timeout, .. } if version < PgVersion::V10 => {
            PostgresError::StopTimeout { archive_command: client.settings().archive_command.clone(), timeout }
        }
        other => other,
    })
}
