//! Locks of keys that all processes of this host share: files under `[paths] lock`, which the kernel unlocks with their process.
//!
//! A fixed number of files, so that nothing grows. Tasks of one process queue up among themselves first; processes look again and
//! again, since a wait in the kernel could not be given up.

use crate::host::HostLock;
use async_trait::async_trait;
use pgconvoy_core::failure::Failure;
use pgconvoy_storage::decorate::guard::{KeyLock, KeyLocks, Stripes, stripe};
use pgconvoy_storage::{Place, StorageError};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const DIRECTORY: &str = "create-only";
/// What the files say of their holder besides its process.
const KIND: &str = "creating an object";
/// How soon a lock that somebody has is tried again: at first, and at most.
const POLL_FIRST: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct FileLocks {
    directory: PathBuf,
    own: Stripes,
    patience: Duration,
}

impl FileLocks {
    /// `patience` is the time to wait for a lock. Nothing is looked at before the first one.
    pub fn new(lock_path: &str, patience: Duration) -> FileLocks {
        FileLocks { directory: Path::new(lock_path).join(DIRECTORY), own: Stripes::default(), patience }
    }

    fn file(&self, stripe: usize) -> PathBuf {
        self.directory.join(format!("{stripe:02}.lock"))
    }
}

#[async_trait]
impl KeyLocks for FileLocks {
    async fn acquire(&self, at: &Place) -> Result<KeyLock, StorageError> {
        let file = self.file(stripe(at));
        let turn = async {
            let turn = self.own.acquire(at).await?;
            let lock = locked(&file).await.map_err(|failure| unusable(at, failure))?;
            // The file first: who is next here must find it free.
            Ok::<KeyLock, StorageError>(Box::new((lock, turn)))
        };
        match timeout(self.patience, turn).await {
            Ok(turn) => turn,
            Err(_) => Err(self.busy(at, &file).await),
        }
    }
}

impl FileLocks {
    async fn busy(&self, at: &Place, file: &Path) -> StorageError {
        let holder = tokio::fs::read_to_string(file).await.unwrap_or_default();
        let (file, seconds) = (file.display(), self.patience.as_secs_f64());
        let reason = match holder.trim() {
            "" => format!("{file} was locked for {seconds:.0} s"),
            holder => format!("{file} was locked for {seconds:.0} s by {holder}"),
        };
        StorageError::Busy { at: at.clone(), reason }
    }
}

fn unusable(at: &Place, failure: Failure) -> StorageError {
    let hint = failure.hints.join("; ");
    StorageError::unusable(at.clone(), failure.code, failure.message, hint)
}

async fn locked(file: &Path) -> Result<HostLock, Failure> {
    let mut wait = POLL_FIRST;
    loop {
        let path = file.to_owned();
        // The directory may be on a disk that hangs.
        let tried = tokio::task::spawn_blocking(move || HostLock::try_lock(&path, KIND)).await;
        if let Some(lock) = tried.unwrap_or_else(|error| Err(interrupted(&error)))? {
            return Ok(lock);
        }
        sleep(wait).await;
        wait = (wait * 2).min(POLL_MAX);
    }
}

fn interrupted(error: &tokio::task::JoinError) -> Failure {
    Failure::new(pgconvoy_core::failure::ErrorCode::Assert, format!("taking a lock was interrupted: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use pgconvoy_core::failure::{Classify, ErrorCode};
    use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, Operation, Rule};
    use pgconvoy_storage::decorate::guard::GuardStorage;
    use pgconvoy_storage::{MemoryStorage, ObjectKey, PutMode, Storage};
    use std::fs::File;
    use std::sync::Arc;
    use tempfile::TempDir;

    const PATIENCE: Duration = Duration::from_secs(20);
    const WRITERS: u8 = 6;

    fn key(name: &str) -> ObjectKey {
        name.parse().unwrap()
    }

    fn at(name: &str) -> Place {
        Place::new("memory", Some(&key(name)))
    }

    fn locks(directory: &TempDir, patience: Duration) -> FileLocks {
        FileLocks::new(&directory.path().join("new").display().to_string(), patience)
    }

    /// A store that overwrites, a moment after the look, as a process of its own would see it.
    fn process(memory: &MemoryStorage, directory: Option<&TempDir>) -> Arc<dyn Storage> {
        let (overwriting, faults) = FaultStorage::new(Arc::new(memory.clone()));
        faults.add(Rule::always(Operation::Put, Effect::IgnoreCreateOnly));
        let (storage, faults) = FaultStorage::new(Arc::new(overwriting));
        faults.add(Rule::always(Operation::Put, Effect::Delay(Duration::from_millis(20))));
        let storage = Arc::new(storage);
        match directory {
            Some(directory) => Arc::new(GuardStorage::new(storage, Arc::new(locks(directory, PATIENCE)))),
            None => storage,
        }
    }

    /// How many of several processes believe that they created one object.
    async fn winners(directory: Option<&TempDir>) -> usize {
        let memory = MemoryStorage::new();
        let writers = (0..WRITERS).map(|writer| {
            let storage = process(&memory, directory);
            tokio::spawn(
                async move { storage.put(&key("shared"), PutMode::Create, vec![writer].into()).await },
            )
        });
        let writers: Vec<_> = writers.collect();
        let (mut winners, mut won) = (0, Vec::new());
        for (writer, ended) in (0..).zip(writers) {
            match ended.await.unwrap() {
                Ok(()) => {
                    winners += 1;
                    won = vec![writer];
                }
                Err(error) => assert!(error.is_already_exists(), "{error}"),
            }
        }
        if winners == 1 {
            assert_eq!(memory.get(&key("shared"), 9).await.unwrap(), won, "the winner's is what stays");
        }
        winners
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_processes_that_share_a_directory_one_creates_an_object() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..10 {
            assert_eq!(winners(Some(&directory)).await, 1);
        }
        assert_eq!(winners(None).await, usize::from(WRITERS), "the store overwrites");
    }

    #[tokio::test]
    async fn a_lock_is_for_one_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (locks(&directory, PATIENCE), locks(&directory, Duration::from_millis(50)));
        let held = one.acquire(&at("a")).await.unwrap();
        for locks in [&other, &locks(&directory, Duration::from_millis(50))] {
            let error = locks.acquire(&at("a")).await.err().unwrap();
            assert_eq!(error.code(), ErrorCode::LockAcquire);
            let told = error.to_string();
            assert!(told.contains(&format!("by process {}", std::process::id())), "{told}");
            assert_eq!(error.hints().len(), 1);
        }
        let _another = other.acquire(&at("b")).await.unwrap();
        drop(held);
        drop(other.acquire(&at("a")).await.unwrap());
        let files: Vec<_> =
            std::fs::read_dir(directory.path().join("new").join(DIRECTORY)).unwrap().collect();
        assert_eq!(files.len(), 2, "{files:?}");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_an_error_with_a_hint() {
        let directory = tempfile::tempdir().unwrap();
        File::create(directory.path().join("new")).unwrap();
        let error = locks(&directory, PATIENCE).acquire(&at("a")).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::PathCreate);
        assert!(error.hints()[0].contains("[paths] lock"), "{:?}", error.hints());
    }
}
