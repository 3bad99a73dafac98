//! Changes on their way to a reader: ordered, bounded, and loud when something was missed.
//!
//! Invariants
//! 1. A reader sees changes in the order of their revisions, without a gap, until the watch ends.
//! 2. A slow reader costs the store a bounded buffer and nothing else: when it is full the watch ends, and says so after
//!    what was buffered has been read.
//! 3. Whatever ended a watch, the way on is the same: open a new one and list again.

use crate::error::LeaseError;
use crate::keys::{Key, Prefix};
use crate::store::{Entry, Revision};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;

/// Changes that wait for one reader. A leader's whole batch of leases and receipts fits several times; a reader that
/// is this far behind is faster when it lists again.
pub const WATCH_CHANGES_MAX: usize = 1024;

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Acquired, created or written again.
    Put(Entry),
    /// Released, deleted or expired. etcd does not tell which, so no store does.
    Gone { key: Key, revision: Revision },
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Gone { key, .. } => key,
        }
    }

    pub fn revision(&self) -> Revision {
        match self {
            Change::Put(entry) => entry.revision,
            Change::Gone { revision, .. } => *revision,
        }
    }
}

/// The reader's end.
#[derive(Debug)]
pub struct Watch {
    changes: mpsc::Receiver<Change>,
    end: Arc<OnceLock<LeaseError>>,
}

impl Watch {
    /// A watch and the end that a store feeds.
    pub fn channel(prefix: Prefix) -> (WatchFeed, Watch) {
        let (sender, changes) = mpsc::channel(WATCH_CHANGES_MAX);
        let end = Arc::new(OnceLock::new());
        (WatchFeed { prefix, sender, end: Arc::clone(&end) }, Watch { changes, end })
    }

    /// The next change. An error is the end of the watch, and stays so. Safe to cancel: no change is lost.
    pub async fn next(&mut self) -> Result<Change, LeaseError> {
        match self.changes.recv().await {
            Some(change) => Ok(change),
            None => Err(self
                .end
                .get()
                .cloned()
                .unwrap_or_else(|| LeaseError::Unavailable { reason: "the store was closed".to_owned() })),
        }
    }
}

/// The store's end. Dropping it ends the watch.
#[derive(Debug)]
pub struct WatchFeed {
    prefix: Prefix,
    sender: mpsc::Sender<Change>,
    end: Arc<OnceLock<LeaseError>>,
}

/// Whether a feed is worth keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    Open,
    Ended,
}

impl WatchFeed {
    /// Passes a change on if the prefix covers it. Never waits: a reader without room has its watch ended.
    pub fn offer(&self, change: &Change) -> Feed {
        if self.is_closed() {
            return Feed::Ended;
        }
        if !self.prefix.covers(change.key()) {
            return Feed::Open;
        }
        match self.sender.try_send(change.clone()) {
            Ok(()) => Feed::Open,
            Err(mpsc::error::TrySendError::Closed(_)) => Feed::Ended,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.fail(LeaseError::Lagged { prefix: self.prefix.to_string() });
                Feed::Ended
            }
        }
    }

    /// Says why the watch is about to end; the first reason stays. The caller drops the feed afterwards.
    pub fn fail(&self, reason: LeaseError) {
        // A second reason is only an echo of the first.
        let _ = self.end.set(reason);
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Resolves when nobody reads any more.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}
