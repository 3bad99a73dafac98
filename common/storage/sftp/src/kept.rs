//! Files that stay open for a while after a range of them was read, since the next range is often wanted soon: opening one costs a
//! journey to the server before the journey for its bytes.
//!
//! Invariants
//! 1. What is read by a kept file is believed only if its path leads, after it was asked for, to a file of the same size and time.
//!    An object that was replaced within that second by another one of the same size is taken for the earlier one, which it
//!    was some seconds before.
//! 2. A kept file is used by one call at a time, so that several calls have several sessions.
//! 3. None stays longer than [`KEPT_FOR`], so that the room of what is deleted comes back.

use crate::session::OpenFile;
use crate::tree::Tree;
use pgconvoy_storage::ObjectKey;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longer than a slot takes for a window of a pack, shorter than anybody who deletes would wonder about.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// A few for each slot of a busy worker; OpenSSH lets each session have as many files as its limits allow, 1024 as a rule.
const KEPT_MAX: usize = 32;

#[derive(Debug)]
struct Kept {
    key: ObjectKey,
    file: OpenFile,
    until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct KeptFiles {
    /// The oldest first.
    files: Vec<Kept>,
    is_tended: bool,
}

impl KeptFiles {
    /// One that nobody else uses.
    pub(crate) fn take(&mut self, key: &ObjectKey) -> Option<OpenFile> {
        self.drop_old(Instant::now());
        let found = self.files.iter().position(|kept| kept.key == *key)?;
        Some(self.files.remove(found).file)
    }

    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        self.files.retain(|kept| kept.key != *key);
    }

    fn add(&mut self, key: &ObjectKey, file: OpenFile, now: Instant) {
        self.drop_old(now);
        if self.files.len() >= KEPT_MAX {
            self.files.remove(0);
        }
        self.files.push(Kept { key: key.clone(), file, until: now + KEPT_FOR });
    }

    /// Of lost sessions nothing can be read.
    fn drop_old(&mut self, now: Instant) {
        self.files.retain(|kept| now < kept.until && !kept.file.is_lost());
    }
}

impl Tree {
    /// Leaves a file open for who wants more of it.
    pub(crate) fn keep(self: &Arc<Self>, key: &ObjectKey, file: OpenFile) {
        let is_tended = {
            let mut kept = self.kept();
            kept.add(key, file, Instant::now());
            std::mem::replace(&mut kept.is_tended, true)
        };
        if !is_tended {
            tokio::spawn(tend(Arc::downgrade(self)));
        }
    }
}

/// Closes what is old, until nothing is left.
async fn tend(tree: std::sync::Weak<Tree>) {
    loop {
        tokio::time::sleep(KEPT_FOR).await;
        let Some(tree) = tree.upgrade() else { return };
        let mut kept = tree.kept();
        kept.drop_old(Instant::now());
        if kept.files.is_empty() {
            kept.is_tended = false;
            return;
        }
    }
}
