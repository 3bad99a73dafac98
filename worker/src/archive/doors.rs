//! The repositories that WAL goes to, each opened once and kept open.
//!
//! Invariant: whoever finds a repository failing forgets it here, so that the next to ask reaches it anew.

use super::{ClusterIdentity, Connect, archives, open};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::TimelineId;
use pgconvoy_repository::wal::WalTarget;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;

/// Of one stanza.
pub struct Doors {
    connect: Connect,
    stanza: StanzaName,
    known: Mutex<Known>,
}

/// Opened by the first who asks; others who ask meanwhile wait for the same.
type Door = Arc<OnceCell<WalTarget>>;

#[derive(Default)]
struct Known {
    targets: BTreeMap<(RepoKey, Option<ClusterIdentity>), Door>,
    /// Timelines whose history is in the newest archive of a cluster.
    histories: BTreeSet<(RepoKey, Option<ClusterIdentity>, TimelineId)>,
}

impl Doors {
    pub fn new(connect: Connect, stanza: StanzaName) -> Doors {
        Doors { connect, stanza, known: Mutex::default() }
    }

    pub(super) fn stanza(&self) -> &StanzaName {
        &self.stanza
    }

    /// The newest archive of the cluster there; of the stanza's newest cluster when nobody knows which it is.
    pub(super) async fn target(
        &self,
        key: RepoKey,
        cluster: Option<ClusterIdentity>,
    ) -> Result<WalTarget, Failure> {
        let door = self.known().targets.entry((key, cluster)).or_default().clone();
        let opening = || async {
            let repository = open(&self.connect, key).await?;
            let newest = archives(&repository, &self.stanza, cluster).await?.into_iter().next();
            Ok((repository, newest.expect("archives fails where there is none")))
        };
        door.get_or_try_init(opening).await.cloned()
    }

    pub(super) fn has_history(
        &self,
        key: RepoKey,
        cluster: Option<ClusterIdentity>,
        timeline: TimelineId,
    ) -> bool {
        self.known().histories.contains(&(key, cluster, timeline))
    }

    pub(super) fn note_history(&self, key: RepoKey, cluster: Option<ClusterIdentity>, timeline: TimelineId) {
        self.known().histories.insert((key, cluster, timeline));
    }

    pub(super) fn forget(&self, key: RepoKey) {
        let mut known = self.known();
        known.targets.retain(|(of, _), _| *of != key);
        known.histories.retain(|(of, ..)| *of != key);
    }

    /// Nothing is left half done by a panic: each change is one call.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
