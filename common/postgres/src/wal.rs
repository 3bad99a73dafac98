//! Where the WAL stands, and how it is moved on to the next segment. Version 9.6 has other names for the same functions.

use crate::PostgresError;
use crate::connect::Client;
use pgconvoy_core::pg::{Lsn, PgVersion, TimelineId, WalSegmentName};
use std::time::Duration;

pub(crate) struct WalNames {
    pub(crate) current_insert_lsn: &'static str,
    pub(crate) file_name: &'static str,
    pub(crate) switch: &'static str,
    /// The column of `pg_control_checkpoint()` with the position of the checkpoint record itself.
    pub(crate) checkpoint_column: &'static str,
}

pub(crate) fn names(version: PgVersion) -> WalNames {
    if version >= PgVersion::V10 {
        WalNames {
            current_insert_lsn: "pg_current_wal_insert_lsn",
            file_name: "pg_walfile_name",
            switch: "pg_switch_wal",
            checkpoint_column: "checkpoint_lsn",
        }
    } else {
        WalNames {
            current_insert_lsn: "pg_current_xlog_insert_location",
            file_name: "pg_xlogfile_name",
            switch: "pg_switch_xlog",
            checkpoint_column: "checkpoint_location",
        }
    }
}

/// Where the next WAL record will go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InsertPosition {
    pub timeline: TimelineId,
    pub lsn: Lsn,
    pub segment: WalSegmentName,
}

/// A segment with nothing in it is not switched; a restore point puts something in.
const RESTORE_POINT: &str = "pgconvoy archive check";

impl Client {
    /// The insert position of a primary.
    pub async fn current_insert_lsn(&self) -> Result<InsertPosition, PostgresError> {
        let names = names(self.settings().version);
        // The file's name tells the timeline only: on a segment boundary versions disagree which file it is.
        let sql = format!(
            "select l::text as lsn, {}(l) as file from {}() l",
            names.file_name, names.current_insert_lsn
        );
        let row = self.session().row("tell its WAL position", &sql, &[]).await?;
        let timeline = row.parse::<WalSegmentName>("file")?.timeline();
        let lsn: Lsn = row.parse("lsn")?;
        let segment = WalSegmentName::containing(timeline, lsn, self.settings().wal_segment_size);
        Ok(InsertPosition { timeline, lsn, segment })
    }

    /// Whether the archiver succeeded with anything in the last `span`: one that is behind is not broken.
    pub async fn has_archived_within(&self, span: Duration) -> Result<bool, PostgresError> {
        let sql = "select coalesce(last_archived_time > now() - $1 * interval '1 second', false) as lately \
                   from pg_stat_archiver";
        let seconds = span.as_secs_f64();
        self.session().row("tell how archiving goes", sql, &[&seconds]).await?.get("lately")
    }

    /// Ends the current WAL segment, so that PostgreSQL archives it, and names it.
    pub async fn force_switch(&self) -> Result<WalSegmentName, PostgresError> {
        let names = names(self.settings().version);
        self.session()
            .row("create a restore point", "select pg_create_restore_point($1)::text", &[&RESTORE_POINT])
            .await?;
        let sql = format!("select l::text as lsn, {}(l) as file from {}() l", names.file_name, names.switch);
        let row = self.session().row("switch its WAL segment", &sql, &[]).await?;
        let timeline = row.parse::<WalSegmentName>("file")?.timeline();
        // What comes back is the end of the switch record: with a little bad luck, the start of the next segment.
        Ok(WalSegmentName::last_before(timeline, row.parse("lsn")?, self.settings().wal_segment_size))
    }
}
