//! Where a stream begins: with the segment that the slot keeps, or with the current one where there is no use in that.

use super::Stream;
use crate::archive::ClusterIdentity;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::{Lsn, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgconvoy_core::units::ByteCount;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::replication::{Identified, Replication};
use pgconvoy_postgres::slots::Slot;

/// WAL is on its way.
pub(super) struct Begun {
    pub(super) replication: Replication,
    pub(super) timeline: TimelineId,
    pub(super) begin: Lsn,
    pub(super) segment_size: WalSegmentSize,
}

impl Stream {
    /// `None`: the server is no primary now.
    pub(super) async fn begin(&self) -> Result<Option<Begun>, Failure> {
        let client = Client::connect(&self.connect).await?;
        let (settings, segment_size) = (client.settings(), client.settings().wal_segment_size);
        let found = ClusterIdentity { system_id: settings.system_id, version: settings.version };
        if found != self.cluster {
            let message =
                format!("'{}' is of {}, the server of {found}", self.pg_wal.display(), self.cluster);
            return Err(Failure::new(ErrorCode::DbMismatch, message)
                .hint("check that path, host and port of the stanza name one and the same cluster"));
        }
        if settings.in_recovery {
            // A primary that became a standby still has it.
            self.release_slot(&client).await?;
            return Ok(None);
        }
        let permitted = |failure: Failure| {
            failure.hint("archive-stream needs a user with the attribute REPLICATION, a line for database replication in pg_hba.conf, and room in max_wal_senders and max_replication_slots")
        };
        let mut replication =
            Replication::connect(&self.connect).await.map_err(|error| permitted(error.into()))?;
        let identified = replication.identify().await?;
        let from = self.slot_start(&client, identified).await.map_err(permitted)?;
        let from = from.max(self.timeline_start(&mut replication, identified.timeline).await?);
        let segment = WalSegmentName::containing(identified.timeline, from, segment_size);
        let begin = segment.start_lsn(segment_size);
        replication.start(&self.slot(), begin, identified.timeline).await.map_err(|e| permitted(e.into()))?;
        Ok(Some(Begun { replication, timeline: identified.timeline, begin, segment_size }))
    }

    /// Up to where the server may forget; a slot that is missing or keeps too much is made anew.
    async fn slot_start(&self, client: &Client, server: Identified) -> Result<Lsn, Failure> {
        let name = self.slot();
        match client.slot(&name).await? {
            Some(Slot { restart: Some(restart) }) => {
                let kept = ByteCount(server.flushed.0.saturating_sub(restart.0));
                if kept <= self.retain_max {
                    return Ok(restart);
                }
                tracing::warn!(
                    "replication slot {name} kept {kept} of WAL, more than archive-stream-retain-max allows ({}): it is dropped, and streaming begins anew; what was not streamed is archived by archive_command only, a whole segment at a time",
                    self.retain_max
                );
                client.drop_slot(&name).await?;
            }
            Some(Slot { restart: None }) => {
                tracing::warn!("replication slot {name} lost its WAL: it is made anew");
                client.drop_slot(&name).await?;
            }
            None => {}
        }
        client.create_slot(&name).await?;
        tracing::info!("created replication slot {name}");
        // The slot keeps more, from the last checkpoint on; that is given up with the first status.
        Ok(server.flushed)
    }

    /// Where the server's timeline left the one before: its own WAL begins in that segment.
    async fn timeline_start(
        &self,
        replication: &mut Replication,
        timeline: TimelineId,
    ) -> Result<Lsn, Failure> {
        // A cluster that was restored or cloned on this timeline may never have had the file.
        if !self.pg_wal.join(WalFileName::History(timeline).to_string()).exists() {
            return Ok(Lsn(0));
        }
        let history = replication.history(timeline).await?;
        Ok(history.entries().last().map_or(Lsn(0), |last| last.end))
    }
}
