//! Whether PostgreSQL's WAL summaries are believed: workers leave unread what these say is unchanged, and look at samples.
//!
//! Invariant: once one sample was wrong, no unit counts that left anything unread, whoever leads: that is announced before
//! any unit is given again, and packs say of themselves what they left unread.

use super::{BackupMachine, Effect, Phase};
use crate::failure::{ErrorCode, Failure};
use crate::wire::{Receipt, SummaryBasis};

impl BackupMachine {
    pub(super) fn summaries(&self) -> Option<SummaryBasis> {
        let session = self.session.as_ref().filter(|_| !self.distrusts_summaries())?;
        self.foundation.summaries(session)
    }

    pub(super) fn distrusts_summaries(&self) -> bool {
        self.announced.as_ref().is_some_and(|announced| announced.distrusts_summaries)
    }

    /// Whether the receipt rests on what turned out to be wrong.
    pub(super) fn is_worthless(&self, receipt: &Receipt) -> bool {
        self.distrusts_summaries() && receipt.skipped > 0
    }

    /// Once a sample was wrong, everything that was left unread is read after all. When the session has ended that comes too
    /// late: nothing is published that rests on it.
    pub(super) fn distrust_summaries(
        &mut self,
        wrong: Option<&str>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Failure> {
        let Some(reason) = wrong.filter(|_| !self.distrusts_summaries()) else { return Ok(()) };
        if self.phase > Phase::Copying && self.board.has_skipped() {
            self.is_abandoned = true;
            let message = format!("WAL summaries of the server are wrong ({reason})");
            return Err(Failure::new(ErrorCode::FileInvalid, message)
                .hint("start the backup again, with --delta: then everything is read, whatever summaries say")
                .retryable());
        }
        let Some(announced) = self.announced.as_mut() else {
            // This leader has not come so far: it is bound to what the first one announced, and to this.
            self.recovered.announced.iter_mut().for_each(|announced| announced.distrusts_summaries = true);
            return Ok(());
        };
        announced.distrusts_summaries = true;
        effects.push(Effect::PersistAnnounced(announced.clone()));
        let again = self.board.do_again_what_skipped();
        let warning = format!(
            "WAL summaries of the server are wrong ({reason}): everything is read, {again} units are done again"
        );
        self.warn([warning], effects);
        Ok(())
    }
}
