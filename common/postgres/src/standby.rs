//! A standby as a source of a backup whose session is with its primary: when it may be read, and whether it still is what it was.
//!
//! A backup begins with a checkpoint: what was changed before it is on the primary's disk, what is changed after it is in the
//! WAL that a restore replays. On a standby the first half holds when it has replayed that checkpoint's record and has made a
//! restart point of it; the second half holds by itself, since all that it changes comes from that same WAL.
//!
//! Bytes of a standby that was promoted, or made anew, look like any others. So whoever read some asks afterwards whether the
//! server is still the one that was proved: in recovery, by the same start of its postmaster, on the same timeline.

use crate::PostgresError;
use crate::clock::DatabaseTime;
use crate::connect::Client;
use crate::settings::system_id;
use pgconvoy_core::ids::SystemId;
use pgconvoy_core::pg::{Lsn, PgVersion, TimelineId};
use pgconvoy_core::wire::{Incarnation, StandbyTerms};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What a server in recovery tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    system_id: SystemId,
    postmaster_start: DatabaseTime,
    in_recovery: bool,
    is_paused: bool,
    replayed: Lsn,
    /// Of its last restart point.
    redo: Lsn,
    timeline: TimelineId,
    /// Of its minimal recovery point, and of what it receives; nothing where there is none, or nothing may be seen.
    others: [Option<TimelineId>; 2],
}

impl Client {
    /// Waits until the standby may be read on these terms. `Err` after `patience`.
    pub async fn become_source(
        &self,
        terms: &StandbyTerms,
        patience: Duration,
    ) -> Result<Incarnation, PostgresError> {
        let begin = Instant::now();
        loop {
            let state = self.standby_state().await?;
            self.judge_standby(&state, terms)?;
            if state.replayed > terms.checkpoint {
                if state.redo >= terms.start {
                    if state.timeline != terms.timeline {
                        return Err(self.changed("timeline", terms.timeline, state.timeline));
                    }
                    return Ok(Incarnation {
                        started_us: state.postmaster_start.microseconds(),
                        timeline: state.timeline,
                    });
                }
                self.session().rows("make a restart point", "checkpoint", &[]).await?;
            }
            if begin.elapsed() >= patience {
                return Err(PostgresError::StandbyBehind {
                    place: self.settings().place.clone(),
                    replayed: state.replayed,
                    wanted: terms.checkpoint,
                    is_paused: state.is_paused,
                    waited: patience,
                });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether what was read from it up to now is what these terms promise.
    pub async fn confirm_standby(
        &self,
        terms: &StandbyTerms,
        incarnation: &Incarnation,
    ) -> Result<(), PostgresError> {
        let state = self.standby_state().await?;
        self.judge_standby(&state, terms)?;
        let proved = DatabaseTime::from_microseconds(incarnation.started_us);
        if state.postmaster_start != proved {
            return Err(self.changed("start time", proved, state.postmaster_start));
        }
        if state.timeline != incarnation.timeline {
            return Err(self.changed("timeline", incarnation.timeline, state.timeline));
        }
        Ok(())
    }

    fn judge_standby(&self, state: &State, terms: &StandbyTerms) -> Result<(), PostgresError> {
        if state.system_id != terms.system_id {
            return Err(self.changed("system identifier", terms.system_id, state.system_id));
        }
        if !state.in_recovery {
            return Err(PostgresError::NotInRecovery { place: self.settings().place.clone() });
        }
        match state.others.iter().flatten().find(|other| **other > terms.timeline) {
            Some(other) => Err(self.changed("timeline", terms.timeline, *other)),
            None => Ok(()),
        }
    }

    fn changed(&self, what: &'static str, before: impl ToString, now: impl ToString) -> PostgresError {
        let place = self.settings().place.clone();
        PostgresError::Changed { place, what, before: before.to_string(), now: now.to_string() }
    }

    async fn standby_state(&self) -> Result<State, PostgresError> {
        let row = self.session().row("tell its state", &sql(self.settings().version), &[]).await?;
        let timeline = |column| -> Result<Option<TimelineId>, PostgresError> {
            let number: Option<i64> = row.get(column)?;
            let known = number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
            Ok(known.map(TimelineId))
        };
        let last = timeline("timeline")?;
        Ok(State {
            system_id: system_id(&row, "system_identifier")?,
            postmaster_start: DatabaseTime::from_microseconds(row.get("postmaster_start")?),
            in_recovery: row.get("in_recovery")?,
            is_paused: row.get("paused")?,
            replayed: row.parse("replayed")?,
            redo: row.parse("redo")?,
            timeline: last.ok_or_else(|| row.refuse("0", &"it is no timeline"))?,
            others: [timeline("recovery_timeline")?, timeline("received_timeline")?],
        })
    }
}

/// A CASE, because the function refuses to work outside of recovery.
fn sql(version: PgVersion) -> String {
    let (replayed, paused, redo) = if version >= PgVersion::V10 {
        ("pg_last_wal_replay_lsn", "pg_is_wal_replay_paused", "redo_lsn")
    } else {
        ("pg_last_xlog_replay_location", "pg_is_xlog_replay_paused", "redo_location")
    };
    format!(
        "select (select system_identifier from pg_control_system()) as system_identifier, \
         (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8 as postmaster_start, \
         pg_is_in_recovery() as in_recovery, \
         case when pg_is_in_recovery() then {paused}() else false end as paused, \
         coalesce({replayed}(), '0/0')::text as replayed, \
         c.{redo}::text as redo, c.timeline_id::int8 as timeline, \
         (select min_recovery_end_timeline::int8 from pg_control_recovery()) as recovery_timeline, \
         (select received_tli::int8 from pg_stat_wal_receiver limit 1) as received_timeline \
         from pg_control_checkpoint() c"
    )
}
