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

/// Files by what they are of, the oldest first; in tests something else than files.
#[derive(Debug)]
struct Shelf<F> {
    kept: Vec<(ObjectKey, F, Instant)>,
}

impl<F> Default for Shelf<F> {
    fn default() -> Self {
        Shelf { kept: Vec::new() }
    }
}

impl<F> Shelf<F> {
    fn add(&mut self, key: &ObjectKey, file: F, now: Instant) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push((key.clone(), file, now + KEPT_FOR));
    }

    fn take(&mut self, key: &ObjectKey) -> Option<F> {
        let found = self.kept.iter().position(|(of, ..)| of == key)?;
        Some(self.kept.remove(found).1)
    }

    fn retain(&mut self, now: Instant, is_good: impl Fn(&F) -> bool) {
        self.kept.retain(|(_, file, until)| now < *until && is_good(file));
    }
}

#[derive(Debug, Default)]
pub(crate) struct KeptFiles {
    shelf: Shelf<OpenFile>,
    is_tended: bool,
}

impl KeptFiles {
    /// One that nobody else uses.
    pub(crate) fn take(&mut self, key: &ObjectKey) -> Option<OpenFile> {
        self.drop_old();
        self.shelf.take(key)
    }

    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        while self.shelf.take(key).is_some() {}
    }

    /// Of lost sessions nothing can be read.
    fn drop_old(&mut self) {
        self.shelf.retain(Instant::now(), |file| !file.is_lost());
    }
}

impl Tree {
    /// Leaves a file open for who wants more of it.
    pub(crate) fn keep(self: &Arc<Self>, key: &ObjectKey, file: OpenFile) {
        let is_tended = {
            let mut kept = self.kept();
            kept.shelf.add(key, file, Instant::now());
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
        kept.drop_old();
        if kept.shelf.kept.is_empty() {
            kept.is_tended = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> ObjectKey {
        text.parse().expect("a valid key")
    }

    #[test]
    fn a_file_is_taken_once_and_only_for_its_own_key() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        shelf.add(&key("a"), 1, now);
        shelf.add(&key("a"), 2, now);
        shelf.add(&key("b"), 3, now);
        assert_eq!((shelf.take(&key("c")), shelf.take(&key("b"))), (None, Some(3)));
        assert_eq!(
            [shelf.take(&key("a")), shelf.take(&key("a")), shelf.take(&key("a"))],
            [Some(1), Some(2), None]
        );
    }

    #[test]
    fn what_is_old_or_of_no_use_goes_and_never_are_more_kept_than_the_limit() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        for number in 0..KEPT_MAX + 2 {
            shelf.add(
                &key(&format!("{number}")),
                number,
                now + Duration::from_millis(u64::try_from(number).expect("small")),
            );
        }
        assert_eq!(shelf.kept.len(), KEPT_MAX);
        assert_eq!(shelf.take(&key("1")), None, "the oldest make room");
        shelf.retain(now, |number| *number != 5);
        assert_eq!((shelf.take(&key("5")), shelf.take(&key("6"))), (None, Some(6)));
        shelf.retain(now + KEPT_FOR + Duration::from_millis(10), |_| true);
        assert_eq!((shelf.take(&key("10")), shelf.take(&key("11"))), (None, Some(11)));
        shelf.retain(now + 2 * KEPT_FOR, |_| true);
        assert!(shelf.kept.is_empty());
    }
}
