//! The repositories that have the backup: how quick each is, and where the others are found.

use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::manifest::ManifestHead;
use pgconvoy_core::format::{BackupLabel, HashSecret};
use pgconvoy_core::ids::{Identity, RepoKey, StanzaName};
use pgconvoy_core::plan::quickest::{Balance, Giver, learned_rate};
use pgconvoy_repository::object::ObjectReader;
use pgconvoy_repository::pack::PackReader;
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

/// A repository that has the backup.
#[derive(Debug)]
pub(super) struct Origin {
    repository: Arc<Repository>,
    /// It did not answer: the others are asked first from now on.
    is_away: AtomicBool,
    record: Mutex<Record>,
}

/// What was seen of it.
#[derive(Debug)]
struct Record {
    giver: Giver,
    balance: Balance,
}

impl Origin {
    pub(super) fn new(repository: Arc<Repository>) -> Arc<Origin> {
        let giver = Giver { rate: None, under_way: 0 };
        let record = Mutex::new(Record { giver, balance: Balance::default() });
        Arc::new(Origin { repository, is_away: AtomicBool::new(false), record })
    }

    pub(super) fn key(&self) -> RepoKey {
        self.repository.number()
    }

    pub(super) fn identity(&self) -> Identity {
        self.repository.identity()
    }

    pub(super) fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    pub(super) fn is_away_now(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }

    pub(super) fn giver(&self) -> Giver {
        self.lock().giver
    }

    /// So many bytes are asked for until the value is dropped.
    pub(super) fn busy_with(self: &Arc<Self>, bytes: u64) -> Busy {
        self.lock().giver.under_way += bytes;
        Busy { origin: self.clone(), bytes }
    }

    pub(super) fn gave(&self, bytes: u64, took: Duration) {
        let mut record = self.lock();
        record.giver.rate = Some(learned_rate(record.giver.rate, bytes, took.as_secs_f64()));
    }

    pub(super) async fn open_pack(
        &self,
        stanza: &StanzaName,
        pack: PackName,
        backup: Option<Identity>,
        secret: &HashSecret,
    ) -> Result<PackReader, RepositoryError> {
        let begin = Instant::now();
        let opened = PackReader::open(&self.repository, stanza, pack, backup, secret).await?;
        self.opened(&opened.object, begin.elapsed());
        Ok(opened)
    }

    /// A small object is given whole when it is opened.
    fn opened(&self, object: &ObjectReader, took: Duration) {
        if object.is_whole() {
            self.gave(object.size(), took);
        }
    }

    /// How long a slot waited for it, and did something else, while it took from it.
    pub(super) fn was_taken_from(&self, waited: Duration, worked: Duration) {
        self.lock().balance.add(waited, worked);
    }

    /// It is what holds the restore up.
    pub(super) fn is_slow(&self) -> bool {
        self.lock().balance.is_mostly_waiting()
    }

    /// Every change is whole before the lock is given back.
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Busy {
    origin: Arc<Origin>,
    bytes: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.origin.lock().giver.under_way -= self.bytes;
    }
}

/// The other repositories that have this very backup. They are looked for once.
#[derive(Debug)]
pub(super) struct Others {
    set: Arc<RepositorySet>,
    stanza: StanzaName,
    label: BackupLabel,
    backup: Identity,
    /// Is none of the others.
    first: RepoKey,
    found: OnceCell<Vec<Arc<Origin>>>,
    is_looked_for: AtomicBool,
}

impl Others {
    pub(super) fn new(
        set: Arc<RepositorySet>,
        stanza: StanzaName,
        head: &ManifestHead,
        first: RepoKey,
    ) -> Arc<Others> {
        let (label, backup) = (head.label, head.backup);
        Arc::new(Others {
            set,
            stanza,
            label,
            backup,
            first,
            found: OnceCell::new(),
            is_looked_for: AtomicBool::new(false),
        })
    }

    /// As far as they are known by now.
    pub(super) fn known(&self) -> &[Arc<Origin>] {
        self.found.get().map_or(&[], Vec::as_slice)
    }

    /// Looks for them beside the restore; who knows already knows.
    pub(super) fn begin_to_look(self: &Arc<Self>, runtime: &Handle) {
        if !self.is_looked_for.swap(true, Ordering::Relaxed) {
            let others = self.clone();
            runtime.spawn(async move { others.find().await.len() });
        }
    }

    pub(super) async fn find(&self) -> &[Arc<Origin>] {
        let look = async {
            let others = self.set.keys().filter(|key| *key != self.first).map(|key| self.look_at(key));
            futures::future::join_all(others).await.into_iter().flatten().collect()
        };
        self.found.get_or_init(|| look).await
    }

    async fn look_at(&self, key: RepoKey) -> Option<Arc<Origin>> {
        let label = self.label;
        let ask = async {
            let repository = self.set.open(key).await?;
            let entry = repository.catalogue_entry(&self.stanza, label).await?;
            Ok::<_, RepositoryError>((repository, entry))
        };
        match ask.await {
            Ok((repository, Some(CatalogueBody::Published(record)))) if record.backup == self.backup => {
                Some(Origin::new(repository))
            }
            Ok((_, Some(CatalogueBody::Published(_)))) => {
                tracing::warn!(
                    "repo {key} has another backup under the label {label}: nothing is taken from there"
                );
                None
            }
            Ok(_) => None,
            Err(error) if ObjectReader::is_absence(&error) => None,
            Err(error) => {
                tracing::warn!("repo {key} cannot help out: {error}");
                None
            }
        }
    }
}
