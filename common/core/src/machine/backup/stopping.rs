//! The end of the session: the order to stop, what the server returned, and where that is found if nobody is left to tell it.
//!
//! Invariant: what stop returned is in the repositories before the keeper tells it. So a keeper that is gone after that has
//! left behind all that it still had to say, save for WAL that it might have supplied.

use super::contents::BackupContents;
use super::{BackupMachine, Effect, Phase, RecalledSession};
use crate::failure::Failure;
use crate::format::wal::StopBody;
use crate::units::Timestamp;
use crate::wire::{OrderBody, RepositoryFailure, SessionEnd};
use std::sync::Arc;

impl BackupMachine {
    pub(super) fn stop_when_done(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.phase == Phase::CopyingWal {
            return self.publish_when_copied(effects);
        }
        if self.phase != Phase::Copying || !self.board.is_complete() {
            return Ok(());
        }
        self.phase = Phase::Stopping;
        effects.push(Effect::PersistStopOrder);
        self.close_session(effects)
    }

    /// The source closes its session under the terms of the units, which it may not know yet: others can have done them all.
    pub(super) fn close_session(&mut self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if self.source_is_lost {
            return self.go_on_without_source(self.source_gone(), effects);
        }
        if !self.source_is_prepared {
            effects.push(self.order(self.prepare()?));
        }
        effects.push(self.order(OrderBody::CloseSession { repositories: self.alive() }));
        Ok(())
    }

    pub(super) fn on_stop(
        &mut self,
        now: Timestamp,
        end: SessionEnd,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.phase != Phase::Stopping {
            return Ok(());
        }
        self.cause = None;
        for failed in end.failed {
            self.drop_repository(failed.repository, failed.failure, effects)?;
        }
        let contents = Arc::new(BackupContents::assemble(self, now, end.stop.as_ref())?);
        self.phase = Phase::Awaiting;
        self.awaited = self.alive().into_iter().collect();
        let check = self.spec.source.archive_check;
        let segments = if check { contents.wal_segments(self.segment_size()?) } else { Vec::new() };
        self.contents = Some(contents);
        self.judge_pages()?;
        if segments.is_empty() {
            self.awaited.clear();
            return self.publish_when_ready(effects);
        }
        for repository in self.alive() {
            effects.push(Effect::AwaitWal {
                repository,
                archive: self.archive()?,
                segments: segments.clone(),
            });
        }
        Ok(())
    }

    /// Its keeper has no session. Before the order to stop that is the end; after it the record may have been written.
    pub(super) fn on_session_lost(
        &mut self,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.phase < Phase::Stopping && !self.recovered.stop_ordered {
            return Err(failure);
        }
        self.go_on_without_source(failure, effects)
    }

    /// The source will tell nothing more, and supply nothing.
    fn go_on_without_source(&mut self, failure: Failure, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let was_lost = std::mem::replace(&mut self.source_is_lost, true);
        for repository in std::mem::take(&mut self.supplying).into_keys() {
            self.drop_repository(repository, failure.clone(), effects)?;
        }
        match self.phase {
            Phase::Opening | Phase::Starting | Phase::Scanning if !was_lost => {
                self.cause = Some(failure);
                let label = self.recovered.announced.as_ref().map(|announced| announced.label);
                let label = label.ok_or_else(|| self.session_is_gone())?;
                effects.push(Effect::RecallSession { repositories: self.alive(), label, plan: self.plan });
            }
            Phase::Stopping => {
                self.cause.get_or_insert(failure);
                self.look_for_stop(effects)?;
            }
            Phase::CopyingWal if self.present_readers().is_empty() => return Err(failure),
            // All that it had to say before its stop is known.
            _ => self.publish_when_ready(effects)?,
        }
        Ok(())
    }

    pub(super) fn on_session_recalled(
        &mut self,
        now: Timestamp,
        session: Option<Box<RecalledSession>>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if !self.source_is_lost || self.phase > Phase::Scanning {
            return Ok(());
        }
        let announced = self.recovered.announced.as_ref().map(|announced| announced.session);
        let Some(kept) = session.filter(|kept| Some(kept.session.started) == announced) else {
            return Err(self.cause.take().unwrap_or_else(|| self.session_is_gone()));
        };
        self.cause = None;
        self.warn(["the session and its scan were read back from a repository".to_owned()], effects);
        self.facts = Some(kept.preflight.clone());
        self.kept = Some(kept);
        match self.phase {
            Phase::Opening => self.begin_session(now, effects),
            _ => self.replay_session(now, effects),
        }
    }

    pub(super) fn look_for_stop(&self, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let (repositories, label) = (self.alive(), self.known_label()?);
        effects.push(Effect::FindStop { repositories, label, plan: self.plan });
        Ok(())
    }

    /// Without a record the job ends only if nobody else is waited for.
    pub(super) fn on_stop_found(
        &mut self,
        now: Timestamp,
        stop: Option<StopBody>,
        failed: Vec<RepositoryFailure>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.phase != Phase::Stopping {
            return Ok(());
        }
        let start = self.session.as_ref().and_then(|session| session.start).map(|start| start.lsn);
        match stop.filter(|stop| Some(stop.start_lsn) == start) {
            Some(stop) => {
                self.warn(["the session's end was read back from a repository".to_owned()], effects);
                self.on_stop(now, SessionEnd { stop: Some(stop), failed }, effects)
            }
            None => self.cause.take().map_or(Ok(()), Err),
        }
    }
}
