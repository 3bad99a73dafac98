//! How a job ends: with entries in catalogues, or with void records in their place.
//!
//! An earlier leader may have everything that it takes to publish, and not know that it leads no more. So a job that ends after
//! another leader's order to stop makes its label void wherever it has not seen an entry: create-only, so that the one key
//! decides. Where the entry was there first the backup exists, and the outcome says so.
//!
//! Invariant: the outcome is told only after every repository has answered which of the two it holds, or that it cannot.

use super::event::Fate;
use super::{BackupMachine, Effect, Event, Phase};
use crate::failure::Failure;
use crate::format::BackupLabel;
use crate::ids::RepoKey;

impl BackupMachine {
    pub(super) fn finish_when_published(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Publishing && self.awaited.is_empty() {
            self.finish(effects);
        }
    }

    pub(super) fn give_up(&mut self, failure: Failure, effects: &mut Vec<Effect>) {
        self.cause = Some(failure);
        self.finish(effects);
    }

    /// Decides first what is undecided.
    pub(super) fn finish(&mut self, effects: &mut Vec<Effect>) {
        let undecided = self.undecided();
        match self.label_known_to_others().filter(|_| !undecided.is_empty()) {
            Some(label) => {
                self.phase = Phase::GivingUp;
                let reason = self
                    .cause
                    .as_ref()
                    .map_or("the job ended without this repository", |cause| cause.message.as_str());
                let reason = reason.to_owned();
                effects.push(Effect::GiveUpLabel { repositories: undecided, label, reason });
            }
            None => self.end(effects),
        }
    }

    /// Where somebody else might still publish.
    fn undecided(&self) -> Vec<RepoKey> {
        // One that was left out may not have been by an earlier leader.
        let repositories = match self.recovered.announced {
            Some(_) => self.spec.repositories.clone(),
            None => self.alive(),
        };
        let is_undecided = |key: &RepoKey| !self.repositories[key].published;
        repositories.into_iter().filter(is_undecided).collect()
    }

    /// The label, if it must not be left to others.
    fn label_known_to_others(&self) -> Option<BackupLabel> {
        let label = self.label.or(self.recovered.announced.as_ref().map(|announced| announced.label));
        label.filter(|_| self.recovered.stop_ordered || self.is_abandoned)
    }

    pub(super) fn hear_at_the_end(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::GivenUp { fates } if self.phase == Phase::GivingUp => self.on_given_up(fates, effects),
            // It has to hear of the end as well.
            Event::WorkerJoined { worker, .. } => drop(self.readers.insert(worker, super::Reader::Here)),
            _ => {}
        }
    }

    fn on_given_up(&mut self, fates: Vec<(RepoKey, Result<Fate, Failure>)>, effects: &mut Vec<Effect>) {
        for (key, fate) in fates {
            match (fate, self.repositories.get_mut(&key)) {
                (Ok(Fate::Published), Some(state)) => state.published = true,
                (Ok(_), _) => {}
                // Undecided, and without an entry: the next backup gives it up.
                (Err(failure), _) => {
                    self.warn([format!("the backup was not given up in repo {key}: {failure}")], effects);
                }
            }
        }
        self.end(effects);
    }

    fn end(&mut self, effects: &mut Vec<Effect>) {
        self.phase = Phase::Over;
        self.order_end(effects);
        let cause = self.cause.take();
        effects.push(Effect::Finish(Box::new(self.outcome(cause))));
    }
}
