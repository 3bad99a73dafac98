//! Whether a repository has the WAL that the backup needs, and what is done where it has not.
//!
//! A segment may be missing because archiving is broken, or because another repository holds the archiver up: PostgreSQL
//! archives one segment at a time, and tries the same one until every repository took it. So what is missing is supplied
//! from pg_wal; if that was needed everywhere and nobody refused, archiving itself does not work, which is better known
//! before reading than after.

use super::{BackupMachine, Effect, Phase};
use crate::failure::{ErrorCode, Failure};
use crate::ids::RepoKey;
use crate::pg::WalSegmentName;
use crate::units::Timestamp;
use crate::wire::{OrderBody, SupplyOrder};

/// Names in one order: a message stays far below its limit.
const SEGMENTS_PER_ORDER: usize = 10_000;

impl BackupMachine {
    pub(super) fn on_wal(
        &mut self,
        now: Timestamp,
        repository: RepoKey,
        result: Result<Vec<WalSegmentName>, Failure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        match result {
            Ok(missing) => match missing.first() {
                None => self.archiver_works = true,
                Some(_) if !self.source_is_lost && missing.len() <= SEGMENTS_PER_ORDER => {
                    return self.supply(repository, missing, effects);
                }
                Some(first) => {
                    let what = format!("{} WAL segments from {first} on did not arrive", missing.len());
                    self.drop_repository(repository, archive_timeout(what), effects)?;
                }
            },
            Err(failure) => self.drop_repository(repository, failure, effects)?,
        }
        self.wal_settled(now, repository, effects)
    }

    fn supply(
        &mut self,
        repository: RepoKey,
        segments: Vec<WalSegmentName>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let order = SupplyOrder {
            repository,
            archive: self.archive()?,
            segments,
            compress: self.spec.own_compress.get(&repository).copied().unwrap_or(self.spec.compress),
            stall_timeout_ms: self.spec.stall_timeout_ms,
        };
        self.supplying.insert(repository, order.clone());
        effects.push(self.order(OrderBody::SupplyWal(order)));
        Ok(())
    }

    /// A repository has what was asked for, or has left the job.
    pub(super) fn wal_settled(
        &mut self,
        now: Timestamp,
        repository: RepoKey,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.phase == Phase::Awaiting {
            self.awaited.remove(&repository);
            return self.publish_when_ready(effects);
        }
        self.awaited_before.remove(&repository);
        let somebody_refused = self.repositories.values().any(|state| state.failure.is_some());
        if self.awaited_before.is_empty() && !self.archiver_works && !somebody_refused {
            return Err(archive_timeout("the WAL segment before the backup's start reached no repository"));
        }
        self.announce(now, effects)
    }
}

fn archive_timeout(what: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::ArchiveTimeout, what)
        .hint("does archive_command call archive-push with this configuration? See the server's log")
        .hint("--archive-timeout sets how long to wait")
}
