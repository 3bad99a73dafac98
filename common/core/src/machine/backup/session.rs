//! What the source says before units: the cluster, the session, the scan. After another leader's order to stop it may be read
//! back from a repository instead.

use super::{BackupMachine, Effect, Phase};
use crate::failure::{ErrorCode, Failure};
use crate::format::cluster::ClusterBody;
use crate::plan::inventory::Inventory;
use crate::units::Timestamp;
use crate::wire::{OrderBody, PreflightFacts, ReportBody, SessionFacts};

impl BackupMachine {
    /// What is said twice, after a lost connection, counts once; what a source says that was given up counts for nothing.
    pub(super) fn on_source_report(
        &mut self,
        now: Timestamp,
        report: ReportBody,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let is_scanning = self.phase == Phase::Scanning && !self.is_scanned;
        match report {
            _ if self.source_is_lost => Ok(()),
            ReportBody::Preflighted(Ok(facts)) if self.facts.is_none() => {
                self.warn(facts.warnings.iter().cloned(), effects);
                self.facts = Some(facts);
                self.begin_session(now, effects)
            }
            ReportBody::SessionOpened(Ok(session)) if self.phase == Phase::Starting => {
                self.on_session(session, effects)
            }
            ReportBody::Scanned(entries) if is_scanning => {
                entries.into_iter().try_for_each(|entry| Ok(self.inventory.push(entry)?))
            }
            ReportBody::ScanEnded(Ok(end)) if is_scanning => {
                self.warn(end.warnings.iter().cloned(), effects);
                self.is_scanned = true;
                self.copy_start = end.copy_start;
                self.lay_foundation(effects);
                self.announce(now, effects)
            }
            ReportBody::Preflighted(Err(failure)) if self.facts.is_none() => {
                self.on_session_lost(failure, effects)
            }
            ReportBody::SessionOpened(Err(failure)) if self.phase == Phase::Starting => {
                self.on_session_lost(failure, effects)
            }
            ReportBody::ScanEnded(Err(failure)) if is_scanning => self.on_session_lost(failure, effects),
            _ => Ok(()),
        }
    }

    /// Once repositories and preflight have both answered: the cluster must be the one that each repository knows.
    pub(super) fn begin_session(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let Some(facts) =
            self.facts.clone().filter(|_| self.phase == Phase::Opening && self.awaited.is_empty())
        else {
            return Ok(());
        };
        for key in self.alive() {
            let known = self.repositories[&key].facts.as_ref().map(|known| known.cluster.clone());
            let known =
                known.ok_or_else(|| Failure::new(ErrorCode::Assert, "an open repository told no cluster"))?;
            if let Err(failure) = self.compare_cluster(&known, &facts) {
                self.drop_repository(key, failure.context(format!("repo {key}")), effects)?;
            } else if self.cluster.is_none() {
                self.cluster = Some(known);
            }
        }
        self.phase = Phase::Starting;
        if self.source_is_lost {
            return self.replay_session(now, effects);
        }
        effects.push(self.order(self.open_session()));
        Ok(())
    }

    pub(super) fn open_session(&self) -> OrderBody {
        OrderBody::OpenSession { label: format!("pgconvoy backup of {}", self.spec.stanza) }
    }

    fn compare_cluster(&self, known: &ClusterBody, facts: &PreflightFacts) -> Result<(), Failure> {
        if known.system_id != facts.system_id || known.version != facts.version {
            return Err(Failure::new(
                ErrorCode::DbMismatch,
                format!(
                    "the cluster is PostgreSQL {} with system identifier {}, but stanza {} was made for {} with {}",
                    facts.version, facts.system_id, self.spec.stanza, known.version, known.system_id
                ),
            )
            .hint("is pg path of the stanza the right data directory?")
            .hint("after an upgrade of PostgreSQL, run stanza-upgrade"));
        }
        match &self.cluster {
            Some(first) if first.hash_secret != known.hash_secret || first.number != known.number => {
                Err(Failure::new(
                    ErrorCode::RepoInvalid,
                    "its stanza was created apart from that of the other repositories",
                )
                .hint("back up to it alone with --repo, or delete its stanza and run stanza-create again"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn on_session(
        &mut self,
        session: SessionFacts,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        if self.recovered.announced.as_ref().is_some_and(|announced| announced.session != session.started) {
            return self.on_session_lost(self.session_is_gone(), effects);
        }
        self.phase = Phase::Scanning;
        self.inventory = Inventory::default();
        self.foundation.begin_anew();
        let is_first = self.session.is_none();
        if let Some(start) = session.start.filter(|_| is_first && self.spec.source.archive_check) {
            self.awaited_before = self.alive().into_iter().collect();
            for repository in self.alive() {
                let (archive, segments) = (self.archive()?, vec![start.segment_before]);
                effects.push(Effect::AwaitWal { repository, archive, segments });
            }
        }
        self.session = Some(session);
        if !self.source_is_lost {
            effects.push(self.order(OrderBody::Scan));
        }
        Ok(())
    }

    /// As if the source had said it all again.
    pub(super) fn replay_session(
        &mut self,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let Some(kept) = self.kept.take() else { return Ok(()) };
        self.on_session(kept.session, effects)?;
        self.inventory = kept.inventory;
        self.is_scanned = true;
        self.lay_foundation(effects);
        self.announce(now, effects)
    }
}
