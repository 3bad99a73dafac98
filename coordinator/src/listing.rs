//! Lists what earlier backups hold to the machine that compares it with what is there now.
//!
//! The next page is read when the machine has taken the one before: no manifest is ever in memory as a whole.

mod leftover;
mod prior;

use crate::actors::backup::{BackupActor, Happened};
use actix::Addr;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::machine::backup::Event;
use pgconvoy_repository::RepositorySet;
use std::sync::Arc;

pub(crate) struct Listing {
    pub set: Arc<RepositorySet>,
    pub stanza: StanzaName,
    pub actor: Addr<BackupActor>,
    /// Which asking of the machine's this answers.
    pub round: u32,
}

impl Listing {
    /// Returns when the machine has taken it.
    async fn tell(&self, event: Event) -> Result<(), Failure> {
        let gone = |_| Failure::new(ErrorCode::Term, "the backup is over");
        self.actor.send(Happened(event)).await.map_err(gone)
    }
}
