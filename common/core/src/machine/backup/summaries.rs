//! Whether PostgreSQL's WAL summaries are believed: workers leave unread what these say is unchanged, and look at samples.
//!
//! Invariant: once one sample was wrong, no unit counts that left anything unread, whoever leads: that is announced before
//! any unit is given again, and packs say of themselves what they left unread.

use super::{BackupMachine, Effect};
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

    /// Everything that was left unread is read after all.
    pub(super) fn distrust_summaries(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        let Some(announced) = self.announced.as_mut().filter(|announced| !announced.distrusts_summaries)
        else {
            return;
        };
        announced.distrusts_summaries = true;
        effects.push(Effect::PersistAnnounced(announced.clone()));
        let again = self.board.do_again_what_skipped();
        let warning = format!(
            "WAL summaries of the server are wrong ({reason}): everything is read, {again} units are done again"
        );
        self.warn([warning], effects);
    }
}
