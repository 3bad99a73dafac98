//! The repositories of a configuration, opened when first needed and once.
//!
//! One that cannot be reached is an error of its own, when it is asked for: it never keeps the others from being used.

use crate::error::RepositoryError;
use crate::open::{Repository, RepositorySettings};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::units::Timestamp;
use pgconvoy_storage::{Storage, StorageError};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// A healthy store answers its first call in far less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What a store is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It must be there.
    Use,
    /// It may be made.
    Create,
}

/// How a store is reached.
pub type Connect = Arc<dyn Fn(Purpose) -> Result<Arc<dyn Storage>, StorageError> + Send + Sync>;

/// One configured repository: how to reach its store, and how to open it.
pub struct Place {
    /// What and where it is, for people.
    pub description: String,
    /// Blocks for a few system calls at most.
    pub connect: Connect,
    pub settings: RepositorySettings,
}

impl Place {
    /// A store that is at hand already.
    pub fn at(storage: Arc<dyn Storage>, settings: RepositorySettings) -> Place {
        Place { description: storage.describe(), connect: Arc::new(move |_| Ok(storage.clone())), settings }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("description", &self.description).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    place: Place,
    opened: OnceCell<Arc<Repository>>,
}

/// Shared by all parts of a process: a key is derived and a slot opened once.
#[derive(Debug, Default)]
pub struct RepositorySet {
    entries: BTreeMap<RepoKey, Entry>,
}

impl RepositorySet {
    pub fn new(places: impl IntoIterator<Item = Place>) -> Self {
        let entry = |place: Place| (place.settings.number, Entry { place, opened: OnceCell::new() });
        RepositorySet { entries: places.into_iter().map(entry).collect() }
    }

    /// In order of number.
    pub fn keys(&self) -> impl Iterator<Item = RepoKey> + '_ {
        self.entries.keys().copied()
    }

    /// What and where it is, for people.
    pub fn describe(&self, key: RepoKey) -> String {
        self.entries.get(&key).map_or_else(|| format!("repo {key}"), |entry| entry.place.description.clone())
    }

    pub async fn open(&self, key: RepoKey) -> Result<Arc<Repository>, RepositoryError> {
        let entry = self.entry(key)?;
        let opening = || async {
            let storage = connect(&entry.place, Purpose::Use).await?;
            Repository::open(storage, &entry.place.settings).await.map(Arc::new)
        };
        entry.opened.get_or_try_init(opening).await.cloned()
    }

    /// Opens it, or makes a new one; the second value tells whether it is new.
    pub async fn open_or_create(
        &self,
        key: RepoKey,
        now: Timestamp,
    ) -> Result<(Arc<Repository>, bool), RepositoryError> {
        let entry = self.entry(key)?;
        let storage = connect(&entry.place, Purpose::Create).await?;
        let (repository, is_new) = Repository::open_or_create(storage, &entry.place.settings, now).await?;
        let repository = Arc::new(repository);
        // Somebody may have opened it meanwhile; both handles mean the same place.
        let _ = entry.opened.set(repository.clone());
        Ok((repository, is_new))
    }

    fn entry(&self, key: RepoKey) -> Result<&Entry, RepositoryError> {
        self.entries.get(&key).ok_or_else(|| RepositoryError::NotARepository { place: format!("repo {key}") })
    }
}

/// A mount whose server is gone blocks its first system call for ever: no thread of the runtime waits for it.
async fn connect(place: &Place, purpose: Purpose) -> Result<Arc<dyn Storage>, RepositoryError> {
    let connect = place.connect.clone();
    let connecting = tokio::task::spawn_blocking(move || connect(purpose));
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connected)) => Ok(connected?),
        Ok(Err(_)) => Err(RepositoryError::Interrupted { what: "opening a repository" }),
        Err(_) => {
            let place = place.description.clone();
            Err(RepositoryError::Unreachable { place, seconds: CONNECT_TIMEOUT.as_secs() })
        }
    }
}
