//! The certificates that are not welcome any more, shared by everything in the process that meets peers.
//!
//! Not here: where the list is kept. Whoever watches it calls [`Revoked::replace`].

use super::certificate::Serial;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// A handle on the set; clones are the same set. A new one is empty.
#[derive(Debug, Clone)]
pub struct Revoked(Arc<watch::Sender<BTreeSet<Serial>>>);

impl Default for Revoked {
    fn default() -> Self {
        Revoked(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Revoked {
    /// Refuses this certificate from now on, and ends the connections that it opened.
    pub fn add(&self, serial: Serial) {
        self.0.send_if_modified(|set| set.insert(serial));
    }

    /// Puts another set in place of the whole one.
    pub fn replace(&self, serials: BTreeSet<Serial>) {
        self.0.send_if_modified(|set| {
            let changes = *set != serials;
            *set = serials;
            changes
        });
    }

    /// The set, and when it changes. A new receiver has seen nothing of it.
    pub fn watch(&self) -> watch::Receiver<BTreeSet<Serial>> {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        receiver
    }

    pub fn contains(&self, serial: &Serial) -> bool {
        self.0.borrow().contains(serial)
    }

    /// Resolves when the set has this certificate.
    pub(crate) async fn comes_to_contain(&self, serial: &Serial) {
        // The sender lives in `self`, so the wait ends with the answer only.
        let _ = self.0.subscribe().wait_for(|set| set.contains(serial)).await;
    }
}
