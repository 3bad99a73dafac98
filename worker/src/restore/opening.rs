//! Opens the pack that comes next beside the one at hand: a store answers several questions, one after the other, before it gives
//! the first byte of a pack.

use super::source::Chosen;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::pack::PackReader;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub(super) type Opening = JoinHandle<Result<PackReader, RepositoryError>>;

/// Packs that are being opened in the chosen repository; no more of them than there are slots.
#[derive(Debug, Default)]
pub(super) struct Openings(Mutex<Vec<(PackName, Opening)>>);

impl Openings {
    pub(super) fn begin(&self, runtime: &Handle, chosen: &Chosen, pack: PackName) {
        let mut begun = self.lock();
        // While it holds the restore up, the next pack is another one's, if there is another one.
        let is_passed_over = chosen.origin.is_slow() && !chosen.others.known().is_empty();
        if chosen.origin.is_away() || is_passed_over || begun.iter().any(|(other, _)| *other == pack) {
            return;
        }
        let (origin, stanza) = (chosen.origin.clone(), chosen.stanza.clone());
        let (backup, secret) = (chosen.backup_of(pack), chosen.secret.clone());
        let opening = async move { origin.open_pack(&stanza, pack, backup, &secret).await };
        begun.push((pack, runtime.spawn(opening)));
    }

    pub(super) fn take(&self, pack: PackName) -> Option<Opening> {
        let mut begun = self.lock();
        let found = begun.iter().position(|(other, _)| *other == pack)?;
        Some(begun.swap_remove(found).1)
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, Vec<(PackName, Opening)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Openings {
    fn drop(&mut self) {
        self.lock().drain(..).for_each(|(_, opening)| opening.abort());
    }
}
